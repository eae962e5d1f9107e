"""A callback that lets TensorBoard show a run: its curves, samples, weights, gradients, options and computation graph.

What it writes is in the run folder's `tensorboard/`. Nothing of it is read by training, so a run has the same bits with
and without it.

| in TensorBoard | what | when |
| --- | --- | --- |
| SCALARS | the values of metrics.jsonl, by the tags in SCALARS below, and the best validation loss so far | every line |
| CUSTOM SCALARS | the training loss and the validation loss in one chart | |
| TEXT | the samples, just as samples.txt has them | every sample |
| HISTOGRAMS | every parameter, and its gradient on the window that comes next, without dropout | every save |
| HPARAMS | the options that decide what is learned; every scalar's last value is a result | start, end |
| GRAPHS | what one training step computes: see graph.py | start |
"""

import html
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from cuchar.callbacks import Callback, Run
from cuchar.checkpoint import Checkpoint
from cuchar.config import DEFAULT_DECAY
from cuchar.errors import DeviceError
from cuchar.files import escape

if TYPE_CHECKING:
    from cuchar.tensorboard.event_log import EventLog

FOLDER = "tensorboard"
SCALARS = {
    "loss": "loss/train", "val_loss": "loss/validation", "lr": "learning_rate", "grad_norm": "gradient_norm",
    "chars_per_s": "chars_per_s",
}  # fmt: skip
BEST = "loss/best_validation"
ONE_CHART = [SCALARS["loss"], SCALARS["val_loss"]]
SAMPLES = "samples"
# Options that decide when a run reports and saves, but nothing of what is learned.
REPORTING = ("log_every", "sample_every", "sample_length", "temperature", "law", "save_every")


class TensorBoard(Callback):
    """Writes what TensorBoard shows of a run; `tensorboard --logdir runs` then shows all runs in `runs`.

    A run that is resumed goes on in the same folder, and what `RunFolder.roll_back` undoes is removed there too.

    Raises:
        DeviceError: tensorboardX is not installed.
        OutputError: from the methods, a file could not be written; the run is saved and ends with this error.
    """

    def __init__(self) -> None:
        try:
            from cuchar.tensorboard import event_log, graph
        except ImportError:
            raise DeviceError(
                "TensorBoard: expected tensorboardX, found none; pip install 'cuchar[tensorboard]'"
            ) from None
        self._open, self._graph_of = event_log.EventLog, graph.training_step
        self._log: EventLog
        self._is_open, self._now = False, 0

    def start(self, run: Run) -> None:
        if self._is_open:  # the run has gone back: another session begins, which cuts what this one told
            self._log.close(self._now, finished=False)
        self._run, self._now, self._saved = run, run.step, -1
        self._best = run.best
        self._log = self._open(
            run.folder / FOLDER, run.step, _hyperparameters(run), self._graph_of(run.model, run.config), ONE_CHART
        )
        self._is_open = True

    def step(self, step: int, loss: float, chars: int) -> None:
        self._now = step

    def line(self, metrics: dict[str, Any]) -> None:
        values = {tag: metrics[name] for name, tag in SCALARS.items() if name in metrics}
        if "val_loss" in metrics:
            self._best = values[BEST] = min(self._best, metrics["val_loss"])
        self._log.scalars(metrics["step"], values)

    def sample(self, text: bytes) -> None:
        self._log.text(self._now, SAMPLES, as_it_is(text))

    def saved(self, checkpoint: Checkpoint) -> None:
        if self._saved == self._now:
            return  # the run was asked to stop just after it was saved
        self._saved = self._now
        tensors = {}
        for name, weights in checkpoint.parameters.items():
            tensors[f"weights/{name}"] = weights
        for name, gradients in self._run.gradients().items():
            if np.isfinite(gradients).all():  # reduced precision may overflow, which training copes with by itself
                tensors[f"gradients/{name}"] = gradients
        self._log.histograms(self._now, tensors)

    def stop(self, finished: bool) -> None:
        """Close the files. HPARAMS shows a run as finished if it has ended without an error and without a signal."""
        if self._is_open:
            self._log.close(self._now, finished)


def as_it_is(sample: bytes) -> str:
    """Markdown that shows a sample as samples.txt has it, whatever the sample contains.

    TensorBoard renders text as Markdown. An HTML block's text is not Markdown, but for a fence of backticks or tildes.
    A character that could begin a fence, a tag, an entity or an indentation is therefore written as a character
    reference. Control characters are escaped, as on a terminal.
    """
    text = escape(sample.decode("utf-8", "backslashreplace"), keep="\n\t")
    text = re.sub(r"[`~\t]|^ ", lambda found: f"&#{ord(found[0])};", html.escape(text), flags=re.MULTILINE)
    return f"<pre>{text}</pre>"


def _hyperparameters(run: Run) -> dict[str, Any]:
    """The options that decide what is learned, and V; an option that is off (None) is left out."""
    config = run.config
    decay = DEFAULT_DECAY[config.schedule] if config.decay is None else config.decay
    options = {**config.to_json(), "stride": config.window_stride, "decay": decay}
    options["vocabulary_size"] = run.model.vocabulary_size
    return {name: value for name, value in options.items() if value is not None and name not in REPORTING}
