"""How a character is drawn: from logits to probabilities, and from a uniform number to an id."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cuchar.config import LAWS, check_option, check_options
from cuchar.kinds import FLAG, TEXT_OR_BYTES, Choice, Kind, integer, number

SAMPLE: dict[str, Kind] = {
    "length": integer(0, note=" (0 is endless)"),
    "temperature": number("a number above 0 (argmax is its limit)", lambda temperature: temperature > 0),
    "top_k": integer(0, note=" (0 is off)", most=math.inf),
    "top_p": number("above 0 and at most 1", lambda top_p: 0 < top_p <= 1),
    "min_p": number("at least 0 (off) and at most 1", lambda min_p: 0 <= min_p <= 1),
    "repeat_penalty": number("at least 1 (off) and at most 1000", lambda penalty: 1 <= penalty <= 1000),
    "argmax": FLAG,
    "law": Choice(LAWS),
    "stop": TEXT_OR_BYTES,
}
SEED = integer(0, 2**63 - 1)  # it becomes a key of Philox
COLDEST = 1e200  # the largest 1 / temperature: any logit times it is finite
RECENT = 64  # characters of a stream that repeat_penalty looks back at


@dataclass(frozen=True)
class SampleConfig:
    """How to draw characters.

    length: how many characters to draw, besides the prime; 0 is without end.
    top_k: draw from the k likeliest characters only; 0 is off.
    top_p: draw from the fewest likeliest characters whose probabilities reach this sum.
    min_p: draw only from characters that are at least min_p times as probable as the likeliest one; 0 is off.
    repeat_penalty: make the last 64 characters less likely to come again (`penalised`); 1 is off.
    argmax: always take the likeliest character.
    law: "softmax" draws from softmax(logits / temperature). "exp" repeats the 2017 notebook,
        which gave exp(logits / temperature) to a function that took it for logits.
    stop: a stream ends once it has made this text.

    Raises:
        OptionError: a value is of another type, or out of range.
    """

    length: int = 500
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    argmax: bool = False
    law: str = "softmax"
    stop: str | bytes = ""

    def __post_init__(self) -> None:
        check_options(self, SAMPLE)

    @property
    def coldness(self) -> float:
        """The factor by which logits are multiplied: 1 / temperature."""
        return min(1 / self.temperature, COLDEST)


def expect_seed(seed: int) -> None:
    """Check a seed.

    Raises:
        OptionError: it is not an integer from 0 to 2^63 - 1.
    """
    check_option("seed", SEED, seed)


def penalised(logits: np.ndarray, recent: Sequence[np.ndarray], penalty: float) -> np.ndarray:
    """The logits, of which those of recent ids are divided by `penalty` where they are positive, else multiplied by it.

    It comes before temperature and law. An id that came several times is penalised once.

    Args:
        logits: [S, V].
        recent: the streams' recent ids, [S] for each time step.
        penalty: at least 1.
    Source: Keskar et al. 2019 (CTRL), section 4.1, who divide every logit; llama.cpp multiplies the negative ones.
    """
    if penalty == 1:
        return logits
    came = np.zeros(logits.shape, bool)
    np.put_along_axis(came, np.stack(recent, axis=-1), True, axis=-1)
    exact = logits.astype(np.float64)
    return np.where(came, np.where(exact > 0, exact / penalty, exact * penalty), exact)


def draw(logits: np.ndarray, config: SampleConfig, uniform: np.ndarray) -> np.ndarray:
    """Draw one id for each of S streams.

    It is the first id at which the sum of the probabilities so far reaches `uniform`. With `config.argmax` it is the
    likeliest id, and the lowest of equally likely ones.

    Args:
        logits: [S, V].
        uniform: [S], each in (0, 1).
    Returns:
        ids [S]; -1 where a logit is not finite.
    """
    finite = np.isfinite(logits).all(axis=-1)
    logits = np.where(finite[:, None], logits, 0)
    if config.argmax:
        ids = np.argmax(logits.astype(np.float32), axis=-1)
    else:
        cumulative = np.cumsum(probabilities(logits, config), axis=-1)
        ids = np.sum(cumulative < (uniform * cumulative[:, -1])[:, None], axis=-1)
    return np.where(finite, ids, -1)


def probabilities(logits: np.ndarray, config: SampleConfig) -> np.ndarray:
    """The probabilities that `draw` draws from, float64 [..., V], which add up to 1.

    Temperature and law come first. Then top_k keeps the k likeliest ids; of those, top_p keeps the fewest likeliest
    whose probabilities reach p; of those, min_p keeps the ones with at least min_p times the likeliest one's
    probability. llama.cpp has the same order but for the temperature, which it applies last.
    Of two ids the one with the larger logit, as a float32, counts as likelier, and of equal logits the lower id.
    Source: Holtzman et al. 2020 for top_p, Nguyen et al. 2024 (arXiv 2407.01082) for min_p.
    """
    scores = logits.astype(np.float64) * config.coldness
    if config.law == "exp":
        scores = np.exp(np.minimum(scores, 700))
    p: np.ndarray = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    if config.top_k or config.top_p < 1:
        order = np.argsort(-logits.astype(np.float32), axis=-1, kind="stable")
        ranked = np.take_along_axis(p, order, axis=-1)
        if config.top_k:
            ranked[..., config.top_k :] = 0
            ranked /= ranked.sum(axis=-1, keepdims=True)
        if config.top_p < 1:
            reached = np.cumsum(ranked, axis=-1) >= config.top_p
            ranked[..., 1:][reached[..., :-1]] = 0
            ranked /= ranked.sum(axis=-1, keepdims=True)
        np.put_along_axis(p, order, ranked, axis=-1)
    if config.min_p:
        p[p < config.min_p * p.max(axis=-1, keepdims=True)] = 0
        p /= p.sum(axis=-1, keepdims=True)
    return p
