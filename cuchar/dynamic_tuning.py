"""Finds good settings of dynamic evaluation for a model, on a text that is scored for this purpose alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cuchar.bars import bar
from cuchar.dynamic import DynamicConfig, read_settings, settings_file, write_settings
from cuchar.errors import DivergedError, OptionError, TextError
from cuchar.evaluation import LossSum
from cuchar.files import say
from cuchar.id_stream import Alphabet, count_text
from cuchar.model import Model
from cuchar.text_files import text_files
from cuchar.wording import option

LEAST_RATE = 1e-6  # at a lower rate next to nothing is learnt
LEAST_GAIN = 1e-4  # nats per character that a change must gain to be worth another trial
# Each setting's factors by which larger and smaller values are tried, the coarse one first.
FACTORS = {"rate": (2.0, 1.4), "decay": (4.0, 2.0), "segment": (2, 2)}


def expect_another_text(file: Path, texts: Sequence[Path]) -> None:
    """Check that a file to tune on is none of the texts that are scored with what is found: their score would be too good.

    Raises:
        OptionError: it is one of them.
        TextError: both are standard input.
    """
    text_files([*texts, file])
    if any(file.exists() and text.exists() and file.samefile(text) for text in texts):
        raise OptionError(
            f"{option('tune', file)}: expected a text other than those that are scored, found one of them"
        )


def settings_for(model: Model, file: Path | None, save: bool, unknown: str) -> DynamicConfig:
    """The settings of `cuchar eval --dynamic`: tuned on a file, or else those beside the checkpoint, or the usual ones.

    Args:
        file: the text to tune on, or None.
        save: whether to keep what was tuned beside the checkpoint.
        unknown: "error" or "skip", for characters outside the vocabulary.
    Raises:
        CheckpointError: the settings beside the checkpoint cannot be read.
        TextError, DivergedError: as for `tuned_on_file`.
    """
    if file is None:
        kept = read_settings(model.file)
        if settings_file(model.file).exists():
            say(f"dynamic evaluation: the settings are those of {settings_file(model.file)}")
        return kept
    tuned = tuned_on_file(model, file, unknown)
    if save:
        say(f"wrote {write_settings(model.file, tuned)}")
    return tuned


def tuned_on_file(model: Model, file: Path, unknown: str) -> DynamicConfig:
    """The settings by which a model scores a file best, beginning with the usual ones. Every trial prints a line.

    Args:
        unknown: "error" or "skip", for characters outside the vocabulary.
    Raises:
        TextError: the file cannot be read, a character is unknown, or there are fewer than two known ones.
        DivergedError: the losses are not finite with any settings that were tried.
    """
    text = count_text([file], Alphabet(model.reading, model.vocabulary), unknown)
    if text.known < 2:
        raise TextError(f"{option('tune', file)}: expected at least 2 known characters, found {text.known}")

    def mean(config: DynamicConfig | None, what: str) -> float:
        added = LossSum()
        with bar("tuning", text.known - 1) as advance:
            try:
                for losses in model.losses(text.ids(), dynamic=config):
                    added.add(losses)
                    advance(len(losses))
            except DivergedError:
                say(f"tuning: {what}: the rate is too large")
                return math.inf
        say(f"tuning: {what}: {added.mean:.4f} nats per character")
        return added.mean

    static = mean(None, "without learning")
    best, lowest = tune(lambda config: mean(config, str(config)), DynamicConfig())
    if math.isinf(lowest):
        raise DivergedError(f"{option('tune', file)}: expected settings that give finite losses, found none")
    if lowest > static - LEAST_GAIN:
        say(f"tuning: on {file} it is best not to learn")
        return replace(best, rate=0.0)
    return best


def tune(score: Callable[[DynamicConfig], float], begin: DynamicConfig) -> tuple[DynamicConfig, float]:
    """Change one setting after the other as long as that lowers the score, in coarse steps and then in finer ones.

    Args:
        score: the score of a text with these settings, the lower the better; infinite where the model diverges.
        begin: the settings to begin with.
    Returns:
        Settings, and their score. No larger or smaller value of a single setting, by its finer factor, is better by more
        than LEAST_GAIN.
    """
    scores: dict[DynamicConfig, float] = {}

    def of(config: DynamicConfig) -> float:
        if config not in scores:
            scores[config] = score(config)
        return scores[config]

    best = begin
    while math.isinf(of(best)) and best.rate > LEAST_RATE:
        best = replace(best, rate=best.rate / 2)
    for fineness in range(2):
        is_better = True
        while is_better:
            before = best
            for name, factors in FACTORS.items():
                best = _along(of, best, name, factors[fineness])
            is_better = best != before
    return best, of(best)


def _along(score: Callable[[DynamicConfig], float], best: DynamicConfig, name: str, factor: float) -> DynamicConfig:
    """Go on enlarging one setting, or making it smaller, as long as the score falls."""
    begin = best
    for times in (factor, 1 / factor):
        while (tried := _changed(best, name, times)) != best and score(tried) < score(best) - LEAST_GAIN:
            best = tried
        if best != begin:
            return best
    return best


def _changed(config: DynamicConfig, name: str, times: float) -> DynamicConfig:
    """The settings with one of them so many times as large, within what it may be."""
    value = getattr(config, name) * times
    if name == "decay":
        value = min(value, 1.0)
    if name == "segment":
        value = max(1, min(round(value), 65_536))
    return replace(config, **{name: value}) if math.isfinite(value) else config
