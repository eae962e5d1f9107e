"""A trained model for Python: `load`, then `sample` and `score`."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.checkpoint import read_checkpoint
from cuchar.engines import choose_engine
from cuchar.evaluation import Score, expect_scorable, stream_losses, window_losses
from cuchar.sampling import SampleConfig, sample_ids


class Model:
    """Weights and vocabulary of a checkpoint, ready to use.

    Args:
        path: a checkpoint file or a run folder (its best checkpoint, else its last).
        device: auto | cpu | cuda | cuda:N.
        precision: fp32 | tf32 | bf16 | fp16; on the NumPy engine fp32 alone.
    Raises:
        CheckpointError: no checkpoint there, or a damaged one.
        DeviceError: a device that is not there.
    """

    def __init__(self, path: str | Path, device: str = "auto", precision: str = "fp32"):
        checkpoint = read_checkpoint(path)
        self.parameters, self.vocabulary = checkpoint.parameters, checkpoint.vocabulary
        self.engine, self.engine_reason = choose_engine(
            device, self.parameters.model, self.parameters.flat.dtype, precision
        )
        self._weights = self.engine.fold(self.parameters)

    def sample(self, length: int = 500, *, prime: str | bytes = "", seed: int | None = None, **options: Any) -> str:
        """`length` characters that follow `prime`, as text (a byte model's undecodable bytes become U+FFFD).

        Args:
            seed: repeats a sample; None draws a new one.
            options: temperature, top_k, top_p, argmax, law, stop, as in `SampleConfig`;
                unknown="skip" leaves out the prime's unknown characters.
        """
        unknown = options.pop("unknown", "error")
        config = SampleConfig(length=length, **options)
        if not length:
            raise ValueError("length: expected at least 1, found 0; stream() can be endless")
        return b"".join(self.stream(config, prime=prime, seed=seed, unknown=unknown)).decode("utf-8", "replace")

    def stream(
        self,
        config: SampleConfig,
        *,
        prime: str | bytes = "",
        seed: int | list[int] | None = None,
        unknown: str = "error",
    ) -> Iterator[bytes]:
        """The characters of a sample as they are made, each as its bytes in a file."""
        vocabulary = self.vocabulary
        prime_ids = vocabulary.encode(vocabulary.codes_of(prime), unknown)
        stop_ids = vocabulary.encode(vocabulary.codes_of(config.stop))
        generator = np.random.default_rng(secrets.randbits(63) if seed is None else seed)
        ids = sample_ids(self.engine, self._weights, len(vocabulary), config, generator, prime_ids, stop_ids)
        return (vocabulary.decode(np.array([chosen])) for chosen in ids)

    def losses(self, ids: np.ndarray, window: int | None = None) -> Iterator[np.ndarray]:
        """Blocks of nats for characters 1, 2, ... of a text, in order; see `score`."""
        expect_scorable(ids)
        if window is None:
            return (block[0] for block in stream_losses(self.engine, self._weights, ids[None]))
        return window_losses(self.engine, self._weights, ids, window)

    def score(self, text: str | bytes, *, window: int | None = None, unknown: str = "error") -> Score:
        """How well the model predicts `text`: N characters give N - 1 scores.

        Args:
            window: None reads one stream with carried state; a number starts from a zero
                state every so many characters, as the notebook trains.
            unknown: "error" or "skip", for characters outside the vocabulary.
        Raises:
            TextError: an unknown character, or fewer than two characters.
        """
        ids = self.vocabulary.encode(self.vocabulary.codes_of(text), unknown)
        return Score.of(np.concatenate(list(self.losses(ids, window))))
