"""Texts that are held in memory whole, with the places of their characters: what is looked at, or primes a sample."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuchar.reading import AS_UTF8, LINE_END, Reading, blocks
from cuchar.text_files import TextFile, text_files


@dataclass(frozen=True, eq=False)
class Text:
    """What was read from some files, joined in their order, in memory.

    codes: [n] code points, or byte values if `is_bytes`.
    files: the files that were read.
    ends: for each file the index in `codes` where it ends.
    """

    codes: np.ndarray
    is_bytes: bool
    files: tuple[Path, ...]
    ends: tuple[int, ...]

    def place(self, at: int) -> str:
        """Where `codes[at]` stands: "FILE:LINE:COLUMN", counted from 1, or for a byte "FILE: offset N"."""
        number = bisect_right(self.ends, at)
        start = self.ends[number - 1] if number else 0
        if self.is_bytes:
            return f"{self.files[number]}: offset {at - start}"
        return f"{self.files[number]}:{_line_and_column(self.codes[start:at])}"


def read_text(paths: Sequence[str | Path], reading: Reading = AS_UTF8) -> Text:
    """Read files and folders, and join them to one text.

    Args:
        reading: how bytes become characters.
    Raises:
        TextError: there is no file, a file cannot be read or is not UTF-8, or a folder is that of a run.
    """
    files = text_files(paths)
    parts = [
        np.concatenate([np.empty(0, np.uint8), *(block.codes for block in blocks(TextFile(file), reading))])
        for file in files
    ]
    ends = np.cumsum([len(part) for part in parts]).tolist()
    codes = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Text(codes, reading.as_bytes, tuple(files), tuple(ends))


def _line_and_column(before: np.ndarray) -> str:
    """LINE:COLUMN, counted from 1, of the character that comes after the code points `before` in a file."""
    line_ends = np.flatnonzero(before == LINE_END)
    last = int(line_ends[-1]) if len(line_ends) else -1
    return f"{len(line_ends) + 1}:{len(before) - last}"
