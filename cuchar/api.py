"""Training and loading from Python; `import cuchar` brings both."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cuchar.callbacks import Callback
from cuchar.config import TRAIN, TrainConfig, check_option, expect_options, with_present_names
from cuchar.init_from import read_source
from cuchar.kinds import FLAG, PATH, ListOf, Optional, text
from cuchar.model import Model
from cuchar.presets import AUTO, with_preset
from cuchar.runs import start_run


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
    callbacks: Sequence[Callback] = (),
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
        callbacks: are told how the run goes (`cuchar.Callback`).
        options: fields of `cuchar.config.TrainConfig`: hidden, layers, window, batch, lr, ... `steps`, the former name
            of `window`, goes on working, with a DeprecationWarning.
    Raises:
        CucharError: a user's mistake, in one line.
        Interrupted: Ctrl-C, SIGTERM or SIGHUP, after a save; it is a KeyboardInterrupt.
    """
    paths = list(texts) if isinstance(texts, Sequence) and not isinstance(texts, str) else [texts]
    for name, kind, value in (
        ("texts", ListOf(PATH), paths), ("val", Optional(PATH), val), ("out", Optional(PATH), out), ("init-from", Optional(PATH), init_from),
        ("glob", Optional(text()), glob), ("skip-unreadable", FLAG, skip_unreadable),
    ):  # fmt: skip
        check_option(name, kind, value)
    options = with_present_names(options, lambda line: warnings.warn(line, DeprecationWarning, stacklevel=4))
    expect_options(
        options, [*TRAIN, "val", "out", "device", "preset", "init_from", "glob", "skip_unreadable", "callbacks"]
    )
    source = None if init_from is None else read_source(init_from)
    if source is not None:
        options = source.with_sizes(options)
    config = TrainConfig(**with_preset(preset, options, own_validation=val is not None))
    run = start_run(
        paths, config, val=val, out=out, device=device, glob=glob, skip_unreadable=skip_unreadable,
        auto=options if preset == AUTO else None, init_from=source, callbacks=callbacks,
    )  # fmt: skip
    return load(run, device=device)


def load(path: str | Path, *, device: str = "auto") -> Model:
    """The model of a checkpoint file or a run folder.

    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        DeviceError: this machine does not have the device.
    """
    return Model(path, device)
