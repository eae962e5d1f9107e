"""Training and loading from Python; `import cuchar` brings both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cuchar.config import TrainConfig
from cuchar.model import Model
from cuchar.presets import with_preset
from cuchar.runs import start_run
from cuchar.training import Listener


def train(
    texts: str | Path | Sequence[str | Path],
    *,
    val: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    preset: str | None = None,
    listener: Listener | None = None,
    **options: Any,
) -> Model:
    """Train on text files and return the model (the best one where there is validation).

    Args:
        texts: a file, a folder, or several of them; `-` is standard input.
        val: a text to validate on after every epoch.
        out: the run folder, `runs/<text>-<time>` by default.
        preset: notebook | char-rnn | torch-rnn | best, whose options hold where none are given.
        listener: told of every step (`cuchar.training.Listener`); silent by default.
        options: fields of `cuchar.config.TrainConfig`: hidden, layers, steps, batch, lr, ...
    Raises:
        CucharError: a user's mistake, in one line.
    """
    paths = [texts] if isinstance(texts, str | Path) else texts
    config = TrainConfig(**with_preset(preset, options, own_validation=val is not None))
    run = start_run(paths, config, val=val, out=out, device=device, listener=listener)
    return load(run, device=device)


def load(path: str | Path, *, device: str = "auto") -> Model:
    """The model of a checkpoint file or a run folder.

    Raises:
        CheckpointError: none there, or a damaged one.
    """
    return Model(path, device)
