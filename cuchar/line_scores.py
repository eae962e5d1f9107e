"""How well a model predicts lines, each by itself: neither its neighbours nor its place change a line's score.

A line is read from the state that a newline makes of a zero state, as if it were the first after a newline, and the
newline that ends it is predicted too. So n characters give n + 1 losses, and a line that stops early is noticed.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuchar.engines.base import Engine
from cuchar.errors import TextError
from cuchar.evaluation import row_losses
from cuchar.reading import LINE_END, Reading
from cuchar.vocabulary import Vocabulary

MOST_SURPRISING = 3  # characters that a score names
# What a character costs that the model does not know: any of Unicode's code points, all of them equally likely.
UNKNOWN_BITS = math.log2(0x110000)


@dataclass(frozen=True)
class Surprise:
    """A character of a line, its position, counted from 0, and by how many bits it surprised the model: -log2 p."""

    position: int
    character: str
    bits: float


@dataclass(frozen=True)
class LineScore:
    """How well a model predicts a line.

    Args:
        text: the line without its newline; in a model of bytes, the character of the same number (Latin-1) for each byte.
        bits: the sum over the line's characters and its newline of -log2 p, and of UNKNOWN_BITS for each character that
            the model does not know, which it does not read either.
        most_surprising: the three characters with the most bits, or as many as there are, in descending order, of equal
            ones the first first. One of them may be the newline, whose position is the line's length.
    """

    text: str
    bits: float
    most_surprising: tuple[Surprise, ...]

    @property
    def length(self) -> int:
        """How many characters the line has, its newline not counted."""
        return len(self.text)

    @property
    def bits_per_char(self) -> float:
        """The mean over the line's characters and its newline."""
        return self.bits / (self.length + 1)


def line_codes(reading: Reading, line: str | bytes) -> np.ndarray:
    """The characters of a line: [n] codes, without the newline that may end it. Bytes that are not UTF-8 become U+FFFD."""
    if isinstance(line, bytes):
        line = line.removesuffix(b"\n")
        return reading.codes_of(line if reading.has_single_bytes else line.decode("utf-8", "replace"))
    return reading.codes_of(line.removesuffix("\n"))


def score_lines(engine: Engine, weights: Any, vocabulary: Vocabulary, lines: Iterable[np.ndarray]) -> list[LineScore]:
    """Score lines, side by side.

    Args:
        lines: for each line [n] codes, as `line_codes` returns them.
    Raises:
        TextError: the vocabulary has no newline.
    """
    if LINE_END not in vocabulary.codes:  # not even where another character stands for those that are not
        raise TextError(
            f"expected a model of lines, found one whose {len(vocabulary):,} characters have no newline among them"
        )
    newline = np.array([LINE_END], np.uint8)
    ended = [np.concatenate([codes, newline]) for codes in lines]
    known = [vocabulary.has(codes) for codes in ended]
    rows = [
        vocabulary.ids_of_known(np.concatenate([newline, codes[is_known]]))
        for codes, is_known in zip(ended, known, strict=True)
    ]
    scores = []
    for codes, is_known, losses in zip(
        ended, known, row_losses(engine, weights, rows, engine.zero_state(len(rows))), strict=True
    ):
        bits = np.full(len(codes), UNKNOWN_BITS)
        bits[is_known] = losses / math.log(2)
        scores.append(_score("".join(map(chr, codes.tolist())), bits))
    return scores


def _score(ended: str, bits: np.ndarray) -> LineScore:
    """The score of a line with its newline, from the bits of each of its characters."""
    most = np.argsort(-bits, kind="stable")[:MOST_SURPRISING].tolist()
    return LineScore(ended[:-1], float(bits.sum()), tuple(Surprise(at, ended[at], float(bits[at])) for at in most))
