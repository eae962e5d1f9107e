"""Reads text files, and turns their characters into ids.

A text is read whole, as UTF-8 or as plain bytes, and never altered: line ends stay
what they are. Its distinct characters, sorted, are the vocabulary. Several files are
joined, and the text remembers where each of them ends, so that a message can name any
place in it by file, line and column.
"""

import errno
import hashlib
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.errors import OptionError, TextError
from cuchar.files import STREAM, read_stdin
from cuchar.wording import command_to_resume, option

MAX_VOCABULARY = 65_536
UNKNOWN = ("error", "skip")
LINE_END = ord("\n")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Every distinct character of a text, sorted; a character's id is its index.

    codes: [V] uint32, ascending: code points, or byte values where `is_bytes`.
    """

    codes: np.ndarray
    is_bytes: bool = False

    def __len__(self) -> int:
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Vocabulary)
            and self.is_bytes == other.is_bytes
            and np.array_equal(self.codes, other.codes)
        )

    @cached_property
    def dtype(self) -> np.dtype:
        """The smallest unsigned type that holds an id."""
        return np.min_scalar_type(len(self) - 1)

    @cached_property
    def _ids(self) -> np.ndarray:
        """The id of every code up to the vocabulary's largest; -1 for a code that is not in it."""
        table = np.full(int(self.codes[-1]) + 1, -1, np.int32)
        table[self.codes] = np.arange(len(self), dtype=np.int32)
        return table

    def has(self, codes: np.ndarray) -> np.ndarray:
        """Which of `codes` are in the vocabulary: [n] of bool."""
        return self._find(codes) >= 0

    def _find(self, codes: np.ndarray) -> np.ndarray:
        """Ids of `codes`, [n] int32; -1 for a code that is not in the vocabulary."""
        if len(codes) and codes.max() < len(self._ids):
            return self._ids.take(codes)
        known = codes < len(self._ids)
        return np.where(known, self._ids.take(np.where(known, codes, 0)), -1)

    def encode(
        self,
        codes: np.ndarray,
        unknown: str = "error",
        place: Callable[[int], str] = "position {}".format,
        hint: str | None = None,
    ) -> np.ndarray:
        """Ids of `codes`, in the vocabulary's dtype.

        Args:
            codes: [n] code points or byte values (`codes_of` makes them from text).
            unknown: "error", or "skip" to leave out characters that are not in the vocabulary.
            place: returns the words by which an error names the place of `codes[i]`; `Text.place` if files were read.
            hint: the end of the error's message, which says what to do about it; None names the option that skips.
        Raises:
            OptionError: `unknown` is another word.
            TextError: a character is not in the vocabulary; the message names it and its place.
        """
        if unknown not in UNKNOWN:
            raise OptionError(f"{option('unknown')}: expected {' | '.join(UNKNOWN)}, found {unknown}")
        ids = self._find(codes)
        missing = ids < 0
        if missing.any():
            if unknown == "error":
                first = int(np.argmax(missing))
                if hint is None:
                    hint = f"; {option('unknown', 'skip')} leaves such characters out"
                raise TextError(
                    f"{place(first)}: {self.describe(int(codes[first]))} is not among the model's {len(self)}{hint}"
                )
            ids = ids[~missing]
        return ids.astype(self.dtype)

    def describe(self, code: int) -> str:
        return f"byte 0x{code:02x}" if self.is_bytes else f"character {chr(code)!r} (U+{code:04X})"

    def codes_of(self, text: str | bytes) -> np.ndarray:
        """Code points of `text`; in a vocabulary of bytes, its bytes (those of its UTF-8 for a str).

        Raises:
            TextError: `text` is bytes that are not UTF-8, and this is not a vocabulary of bytes.
        """
        if self.is_bytes:
            data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            return np.frombuffer(data, np.uint8)
        return code_points(text) if isinstance(text, bytes) else _points_of(text)

    def decode(self, ids: np.ndarray) -> bytes:
        """The text of `ids` as it would be in a file: UTF-8, or in a vocabulary of bytes the bytes themselves."""
        codes: np.ndarray = self.codes[ids]
        if self.is_bytes:
            return codes.astype(np.uint8).tobytes()
        return codes.astype("<u4").tobytes().decode("utf-32-le").encode()

    def characters(self) -> list[str]:
        """A string for each id; for a byte it is the character of the same number (Latin-1)."""
        return [chr(code) for code in self.codes]

    def entries(self) -> list[str] | list[int]:
        """What exported files call the vocabulary: in the order of the ids each character, or each byte's number."""
        return self.codes.tolist() if self.is_bytes else self.characters()

    def to_json(self) -> dict[str, Any]:
        return {"bytes": self.is_bytes, "characters": "".join(self.characters())}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Vocabulary":
        return cls(_points_of(value["characters"]).astype(np.uint32), value["bytes"])

    @classmethod
    def of(cls, codes: np.ndarray, is_bytes: bool = False) -> "Vocabulary":
        """The vocabulary of a text.

        Raises:
            TextError: there are fewer than 2 distinct characters, or more than 65,536.
        """
        found = np.flatnonzero(np.bincount(codes)).astype(np.uint32)
        if len(found) < 2:
            raise TextError(f"expected at least 2 distinct characters, found {len(found)}: there is nothing to predict")
        if len(found) > MAX_VOCABULARY:
            raise TextError(
                f"expected at most {MAX_VOCABULARY:,} distinct characters, found {len(found):,}; "
                f"{option('bytes', True)} trains on the bytes of any file"
            )
        return cls(found, is_bytes)


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
    candidates = text_files(paths, glob)
    for file in candidates:
        try:
            data = read_raw(file)
            codes = np.frombuffer(data, np.uint8) if as_bytes else code_points(data, str(file))
        except TextError as error:
            if skip_unreadable:
                left_out.append(str(error))
                continue
            hint = f"; {option('skip_unreadable', True)} leaves such files out" if len(candidates) > 1 else ""
            raise TextError(f"{error}{hint}") from None
        digest.update(data)
        files.append(file)
        parts.append(codes)
    if not files:
        raise TextError(f"expected a readable text file, found none: {left_out[0]}")
    ends = np.cumsum([len(part) for part in parts]).tolist()
    codes = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Text(codes, as_bytes, tuple(files), tuple(ends), digest.hexdigest(), tuple(left_out))


