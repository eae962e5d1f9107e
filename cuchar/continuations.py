"""What a model goes on with: in pieces as they are made, or whole, with the probability that the model gives to it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuchar.beam import WIDTH, beam_search
from cuchar.config import check_option
from cuchar.engines.base import Engine, Streams
from cuchar.errors import OptionError, TextError
from cuchar.evaluation import row_losses
from cuchar.generation import begin, go_on
from cuchar.kinds import integer
from cuchar.sampling import SampleConfig
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option

MOST_STREAMS = 4096  # samples that are drawn side by side, at most
MOST_PRIMES = 64  # primes that are gone on from side by side, at most: they all take as long as the longest


@dataclass(frozen=True)
class Continuation:
    """What a model went on with after a prime.

    Args:
        encoded: the text as it would be in a file: UTF-8, or in a model of bytes the bytes themselves.
        log_probability: the sum of ln p over its characters, in nats. p is what the model itself gives to the character
            after the prime and the characters before it: temperature, top_k and other options do not count. Where there
            is no prime, the first character has 1 / V, since it is drawn from all V characters alike.
    """

    encoded: bytes
    log_probability: float

    @property
    def text(self) -> str:
        """The text; bytes of a byte model that are not UTF-8 become U+FFFD."""
        return self.encoded.decode("utf-8", "replace")


@dataclass(frozen=True)
class Continuations:
    """What one model goes on with by one configuration and seed; primes and `stop` are ids.

    Args:
        weights: what `engine.fold` made of the parameters.
        stop: ids at whose first appearance a stream ends; may be empty.
    """

    engine: Engine
    weights: Any
    vocabulary: Vocabulary
    config: SampleConfig
    seed: int
    stop: np.ndarray

    def pieces(self, numbers: range, prime: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Draw the samples of these numbers, as `generation.go_on` does."""
        return self._go_on(begin(self.engine, self.weights, self.seed, numbers, [prime]))

    def samples(self, count: int, prime: np.ndarray) -> Iterator[tuple[int, bytes]]:
        """Draw `count` samples, at least one, side by side.

        Yields:
            a sample's number, counted from 0, and the next piece of its text. The numbers come in ascending order. The
            first sample comes in pieces as it is made, each other one whole, once all have ended.
        """
        for numbers in _cut(count, MOST_STREAMS):
            made: list[list[np.ndarray]] = [[] for _ in numbers[1:]]
            for ids, taken in self.pieces(numbers, prime):
                if taken[0]:
                    yield numbers[0], self.vocabulary.decode(ids[: taken[0], 0])
                for pieces, column, length in zip(made, ids.T[1:], taken[1:], strict=True):
                    pieces.append(column[:length])
            for number, pieces in zip(numbers[1:], made, strict=True):
                yield number, self.vocabulary.decode(np.concatenate(pieces))

    def whole_samples(self, count: int, prime: np.ndarray) -> Iterator[Continuation]:
        """Draw what `samples` draws, and yield each sample whole.

        Raises:
            OptionError: the samples would never end.
        """
        self._expect_end()
        for numbers in _cut(count, MOST_STREAMS):
            yield from self._whole(begin(self.engine, self.weights, self.seed, numbers, [prime]))

    def complete(self, primes: Sequence[np.ndarray], scored: bool = True) -> Iterator[Continuation]:
        """Draw what follows each prime: that of prime n is sample n of this prime. After an empty prime nothing follows.

        Args:
            scored: whether to find the log-probabilities, for which every text is read once more; else they are NaN.
        Raises:
            OptionError: the continuations would never end.
        """
        self._expect_end()
        for numbers in _cut(len(primes), MOST_PRIMES):
            some = primes[numbers.start : numbers.stop]
            anything = [prime if len(prime) else np.zeros(1, int) for prime in some]
            streams = begin(self.engine, self.weights, self.seed, numbers, anything)
            drawn = self._whole(streams, scored, np.array([len(prime) > 0 for prime in some]))
            for prime, continuation in zip(some, drawn, strict=True):
                yield continuation if len(prime) else Continuation(b"", 0.0)

    def beam(self, prime: np.ndarray, width: int) -> Continuation:
        """The likeliest text of the configuration's length after the prime that a beam search finds (`cuchar.beam`).

        Args:
            width: how many beginnings are kept after every character; 1 always takes the likeliest character.
        Raises:
            OptionError: the length is 0, or the width out of range.
            TextError: the prime is empty.
        """
        length = check_option("length", integer(1), self.config.length)
        width = check_option("width", WIDTH, width)
        if not len(prime):
            raise TextError(f"{option('prime')}: expected a character that the model knows, found none")
        found, log_probability = beam_search(self.engine, self.weights, prime, length, width)
        return Continuation(self.vocabulary.decode(found), log_probability)

    def _whole(self, streams: Streams, scored: bool = True, wanted: np.ndarray | None = None) -> Iterator[Continuation]:
        pieces: list[list[np.ndarray]] = [[np.empty(0, np.int64)] for _ in streams.numbers]
        for ids, taken in self._go_on(streams, wanted):
            for of_stream, column, length in zip(pieces, ids.T, taken, strict=True):
                of_stream.append(column[:length])
        texts = [np.concatenate(of_stream) for of_stream in pieces]
        scores = log_probabilities(self.engine, self.weights, streams, texts) if scored else [math.nan] * len(texts)
        for text, log_probability in zip(texts, scores, strict=True):
            yield Continuation(self.vocabulary.decode(text), float(log_probability))

    def _go_on(self, streams: Streams, wanted: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return go_on(self.engine, self.weights, self.config, streams, self.stop, wanted)

    def _expect_end(self) -> None:
        if not self.config.length and not len(self.stop):
            raise OptionError(f"{option('length')}: expected at least 1, or {option('stop')} with it, found 0")


def _cut(count: int, most: int) -> Iterator[range]:
    """The numbers from 0 to before `count`, so many at a time."""
    for first in range(0, count, most):
        yield range(first, min(count, first + most))


def log_probabilities(engine: Engine, weights: Any, streams: Streams, texts: Sequence[np.ndarray]) -> np.ndarray:
    """The log-probability of what each of S streams went on with, as `Continuation` has it, float64 [S].

    Args:
        streams: as `generation.begin` has made them.
        texts: the ids that each stream went on with.
    """
    # Without a prime, `streams.ids` are the texts' first characters.
    rows = [np.append(before, text[streams.position :]) for before, text in zip(streams.ids, texts, strict=True)]
    first = streams.position * math.log(engine.model.vocabulary_size)
    return np.array([-first - losses.sum() for losses in row_losses(engine, weights, rows, streams.state)])
