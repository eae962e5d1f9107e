"""Reads text files, and turns their characters into ids.

A text is read whole, as UTF-8 or as plain bytes, and never altered: line ends stay
what they are. Its distinct characters, sorted, are the vocabulary. Several files are
joined, and the text remembers where each of them ends, so that a message can name any
place in it by file, line and column.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuchar.errors import TextError
from cuchar.reading import LINE_END, Reading, blocks
from cuchar.text_files import TextFile, text_files
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option


@dataclass(frozen=True, eq=False)
class Text:
    """What was read from some files, joined in their order.

    codes: [n] code points, or byte values if `is_bytes`.
    files: the files that were read.
    ends: for each file the index in `codes` where it ends.
    sha256: the hash of the bytes of all files, in order.
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


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids. `sha256`, `files` and `left_out` are those of the `Text` that was read."""

    ids: np.ndarray
    vocabulary: Vocabulary
    sha256: str
    files: tuple[Path, ...] = ()
    left_out: tuple[str, ...] = ()


def load_corpus(
    paths: Sequence[str | Path], as_bytes: bool = False, glob: str | None = None, skip_unreadable: bool = False
) -> Corpus:
    """Read a text, and make its vocabulary and ids. The arguments are those of `read_text`.

    Raises:
        TextError: the text cannot be read (see `read_text`), is empty, or has too few or too many distinct characters.
    """
    text = read_text(paths, as_bytes, glob, skip_unreadable)
    if not len(text.codes):
        raise TextError(f"{', '.join(map(str, paths))}: expected text, found an empty file")
    vocabulary = Vocabulary.of(text.codes, as_bytes)
    return Corpus(vocabulary.encode(text.codes), vocabulary, text.sha256, text.files, text.left_out)


def read_text(
    paths: Sequence[str | Path], as_bytes: bool = False, glob: str | None = None, skip_unreadable: bool = False
) -> Text:
    """Read files and folders, and join them to one text.

    Args:
        as_bytes: do not decode the files; then any file can be read.
        glob: a pattern that the names of files in folders must match; None takes all.
        skip_unreadable: leave out files that are not UTF-8 or that may not be read, instead of raising.
    Raises:
        TextError: there is no file, a file cannot be read or is not UTF-8, or a folder is that of a run.
    """
    digest, files, parts, left_out = hashlib.sha256(), [], [], []
    candidates, reading = text_files(paths, glob), Reading(as_bytes)
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
    return Text(codes, as_bytes, tuple(files), tuple(ends), digest.hexdigest(), tuple(left_out))


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
