"""What a new run needs before its folder is made: the texts, the options, an engine, and perhaps a checkpoint's weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.batches import LargeRows, RowBeginnings, check_length, split_validation
from cuchar.config import ModelConfig, TrainConfig
from cuchar.corpus import Corpus, load_corpus
from cuchar.engines.base import Engine
from cuchar.engines.choose import choose_engine
from cuchar.errors import OptionError, TextError
from cuchar.init_from import read_source
from cuchar.messages import Messages
from cuchar.parameters import Parameters
from cuchar.presets import AUTO, before_reading, describe_auto, with_preset
from cuchar.ranks.together import Leader
from cuchar.reading import Reading
from cuchar.text_files import absolute, text_files
from cuchar.training import Material
from cuchar.wording import option


@dataclass(frozen=True)
class Prepared:
    """A new run that could begin.

    Args:
        reason: why it is this engine.
        initial: the parameters to begin with; None draws them.
        notes: lines of text for the user.
    """

    config: TrainConfig
    material: Material
    engine: Engine
    reason: str
    initial: Parameters | None
    notes: list[str]


def prepare(
    texts: Sequence[str | Path],
    options: TrainConfig | Mapping[str, Any],
    *,
    preset: str | None,
    init_from: str | Path | None,
    val: str | Path | None,
    device: str,
    glob: str | None,
    skip_unreadable: bool,
    cache: Path,
    messages: Messages,
    leader: Leader | None,
) -> Prepared:
    """Read and check everything that a run needs; nothing is written but the cache of large texts.

    What needs no text is checked before one is read, which may take minutes.

    Args:
        leader: leads the processes that will train together; None if this one is alone. The other arguments, and the
            errors, are those of `cuchar.runs.start_run`.
    """
    given = options.to_json() if isinstance(options, TrainConfig) else options
    source = None if init_from is None else read_source(init_from)
    if source is not None:
        given = source.with_sizes(given)
    known = before_reading(preset, given, val is not None)
    if val is not None and known.val_fraction:
        raise OptionError(f"{option('val')}: expected it or {option('val_fraction')}, found both")
    expect_something_to_validate_on(known, val is not None)
    if source is not None:
        source.expect_kind(known.bytes)
    processes = 1
    if leader is not None:
        device, processes = leader.device(device), leader.ranks.size
        if preset != AUTO or "batch" in given:
            leader.expect_rows(known.batch)
    choose_engine(device, ModelConfig(2, known.hidden, known.layers), precision=known.precision)
    text_files([*texts, *([] if val is None else [val])], glob)
    reading: dict[str, Any] = {"glob": glob, "skip_unreadable": skip_unreadable, "cache": cache, "messages": messages}
    corpus, notes = load_training(texts, known, reading), []
    complete = with_preset(preset, given, val is not None, len(corpus.ids), processes)
    config = TrainConfig(**complete)
    if preset == AUTO:
        notes.append(describe_auto(complete, given, len(corpus.ids), processes))
    validation = None if val is None else load_validation([val], config, corpus, reading)
    material = material_of(corpus, config, validation)
    initial = None
    if source is not None:
        initial = source.parameters_for(corpus.vocabulary, config)
        notes.append(source.note(corpus.vocabulary))
        material = replace(material, facts={**material.facts, "init_from": source.facts()})
    engine, reason = choose_engine(
        device, ModelConfig(len(corpus.vocabulary), config.hidden, config.layers), precision=config.precision
    )
    return Prepared(config, material, engine, reason, initial, notes + notes_of(corpus, validation))


def expect_something_to_validate_on(config: TrainConfig, has_text: bool, what: str | None = None) -> None:
    """Check that, for options that count on it, there is a text, or a part of it, to validate on.

    Args:
        what: the error says what was expected and found; None stands for options of a new run.
    Raises:
        OptionError: there is none.
    """
    what = what or f"{option('val')} or {option('val_fraction')} with it, found neither"
    for name in ("patience", "scale_logits"):
        value = getattr(config, name)
        if value not in (None, False) and not config.val_fraction and not has_text:
            raise OptionError(f"{option(name, value)}: expected {what}")


def load_training(texts: Sequence[str | Path], config: TrainConfig, reading: Mapping[str, Any]) -> Corpus:
    """The text to train on.

    Args:
        reading: the arguments of `load_corpus` that are no options of a run: glob, skip_unreadable, cache and messages.
    """
    return load_corpus(texts, Reading.of(config.to_json()), max_vocab=config.max_vocab, **reading)


def load_validation(
    texts: Sequence[str | Path], config: TrainConfig, corpus: Corpus, reading: Mapping[str, Any]
) -> Corpus:
    """The text to validate on, whose vocabulary is that of the text to train on.

    Raises:
        TextError: it has an unknown character, or is too short.
    """
    validation = load_corpus(texts, Reading.of(config.to_json()), vocabulary=corpus.vocabulary, **reading)
    if len(validation.ids) < 2:
        raise TextError(
            f"{option('val', str(validation.files[0]))}: expected at least 2 characters, found {len(validation.ids)}"
        )
    return validation


def material_of(corpus: Corpus, config: TrainConfig, validation: Corpus | None) -> Material:
    """The ids to train and validate on, and the facts that a run stores: every file that was read, and the digests.

    Raises:
        TextError: the text is too short.
    """
    training: np.ndarray | RowBeginnings = corpus.ids
    held_out: np.ndarray | LargeRows | None = None
    if config.val_fraction:
        training, held_out = split_validation(corpus.ids, config)
    elif validation is not None:
        held_out = validation.ids[None]
    check_length(len(training), config)

    def names(files: Sequence[Path]) -> list[str]:
        return [absolute(file) for file in files]

    facts = {
        "sha256": corpus.sha256,
        "characters": len(corpus.ids),
        "texts": names(corpus.files),
        "val": None if validation is None else names(validation.files),
        "val_sha256": None if validation is None else validation.sha256,
    }
    return Material(corpus.vocabulary, training, held_out, facts)


def notes_of(*texts: Corpus | None) -> list[str]:
    return [line for text in texts if text for line in text.notes]


def notes_on_steps(config: TrainConfig, steps: int) -> list[str]:
    """Lines for the user on options that a run of so many training steps does not live to use."""
    notes = []
    if config.max_steps is not None and config.max_steps > steps:
        notes.append(
            f"{option('max_steps', config.max_steps)}: {option('epochs', config.epochs)} ends the run before, "
            f"after some {steps:,} steps"
        )
    if config.warmup > steps:
        notes.append(
            f"{option('warmup', config.warmup)}: the run ends before, after some {steps:,} steps, "
            f"and its learning rate never rises to {option('lr', config.lr)}"
        )
    return notes
