"""Texts in which something was planted that only a cell with a memory can track."""

import numpy as np

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
