"""Training, resuming and loading from Python; `import cuchar` brings all three."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cuchar.callbacks import Callback
from cuchar.config import TRAIN, check_option, expect_bytes_alone, expect_options, with_present_names
from cuchar.errors import OutputError
from cuchar.files import STREAM
from cuchar.kinds import FLAG, PATH, Kind, ListOf, Optional, Value, text
from cuchar.model import Model
from cuchar.outputs import expect_new_output
from cuchar.pytorch_import import import_pytorch
from cuchar.runs import resume_run, start_run
from cuchar.terminal import terminal_progress
from cuchar.wording import option

ARGUMENTS: dict[str, Kind] = {
    "texts": ListOf(PATH),
    "run": PATH,
    "val": Optional(PATH),
    "out": Optional(PATH),
    "init_from": Optional(PATH),
    "glob": Optional(text()),
    "skip_unreadable": FLAG,
    "cache": Optional(PATH),
    "progress": FLAG,
    "callbacks": ListOf(Value((("a cuchar.Callback", lambda value: isinstance(value, Callback)),))),
}


def train(
    texts: str | Path | Sequence[str | Path],
    *,
    val: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    preset: str | None = None,
    init_from: str | Path | None = None,
    glob: str | None = None,
    skip_unreadable: bool = False,
    cache: str | Path | None = None,
    progress: bool = False,
    callbacks: Callback | Sequence[Callback] = (),
    **options: Any,
) -> Model:
    """Train on text files and return the model: with validation the best one, otherwise the last one.

    Args:
        texts: a file, a folder, or several of them; `-` is standard input.
        val: a text to validate on after every epoch.
        out: the run folder, `runs/<text>-<time>` by default.
        device: auto | cpu | cuda | cuda:N | emulate.
        preset: notebook | char-rnn | torch-rnn | best | auto; its options replace the defaults of those that are not
            given. "auto" goes by the text's size.
        init_from: a checkpoint file or run folder whose weights to begin with; hidden and layers are its own.
        glob: a pattern that the names of files in folders must match, such as "*.txt".
        skip_unreadable: leave out files that are not text or may not be read, instead of raising.
        cache: the folder in which texts of more than 64 MiB are kept once they are encoded; .texts beside the run folder
            by default.
        progress: show a bar, messages and samples, as `cuchar train` does, in a terminal or a notebook. Without it
            nothing is printed.
        callbacks: one `cuchar.Callback` or several, which are told how the run goes.
        options: fields of `cuchar.config.TrainConfig`: hidden, layers, window, batch, lr, ... `steps`, the former name
            of `window`, goes on working, with a DeprecationWarning.
    Raises:
        CucharError: a user's mistake, in one line.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a save; it is a KeyboardInterrupt.
    """
    reading: dict[str, Any] = {"val": val, "glob": glob, "skip_unreadable": skip_unreadable, "cache": cache}
    _check_arguments(texts=_listed(texts), out=out, init_from=init_from, **reading)
    everyone = _callbacks(progress, callbacks)
    options = _present_options(options, [*reading, "out", "device", "preset", "init_from", "progress", "callbacks"])
    run = start_run(
        _listed(texts), options, preset=preset, init_from=init_from,
        out=out, device=device, **reading, callbacks=everyone,
    )  # fmt: skip
    return load(run, device=device)


def resume(
    run: str | Path,
    *,
    texts: str | Path | Sequence[str | Path] = (),
    val: str | Path | None = None,
    device: str = "auto",
    glob: str | None = None,
    skip_unreadable: bool = False,
    cache: str | Path | None = None,
    progress: bool = False,
    callbacks: Callback | Sequence[Callback] = (),
    **options: Any,
) -> Model:
    """Go on with a run from its last checkpoint, and return the model as `train` does.

    A run that was stopped ends with the same bytes as one that was not. One that is finished goes on if it is given a
    larger total, and otherwise nothing is done.

    Args:
        run: the run folder.
        texts, val: where the texts are now; needed only if they have moved.
        device, glob, skip_unreadable, cache, progress, callbacks: as for `train`.
        options: `epochs` and `max_steps`, which are totals, may be new, and so may `patience` and `on_nan`. Other fields
            of `cuchar.config.TrainConfig` may be given again, but must equal the run's.
    Raises:
        CucharError: as for `train`; also if there is no run, or options or texts are not the run's.
        Interrupted: as for `train`.
    """
    reading: dict[str, Any] = {"val": val, "glob": glob, "skip_unreadable": skip_unreadable, "cache": cache}
    _check_arguments(run=run, texts=_listed(texts), **reading)
    everyone = _callbacks(progress, callbacks)
    options = _present_options(options, [*reading, "texts", "device", "progress", "callbacks"])
    run = resume_run(run, texts=_listed(texts), options=options, device=device, **reading, callbacks=everyone)
    return load(run, device=device)


def load(path: str | Path, *, device: str = "auto") -> Model:
    """The model of a checkpoint file or a run folder.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        DeviceError: this machine does not have the device.
    """
    return Model(path, device)


def import_model(
    file: str | Path, out: str | Path, *, vocabulary: str | Path | None = None, device: str = "auto"
) -> Model:
    """Make a checkpoint of a PyTorch model, and load it.

    Args:
        file: a safetensors file with PyTorch's names, of one `nn.LSTM` and one `nn.Linear`.
        out: the checkpoint to write, a file.
        vocabulary: a JSON file, a list of the characters in the order of their ids; needed where the file's metadata
            have no `vocabulary`.
    Raises:
        CheckpointError: a file cannot be read, or is not of such a model.
        OutputError: the checkpoint could not be written, or would replace one of the files or one that a run keeps.
        DeviceError: this machine does not have the device.
    """
    for name, value in (("file", file), ("out", out), ("vocabulary", vocabulary)):
        check_option(name, Optional(PATH) if name == "vocabulary" else PATH, value)
    file, out, vocabulary = Path(file), Path(out), None if vocabulary is None else Path(vocabulary)
    if out == STREAM:
        raise OutputError(f"{option('out')}: expected a file, from which the model is then loaded, found {STREAM}")
    expect_new_output(option("out"), out, None, [file] if vocabulary is None else [file, vocabulary])
    import_pytorch(file, out, vocabulary)
    return load(out, device=device)


def _listed(one_or_more: Any) -> list[Any]:
    """A sequence as a list; anything else, and a str, as a list of one."""
    is_sequence = isinstance(one_or_more, Sequence) and not isinstance(one_or_more, str)
    return list(one_or_more) if is_sequence else [one_or_more]


def _callbacks(progress: bool, callbacks: Callback | Sequence[Callback]) -> list[Callback]:
    """The given callbacks, and before them one that shows how the run goes if `progress` says so."""
    given = _listed(callbacks)
    _check_arguments(progress=progress, callbacks=given)
    return [terminal_progress(), *given] if progress else given


def _check_arguments(**arguments: Any) -> None:
    """Check arguments that are no fields of TrainConfig.

    Raises:
        OptionError: one is not of its kind.
    """
    for name, value in arguments.items():
        check_option(name, ARGUMENTS[name], value)


def _present_options(options: dict[str, Any], others: Iterable[str]) -> dict[str, Any]:
    """The options by their present names, with a warning to the caller of `train` or `resume` about former ones.

    Args:
        others: the names of the function's other keywords, of which a misspelt option may be one.
    Raises:
        OptionError: an option is unknown, was given by both names with different values, or is not one for bytes.
    """
    options = with_present_names(options, lambda line: warnings.warn(line, DeprecationWarning, stacklevel=5))
    expect_options(options, [*TRAIN, *others])
    expect_bytes_alone(options)
    return options
