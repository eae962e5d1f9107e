"""How far a run has come, and what ends it: the counters and running means that every checkpoint stores."""

from dataclasses import dataclass, field
from typing import Any

from cuchar.config import TrainConfig

MOST_HALVINGS = 10  # how often a run that goes back halves its learning rate, at most


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
    worse: int = 0  # validations in a row, at the ends of epochs, that found no lower loss than the best
    halvings: int = 0  # how often training went back and halved the learning rate

    def reached(self, config: TrainConfig) -> str | None:
        """The name of the option that ends the run here, or None if it goes on."""
        reached = {"epochs": self.epoch, "max_steps": self.step, "patience": self.worse}
        for name, count in reached.items():
            most = getattr(config, name)
            if most is not None and count >= most:
                return name
        return None

    def finished(self, config: TrainConfig) -> bool:
        return self.reached(config) is not None

    def is_due(self, config: TrainConfig) -> bool:
        """Whether every run saves a checkpoint here; others are saved because a run is interrupted here or ends."""
        return self.step % config.save_every == 0 or self.window == 0

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Position":
        means = {name: Mean(**values[name]) for name in ("since_line", "since_summary", "since_epoch")}
        return cls(**{**values, **means})
