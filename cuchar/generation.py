"""Generates text from a model: many streams side by side, in blocks of characters, until all have ended."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.engines.base import Engine, Sampler, State, Streams
from cuchar.engines.host import HostSampler
from cuchar.errors import DivergedError
from cuchar.philox import uniforms
from cuchar.sampling import RECENT, SampleConfig, expect_seed

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

    Args:
        weights: what `engine.fold` made of the parameters.
        streams: the streams' numbers. A stream depends on the seed and its number, not on the streams beside it.
        prime: ids that each stream goes on from; may be empty.
        stop: ids at whose first appearance a stream ends; may be empty.
    Yields, and raises:
        what `go_on` does; OptionError if the seed is out of range.
    """
    yield from go_on(engine, weights, config, begin(engine, weights, seed, streams, [prime]), stop)


def begin(engine: Engine, weights: Any, seed: int, numbers: range, primes: Sequence[np.ndarray]) -> Streams:
    """S streams that are about to go on from their primes.

    Args:
        numbers: the streams' numbers.
        primes: the ids of one prime for each stream, or of a single one for all streams. Where the single one is empty,
            each stream's first character is drawn from all characters alike, as in the notebook: the streams' `ids`
            have it, and their position is 1.
    Raises:
        OptionError: the seed is out of range.
    """
    expect_seed(seed)
    if len(primes) == 1 and not len(primes[0]):
        first = uniforms(seed, numbers, range(1))[0] * engine.model.vocabulary_size
        return Streams(seed, numbers, first.astype(np.int64), engine.zero_state(len(numbers)), 1)
    state, copies = _state_after(engine, weights, [prime[:-1] for prime in primes]), len(numbers) // len(primes)
    state = State(*(np.repeat(array, copies, axis=1) for array in (state.h, state.c)))
    *earlier, ids = np.repeat(_last_ids(primes), copies, axis=1)
    return Streams(seed, numbers, ids, state, 0, earlier)


def _last_ids(texts: Sequence[np.ndarray]) -> np.ndarray:
    """The last ids of S texts, at most RECENT of each, [k, S]; a shorter text is filled up with its first id."""
    last = [text[-RECENT:].astype(np.int64) for text in texts]
    most = max(map(len, last))
    return np.stack([np.pad(ids, (most - len(ids), 0), mode="edge") for ids in last], axis=1)


def _state_after(engine: Engine, weights: Any, texts: Sequence[np.ndarray]) -> State:
    """The state after each of S texts, which are read side by side, [L, S, H]. A text may be empty."""
    S, lengths = len(texts), np.array([len(text) for text in texts])
    state, after, start = engine.zero_state(S), engine.zero_state(S), 0
    while start < lengths.max():
        end = min(start + max(1, PRIME_BLOCK // S), lengths[lengths > start].min())
        block = np.zeros((end - start, S), np.int64)  # what a text has no more characters for does not matter
        for s, text in enumerate(texts):
            if len(text) > start:
                block[:, s] = text[start:end]
        _, state = engine.forward(weights, block, state)
        ended, start = lengths == end, end
        after.h[:, ended], after.c[:, ended] = state.h[:, ended], state.c[:, ended]
    return after


def go_on(
    engine: Engine,
    weights: Any,
    config: SampleConfig,
    streams: Streams,
    stop: np.ndarray,
    wanted: np.ndarray | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw what follows in each of S streams, which `begin` has made.

    Args:
        wanted: [S] of bool, which streams are to go on; the others count as ended. None is all of them.
    Yields:
        ids [k, S], and how many of these k belong to each stream, [S]: fewer than k if it has ended.
    Raises:
        DivergedError: logits are not finite.
    """
    S = len(streams.numbers)
    running = np.ones(S, bool) if wanted is None else wanted.copy()
    if not running.any():
        return
    tail = np.full((max(0, len(stop) - 1), S), -1)
    for ids in _blocks(engine, weights, config, streams):
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


def _blocks(engine: Engine, weights: Any, config: SampleConfig, streams: Streams) -> Iterator[np.ndarray]:
    """Draw blocks of ids [k, S], `config.length` characters of each stream in all, or without end if that is 0."""
    if streams.position:
        yield streams.ids[None]
    made, count = streams.position, 1
    sampler = (
        engine.sampler(weights, config, streams)
        if config.repeat_penalty == 1
        else HostSampler(engine, weights, config, streams)
    )
    while made < config.length or not config.length:
        count = min(count, config.length - made) if config.length else count
        ids, count = _timed_block(sampler, count, len(streams.numbers))
        made += len(ids)
        yield ids


def _timed_block(sampler: Sampler, count: int, streams: int) -> tuple[np.ndarray, int]:
    """Draw a block of `count` characters of each stream, and say how many the next block should have."""
    began = perf_counter()
    ids = sampler.make(count)
    fitting = int(BLOCK_SECONDS * count / (perf_counter() - began))
    return ids, max(1, min(fitting, GROWTH * count, BLOCK_IDS // streams))
