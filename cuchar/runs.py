"""Starts and resumes runs, for `cuchar train` and for Python."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import localtime, strftime
from typing import Any

import numpy as np

from cuchar.callbacks import Callback, Callbacks, StopTraining
from cuchar.checkpoint import Checkpoint
from cuchar.config import TRAIN, ModelConfig, TrainConfig, check_option, expect_options
from cuchar.engines.choose import choose_engine
from cuchar.errors import OptionError, RunError
from cuchar.files import STREAM
from cuchar.init_from import read_source_again
from cuchar.interrupts import Interrupted, signalled
from cuchar.messages import Messages
from cuchar.position import Position
from cuchar.preparation import (
    expect_something_to_validate_on,
    load_training,
    load_validation,
    material_of,
    notes_of,
    notes_on_steps,
    prepare,
)
from cuchar.ranks.together import Leader, together
from cuchar.run_folder import RunFolder, expect_place_for_run
from cuchar.text_files import expect_kept, text_files
from cuchar.training import Material, Trainer
from cuchar.wording import command_to_resume, command_to_sample, option

TEXTS = ".texts"  # hidden, so that it is no text of a folder in which there are runs
CHANGEABLE = ("epochs", "max_steps", "patience", "on_nan")  # options that a resumed run may be given anew


def start_run(
    texts: Sequence[str | Path],
    options: TrainConfig | Mapping[str, Any],
    *,
    preset: str | None = None,
    init_from: str | Path | None = None,
    val: str | Path | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    glob: str | None = None,
    skip_unreadable: bool = False,
    cache: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train a new model. Processes that a launcher has started together (`cuchar.launch`) train it together.

    Args:
        texts: files or folders to train on; `-` is standard input.
        options: the `TrainConfig` fields that are given; a TrainConfig gives them all.
        preset: gives the other options (`cuchar.presets`); None leaves them at TrainConfig's defaults.
        init_from: a checkpoint file or run folder that the parameters come from, and with them `hidden` and `layers`.
        val: a text to validate on, or None.
        out: the run folder; None means runs/<text>-<time>.
        device: auto | cpu | cuda | cuda:N | emulate.
        glob: which files of `texts` and `val` are read (`corpus.load_corpus`).
        skip_unreadable: as for `corpus.load_corpus`.
        cache: where large texts are kept once they are encoded; None means .texts beside the run folder.
        callbacks: are told how the run goes.
    Returns:
        the run folder.
    Raises:
        CucharError: texts, options, device or folder are wrong; if the start fails, no run folder is left.
        Interrupted: a SIGINT, SIGTERM or SIGHUP came; the run was saved.
    """
    everyone = Callbacks(callbacks)

    def lead(leader: Leader | None) -> Path:
        expect_place_for_run(run_folder(texts, out))  # before a text is read, which may take minutes
        run = prepare(
            texts, options, preset=preset, init_from=init_from,
            val=val, device=device, glob=glob, skip_unreadable=skip_unreadable,
            cache=cache_folder(run_folder(texts, out), cache), messages=Messages(everyone.note, everyone.reading),
            leader=leader,
        )  # fmt: skip
        folder = RunFolder.create(run_folder(texts, out), _config(run.material, run.config))
        try:
            trainer = Trainer(run.config, run.material, run.engine, folder, None, everyone, run.initial, leader)
            for line in (
                f"engine: {run.engine.name} ({run.reason})",
                f"run folder: {folder.path}",
                *folder.notes,
                *run.notes,
            ):
                everyone.note(line)
            _train(trainer, everyone)
        except BaseException:
            folder.discard_unused()
            raise
        finally:
            folder.close()
        return folder.path

    return together(lead)


