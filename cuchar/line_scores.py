"""How well a model predicts lines, each by itself: neither its neighbours nor its place change a line's score.

A line is read from the state that a newline makes of a zero state, as if it were the first after a newline, and the
newline that ends it is predicted too. So n characters give n + 1 losses, and a line that stops early is noticed.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuchar.engines.base import Engine, State
from cuchar.errors import TextError
from cuchar.reading import LINE_END, Reading
from cuchar.sizes import ceil_div
from cuchar.vocabulary import Vocabulary

# Lines are side by side in windows of two sizes alone, since a window of another size costs an engine memory, and a GPU
# a compilation. Rows and time steps that no line needs are filled up.
STEPS = 32  # time steps of a window
FEW_ROWS, MANY_ROWS = 8, 64
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
    for codes, is_known, losses in zip(ended, known, row_losses(engine, weights, rows), strict=True):
        bits = np.full(len(codes), UNKNOWN_BITS)
        bits[is_known] = losses / math.log(2)
        scores.append(_score("".join(map(chr, codes.tolist())), bits))
    return scores


def _score(ended: str, bits: np.ndarray) -> LineScore:
    """The score of a line with its newline, from the bits of each of its characters."""
    most = np.argsort(-bits, kind="stable")[:MOST_SURPRISING].tolist()
    return LineScore(ended[:-1], float(bits.sum()), tuple(Surprise(at, ended[at], float(bits[at])) for at in most))


def row_losses(engine: Engine, weights: Any, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The losses, in nats, of the characters of each row but its first: [n - 1] float64 for a row of n ids, n >= 2.

    Each row begins with a zero state. Rows of similar length are scored side by side; where one has ended, the others go
    on without it.
    """
    found = [np.empty(0)] * len(rows)
    longest_first = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    for first in range(0, len(rows), MANY_ROWS):
        group = longest_first[first : first + MANY_ROWS]
        lengths = np.array([len(rows[number]) - 1 for number in group])
        T = ceil_div(int(lengths[0]), STEPS) * STEPS
        ids = np.zeros((T + 1, MANY_ROWS), rows[group[0]].dtype)
        for column, number in enumerate(group):
            ids[: len(rows[number]), column] = rows[number]
        losses, state = np.empty((T, len(group))), engine.zero_state(MANY_ROWS)
        for start in range(0, T, STEPS):
            end = start + STEPS
            B = FEW_ROWS if np.count_nonzero(lengths > start) <= FEW_ROWS else MANY_ROWS
            state = State(np.ascontiguousarray(state.h[:, :B]), np.ascontiguousarray(state.c[:, :B]))
            part, state = engine.losses(weights, ids[start:end, :B], ids[start + 1 : end + 1, :B], state)
            losses[start:end, :B] = part[:, : len(group)]
        for column, number in enumerate(group):
            found[number] = losses[: lengths[column], column]
    return found
