"""A vocabulary: the characters that a model knows, and their ids."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cuchar.errors import OptionError, TextError
from cuchar.reading import code_points
from cuchar.tally import CODES
from cuchar.wording import option

MAX_VOCABULARY = 65_536
UNKNOWN_CODE = 0xFFFD  # the replacement character
UNKNOWN = ("error", "skip")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Every distinct character of a text, sorted; a character's id is its index.

    codes: [V] uint32, ascending: code points, or byte values where `is_bytes`.
    has_unknown: whether U+FFFD, which is among the codes, stands for every character that is not.
    """

    codes: np.ndarray
    is_bytes: bool = False
    has_unknown: bool = False

    def __len__(self) -> int:
        return len(self.codes)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Vocabulary)
            and (self.is_bytes, self.has_unknown) == (other.is_bytes, other.has_unknown)
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

    @cached_property
    def unknown_id(self) -> int:
        """The id of a character that is not in the vocabulary; -1 if it has none."""
        return int(np.searchsorted(self.codes, UNKNOWN_CODE)) if self.has_unknown else -1

    @cached_property
    def _table(self) -> np.ndarray:
        """[CODES], the id of every code, in the vocabulary's dtype; 0 for a code that has none."""
        table = np.full(CODES, max(0, self.unknown_id), self.dtype)
        table[self.codes] = np.arange(len(self))
        return table

    @cached_property
    def _translation(self) -> bytes:
        """The beginning of the table, for `bytes.translate`."""
        return self._table[:256].tobytes()

    def has(self, codes: np.ndarray) -> np.ndarray:
        """Which of `codes` have an id: [n] of bool."""
        return self._find(codes) >= 0

    def count_replaced(self, codes: np.ndarray) -> int:
        """How many of `codes` are outside the vocabulary and become the unknown symbol; 0 if there is no such symbol."""
        if not self.has_unknown:
            return 0
        return int(np.count_nonzero((self._find(codes) == self.unknown_id) & (codes != UNKNOWN_CODE)))

    def _find(self, codes: np.ndarray) -> np.ndarray:
        """Ids of `codes`, [n] int32; -1 for a code that has none."""
        if len(codes) and codes.max() < len(self._ids):
            found = self._ids.take(codes)
        else:
            known = codes < len(self._ids)
            found = np.where(known, self._ids.take(np.where(known, codes, 0)), -1)
        return np.where(found < 0, self.unknown_id, found) if self.has_unknown else found

    def encode(
        self,
        codes: np.ndarray,
        unknown: str = "error",
        place: Callable[[int], str] = "position {}".format,
        hint: str | None = None,
    ) -> np.ndarray:
        """Ids of `codes`, in the vocabulary's dtype.

        Args:
            codes: [n] code points or byte values (`Reading.codes_of` makes them from text).
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

    def ids_of_known(self, codes: np.ndarray) -> np.ndarray:
        """Ids of codes that all have one, in the vocabulary's dtype; it is not checked that they have."""
        if codes.dtype == np.uint8 and self.dtype == np.uint8:
            return np.frombuffer(codes.tobytes().translate(self._translation), np.uint8)
        return self._table.take(codes)

    def describe(self, code: int) -> str:
        return f"byte 0x{code:02x}" if self.is_bytes else f"character {chr(code)!r} (U+{code:04X})"

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

    def unknown_entry(self) -> dict[str, str]:
        """What exported files say of the unknown symbol beside the vocabulary: its character, if there is one."""
        return {"unknown": chr(UNKNOWN_CODE)} if self.has_unknown else {}

    def to_json(self) -> dict[str, Any]:
        unknown = {"unknown": True} if self.has_unknown else {}  # without one, the JSON is that of older versions
        return {"bytes": self.is_bytes, "characters": "".join(self.characters()), **unknown}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Vocabulary":
        codes = code_points(value["characters"]).astype(np.uint32)
        return cls(codes, value["bytes"], value.get("unknown", False))

    @classmethod
    def of(cls, codes: np.ndarray, is_bytes: bool = False) -> "Vocabulary":
        """The vocabulary of a text; the errors are those of `of_counts`."""
        return cls.of_counts(np.bincount(codes), is_bytes)

    @classmethod
    def of_counts(cls, counts: np.ndarray, is_bytes: bool = False, most: int | None = None) -> "Vocabulary":
        """The vocabulary of a text in which character c occurs `counts[c]` times.

        Args:
            most: how large it may be. If there are more distinct characters, the most frequent ones are kept, of equally
                frequent ones those with the lower numbers, and U+FFFD stands for all others. None keeps all.
        Raises:
            TextError: there are fewer than 2 distinct characters, or more than 65,536.
        """
        found = np.flatnonzero(counts).astype(np.uint32)
        if most is not None and len(found) > most:
            others = found[found != UNKNOWN_CODE]
            kept = others[np.argsort(-counts[others], kind="stable")][: most - 1]
            return cls(np.sort(np.append(kept, np.uint32(UNKNOWN_CODE))), is_bytes, has_unknown=True)
        if len(found) < 2:
            raise TextError(f"expected at least 2 distinct characters, found {len(found)}: there is nothing to predict")
        if len(found) > MAX_VOCABULARY:
            raise TextError(
                f"expected at most {MAX_VOCABULARY:,} distinct characters, found {len(found):,}; "
                f"{option('bytes', True)} trains on the bytes of any file, {option('max_vocab', 1000)} on the most frequent ones"
            )
        return cls(found, is_bytes)
