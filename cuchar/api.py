"""Training and loading from Python; `import cuchar` brings both."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cuchar.callbacks import Callback
from cuchar.config import TRAIN, TrainConfig, check_option, expect_options, with_present_names
from cuchar.kinds import FLAG, PATH, ListOf, Optional, text
from cuchar.model import Model
from cuchar.presets import with_preset
from cuchar.pytorch_import import import_pytorch
from cuchar.runs import start_run


def train(
    texts: str | Path | Sequence[str | Path],
    *,
    val: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    preset: str | None = None,
    glob: str | None = None,
    skip_unreadable: bool = False,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> Model:
    """Train on text files and return the model: with validation the best one, otherwise the last one.

    Args:
        texts: a file, a folder, or several of them; `-` is standard input.
        val: a text to validate on after every epoch.
        out: the run folder, `runs/<text>-<time>` by default.
        device: auto | cpu | cuda | cuda:N | emulate.
        preset: notebook | char-rnn | torch-rnn | best; its options replace the defaults of those that are not given.
        glob: a pattern that the names of files in folders must match, such as "*.txt".
        skip_unreadable: leave out files that are not text or may not be read, instead of raising.
        callbacks: are told how the run goes (`cuchar.Callback`).
        options: fields of `cuchar.config.TrainConfig`: hidden, layers, window, batch, lr, ... `steps`, the former name
            of `window`, goes on working, with a DeprecationWarning.
    Raises:
        CucharError: a user's mistake, in one line.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a save; it is a KeyboardInterrupt.
    """
    paths = list(texts) if isinstance(texts, Sequence) and not isinstance(texts, str) else [texts]
    for name, kind, value in (
        ("texts", ListOf(PATH), paths), ("val", Optional(PATH), val), ("out", Optional(PATH), out),
        ("glob", Optional(text()), glob), ("skip_unreadable", FLAG, skip_unreadable),
    ):  # fmt: skip
        check_option(name, kind, value)
    options = with_present_names(options, lambda line: warnings.warn(line, DeprecationWarning, stacklevel=4))
    expect_options(options, [*TRAIN, "val", "out", "device", "preset", "glob", "skip_unreadable", "callbacks"])
    config = TrainConfig(**with_preset(preset, options, own_validation=val is not None))
    run = start_run(
        paths, config, val=val, out=out, device=device, glob=glob, skip_unreadable=skip_unreadable, callbacks=callbacks
    )
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
        out: the checkpoint to write.
        vocabulary: a JSON file, a list of the characters in the order of their ids; needed where the file's metadata
            have no `vocabulary`.
    Raises:
        CheckpointError: a file cannot be read, or is not of such a model.
        OutputError: the checkpoint could not be written.
        DeviceError: this machine does not have the device.
    """
    for name, value in (("file", file), ("out", out), ("vocabulary", vocabulary)):
        check_option(name, Optional(PATH) if name == "vocabulary" else PATH, value)
    import_pytorch(Path(file), Path(out), None if vocabulary is None else Path(vocabulary))
    return load(out, device=device)
