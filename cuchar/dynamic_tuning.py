"""Finds good settings of dynamic evaluation for a model, on a text that is scored for this purpose alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cuchar.bars import bar
from cuchar.dynamic import DynamicConfig
from cuchar.errors import DivergedError, OptionError
from cuchar.evaluation import LossSum
from cuchar.files import say
from cuchar.id_stream import Alphabet, count_text
from cuchar.model import Model
from cuchar.text_files import text_files
from cuchar.wording import option

LEAST_RATE = 1e-6  # at a lower rate next to nothing is learnt
# Each setting's factors by which larger and smaller values are tried, the coarse one first.
FACTORS = {"rate": (2.0, 1.4), "decay": (4.0, 2.0), "segment": (2, 2)}


def tuned_on_file(model: Model, file: Path, texts: Sequence[Path], unknown: str) -> DynamicConfig:
    """The settings by which a model scores a file best, beginning with the usual ones. Every trial prints a line.

    Args:
        texts: the texts that are to be scored with these settings.
        unknown: "error" or "skip", for characters outside the vocabulary.
    Raises:
        OptionError: the file is one of the texts, whose score would then be too good.
        TextError: the file cannot be read, a character is unknown, or there are fewer than two known ones.
        DivergedError: the losses are not finite with any settings that were tried.
    """
    text_files([*texts, file])  # complains where `-` is named twice
    if any(file.exists() and text.exists() and file.samefile(text) for text in texts):
        raise OptionError(
            f"{option('tune', file)}: expected a text other than those that are scored, found one of them"
        )
    text = count_text([file], Alphabet(model.reading, model.vocabulary), unknown)

    def score(config: DynamicConfig) -> float:
        added = LossSum()
        with bar("tuning", text.known - 1) as advance:
            try:
                for losses in model.losses(text.ids(), dynamic=config):
                    added.add(losses)
                    advance(len(losses))
            except DivergedError:
                say(f"tuning: {config}: the rate is too large")
                return math.inf
        say(f"tuning: {config}: {added.mean:.4f} nats per character")
        return added.mean

    best, lowest = tune(score, DynamicConfig())
    if math.isinf(lowest):
        raise DivergedError(f"{option('tune', file)}: expected settings that give finite losses, found none")
    return best


def tune(score: Callable[[DynamicConfig], float], begin: DynamicConfig) -> tuple[DynamicConfig, float]:
    """Change one setting after the other as long as that lowers the score, in coarse steps and then in finer ones.

    Args:
        score: the score of a text with these settings, the lower the better; infinite where the model diverges.
        begin: the settings to begin with.
    Returns:
        The best settings that were tried, and their score. No larger or smaller value of a single setting, by its finer
        factor, is better.
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
        while (tried := _changed(best, name, times)) != best and score(tried) < score(best):
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
