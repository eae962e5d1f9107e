"""How far a run has come: the counters and running means that every checkpoint stores."""

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
    """How far a run has come."""

    step: int = 0  # number of the last training step done
    epoch: int = 0  # epoch of the next window, counted from 0
    window: int = 0  # index of the next window in its epoch
    offset: int = 0  # characters skipped at the beginning of the text in this epoch
    elapsed_s: float = 0.0  # seconds of training so far
    lr: float = 0.0  # learning rate of the last step
    grad_norm: float = 0.0  # global norm of the gradients in the last step, before clipping
    history: list[dict[str, float]] = field(default_factory=list)  # mean losses of every SUMMARY_STEPS steps
    since_line: Mean = field(default_factory=Mean)  # since the last line of metrics.jsonl
    since_summary: Mean = field(default_factory=Mean)  # since the last entry of `history`
    since_epoch: Mean = field(default_factory=Mean)  # since the epoch began

    def finished(self, config: TrainConfig) -> bool:
        return self.epoch >= config.epochs or (config.max_steps is not None and self.step >= config.max_steps)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        means = {name: Mean(**values[name]) for name in ("since_line", "since_summary", "since_epoch")}
        return cls(**{**values, **means})
