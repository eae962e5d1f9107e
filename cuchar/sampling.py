"""Characters out of a model, one at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuchar.engines.base import Engine
from cuchar.errors import OptionError

LAWS = ("softmax", "exp")
PRIME_BLOCK = 256


@dataclass(frozen=True)
class SampleConfig:
    """How to draw; the prime is not counted in `length`, and `length` 0 never ends.

    law: "softmax" draws from softmax(logits / temperature). "exp" repeats the 2017 notebook,
    which gave exp(logits / temperature) to a multinomial that took it for logits.
    stop: generation ends once it has made this text.

    Raises:
        OptionError: a value outside its range.
    """

    length: int = 500
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    argmax: bool = False
    law: str = "softmax"
    stop: str = ""

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("length", self.length >= 0, "at least 0 (0 is endless)"),
            ("temperature", 0 < self.temperature < math.inf, "a number above 0 (--argmax is its limit)"),
            ("top-k", self.top_k >= 0, "at least 0 (0 is off)"),
            ("top-p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("law", self.law in LAWS, " | ".join(LAWS)),
        ):
            if not valid:
                found = getattr(self, name.replace("-", "_"))
                raise OptionError(f"--{name}: expected {expected}, found {found}")


def sample_ids(
    engine: Engine,
    weights: Any,
    vocabulary_size: int,
    config: SampleConfig,
    generator: np.random.Generator,
    prime: np.ndarray,
    stop: np.ndarray,
) -> Iterator[int]:
    """The ids that follow `prime`; without one the first is any character, as in the notebook.

    Args:
        weights: what `engine.fold` made.
        prime, stop: ids; either may be empty.
    """
    state, made, ending = engine.zero_state(1), 0, list(map(int, stop))
    tail: list[int] = []
    if not len(prime):
        prime = generator.integers(vocabulary_size, size=1)
        yield int(prime[0])
        made, tail = 1, [int(prime[0])]
    for start in range(0, len(prime), PRIME_BLOCK):
        logits, state = engine.forward(weights, prime[start : start + PRIME_BLOCK, None], state)
    while (made < config.length or not config.length) and (not ending or tail != ending):
        chosen = draw(logits[-1, 0], config, generator)
        yield chosen
        made += 1
        tail = [*tail, chosen][-len(ending) :] if ending else tail
        logits, state = engine.forward(weights, np.array([[chosen]]), state)


def draw(logits: np.ndarray, config: SampleConfig, generator: np.random.Generator) -> int:
    """One id. `argmax` takes the likeliest, the first of equals, and draws nothing."""
    if config.argmax:
        return int(np.argmax(logits))
    cumulative = np.cumsum(probabilities(logits, config))
    return int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))


def probabilities(logits: np.ndarray, config: SampleConfig) -> np.ndarray:
    """What `draw` draws from: [V] float64, summing to 1.

    top_k keeps the k likeliest, then top_p the fewest of those whose probabilities reach p.
    Source: Holtzman et al. 2020 for top_p.
    """
    scores = logits.astype(np.float64) / config.temperature
    if config.law == "exp":
        scores = np.exp(np.minimum(scores, 700))
    p = np.exp(scores - scores.max())
    p /= p.sum()
    order = np.argsort(-p, kind="stable") if config.top_k or config.top_p < 1 else np.empty(0, int)
    if config.top_k:
        p[order[config.top_k :]] = 0
        p /= p.sum()
    if config.top_p < 1:
        enough = np.searchsorted(np.cumsum(p[order]), config.top_p) + 1
        p[order[enough:]] = 0
        p /= p.sum()
    return p
