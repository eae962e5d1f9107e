"""Beam search: the likeliest continuation that can be found by keeping the K likeliest beginnings."""

from typing import Any

import numpy as np

from cuchar.engines.base import Engine, State
from cuchar.errors import DivergedError
from cuchar.generation import begin
from cuchar.kinds import integer

WIDTH = integer(1, 4096)


def beam_search(engine: Engine, weights: Any, prime: np.ndarray, length: int, width: int) -> tuple[np.ndarray, float]:
    """Search for the likeliest continuation of `length` characters.

    After every character the K = `width` likeliest beginnings are kept, of all that are one of the K before and another
    character. Of equally likely ones, that whose beginning was ranked higher comes first, then that with the lower id. So
    width 1 always takes the likeliest character, and a width of V^(length - 1) finds the likeliest of all texts.
    Source: Lowerre 1976, "The Harpy speech recognition system".

    Args:
        prime: the ids to go on from, at least one.
    Returns:
        the ids [length], and their log-probability in nats.
    Raises:
        DivergedError: logits are not finite.
    """
    streams = begin(engine, weights, 0, range(width), [prime])
    ids, state, kept = streams.ids, streams.state, []
    sums = np.full(width, -np.inf)
    sums[0] = 0  # all streams are the same at first, so only one of them counts
    for _ in range(length):
        logits, state = engine.forward(weights, ids[None], state)
        if not np.isfinite(logits).all():
            raise DivergedError("expected finite logits to rank, found others: the model's weights are too large")
        candidates = (sums[:, None] + _log_softmax(logits[0])).reshape(-1)
        best = np.argsort(-candidates, kind="stable")[:width]
        parents, ids = np.divmod(best, engine.model.vocabulary_size)
        sums, state = candidates[best], State(*(array.take(parents, axis=1) for array in (state.h, state.c)))
        kept.append((parents, ids))
    found, at = np.empty(length, np.int64), 0
    for place, (parents, ids) in reversed([*enumerate(kept)]):
        found[place], at = ids[at], parents[at]
    return found, float(sums[0])


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln p, float64 [K, V]."""
    scores = logits.astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    lowered: np.ndarray = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    return lowered
