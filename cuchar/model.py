"""A trained model for Python: `load`, then `sample` and `score`."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.checkpoint import read_checkpoint
from cuchar.config import check_option, expect_options
from cuchar.engines.choose import choose_engine
from cuchar.evaluation import Score, chunk_losses, expect_scorable, stream_losses, window_losses
from cuchar.generation import generate
from cuchar.kinds import TEXT_OR_BYTES, integer
from cuchar.sampling import SAMPLE, SampleConfig, expect_seed

MOST_STREAMS = 4096  # side by side


class Model:
    """Weights and vocabulary of a checkpoint, ready to use.

    Args:
        path: a checkpoint file or a run folder (its best checkpoint, else its last).
        device: auto | cpu | cuda | cuda:N.
        precision: fp32 | tf32 | bf16 | fp16; without a GPU fp32 alone.
    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
        DeviceError: a device that is not there.
    """

    def __init__(self, path: str | Path, device: str = "auto", precision: str = "fp32"):
        checkpoint = read_checkpoint(path)
        self.parameters, self.vocabulary = checkpoint.parameters, checkpoint.vocabulary
        self.engine, _ = choose_engine(device, self.parameters.model, self.parameters.flat.dtype, precision)
        self._weights = self.engine.fold(self.parameters)

    def sample(self, length: int = 500, *, prime: str | bytes = "", seed: int | None = None, **options: Any) -> str:
        """`length` characters that follow `prime`, as text (a byte model's undecodable bytes become U+FFFD).

        Args:
            seed: repeats a sample; None draws a new one.
            options: temperature, top_k, top_p, argmax, law, stop, as in `SampleConfig`;
                unknown="skip" leaves out the prime's unknown characters.
        Raises:
            OptionError: an argument of another type, outside its range, or of no such name.
        """
        unknown = options.pop("unknown", "error")
        check_option("length", integer(1, note=" (stream() can be endless)"), length)
        expect_options(options, [*SAMPLE, "prime", "seed", "unknown"])
        config = SampleConfig(length=length, **options)
        return b"".join(self.stream(config, prime=prime, seed=seed, unknown=unknown)).decode("utf-8", "replace")

    def stream(
        self,
        config: SampleConfig,
        *,
        prime: str | bytes = "",
        seed: int | None = None,
        unknown: str = "error",
    ) -> Iterator[bytes]:
        """The characters of a sample as they are made, each as its bytes in a file."""
        blocks = self._generate(config, prime, seed, unknown)(range(1))
        return (self.vocabulary.decode(ids[k : k + 1, 0]) for ids, taken in blocks for k in range(taken[0]))

    def samples(
        self,
        config: SampleConfig,
        count: int,
        *,
        prime: str | bytes = "",
        seed: int | None = None,
        unknown: str = "error",
    ) -> Iterator[tuple[int, bytes]]:
        """Pieces of `count` samples, each with its sample's number, which begins at 0 and never falls.

        They are made side by side. The first one's pieces come as they are made, the others whole, once all have ended.
        """
        count = check_option("count", integer(1), count)
        generate_streams = self._generate(config, prime, seed, unknown)
        for first in range(0, count, MOST_STREAMS):
            streams = range(first, min(count, first + MOST_STREAMS))
            made: list[list[np.ndarray]] = [[] for _ in streams[1:]]
            for ids, taken in generate_streams(streams):
                if taken[0]:
                    yield first, self.vocabulary.decode(ids[: taken[0], 0])
                for pieces, column, length in zip(made, ids.T[1:], taken[1:], strict=True):
                    pieces.append(column[:length])
            for number, pieces in zip(streams[1:], made, strict=True):
                yield number, self.vocabulary.decode(np.concatenate(pieces))

    def _generate(
        self, config: SampleConfig, prime: str | bytes, seed: int | None, unknown: str
    ) -> Callable[[range], Iterator[tuple[np.ndarray, np.ndarray]]]:
        """`generate` for any streams of a sample; complains of the texts at once."""
        check_option("prime", TEXT_OR_BYTES, prime)
        vocabulary = self.vocabulary
        prime_ids = vocabulary.encode(vocabulary.codes_of(prime), unknown)
        stop_ids = vocabulary.encode(vocabulary.codes_of(config.stop))
        key = secrets.randbits(63) if seed is None else seed
        expect_seed(key)
        return lambda streams: generate(self.engine, self._weights, config, key, streams, prime_ids, stop_ids)

    def losses(self, ids: np.ndarray, window: int | None = None, chunked: bool = False) -> Iterator[np.ndarray]:
        """Blocks of nats for characters 1, 2, ... of a text, in order; see `score`.

        Args:
            chunked: instead of one stream, chunks of it side by side (evaluation.chunk_losses).
        """
        expect_scorable(ids)
        if window is not None:
            return window_losses(self.engine, self._weights, ids, window)
        if chunked:
            return chunk_losses(self.engine, self._weights, ids)
        return (block[0] for block in stream_losses(self.engine, self._weights, ids[None]))

    def score(self, text: str | bytes, *, window: int | None = None, unknown: str = "error") -> Score:
        """How well the model predicts `text`: N characters give N - 1 scores.

        Args:
            window: None reads one stream with carried state; a number starts from a zero
                state every so many characters, as the notebook trains.
            unknown: "error" or "skip", for characters outside the vocabulary.
        Raises:
            TextError: an unknown character, or fewer than two characters.
            OptionError: an argument of another type, or outside its range.
        """
        check_option("text", TEXT_OR_BYTES, text)
        codes = self.vocabulary.codes_of(text)
        ids = self.vocabulary.encode(codes, unknown)
        return Score.of(np.concatenate(list(self.losses(ids, window))), len(codes) - len(ids))
