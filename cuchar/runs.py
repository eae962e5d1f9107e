"""Starting, resuming and loading runs: what `cuchar train` does, for Python too."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import localtime, strftime
from typing import Any

import numpy as np

from cuchar.batches import check_length, split_validation
from cuchar.checkpoint import Checkpoint, read_checkpoint
from cuchar.config import ModelConfig, TrainConfig, option
from cuchar.corpus import Corpus, absolute, expect_kept, expect_outside, load_corpus, read_codes
from cuchar.engines import choose_engine
from cuchar.errors import CucharError, OptionError, RunError, TextError
from cuchar.interrupts import signalled
from cuchar.position import Position
from cuchar.run_folder import RunFolder
from cuchar.streams import STREAM
from cuchar.training import Listener, Trainer

TOTALS = ("epochs", "max_steps")


def start_run(
    texts: Sequence[str | Path],
    config: TrainConfig,
    *,
    val: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    listener: Listener | None = None,
) -> Path:
    """Train a new model; returns its run folder.

    Raises:
        CucharError: whatever is wrong with texts, options, device or folder; a failed
            start leaves no folder.
        Interrupted: SIGINT or SIGTERM, after a save.
    """
    listener = listener or Listener()
    if val is not None and config.val_fraction:
        raise OptionError("--val: expected it or --val-fraction, found both")
    path = _default_folder(texts) if out is None else Path(out)
    expect_outside(path, [*texts, *([] if val is None else [val])])
    corpus = load_corpus(texts, config.bytes)
    training, validation, val_sha256 = _parts(corpus, config, val)
    model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
    engine, reason = choose_engine(device, model, precision=config.precision)
    facts = {
        "texts": [absolute(text) for text in texts],
        "sha256": corpus.sha256,
        "characters": len(corpus.ids),
        "val": None if val is None else absolute(val),
        "val_sha256": val_sha256,
    }
    folder = RunFolder.create(path, _config(facts, config))
    try:
        try:
            trainer = Trainer(config, corpus, training, validation, engine, folder, facts, None, np.inf, listener)
        except CucharError:  # the device is too small, say
            folder.discard()
            raise
        listener.note(f"engine: {engine.name} ({reason})")
        listener.note(f"run folder: {folder.path}")
        _note_sizes(listener, trainer)
        with signalled() as asked:
            trainer.run(asked)
    finally:
        folder.close()
    return folder.path


def resume_run(
    path: str | Path,
    *,
    texts: Sequence[str | Path] = (),
    val: str | Path | None = None,
    options: dict[str, Any] | None = None,
    device: str = "auto",
    listener: Listener | None = None,
) -> Path:
    """Go on with a run where its last checkpoint is; one without a checkpoint starts again.

    Args:
        texts, val: where the texts are now; needed only if they have moved.
        options: `TrainConfig` fields given anew. They must equal the run's; only the totals
            `epochs` and `max_steps` may differ, as long as they are not below what is done.
    Raises:
        CucharError: as `start_run`; also options or texts that are not the run's.
    """
    listener, path = listener or Listener(), Path(path)
    folder = RunFolder.reopen(path)
    try:
        stored = folder.read_config()
        config = _merge(path, _stored_config(folder, stored), options or {})
        checkpoint = read_checkpoint(folder.last) if folder.last.exists() else None
        corpus = load_corpus(texts or expect_kept(stored["texts"], "TEXT"), config.bytes)
        _expect_same_text(path, "text", corpus.sha256, stored["sha256"])
        if val is None and stored["val"] is not None:
            (val,) = expect_kept([stored["val"]], "--val")
        training, validation, val_sha256 = _parts(corpus, config, val)
        _expect_same_text(path, "validation text", val_sha256, stored["val_sha256"])
        model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
        if checkpoint and checkpoint.parameters.model != model:
            found = asdict(checkpoint.parameters.model)
            raise RunError(f"{folder.last}: expected the run's model {asdict(model)}, found {found}")
        dtype = checkpoint.parameters.flat.dtype if checkpoint else np.float32
        engine, reason = choose_engine(device, model, dtype, config.precision)
        facts = {key: stored[key] for key in ("sha256", "characters", "val_sha256")}
        facts |= {"texts": [absolute(text) for text in texts] or stored["texts"]}
        facts |= {"val": None if val is None else absolute(val)}
        if checkpoint:
            _expect_totals_ahead(config, checkpoint.run["position"])
        best = read_checkpoint(folder.best).run["best"] if checkpoint and folder.best.exists() else np.inf
        if checkpoint and _is_over(config, checkpoint, folder):
            step = checkpoint.run["position"]["step"]
            listener.note(f"{path} is finished at step {step}; a larger --epochs or --max-steps goes on")
            return path
        trainer = Trainer(config, corpus, training, validation, engine, folder, facts, checkpoint, best, listener)
        folder.write_config(_config(facts, config))
        listener.note(f"engine: {engine.name} ({reason})")
        listener.note(
            f"resuming {path} after step {trainer.position.step}"
            if checkpoint
            else f"{path} has no checkpoint yet: starting again"
        )
        _note_sizes(listener, trainer)
        with signalled() as asked:
            trainer.run(asked)
    finally:
        folder.close()
    return path


def _parts(
    corpus: Corpus, config: TrainConfig, val: str | Path | None
) -> tuple[np.ndarray, np.ndarray | None, str | None]:
    """Training ids, validation ids [streams, n] or None, the digest of a validation text of its own."""
    training, validation, digest = corpus.ids, None, None
    if config.val_fraction:
        training, validation = split_validation(corpus.ids, config)
    elif val is not None:
        codes, digest = read_codes([val], config.bytes)
        try:
            validation = corpus.vocabulary.encode(codes)[None]
        except TextError as error:
            raise TextError(f"--val {val}: {str(error).split(';')[0]}") from None
        if validation.shape[1] < 2:
            raise TextError(f"--val {val}: expected at least 2 characters, found {validation.shape[1]}")
    check_length(len(training), config)
    return training, validation, digest


def _default_folder(texts: Sequence[str | Path]) -> Path:
    name = "stdin" if Path(texts[0]) == STREAM else Path(texts[0]).resolve().stem
    path = Path("runs") / f"{name}-{strftime('%Y%m%d-%H%M%S', localtime())}"
    count = 2
    while path.exists():
        path = path.with_name(f"{path.name.removesuffix(f'.{count - 1}')}.{count}")
        count += 1
    return path


def _config(facts: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    return {**facts, "train": config.to_json()}


def _stored_config(folder: RunFolder, stored: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.from_json(stored["train"])
    except OptionError as error:  # in a file, not on the command line
        raise RunError(f"{folder.config_file}: expected a run's options, found a wrong one: {error}") from None


def _merge(path: Path, config: TrainConfig, options: dict[str, Any]) -> TrainConfig:
    for name, value in options.items():
        kept = getattr(config, name)
        if name == "stride":
            value, kept = value or config.steps, config.window_stride
        if name not in TOTALS and value != kept:
            raise RunError(f"{option(name)}: expected the run's {kept} to resume {path}, found {value}")
    return replace(config, **{name: value for name, value in options.items() if name in TOTALS})


def _expect_same_text(path: Path, what: str, found: str | None, expected: str | None) -> None:
    if found != expected:
        raise RunError(
            f"{path}: expected the run's {what} (SHA-256 {(expected or 'none')[:12]}), "
            f"found another ({(found or 'none')[:12]})"
        )


def _expect_totals_ahead(config: TrainConfig, position: dict[str, Any]) -> None:
    if config.max_steps is not None and config.max_steps < position["step"]:
        raise RunError(
            f"--max-steps: expected a total of at least the {position['step']} done, found {config.max_steps}"
        )
    if config.epochs < position["epoch"]:
        raise RunError(f"--epochs: expected a total of at least the {position['epoch']} done, found {config.epochs}")


def _is_over(config: TrainConfig, checkpoint: Checkpoint, folder: RunFolder) -> bool:
    """Every step is done, and so is the report on the last ones, which comes after the last save."""
    position = Position.from_json(checkpoint.run["position"])
    reported = folder.lengths() != checkpoint.run["lengths"] or not position.since_line.count
    return position.finished(config) and reported


def _note_sizes(listener: Listener, trainer: Trainer) -> None:
    listener.note(
        f"{len(trainer.training):,} characters, {len(trainer.vocabulary)} distinct; "
        f"{trainer.parameters.flat.size:,} parameters; {trainer.total_steps:,} steps"
    )
