"""Generates text from a model: many streams side by side, in blocks of characters, until all have ended."""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.engines.base import Engine, Sampler, State, Streams
from cuchar.engines.host import HostSampler
from cuchar.errors import DivergedError
from cuchar.philox import uniforms
from cuchar.sampling import SampleConfig, expect_seed

PRIME_BLOCK = 256  # characters of the prime that one call of the engine reads
BLOCK_SECONDS = 0.1  # how long a block should take, so that a reader sees the text come
BLOCK_IDS = 1 << 20  # ids in a block, all streams together, at most
GROWTH = 4  # a block's length over that of the block before, at most: the first block's time says little


def generate(
    engine: Engine,
    weights: Any,
    config: SampleConfig,
    seed: int,
    streams: range,
    prime: np.ndarray,
    stop: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw what follows `prime` in each of S streams.

    Without a prime, a stream's first character is drawn from all characters alike, as in the notebook.

    Args:
        weights: what `engine.fold` made of the parameters.
        streams: the streams' numbers. A stream depends on the seed and its number, not on the streams beside it.
        prime: ids that each stream goes on from; may be empty.
        stop: ids at whose first appearance a stream ends; may be empty.
    Yields:
        ids [k, S], and how many of these k belong to each stream, [S]: fewer than k if it has ended.
    Raises:
        OptionError: the seed is out of range.
        DivergedError: logits are not finite.
    """
    expect_seed(seed)
    running = np.ones(len(streams), bool)
    tail = np.full((max(0, len(stop) - 1), len(streams)), -1)
    for ids in _blocks(engine, weights, config, seed, streams, prime):
        if ids.min() < 0:
            raise DivergedError("expected finite logits to draw from, found others: the model's weights are too large")
        taken = np.where(running, len(ids), 0)
        if len(stop):
            rows = np.concatenate([tail, ids])
            hits = np.logical_and.reduce([rows[i : i + len(ids)] == character for i, character in enumerate(stop)])
            ended = running & hits.any(axis=0)
            taken[ended] = hits.argmax(axis=0)[ended] + 1
            running &= ~ended
            tail = rows[len(ids) :]
        yield ids, taken
        if not running.any():
            return


def _blocks(
    engine: Engine, weights: Any, config: SampleConfig, seed: int, streams: range, prime: np.ndarray
) -> Iterator[np.ndarray]:
    """Draw blocks of ids [k, S], `config.length` characters of each stream in all, or without end if that is 0."""
    if len(prime):
        made, before = 0, np.full(len(streams), prime[-1])
    else:
        first = uniforms(seed, streams, range(1)) * engine.model.vocabulary_size
        made, before = 1, first[0].astype(np.int64)
        yield before[None]
    state = engine.zero_state(1)
    for start in range(0, len(prime) - 1, PRIME_BLOCK):
        _, state = engine.forward(weights, prime[start : min(start + PRIME_BLOCK, len(prime) - 1), None], state)
    state = State(*(np.repeat(array, len(streams), axis=1) for array in (state.h, state.c)))
    begun, count = Streams(seed, streams, before, state, made), 1
    sampler = (
        engine.sampler(weights, config, begun)
        if config.repeat_penalty == 1
        else HostSampler(engine, weights, config, begun, prime)
    )
    while made < config.length or not config.length:
        count = min(count, config.length - made) if config.length else count
        ids, count = _timed_block(sampler, count, len(streams))
        made += len(ids)
        yield ids


def _timed_block(sampler: Sampler, count: int, streams: int) -> tuple[np.ndarray, int]:
    """Draw a block of `count` characters of each stream, and say how many the next block should have."""
    began = perf_counter()
    ids = sampler.make(count)
    fitting = int(BLOCK_SECONDS * count / (perf_counter() - began))
    return ids, max(1, min(fitting, GROWTH * count, BLOCK_IDS // streams))
