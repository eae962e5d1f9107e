"""Starts and resumes runs, for `cuchar train` and for Python."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import localtime, strftime
from typing import Any

import numpy as np

from cuchar.batches import check_length, split_validation
from cuchar.callbacks import Callback, Callbacks, StopTraining
from cuchar.checkpoint import Checkpoint
from cuchar.config import TRAIN, ModelConfig, TrainConfig, expect_options
from cuchar.corpus import Corpus, Text, absolute, expect_kept, left_out_notes, load_corpus, read_text
from cuchar.engines.choose import choose_engine
from cuchar.errors import OptionError, RunError, TextError
from cuchar.files import STREAM
from cuchar.interrupts import Interrupted, signalled
from cuchar.position import Position
from cuchar.run_folder import RunFolder
from cuchar.training import Material, Trainer
from cuchar.wording import command_to_resume, command_to_sample, option

TOTALS = ("epochs", "max_steps")


def start_run(
    texts: Sequence[str | Path],
    config: TrainConfig,
    *,
    val: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    glob: str | None = None,
    skip_unreadable: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train a new model.

    Args:
        texts: files or folders to train on; `-` is standard input.
        val: a text to validate on, or None.
        out: the run folder; None means runs/<text>-<time>.
        device: auto | cpu | cuda | cuda:N | emulate.
        glob: which files of `texts` and `val` are read (`corpus.read_text`).
        skip_unreadable: as for `corpus.read_text`.
        callbacks: are everyone how the run goes.
    Returns:
        the run folder.
    Raises:
        CucharError: texts, options, device or folder are wrong; if the start fails, no folder is left.
        Interrupted: a SIGINT, SIGTERM or SIGHUP came; the run was saved.
    """
    everyone = Callbacks(callbacks)
    if val is not None and config.val_fraction:
        raise OptionError(f"{option('val')}: expected it or {option('val_fraction')}, found both")
    corpus = load_corpus(texts, config.bytes, glob, skip_unreadable)
    val_text = None if val is None else read_text([val], config.bytes, glob, skip_unreadable)
    material = _material(corpus, config, val_text)
    model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
    engine, reason = choose_engine(device, model, precision=config.precision)
    folder = RunFolder.create(_default_folder(texts) if out is None else Path(out), _config(material, config))
    try:
        trainer = Trainer(config, material, engine, folder, None, everyone)
        everyone.note(f"engine: {engine.name} ({reason})")
        everyone.note(f"run folder: {folder.path}")
        _note_left_out(everyone, corpus, val_text)
        _train(trainer, everyone)
    except BaseException:
        folder.discard_unused()
        raise
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
    glob: str | None = None,
    skip_unreadable: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Go on with a run from its last checkpoint; a run without a checkpoint starts again.

    Args:
        path: the run folder.
        texts: where the training texts are now; needed only if they have moved.
        val: where the validation text is now; needed only if it has moved.
        options: `TrainConfig` fields that are given again. They must equal the run's; only the totals
            `epochs` and `max_steps` may differ, and they must not be below what is done.
        glob: which files of the given `texts` and `val` are read; if none is given, the run reads its files again.
        skip_unreadable: as for `corpus.read_text`, for the given `texts` and `val`.
    Returns:
        `path`.
    Raises:
        CucharError: as for `start_run`; also if options or texts are not the run's.
        Interrupted: a SIGINT, SIGTERM or SIGHUP came; the run was saved.
    """
    everyone, path = Callbacks(callbacks), Path(path)
    expect_options(options or {}, TRAIN)
    folder = RunFolder.reopen(path)
    try:
        stored = folder.read_config()
        config = _merge(path, _stored_config(folder, stored), options or {})
        checkpoint = folder.read_last()
        if checkpoint:
            _expect_same_run(folder, checkpoint, stored)
            _expect_totals_ahead(config, checkpoint.run["position"])
        corpus = load_corpus(texts or expect_kept(stored["texts"], "TEXT"), config.bytes, glob, skip_unreadable)
        _expect_same_text(path, "text", corpus.sha256, stored["sha256"])
        if checkpoint and checkpoint.vocabulary != corpus.vocabulary:
            raise RunError(f"{folder.last}: expected the vocabulary of the run's text, found another")
        vals = expect_kept(stored["val"] or [], option("val")) if val is None else [val]
        val_text = read_text(vals, config.bytes, glob, skip_unreadable) if vals else None
        material = _material(corpus, config, val_text)
        _expect_same_text(path, "validation text", material.facts["val_sha256"], stored["val_sha256"])
        if checkpoint:
            folder.complete_best(checkpoint)
        if checkpoint and _is_over(config, checkpoint, folder):
            position = checkpoint.run["position"]
            total = "epochs" if position["epoch"] >= config.epochs else "max_steps"
            everyone.note(
                f"{path} is finished at step {position['step']}, as {option(total, getattr(config, total))} asks for; "
                f"a larger {option(total)} goes on"
            )
            return path
        model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
        dtype = checkpoint.parameters.flat.dtype if checkpoint else np.float32
        engine, reason = choose_engine(device, model, dtype, config.precision)
        trainer = Trainer(config, material, engine, folder, checkpoint, everyone)
        trainer.best = folder.roll_back(checkpoint)
        folder.write_config(_config(material, config))
        everyone.note(f"engine: {engine.name} ({reason})")
        everyone.note(
            f"resuming {path} after step {trainer.position.step}"
            if checkpoint
            else f"{path} has no checkpoint yet: starting again"
        )
        _note_left_out(everyone, corpus, val_text)
        if checkpoint and checkpoint.run["best"] is not None and math.isinf(trainer.best):
            everyone.note(f"{folder.best} cannot be read; the next validation writes another")
        _train(trainer, everyone)
    finally:
        folder.close()
    return path


def _train(trainer: Trainer, everyone: Callbacks) -> None:
    """Train until the end or until a signal comes, and tell the callbacks which command goes on from there."""
    config, folder = trainer.config, trainer.folder.path
    everyone.note(
        f"{len(trainer.material.training):,} characters, {len(trainer.material.vocabulary)} distinct; "
        f"{trainer.changing.parameters.flat.size:,} parameters; {trainer.total_steps:,} steps"
    )
    if config.max_steps is not None and config.max_steps > trainer.total_steps:
        everyone.note(
            f"{option('max_steps', config.max_steps)}: {option('epochs', config.epochs)} ends the run before, "
            f"after some {trainer.total_steps:,} steps"
        )
    with signalled() as asked:
        try:
            trainer.run(asked)
        except Interrupted:
            everyone.note(
                f"stopped after step {trainer.position.step}; to go on: {command_to_resume(trainer.folder.path)}"
            )
            raise
    best = "" if math.isinf(trainer.best) else f", best validation loss {trainer.best:.4f}"
    position = trainer.position
    loss = f"mean loss {trainer.loss:.4f} since step {trainer.loss_since}"
    everyone.note(f"{position.step} steps in {position.elapsed_s:.1f} s: {loss}{best}; {folder}")
    everyone.note(f"to write with it: {command_to_sample(trainer.folder.path)}")
    with suppress(StopTraining):
        everyone.raise_pending()


def _material(corpus: Corpus, config: TrainConfig, val_text: Text | None) -> Material:
    """The ids to train and validate on, and the facts that a run stores: every file that was read, and the digests.

    Raises:
        TextError: a text is too short, or the validation text has an unknown character.
    """
    training, validation = corpus.ids, None
    if config.val_fraction:
        training, validation = split_validation(corpus.ids, config)
    elif val_text is not None:
        hint = "; the vocabulary is the training text's"
        validation = corpus.vocabulary.encode(
            val_text.codes, place=lambda at: f"{option('val')}: {val_text.place(at)}", hint=hint
        )[None]
        if validation.shape[1] < 2:
            raise TextError(
                f"{option('val', str(val_text.files[0]))}: expected at least 2 characters, found {validation.shape[1]}"
            )
    check_length(len(training), config)

    def names(files: Sequence[Path]) -> list[str]:
        return [absolute(file) for file in files]

    facts = {
        "sha256": corpus.sha256,
        "characters": len(corpus.ids),
        "texts": names(corpus.files),
        "val": None if val_text is None else names(val_text.files),
        "val_sha256": None if val_text is None else val_text.sha256,
    }
    return Material(corpus.vocabulary, training, validation, facts)


def _default_folder(texts: Sequence[str | Path]) -> Path:
    name = "stdin" if Path(texts[0]) == STREAM else Path(texts[0]).resolve().stem
    path = Path("runs") / f"{name}-{strftime('%Y%m%d-%H%M%S', localtime())}"
    count = 2
    while path.exists():
        path = path.with_name(f"{path.name.removesuffix(f'.{count - 1}')}.{count}")
        count += 1
    return path


def _config(material: Material, config: TrainConfig) -> dict[str, Any]:
    return {**material.facts, "train": config.to_json()}


def _stored_config(folder: RunFolder, stored: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.from_json(stored["train"])
    except OptionError as error:  # the option is wrong in a file, not on the command line
        raise RunError(f"{folder.config_file}: expected a run's options, found a wrong one: {error}") from None


def _merge(path: Path, config: TrainConfig, options: dict[str, Any]) -> TrainConfig:
    for name, value in options.items():
        kept = getattr(config, name)
        if name == "stride":
            value, kept = value or config.window, config.window_stride
        if name not in TOTALS and value != kept:
            raise RunError(f"{option(name)}: expected the run's {kept} to resume {path}, found {value}")
    return replace(config, **{name: value for name, value in options.items() if name in TOTALS})


def _expect_same_text(path: Path, what: str, found: str | None, expected: str | None) -> None:
    if found != expected:
        raise RunError(
            f"{path}: expected the run's {what} (SHA-256 {(expected or 'none')[:12]}), "
            f"found another ({(found or 'none')[:12]})"
        )


def _expect_same_run(folder: RunFolder, checkpoint: Checkpoint, stored: dict[str, Any]) -> None:
    """Check that config.json and the checkpoint agree on texts and options, but for the totals, so are of one run.

    Raises:
        RunError: they do not agree.
    """

    def decisive(facts: dict[str, Any]) -> dict[str, Any]:
        options = TrainConfig.from_json(facts["train"]).to_json()
        return {
            **{option(name): value for name, value in options.items() if name not in TOTALS},
            "the text's SHA-256": facts["sha256"],
            "the validation text's SHA-256": facts["val_sha256"],
        }

    expected, found = decisive(stored), decisive(checkpoint.run)
    for name, value in expected.items():
        if found[name] != value:
            raise RunError(f"{folder.last}: expected {name} to be config.json's {value}, found {found[name]}")


def _expect_totals_ahead(config: TrainConfig, position: dict[str, Any]) -> None:
    if config.max_steps is not None and config.max_steps < position["step"]:
        raise RunError(
            f"{option('max_steps')}: expected a total of at least the {position['step']} done, found {config.max_steps}"
        )
    if config.epochs < position["epoch"]:
        raise RunError(
            f"{option('epochs')}: expected a total of at least the {position['epoch']} done, found {config.epochs}"
        )


def _is_over(config: TrainConfig, checkpoint: Checkpoint, folder: RunFolder) -> bool:
    """Whether every step is done, and also the final report on the steps since the last line of metrics.jsonl.

    The report comes after the last save, so the checkpoint alone does not say whether it was made.
    """
    position = Position.from_json(checkpoint.run["position"])
    return position.finished(config) and (not position.since_line.count or folder.has_report(checkpoint))


def _note_left_out(everyone: Callbacks, *texts: Corpus | Text | None) -> None:
    for text in texts:
        for line in left_out_notes(text) if text else ():
            everyone.note(line)