def left_out_notes(text: Text | Corpus) -> list[str]:
    """Lines of text that say which files were left out, and how many; no line if none was."""
    if not text.left_out:
        return []
    count = len(text.left_out)
    return [f"left out {line}" for line in text.left_out] + [f"left out {count} of {count + len(text.files)} files"]


def absolute(text: str | Path) -> str:
    """The absolute path of a text, which a run stores to find the text again, or `-` for standard input."""
    return str(text) if Path(text) == STREAM else str(Path(text).resolve())


def expect_kept(texts: Sequence[str], what: str) -> Sequence[str]:
    """Check that texts which a run has stored (`absolute`) can be read again, and return them.

    Raises:
        TextError: one of them was standard input.
    """
    if str(STREAM) in texts:
        raise TextError(
            f"{what}: expected it again, as a file or as -, because it came from standard input, found none"
        )
    return texts


def text_files(paths: Sequence[str | Path], glob: str | None = None) -> list[Path]:
    """`paths` with every folder replaced by the files in it.

    Raises:
        TextError: there is nothing at a path, or a folder is that of a run or has no file to read.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        if path == STREAM:
            files.append(path)
            continue
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as error:
            raise _unreadable(given, error) from None
        files += _files_in(path, glob) if is_folder else [path]
    if not files:
        raise TextError("expected at least one text file, found none")
    return files


def _files_in(folder: Path, glob: str | None) -> list[Path]:
    """The regular files in a folder, sorted, at any depth, whose names match `glob`.

    Hidden files and folders, links to folders (which may form loops) and the folders of runs are left out. Files and
    folders that may not be looked at are included: to read them gives the error that says why.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: found.append(Path(error.filename))):
        if _is_run(names):
            if Path(parent) == folder:
                hint = f"{command_to_resume(folder)} goes on with it"
                raise TextError(f"{folder}: expected a text, found the folder of a run; {hint}")
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        named = (name for name in names if not name.startswith(".") and (glob is None or fnmatchcase(name, glob)))
        found.extend(file for name in named if _may_be_text(file := Path(parent, name)))
    if not found:
        matching = "" if glob is None else f" whose name matches {option('glob', glob)}"
        raise TextError(f"{folder}: expected a folder with text files, found none in it{matching}")
    return sorted(found)


def _is_run(names: Sequence[str]) -> bool:
    """Whether a folder with these files is one that `cuchar train` writes."""
    return "config.json" in names and ("metrics.jsonl" in names or "last.safetensors" in names)


def _may_be_text(file: Path) -> bool:
    """Whether this is a regular file, not a pipe, socket or device, which a reader would wait for."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return True


def read_raw(file: Path) -> bytes:
    """The bytes of `file`; `-` is standard input.

    Raises:
        TextError: it cannot be read.
    """
    try:
        return read_stdin() if file == STREAM else file.read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None


def _unreadable(path: str | Path, error: OSError | ValueError) -> TextError:
    """The TextError for a path that cannot be read; it considers that someone gave a text in place of its path."""
    name = str(path)
    missing = isinstance(error, FileNotFoundError)
    if not isinstance(error, OSError) or error.errno == errno.ENAMETOOLONG or (missing and "\n" in name):
        return TextError(f"expected the path of a text file, found a text of {len(name):,} characters")
    if missing:
        return TextError(f"{name}: expected a text file, found no such file")
    return TextError(f"{name}: expected a readable file, found: {error.strerror}")


def code_points(data: bytes, name: str = "text") -> np.ndarray:
    """Code points of UTF-8 `data`, which errors call `name`.

    Raises:
        TextError: it is not UTF-8; the message names the line, column and byte of the first error.
    """
    if data.isascii():
        return np.frombuffer(data, np.uint8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = _points_of(data[: error.start].decode("utf-8"))
        raise TextError(
            f"{name}:{_line_and_column(before)}: expected UTF-8, found byte 0x{data[error.start]:02x} at offset "
            f"{error.start} ({error.reason}); a model that is trained with {option('bytes', True)} reads any file"
        ) from None
    return _points_of(text)


def _line_and_column(before: np.ndarray) -> str:
    """LINE:COLUMN, counted from 1, of the character that comes after the code points `before` in a file."""
    line_ends = np.flatnonzero(before == LINE_END)
    last = int(line_ends[-1]) if len(line_ends) else -1
    return f"{len(line_ends) + 1}:{len(before) - last}"


def _points_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
