"""Reads the ids of a text of any size from its files, as they are asked for.

The text is read twice, in blocks. The first pass counts its characters, and finds what cannot be read or is unknown, so
that no mistake is found in the middle of the second one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuchar.errors import TextError
from cuchar.reading import BLOCK, Reading, blocks, place
from cuchar.text_files import TextFile
from cuchar.unreadable import expect_one_read, leave_out
from cuchar.vocabulary import Vocabulary


@dataclass(frozen=True)
class Alphabet:
    """What makes ids of a file: how its bytes become characters, and which of them have an id."""

    reading: Reading
    vocabulary: Vocabulary

    def expect_all(self, file: TextFile, what: str = "", hint: str | None = None) -> None:
        """Check that all characters of a file have an id.

        Args:
            what: the beginning of the error's message.
            hint: as for `Vocabulary.encode`.
        Raises:
            TextError: one has none; it names the first one and its place.
        """
        before = 0
        for block in blocks(file, self.reading):

            def place_of(at: int, before: int = before) -> str:
                return what + place(file, self.reading, before + at)

            self.vocabulary.encode(block.codes, "error", place_of, hint)
            before += len(block.codes)


@dataclass(frozen=True)
class CountedFile:
    """A file that can be read, with the numbers of its characters that have an id, and of those that have none.

    `replaced` of those that have one have the unknown symbol's, without being it.
    """

    file: TextFile
    alphabet: Alphabet
    known: int
    unknown: int
    replaced: int

    def blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The file again, in blocks of about so many bytes: [n] codes, and [n] of bool, which of them have an id.

        Raises:
            TextError: it has not as many characters with an id as it had.
        """
        found = 0
        for block in blocks(self.file, self.alphabet.reading, size=size):
            known = self.alphabet.vocabulary.has(block.codes)
            found += int(np.count_nonzero(known))
            if found > self.known:
                break
            yield block.codes, known
        if found != self.known:
            raise TextError(f"{self.file.path}: expected a text that stays as it is while it is read, found it changed")


@dataclass(frozen=True)
class CountedText:
    """Files that are read as one text. `left_out` has a line for each one that could not be read, saying why."""

    files: tuple[CountedFile, ...]
    left_out: tuple[str, ...]

    @property
    def known(self) -> int:
        """How many characters have an id."""
        return sum(file.known for file in self.files)

    @property
    def unknown(self) -> int:
        return sum(file.unknown for file in self.files)

    @property
    def replaced(self) -> int:
        """How many characters have the unknown symbol's id without being it."""
        return sum(file.replaced for file in self.files)

    def ids(self) -> "IdStream":
        """The ids of all characters that have one."""
        return IdStream(
            self.known,
            (file.alphabet.vocabulary.encode(codes, "skip") for file in self.files for codes, _ in file.blocks(BLOCK)),
        )


def count_text(
    paths: Sequence[Path],
    alphabet: Alphabet,
    unknown: str = "error",
    skip_unreadable: bool = False,
    advance: Callable[[int], None] = lambda size: None,
) -> CountedText:
    """Count the characters of files.

    Args:
        unknown: "error" or "skip", for characters that have no id.
        skip_unreadable: leave out files that are not UTF-8 or that may not be read, instead of raising.
        advance: is called with the number of bytes that were read since the call before.
    Raises:
        OptionError: `unknown` is another word.
        TextError: a file cannot be read or none can, or a character has no id; the message names its place.
    """
    alphabet.vocabulary.encode(np.empty(0, np.uint8), unknown)  # complains of another word
    files, left_out = [], []
    for path in paths:
        try:
            file = TextFile(path)
            counted = _count(file, alphabet, advance)
        except TextError as error:
            left_out.append(leave_out(error, skip_unreadable, len(paths)))
            continue
        if counted.unknown and unknown == "error":
            alphabet.expect_all(file)
        files.append(counted)
    expect_one_read(files, left_out)
    return CountedText(tuple(files), tuple(left_out))


def _count(file: TextFile, alphabet: Alphabet, advance: Callable[[int], None]) -> CountedFile:
    known = unknown = replaced = 0
    for block in blocks(file, alphabet.reading, size=BLOCK):
        found = int(np.count_nonzero(alphabet.vocabulary.has(block.codes)))
        known, unknown = known + found, unknown + len(block.codes) - found
        replaced += alphabet.vocabulary.count_replaced(block.codes)
        advance(len(block.raw))
    return CountedFile(file, alphabet, known, unknown, replaced)


class IdStream:
    """The ids of a text, of which slices are taken as of an array, each of which begins where the one before begins or later.

    Args:
        length: how many ids there are.
        pieces: all of them, in pieces [n].
    """

    def __init__(self, length: int, pieces: Iterator[np.ndarray]):
        self._length, self._pieces = length, pieces
        self._first, self._held = 0, np.empty(0, np.uint8)  # the ids from index `_first` on that were read

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, places: slice, /) -> np.ndarray:
        start, stop, _ = places.indices(self._length)
        if stop > self._first + len(self._held):
            self._read_on(start, stop)
        return self._held[start - self._first : stop - self._first]

    def _read_on(self, start: int, stop: int) -> None:
        """Forget what comes before `start`, and read up to `stop` at least."""
        parts, first, end = [self._held], self._first, self._first + len(self._held)
        while end < stop:
            parts.append(next(self._pieces))
            end += len(parts[-1])
            if end <= start:
                parts, first = [], end
        joined = np.concatenate([part for part in parts if len(part)])
        self._first, self._held = start, joined[start - first :]
