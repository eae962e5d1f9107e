"""What a model is and how it is trained: frozen, validated, stored in every checkpoint."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from cuchar.errors import OptionError

SCHEDULES = ("constant", "step", "cosine")
VALIDATION_SPLITS = ("tail", "streams")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
DEFAULT_DECAY = {"constant": 1.0, "step": 0.5, "cosine": 0.1}


@dataclass(frozen=True)
class ModelConfig:
    """The architecture: V characters, H hidden units, L layers."""

    vocabulary_size: int
    hidden: int
    layers: int


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the 2017 notebook's.

    `stride=None` is `steps`; `max_steps=None` sets no limit besides `epochs`;
    `decay=None` takes the schedule's own (step 0.5 an epoch, cosine down to 0.1).
    Both `epochs` and `max_steps` are totals, and the first one reached ends the run.

    Raises:
        OptionError: a value outside its range, or options that contradict each other.
    """

    hidden: int = 64
    layers: int = 2
    steps: int = 32
    batch: int = 32
    stride: int | None = None
    epochs: int = 4
    max_steps: int | None = None
    lr: float = 0.001
    seed: int = 0
    carry_state: bool = False
    dropout: float = 0.0
    clip: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    decay: float | None = None
    val_fraction: float = 0.0
    val_split: str = "tail"
    sample_every: int = 1000
    sample_length: int = 200
    temperature: float = 1.0
    log_every: int = 100
    save_every: int = 1000
    bytes: bool = False
    precision: str = "fp32"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("hidden", 1, 65_536), ("layers", 1, 8), ("steps", 1, None), ("batch", 1, None),
            ("stride", 1, None), ("epochs", 1, None), ("max_steps", 1, None), ("seed", 0, 2**63 - 1),
            ("warmup", 0, None), ("sample_every", 0, None), ("sample_length", 1, None),
            ("log_every", 1, None), ("save_every", 1, None),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not (low <= value and (high is None or value <= high)):
                expected = f"at least {low}" if high is None else f"from {low} to {high}"
                raise OptionError(f"{option(name)}: expected {expected}, found {value}")
        self._expect("lr", 0 < self.lr < math.inf, "a number above 0")
        self._expect("temperature", 0 < self.temperature < math.inf, "a number above 0")
        self._expect("dropout", 0 <= self.dropout < 1, "from 0 up to, not including, 1")
        self._expect("val_fraction", 0 <= self.val_fraction < 1, "from 0 up to, not including, 1")
        self._expect("clip", 0 <= self.clip < math.inf, "at least 0 (0 is off)")
        self._expect("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0")
        self._expect("schedule", self.schedule in SCHEDULES, " | ".join(SCHEDULES))
        self._expect("precision", self.precision in PRECISIONS, " | ".join(PRECISIONS))
        self._expect("val_split", self.val_split in VALIDATION_SPLITS, " | ".join(VALIDATION_SPLITS))
        if self.decay is not None:
            self._expect("decay", 0 < self.decay <= 1, "above 0 and at most 1")
            if self.schedule == "constant":
                raise OptionError("--decay: expected --schedule step or cosine with it, found constant")
        if self.carry_state and self.stride not in (None, self.steps):
            raise OptionError(
                f"--stride: expected --steps ({self.steps}) with --carry-state, whose windows "
                f"follow each other, found {self.stride}"
            )
        if self.val_split == "streams" and not self.val_fraction:
            raise OptionError("--val-split streams: expected --val-fraction with it, found none")

    def _expect(self, name: str, valid: bool, expected: str) -> None:
        if not valid:
            raise OptionError(f"{option(name)}: expected {expected}, found {getattr(self, name)}")

    @property
    def window_stride(self) -> int:
        return self.steps if self.stride is None else self.stride

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """
        Raises:
            OptionError: a value that is not an option's, in a file that was edited by hand.
        """
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except (TypeError, AttributeError) as error:
            raise OptionError(str(error)) from None


def option(name: str) -> str:
    """The command line's spelling of a field: `max_steps` is `--max-steps`."""
    return "--" + name.replace("_", "-")


def learning_rate(config: TrainConfig, step: int, epoch: int, total_steps: int) -> float:
    """The learning rate of training step `step` (from 1) in `epoch` (from 0).

    constant: lr. step: lr * decay^epoch. cosine: from lr at step 0 down to lr * decay
    at `total_steps`, along half a cosine. Times step / warmup for the first steps.
    Source: Loshchilov and Hutter 2017 (SGDR), without restarts.
    """
    decay = DEFAULT_DECAY[config.schedule] if config.decay is None else config.decay
    rate = config.lr
    if config.schedule == "step":
        rate *= decay**epoch
    elif config.schedule == "cosine":
        progress = min(1.0, step / total_steps)
        rate *= decay + (1 - decay) * 0.5 * (1 + math.cos(math.pi * progress))
    if step < config.warmup:
        rate *= step / config.warmup
    return rate