def resume_run(
    path: str | Path,
    *,
    texts: Sequence[str | Path] = (),
    val: str | Path | None = None,
    options: dict[str, Any] | None = None,
    device: str = "auto",
    glob: str | None = None,
    skip_unreadable: bool = False,
    cache: str | Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Go on with a run from its last checkpoint; a run without a checkpoint starts again.

    Args:
        path: the run folder.
        texts: where the training texts are now; needed only if they have moved.
        val: where the validation text is now; needed only if it has moved.
        options: `TrainConfig` fields that are given again. They must equal the run's, but for `patience`, `on_nan` and
            the totals `epochs` and `max_steps`, which must not be below what is done.
        glob: which files of the given `texts` and `val` are read; if none is given, the run reads its files again.
        skip_unreadable: as for `corpus.load_corpus`, for the given `texts` and `val`.
        cache: as for `start_run`.
    Returns:
        `path`.
    Raises:
        CucharError: as for `start_run`; also if options or texts are not the run's.
        Interrupted: a SIGINT, SIGTERM or SIGHUP came; the run was saved.
    """
    expect_options(options or {}, TRAIN)
    given = {name: check_option(name, TRAIN[name], value) for name, value in (options or {}).items()}
    everyone, path = Callbacks(callbacks), Path(path)
    reading = {
        "glob": glob, "skip_unreadable": skip_unreadable,
        "cache": cache_folder(path, cache), "messages": Messages(everyone.note, everyone.reading),
    }  # fmt: skip
    return together(lambda leader: _resume(path, texts, val, given, device, reading, everyone, leader))


def _resume(
    path: Path,
    texts: Sequence[str | Path],
    val: str | Path | None,
    options: dict[str, Any],
    device: str,
    reading: dict[str, Any],
    everyone: Callbacks,
    leader: Leader | None,
) -> Path:
    """Do what `resume_run` says, in rank 0."""
    folder = RunFolder.reopen(path)
    try:
        stored = folder.read_config()
        config = _merge(path, _stored_config(folder, stored), options)
        checkpoint = folder.read_last()
        if checkpoint:
            _expect_same_run(folder, checkpoint, stored)
            _expect_totals_ahead(config, checkpoint.run["position"])
        texts = texts or expect_kept(stored["texts"], "TEXT")
        vals = expect_kept(stored["val"] or [], option("val")) if val is None else [val]
        origin = stored.get("init_from")
        # What needs no text is checked before one is read.
        expect_something_to_validate_on(config, bool(vals), "a run that validates, found one that does not")
        source = read_source_again(origin) if origin and not checkpoint else None
        if leader is not None:
            device = leader.device(device)
            leader.expect_rows(config.batch)
        choose_engine(device, ModelConfig(2, config.hidden, config.layers), precision=config.precision)
        text_files([*texts, *vals], reading["glob"])
        corpus = load_training(texts, config, reading)
        _expect_same_text(path, "text", corpus.sha256, stored["sha256"])
        if len(corpus.ids) != stored["characters"]:  # the bytes are the same
            raise RunError(
                f"{path}: expected the {stored['characters']:,} characters that the run began with, found "
                f"{len(corpus.ids):,} in the same files; older versions took byte order marks for characters"
            )
        if checkpoint and checkpoint.vocabulary != corpus.vocabulary:
            raise RunError(f"{folder.last}: expected the vocabulary of the run's text, found another")
        validation = load_validation(vals, config, corpus, reading) if vals else None
        material = material_of(corpus, config, validation)
        if origin:
            material = replace(material, facts={**material.facts, "init_from": origin})
        _expect_same_text(path, "validation text", material.facts["val_sha256"], stored["val_sha256"])
        if checkpoint:
            folder.complete_save(checkpoint, Position.from_json(checkpoint.run["position"]).is_due(config))
        ending = _ending(config, checkpoint, folder) if checkpoint else None
        if checkpoint and ending:
            step = checkpoint.run["position"]["step"]
            everyone.note(
                f"{path} is finished at step {step}, as {option(ending, getattr(config, ending))} asks for; "
                f"a larger {option(ending)} goes on"
            )
            return path
        model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
        dtype = checkpoint.parameters.flat.dtype if checkpoint else np.float32
        engine, reason = choose_engine(device, model, dtype, config.precision)
        initial = None if source is None else source.parameters_for(corpus.vocabulary, config)
        trainer = Trainer(config, material, engine, folder, checkpoint, everyone, initial, leader)
        trainer.best = folder.roll_back(checkpoint)
        folder.write_config(_config(material, config))
        everyone.note(f"engine: {engine.name} ({reason})")
        everyone.note(
            f"resuming {path} after step {trainer.position.step}"
            if checkpoint
            else f"{path} has no checkpoint yet: starting again"
        )
        for line in (*folder.notes, *notes_of(corpus, validation)):
            everyone.note(line)
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
    if trainer.leader is not None:
        everyone.note(trainer.leader.describe(config.batch))
    for line in notes_on_steps(config, trainer.total_steps):
        everyone.note(line)
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
    if position.reached(config) == "patience":
        everyone.note(
            f"{option('patience', config.patience)}: the last {position.worse} validations found no lower loss than that of "
            f"step {trainer.best_step}"
        )
    loss = "" if math.isnan(trainer.loss) else f": mean loss {trainer.loss:.4f} since step {trainer.loss_since}"
    everyone.note(f"{position.step} steps in {position.elapsed_s:.1f} s{loss}{best}; {folder}")
    everyone.note(f"to write with it: {command_to_sample(trainer.folder.path)}")
    with suppress(StopTraining):
        everyone.raise_pending()


def run_folder(texts: Sequence[str | Path], out: str | Path | None) -> Path:
    """The folder of a new run on these texts: `out`, or else runs/<text>-<time>."""
    if out is not None:
        return Path(out)
    name = "stdin" if Path(texts[0]) == STREAM else Path(texts[0]).resolve().stem
    path = Path("runs") / f"{name}-{strftime('%Y%m%d-%H%M%S', localtime())}"
    count = 2
    while path.exists():
        path = path.with_name(f"{path.name.removesuffix(f'.{count - 1}')}.{count}")
        count += 1
    return path


def cache_folder(run: Path, cache: str | Path | None) -> Path:
    """Where a run keeps large texts: `cache`, or else a folder beside the run's own, where other runs find them too."""
    return run.parent / TEXTS if cache is None else Path(cache)


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
        if name not in CHANGEABLE and value != kept:
            raise RunError(f"{option(name)}: expected the run's {kept} to resume {path}, found {value}")
    return replace(config, **{name: value for name, value in options.items() if name in CHANGEABLE})


def _expect_same_text(path: Path, what: str, found: str | None, expected: str | None) -> None:
    if found != expected:
        raise RunError(
            f"{path}: expected the run's {what} (SHA-256 {(expected or 'none')[:12]}), "
            f"found another ({(found or 'none')[:12]})"
        )


def _expect_same_run(folder: RunFolder, checkpoint: Checkpoint, stored: dict[str, Any]) -> None:
    """Check that config.json and the checkpoint agree on texts and options, but for those that may be given anew.

    Raises:
        RunError: they do not agree.
    """

    def decisive(facts: dict[str, Any]) -> dict[str, Any]:
        options = TrainConfig.from_json(facts["train"]).to_json()
        return {
            **{option(name): value for name, value in options.items() if name not in CHANGEABLE},
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


def _ending(config: TrainConfig, checkpoint: Checkpoint, folder: RunFolder) -> str | None:
    """The option that ended the run, or None if a step or the final report since the last line is still to come.

    The report comes after the last save, so the checkpoint alone does not say whether it was made.
    """
    position = Position.from_json(checkpoint.run["position"])
    return position.reached(config) if not position.since_line.count or folder.has_report(checkpoint) else None
