"""Where a run stands: the counters and running means that every checkpoint holds."""

from dataclasses import dataclass, field
from typing import Any

from cuchar.config import TrainConfig


@dataclass
class Mean:
    """A running mean of losses, and the seconds that their training steps took."""

    total: float = 0.0
    count: int = 0
    seconds: float = 0.0

    def add(self, loss: float, seconds: float) -> None:
        self.total += loss
        self.count += 1
        self.seconds += seconds

    @property
    def loss(self) -> float:
        return self.total / self.count


@dataclass
class Position:
    """Where a run stands. `epoch` and `window` are the next window's, `step` the last step done, as its rate and norm."""

    step: int = 0
    epoch: int = 0
    window: int = 0
    offset: int = 0
    elapsed_s: float = 0.0
    lr: float = 0.0
    grad_norm: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    since_line: Mean = field(default_factory=Mean)
    since_summary: Mean = field(default_factory=Mean)
    since_epoch: Mean = field(default_factory=Mean)

    def finished(self, config: TrainConfig) -> bool:
        return self.epoch >= config.epochs or (config.max_steps is not None and self.step >= config.max_steps)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        means = {name: Mean(**values[name]) for name in ("since_line", "since_summary", "since_epoch")}
        return cls(**{**values, **means})
