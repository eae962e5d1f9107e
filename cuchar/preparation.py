"""What a new run needs before its folder is made: the texts, the options, an engine, and perhaps a checkpoint's weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cuchar.batches import check_length, split_validation
from cuchar.config import ModelConfig, TrainConfig
from cuchar.corpus import Corpus, Text, left_out_notes, load_corpus, read_text
from cuchar.engines.base import Engine
from cuchar.engines.choose import choose_engine
from cuchar.errors import OptionError, TextError
from cuchar.init_from import read_source
from cuchar.parameters import Parameters
from cuchar.presets import AUTO, before_reading, describe_auto, with_preset
from cuchar.text_files import absolute
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
) -> Prepared:
    """Read and check everything that a run needs; nothing is written.

    The arguments and errors are those of `cuchar.runs.start_run`.
    """
    given = options.to_json() if isinstance(options, TrainConfig) else options
    source = None if init_from is None else read_source(init_from)
    if source is not None:
        given = source.with_sizes(given)
    known = before_reading(preset, given, val is not None)
    if val is not None and known.val_fraction:
        raise OptionError(f"{option('val')}: expected it or {option('val_fraction')}, found both")
    corpus, notes = load_corpus(texts, known.bytes, glob, skip_unreadable), []
    complete = with_preset(preset, given, val is not None, len(corpus.ids))
    config = TrainConfig(**complete)
    if preset == AUTO:
        notes.append(describe_auto(complete, given, len(corpus.ids)))
    val_text = None if val is None else read_text([val], config.bytes, glob, skip_unreadable)
    material = material_of(corpus, config, val_text)
    initial = None
    if source is not None:
        initial = source.parameters_for(corpus.vocabulary, config)
        notes.append(source.note(corpus.vocabulary))
        material = replace(material, facts={**material.facts, "init_from": source.facts()})
    engine, reason = choose_engine(
        device, ModelConfig(len(corpus.vocabulary), config.hidden, config.layers), precision=config.precision
    )
    return Prepared(config, material, engine, reason, initial, notes + notes_left_out(corpus, val_text))


def material_of(corpus: Corpus, config: TrainConfig, val_text: Text | None) -> Material:
    """The ids to train and validate on, and the facts that a run stores: every file that was read, and the digests.

    Raises:
        OptionError: there is patience, but nothing to validate on.
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
    elif config.patience is not None:
        raise OptionError(
            f"{option('patience', config.patience)}: expected {option('val')} or {option('val_fraction')} with it, found neither"
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


def notes_left_out(*texts: Corpus | Text | None) -> list[str]:
    return [line for text in texts if text for line in left_out_notes(text.left_out, len(text.files))]
