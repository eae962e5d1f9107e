"""The law of a draw: from logits to probabilities, from a uniform number to a character."""

import math
from dataclasses import dataclass

import numpy as np

from cuchar.config import check_option, check_options
from cuchar.kinds import FLAG, TEXT_OR_BYTES, Choice, Kind, integer, number

LAWS = ("softmax", "exp")
SAMPLE: dict[str, Kind] = {
    "length": integer(0, note=" (0 is endless)"),
    "temperature": number("a number above 0 (--argmax is its limit)", lambda temperature: temperature > 0),
    "top_k": integer(0, note=" (0 is off)", most=math.inf),
    "top_p": number("above 0 and at most 1", lambda top_p: 0 < top_p <= 1),
    "argmax": FLAG,
    "law": Choice(LAWS),
    "stop": TEXT_OR_BYTES,
}
SEED = integer(0, 2**63 - 1)  # a key of Philox
COLDEST = 1e200  # 1 / temperature at most: any logit times it is a number


@dataclass(frozen=True)
class SampleConfig:
    """How to draw; the prime is not counted in `length`, and `length` 0 never ends.

    law: "softmax" draws from softmax(logits / temperature). "exp" repeats the 2017 notebook,
    which gave exp(logits / temperature) to a multinomial that took it for logits.
    stop: generation ends once it has made this text.

    Raises:
        OptionError: a value of another type, or outside its range.
    """

    length: int = 500
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    argmax: bool = False
    law: str = "softmax"
    stop: str | bytes = ""

    def __post_init__(self) -> None:
        check_options(self, SAMPLE)

    @property
    def coldness(self) -> float:
        """What logits are multiplied by."""
        return min(1 / self.temperature, COLDEST)


def expect_seed(seed: int) -> None:
    """
    Raises:
        OptionError: not a key of Philox.
    """
    check_option("seed", SEED, seed)


def draw(logits: np.ndarray, config: SampleConfig, uniform: np.ndarray) -> np.ndarray:
    """An id a stream: the first up to which the probabilities' sum reaches `uniform`.

    `argmax` takes the likeliest, the first of equals, whatever `uniform` is.

    Args:
        logits: [S, V]; uniform: [S], in (0, 1).
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
    """What `draw` draws from: [..., V] float64, summing to 1.

    top_k keeps the k likeliest, then top_p the fewest of those whose probabilities reach p.
    The likelier has the larger logit, as a float32; of equal ones the lower id.
    Source: Holtzman et al. 2020 for top_p.
    """
    scores = logits.astype(np.float64) * config.coldness
    if config.law == "exp":
        scores = np.exp(np.minimum(scores, 700))
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
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
    return p
