"""What is timed: configurations, which are sizes of a model and of its windows. Some have names."""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.errors import OptionError
from cuchar.evaluation import CHUNK_STEPS, CHUNKS
from cuchar.parameters import Parameters, initialise

WINDOWS = 1000  # windows, one character apart, on which contenders train over and over
SCORED_WINDOWS = 16  # windows, one after the other, that contenders score over and over
SCORED_CHARS = CHUNKS * CHUNK_STEPS  # characters of such a window: what a call of `cuchar eval` reads of a long text


@dataclass(frozen=True)
class Configuration:
    """V characters, L layers of H units, windows of B rows of T characters; matrix products round to `precision`."""

    name: str
    V: int
    H: int
    L: int
    B: int
    T: int
    precision: str = "fp32"

    @property
    def model(self) -> ModelConfig:
        return ModelConfig(self.V, self.H, self.L)

    @property
    def train(self) -> TrainConfig:
        """The options of a training with these sizes.

        Raises:
            OptionError: a model of these sizes cannot be trained.
        """
        return TrainConfig(
            hidden=self.H, layers=self.L, window=self.T, batch=self.B, stride=1, precision=self.precision
        )

    @property
    def sizes(self) -> str:
        return f"V{self.V} H{self.H} L{self.L} B{self.B} T{self.T}"

    def ids(self) -> np.ndarray:
        """Random ids, [B * (T + WINDOWS)], the same for all contenders that train this configuration."""
        return self._random_ids(0, self.B * (self.T + WINDOWS))

    def parameters(self) -> Parameters:
        """The weights that all contenders begin with."""
        return initialise(self.model, 0)

    def scored(self) -> Windows:
        """The windows that contenders score, as `cuchar eval` does a long text: CHUNKS rows by CHUNK_STEPS characters."""
        count = CHUNKS * (SCORED_WINDOWS * CHUNK_STEPS + 1)
        return Windows(self._random_ids(1, count), CHUNKS, CHUNK_STEPS, CHUNK_STEPS)

    def _random_ids(self, seed: int, count: int) -> np.ndarray:
        dtype = np.uint8 if self.V <= 256 else np.uint16
        return np.random.default_rng(seed).integers(self.V, size=count, dtype=dtype)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


NAMED = {
    one.name: one
    for one in (
        Configuration("a", 84, 64, 2, 32, 32),  # the 2017 notebook's
        Configuration("b", 68, 512, 2, 50, 50),
        Configuration("c", 68, 1024, 2, 128, 128, "bf16"),
        Configuration("d", 68, 2048, 1, 128, 256, "bf16"),
        Configuration("2x128", 68, 128, 2, 50, 50),
        Configuration("2x256", 68, 256, 2, 50, 50),
        Configuration("2x512", 68, 512, 2, 50, 50),
        Configuration("3x512", 68, 512, 3, 50, 50),
    )
}
GROUPS = {"torch-rnn": ("2x128", "2x256", "2x512", "3x512")}  # names of several: the sizes in torch-rnn's README


def named(names: list[str], precision: str | None) -> list[Configuration]:
    """The configurations of these names, each once.

    Args:
        names: names of configurations, or of several at once.
        precision: replaces the configurations' own; None keeps it.
    Raises:
        OptionError: there is no configuration of a name.
    """
    found: dict[str, Configuration] = {}
    for name in names:
        if name not in NAMED and name not in GROUPS:
            raise OptionError(f"NAME: expected {' | '.join([*NAMED, *GROUPS])}, found {name}")
        for one in GROUPS.get(name, (name,)):
            found[one] = replace(NAMED[one], precision=precision or NAMED[one].precision)
    return list(found.values())
