"""A block of a file and where it stands, so that each of its characters can be named by file, line and column."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cuchar.reading import LINE_END, Reading, blocks
from cuchar.text_files import TextFile

BLOCK = 1 << 20  # bytes that are read at once: what is made of a block may take fifty times as many


@dataclass(frozen=True)
class Place:
    """Where a character stands. `line` is 0 where bytes are read, and `column` then the offset in the file."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else f"{self.file}: offset {self.column}"


@dataclass(frozen=True, eq=False)
class Span:
    """A block of a file.

    Args:
        file: the file's name.
        raw: its bytes.
        codes: [n], its characters.
        composed: the characters that these become in composed form; `codes` itself if there is no other form.
        has_bom: whether it begins with a byte order mark.
        before: [2], the characters before it; before a file's beginning stand line ends.
        line, column: where its first character stands, counted from 1.
        as_bytes: whether characters are bytes, which have an offset instead.
        offset: how many characters of the file come before it.
    """

    file: str
    raw: bytes
    codes: np.ndarray
    composed: np.ndarray
    has_bom: bool
    before: np.ndarray
    line: int
    column: int
    as_bytes: bool
    offset: int

    @cached_property
    def line_ends(self) -> np.ndarray:
        """The indices of all line ends."""
        return np.flatnonzero(self.codes == LINE_END)

    @cached_property
    def begins(self) -> np.ndarray:
        """The indices at which lines begin: the one that the first character is in, and those after each line end."""
        return np.append(1 - self.column, self.line_ends + 1)

    @cached_property
    def with_before(self) -> np.ndarray:
        """[2 + n], the two characters before, and the characters: what is at index i of `codes` is at i + 2 here."""
        return np.concatenate([self.before, self.codes])

    def lines_and_columns(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The `line` and `column` of the places of the characters at these indices, which may be negative in the first line."""
        if self.as_bytes:
            return np.zeros(len(indices), np.int64), self.offset + indices
        ends = np.searchsorted(self.line_ends, indices)
        return self.line + ends, indices - self.begins[ends] + 1

    def place(self, index: int) -> Place:
        """The place of the character at this index, which may be negative in the first line."""
        lines, columns = self.lines_and_columns(np.array([index]))
        return Place(self.file, int(lines[0]), int(columns[0]))


class Seen:
    """How often something was seen, and where first."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Place | None = None

    def add(self, span: Span, indices: np.ndarray) -> None:
        """It was seen at these indices of a span, which are in ascending order."""
        if len(indices) and self.first is None:
            self.first = span.place(int(indices[0]))
        self.count += len(indices)


def spans(file: TextFile, reading: Reading) -> Iterator[Span]:
    """All blocks of a file; an empty file has none.

    Raises:
        TextError: the file cannot be read or is not UTF-8.
    """
    before, line, column, offset = np.full(2, LINE_END, np.uint8), 1, 1, 0
    # Blocks of text that is brought to composed form end where no character joins the ones before.
    composing = reading if reading.has_single_bytes else replace(reading, normalize="nfc")
    for block in blocks(file, composing, size=BLOCK):
        codes = block.codes
        if composing != reading and not block.raw.isascii():
            codes = reading.codes_of(block.raw[len(codecs.BOM_UTF8) if block.has_bom else 0 :])
        span = Span(
            str(file.path), block.raw, codes, block.codes, block.has_bom, before, line, column, reading.as_bytes, offset
        )
        yield span
        before, offset, line = span.with_before[-2:], offset + len(codes), line + len(span.line_ends)
        column = len(codes) - int(span.line_ends[-1]) if len(span.line_ends) else column + len(codes)
