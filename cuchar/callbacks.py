"""The protocol by which a run tells others how it goes: the progress bar, TensorBoard, and callbacks of one's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuchar.checkpoint import Checkpoint
from cuchar.config import ModelConfig, TrainConfig
from cuchar.parameters import Parameters


class StopTraining(Exception):
    """Raised by a callback, this ends the run as its last step would: with a report and a save, and no error."""


@dataclass(frozen=True)
class Run:
    """What callbacks learn of a run that begins, goes on, or has gone back.

    Args:
        folder: the run folder.
        step: training steps done before; 0 in a new run.
        total_steps: the step that training goes to.
        best: the lowest validation loss so far, in nats per character; infinity if there is none yet.
        gradients: computes the gradients of the loss on the next window, as parameters and state are when it is called:
            from within `Callback.start` or `Callback.saved`, since elsewhere a window may be half done (RunError).
    """

    folder: Path
    config: TrainConfig
    model: ModelConfig
    step: int
    total_steps: int
    best: float
    gradients: Callable[[], Parameters]


class Callback:
    """Is told by a run how it goes. A callback overrides the methods that it needs; this one does nothing.

    Every method is called in the thread that trains. Some training steps are done in one go, on a GPU up to a hundred,
    and `step` is called for each of them after the last. An exception that a method raises ends the run after the steps
    that were done together, and the run is saved first; `StopTraining` ends it without an error.
    """

    def start(self, run: Run) -> None:
        """Training begins or goes on; or it has gone back to `run.step`, since a number was not finite (`on_nan`)."""

    def step(self, step: int, loss: float, chars: int) -> None:
        """Training step `step` is done; its mean loss, in nats, is that of a window with `chars` characters."""

    def line(self, metrics: dict[str, Any]) -> None:
        """These values were written to metrics.jsonl."""

    def reading(self, what: str, done: int, total: int) -> None:
        """Before `start`, a large text is read: `done` of `total` bytes are counted, encoded or checked, as `what` says.

        In the last call `done` is `total`, also if an error has ended the reading.
        """

    def note(self, text: str) -> None:
        """A line of text for the user; some come before `start` and after `stop`."""

    def sample(self, text: bytes) -> None:
        """A sample was drawn; `text` is what was added to samples.txt."""

    def saved(self, checkpoint: Checkpoint) -> None:
        """This was written to last.safetensors. Its arrays are the run's own: they change with the next step."""

    def stop(self, finished: bool) -> None:
        """Training has ended: `finished`, or else by an error or a signal."""


class Callbacks(Callback):
    """Several callbacks in one, for the training loop; each is told in turn.

    The first exception that one of them raises is kept until `raise_pending`, so that it cannot end a training step
    that is half done.
    """

    def __init__(self, callbacks: Sequence[Callback]):
        self._callbacks = callbacks
        self._pending: Exception | None = None

    def raise_pending(self) -> None:
        """Raise the exception that a callback has raised since this was called last, if there is one."""
        pending, self._pending = self._pending, None
        if pending is not None:
            raise pending

    def start(self, run: Run) -> None:
        self._tell("start", run)

    def step(self, step: int, loss: float, chars: int) -> None:
        self._tell("step", step, loss, chars)

    def line(self, metrics: dict[str, Any]) -> None:
        self._tell("line", metrics)

    def reading(self, what: str, done: int, total: int) -> None:
        self._tell("reading", what, done, total)

    def note(self, text: str) -> None:
        self._tell("note", text)

    def sample(self, text: bytes) -> None:
        self._tell("sample", text)

    def saved(self, checkpoint: Checkpoint) -> None:
        self._tell("saved", checkpoint)

    def stop(self, finished: bool) -> None:
        self._tell("stop", finished)

    def _tell(self, name: str, *values: Any) -> None:
        for callback in self._callbacks:
            try:
                getattr(callback, name)(*values)
            except Exception as error:
                self._pending = self._pending or error
