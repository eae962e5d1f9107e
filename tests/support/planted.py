"""Texts for `cuchar look`: with something planted that only a memory can track, like prose, and hostile; and a model."""

import numpy as np

from cuchar.config import ModelConfig
from cuchar.parameters import Parameters, initialise
from cuchar.vocabulary import Vocabulary

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--&lt;\x00\x1b\r\u202e\u2028\u2029\u0301{data}é😀漢\n"

RISING, FALLING = (0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1)  # how often a, b, c, d come


def brackets(count: int, seed: int = 0) -> str:
    """Letters, of which spans of 1 to 60 are in round brackets: the same letters there, but differently often."""
    generator = np.random.default_rng(seed)
    text = ""
    while len(text) < count:
        outside, inside = generator.integers(1, 60, 2)
        text += _letters(generator, outside, RISING) + "(" + _letters(generator, inside, FALLING) + ")"
    return text[:count]


def quotes_in_lines(count: int, line: int = 30, seed: int = 0) -> str:
    """Lines of equal length, and in them quotations of 40 to 120 letters, which go on from line to line."""
    generator = np.random.default_rng(seed)
    text = ""
    while len(text) < count:
        outside, inside = generator.integers(40, 120, 2)
        text += _letters(generator, outside, RISING) + '"' + _letters(generator, inside, FALLING) + '"'
    return "".join(text[at : at + line] + "\n" for at in range(0, count, line))[:count]


def _letters(generator: np.random.Generator, count: int, chances: tuple[float, ...]) -> str:
    return "".join(generator.choice(list("abcd"), count, p=chances))


def prose(count: int, seed: int = 0) -> str:
    """Letters as often as in English, in lines and in words, some of them quoted."""
    letters = "e" * 12 + "t" * 9 + "a" * 8 + "o" * 7 + "innssshhrrrddllcumwfgypbvk" + " " * 18 + '"'
    drawn = "".join(np.random.default_rng(seed).choice([*letters], count))
    return "\n".join(drawn[at : at + 60] for at in range(0, count, 60))[:count]


def lively_model(text: str, hidden: int, layers: int = 2) -> tuple[Parameters, Vocabulary]:
    """A model that was not trained, but whose cells move as widely as if it had been."""
    vocabulary = Vocabulary.of(np.array([*map(ord, text)], np.uint32))
    parameters = initialise(ModelConfig(len(vocabulary), hidden, layers), 0)
    parameters.flat *= 4
    return parameters, vocabulary
