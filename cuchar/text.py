"""Texts that are held in memory whole, with the places of their characters: what is looked at, or primes a sample."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuchar.errors import TextError
from cuchar.reading import AS_UTF8, LINE_END, Reading, blocks
from cuchar.text_files import TextFile, text_files
from cuchar.wording import option


@dataclass(frozen=True, eq=False)
class Text:
    """What was read from some files, joined in their order, in memory.

    codes: [n] code points, or byte values if `is_bytes`.
    files: the files that were read.
    ends: for each file the index in `codes` where it ends.
    left_out: a line for each file that could not be read, saying why.
    """

    codes: np.ndarray
    is_bytes: bool
    files: tuple[Path, ...]
    ends: tuple[int, ...]
    sha256: str
    left_out: tuple[str, ...]

    def parts(self) -> Iterator[tuple[Path, int, int]]:
        """Every file, with the indices in `codes` where it begins and where it ends."""
        return zip(self.files, (0, *self.ends), self.ends, strict=False)

    def place(self, at: int) -> str:
        """Where `codes[at]` stands: "FILE:LINE:COLUMN", counted from 1, or for a byte "FILE: offset N"."""
        number = bisect_right(self.ends, at)
        start = self.ends[number - 1] if number else 0
        if self.is_bytes:
            return f"{self.files[number]}: offset {at - start}"
        return f"{self.files[number]}:{_line_and_column(self.codes[start:at])}"


def read_text(
    paths: Sequence[str | Path],
    reading: Reading = AS_UTF8,
    glob: str | None = None,
    skip_unreadable: bool = False,
) -> Text:
    """Read files and folders, and join them to one text.

    Args:
        reading: how bytes become characters.
        glob: a pattern that the names of files in folders must match; None takes all.
        skip_unreadable: leave out files that are not UTF-8 or that may not be read, instead of raising.
    Raises:
        TextError: there is no file, a file cannot be read or is not UTF-8, or a folder is that of a run.
    """
    digest, files, parts, left_out = hashlib.sha256(), [], [], []
    candidates = text_files(paths, glob)
    for path in candidates:
        try:
            read = list(blocks(TextFile(path), reading))
        except TextError as error:
            if skip_unreadable:
                left_out.append(str(error))
                continue
            hint = f"; {option('skip_unreadable', True)} leaves such files out" if len(candidates) > 1 else ""
            raise TextError(f"{error}{hint}") from None
        for block in read:
            digest.update(block.raw)
        files.append(path)
        parts.append(np.concatenate([np.empty(0, np.uint8), *(block.codes for block in read)]))
    if not files:
        raise TextError(f"expected a readable text file, found none: {left_out[0]}")
    ends = np.cumsum([len(part) for part in parts]).tolist()
    codes = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Text(codes, reading.as_bytes, tuple(files), tuple(ends), digest.hexdigest(), tuple(left_out))


def left_out_notes(left_out: Sequence[str], files: int) -> list[str]:
    """Lines of text that say which files were left out, and how many; no line if none was.

    Args:
        left_out: a line for each file that was left out, saying why.
        files: how many were read.
    """
    if not left_out:
        return []
    return [f"left out {line}" for line in left_out] + [f"left out {len(left_out)} of {len(left_out) + files} files"]


def _line_and_column(before: np.ndarray) -> str:
    """LINE:COLUMN, counted from 1, of the character that comes after the code points `before` in a file."""
    line_ends = np.flatnonzero(before == LINE_END)
    last = int(line_ends[-1]) if len(line_ends) else -1
    return f"{len(line_ends) + 1}:{len(before) - last}"
