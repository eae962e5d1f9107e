"""What a plot of runs shows, before anything is drawn: four panels, each with a line or two for every run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cuchar.run_logs import RunLog

AXES = {"step": "training step", "chars": "characters trained on", "seconds": "seconds of training"}
TITLES = {
    "loss": "loss, nats per character",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "chars_per_s": "characters per second",
}


@dataclass(frozen=True)
class Line:
    """One run's values in one panel.

    run: the run's number among those that are plotted.
    validation: whether these are validation losses, of which there is one an epoch.
    x, y: float64 [points].
    """

    run: int
    validation: bool
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Panel:
    """measure: one of TITLES."""

    measure: str
    lines: list[Line]
    logarithmic: bool

    @property
    def title(self) -> str:
        return TITLES[self.measure]


def panels(logs: Sequence[RunLog], x: str) -> list[Panel]:
    """The panels of TITLES, in this order.

    The loss and the gradient norm have a logarithmic axis if the largest value is more than ten times the smallest.

    Args:
        x: what runs are compared by, of AXES. For "chars", a run's configuration must be known, or its lines are empty.
    """
    made = []
    for measure in TITLES:
        names = [measure, "val_loss"] if measure == "loss" else [measure]
        lines = [_line(number, log, x, name) for number, log in enumerate(logs) for name in names]
        lines = [line for line in lines if len(line.x)]
        values = np.concatenate([line.y for line in lines] or [np.zeros(1)])
        wide = values.min() > 0 and values.max() > 10 * values.min()
        made.append(Panel(measure, lines, bool(wide and measure in ("loss", "grad_norm"))))
    return made


def _line(run: int, log: RunLog, x: str, measure: str) -> Line:
    steps, values = log.metrics["step"], log.metrics[measure]
    if x == "seconds":
        places = log.metrics["elapsed_s"]
    elif x == "chars":
        places = steps * (log.config.batch * log.config.window if log.config else np.nan)
    else:
        places = steps
    known = ~np.isnan(values) & ~np.isnan(places)
    return Line(run, measure == "val_loss", places[known], values[known])
