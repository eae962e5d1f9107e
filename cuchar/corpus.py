"""Text files become character ids.

A text is read whole, as UTF-8 or as plain bytes, and never altered: line ends stay
what they are. Its distinct characters, sorted, are the vocabulary.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.errors import OptionError, TextError
from cuchar.streams import STREAM, read_stdin

MAX_VOCABULARY = 65_536
UNKNOWN = ("error", "skip")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Every distinct character, sorted; a character's place is its id.

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
        """Id of every code up to the largest known one; -1 where there is none."""
        table = np.full(int(self.codes[-1]) + 1, -1, np.int32)
        table[self.codes] = np.arange(len(self), dtype=np.int32)
        return table

    def encode(self, codes: np.ndarray, unknown: str = "error") -> np.ndarray:
        """Ids of `codes`, in the vocabulary's dtype.

        Args:
            codes: [n] code points or byte values (`codes_of` makes them from text).
            unknown: "error", or "skip" to leave out what the vocabulary does not have.
        Raises:
            TextError: a character outside the vocabulary, named with its position.
        """
        if unknown not in UNKNOWN:
            raise OptionError(f"--unknown: expected {' | '.join(UNKNOWN)}, found {unknown}")
        if len(codes) and codes.max() < len(self._ids):
            ids = self._ids.take(codes)
        else:
            known = codes < len(self._ids)
            ids = np.where(known, self._ids.take(np.where(known, codes, 0)), -1)
        missing = ids < 0
        if missing.any():
            if unknown == "error":
                where = int(np.argmax(missing))
                raise TextError(
                    f"character {self.describe(int(codes[where]))} at position {where} is not among "
                    f"the model's {len(self)}; --unknown skip leaves such characters out"
                )
            ids = ids[~missing]
        return ids.astype(self.dtype)

    def describe(self, code: int) -> str:
        return f"0x{code:02x}" if self.is_bytes else f"{chr(code)!r} (U+{code:04X})"

    def codes_of(self, text: str | bytes) -> np.ndarray:
        """Code points of `text`, or its bytes (UTF-8 for a str) where the model is one of bytes."""
        if self.is_bytes:
            data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
            return np.frombuffer(data, np.uint8)
        return code_points(text) if isinstance(text, bytes) else _points_of(text)

    def decode(self, ids: np.ndarray) -> bytes:
        """The bytes of `ids` as a file would hold them: UTF-8, or the bytes themselves."""
        codes = self.codes[ids]
        if self.is_bytes:
            return codes.astype(np.uint8).tobytes()
        return codes.astype("<u4").tobytes().decode("utf-32-le").encode()

    def characters(self) -> list[str]:
        """One string per id; a byte is the character of the same number (Latin-1)."""
        return [chr(code) for code in self.codes]

    def to_json(self) -> dict[str, Any]:
        return {"bytes": self.is_bytes, "characters": "".join(self.characters())}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Vocabulary":
        return cls(_points_of(value["characters"]).astype(np.uint32), value["bytes"])

    @classmethod
    def of(cls, codes: np.ndarray, is_bytes: bool = False) -> "Vocabulary":
        """The vocabulary of a text.

        Raises:
            TextError: fewer than 2 distinct characters, or more than 65,536.
        """
        found = np.flatnonzero(np.bincount(codes)).astype(np.uint32)
        if len(found) < 2:
            raise TextError(f"expected at least 2 distinct characters, found {len(found)}: there is nothing to predict")
        if len(found) > MAX_VOCABULARY:
            raise TextError(
                f"expected at most {MAX_VOCABULARY:,} distinct characters, found {len(found):,}; "
                "--bytes trains on the bytes of any file"
            )
        return cls(found, is_bytes)


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids. `sha256` is of the bytes of all its files, in order."""

    ids: np.ndarray
    vocabulary: Vocabulary
    sha256: str


def load_corpus(paths: Sequence[str | Path], as_bytes: bool = False) -> Corpus:
    """Read, and build the vocabulary from what was read.

    Raises:
        TextError: no file, an unreadable or empty one, invalid UTF-8, an impossible vocabulary.
    """
    codes, digest = read_codes(paths, as_bytes)
    vocabulary = Vocabulary.of(codes, as_bytes)
    return Corpus(vocabulary.encode(codes), vocabulary, digest)


def read_codes(paths: Sequence[str | Path], as_bytes: bool = False) -> tuple[np.ndarray, str]:
    """The text of `paths`, joined: code points (or bytes) and the SHA-256 of the raw bytes."""
    digest, parts = hashlib.sha256(), []
    for file in text_files(paths):
        data = read_raw(file)
        digest.update(data)
        parts.append(np.frombuffer(data, np.uint8) if as_bytes else code_points(data, str(file)))
    codes = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if not len(codes):
        raise TextError(f"{', '.join(map(str, paths))}: expected text, found an empty file")
    return codes, digest.hexdigest()


def absolute(text: str | Path) -> str:
    """What a run keeps of where its text was: a path that holds from any folder, or `-`."""
    return str(text) if Path(text) == STREAM else str(Path(text).resolve())


def expect_kept(texts: Sequence[str], what: str) -> Sequence[str]:
    """The same `absolute` texts, to be read again.

    Raises:
        TextError: it was standard input.
    """
    if str(STREAM) in texts:
        raise TextError(
            f"{what}: expected it again, as a file or as -, because it came from standard input, found none"
        )
    return texts


def expect_outside(folder: Path, texts: Iterable[str | Path]) -> None:
    """Complain of a run's folder within a folder of texts: its files would be texts, too, when the run is resumed.

    Raises:
        TextError: it is.
    """
    for text in map(Path, texts):
        if text.is_dir() and folder.resolve().is_relative_to(text.resolve()):
            raise TextError(f"--out {folder}: expected a folder outside of the texts in {text}, found one among them")


def text_files(paths: Sequence[str | Path]) -> list[Path]:
    """`paths` with every folder replaced by the files in it: sorted, at any depth, hidden ones left out."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(
                file
                for file in path.rglob("*")
                if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            if not inside:
                raise TextError(f"{path}: expected a folder with text files, found none in it")
            files += inside
        else:
            files.append(path)
    if not files:
        raise TextError("expected at least one text file, found none")
    return files


def read_raw(file: Path) -> bytes:
    """What is in `file`; `-` is standard input."""
    try:
        return read_stdin() if file == STREAM else file.read_bytes()
    except FileNotFoundError:
        raise TextError(f"{file}: expected a text file, found no such file") from None
    except OSError as error:
        raise TextError(f"{file}: expected a readable file, found: {error.strerror}") from None


def code_points(data: bytes, name: str = "text") -> np.ndarray:
    """Code points of UTF-8 `data`; an error names the byte where it stops being UTF-8."""
    if data.isascii():
        return np.frombuffer(data, np.uint8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{name}: expected UTF-8, found byte 0x{data[error.start]:02x} at offset {error.start} "
            f"({error.reason}); --bytes trains on any file"
        ) from None
    return _points_of(text)


def _points_of(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
