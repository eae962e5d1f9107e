"""Counts the characters of a text, and notes where each occurs first."""

from dataclasses import dataclass

import numpy as np

from cuchar.corpus_report.spans import Place, Span
from cuchar.tally import CODES
from cuchar.vocabulary import MAX_VOCABULARY, UNKNOWN_CODE


class Characters:
    """counts: [CODES], how often each character occurs."""

    def __init__(self) -> None:
        self.counts = np.zeros(CODES, np.int64)
        self._files: list[str] = []
        self._places = np.zeros(
            (3, CODES), np.int64
        )  # the file's index, line and column of each one's first occurrence

    def add(self, span: Span) -> None:
        found = np.bincount(span.codes)
        new = np.flatnonzero((found > 0) & (self.counts[: len(found)] == 0))
        self.counts[: len(found)] += found
        if not len(new):
            return
        if self._files[-1:] != [span.file]:
            self._files.append(span.file)
        firsts = np.empty(len(found), np.int64)
        firsts[span.codes[::-1]] = np.arange(len(span.codes))[::-1]  # of several values, the last one stays
        self._places[0, new] = len(self._files) - 1
        self._places[1:, new] = span.lines_and_columns(firsts[new])

    def place(self, code: int) -> Place:
        """Where a character that the text has occurs first."""
        return self.first([code])

    def first(self, codes: list[int]) -> Place:
        """Where the first of these characters stands, all of which the text has."""
        file, line, column = min(self._places[:, codes].T.tolist())
        return Place(self._files[file], line, column)

    @property
    def by_frequency(self) -> np.ndarray:
        """The text's characters, the most frequent first; of equally frequent ones, the lower number first."""
        codes = np.flatnonzero(self.counts)
        return codes[np.argsort(-self.counts[codes], kind="stable")]

    def ids(self, blocks: list[np.ndarray]) -> np.ndarray:
        """Numbers for the characters of some blocks, by frequency: [n] uint16; those from MAX_VOCABULARY on share one."""
        table, known = np.zeros(CODES, np.uint16), self.by_frequency
        table[known] = np.minimum(np.arange(len(known)), MAX_VOCABULARY - 1)
        return np.concatenate([table.take(codes) for codes in blocks])


@dataclass(frozen=True)
class Replaced:
    """What a vocabulary of `size` characters would replace by the unknown symbol: `distinct` ones, `characters` in all."""

    size: int
    distinct: int
    characters: int


def replaced(characters: Characters) -> list[Replaced]:
    """What would be replaced for every power of two from 64 on that is smaller than the number of distinct characters."""
    codes = characters.by_frequency
    sizes = [1 << power for power in range(6, 17) if 1 << power < len(codes)]
    counts = characters.counts[codes]
    others = counts[codes != UNKNOWN_CODE]  # this one stands for all that are replaced
    return [Replaced(size, len(others) - size + 1, int(others[size - 1 :].sum())) for size in sizes]
