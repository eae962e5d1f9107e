"""Counts a text: one pass over its files finds how often each character occurs, and the SHA-256 of all their bytes.

The pass can be interrupted. A tally is stored as JSON, and one that was stored goes on from there. The state of a
SHA-256 cannot be stored, so the bytes that were counted are hashed again, which also shows that they are the same.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cuchar.errors import TextError
from cuchar.kinds import FLAG, SHA256, ListOf, Record, integer, text
from cuchar.reading import Block, Reading, blocks
from cuchar.second_thread import SecondThread
from cuchar.text_files import TextFile, pieces
from cuchar.unreadable import expect_one_read, leave_out

CODES = 0x110000  # Unicode's code points are below it
SMALL = 1 << 16  # bytes from which on a block of bytes is counted by pairs, which are half as many

TALLY = Record(  # what `Tally.to_json` returns
    {
        "files": ListOf(Record({"number": integer(), "size": integer(), "characters": integer(), "has_bom": FLAG})),
        "left_out": ListOf(text()),
        "finished": integer(),
        "codes": ListOf(integer(0, CODES - 1)),
        "counts": ListOf(integer(1)),
        "sha256": SHA256,
    }
)


@dataclass
class FileTally:
    """What was counted of one file.

    Args:
        number: which of the text's files it is, from 0.
        size: its bytes.
        has_bom: whether it begins with a byte order mark.
    """

    number: int
    size: int = 0
    characters: int = 0
    has_bom: bool = False


class Tally:
    """What was counted of a text so far.

    counts: [CODES] int64, how often each character occurs.
    files: one for each file that was read; the last one may be unfinished.
    left_out: a line for each file that could not be read, saying why.
    finished: how many files were read or left out.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(CODES, np.int64)
        self.files: list[FileTally] = []
        self.left_out: list[str] = []
        self.finished = 0
        self._thread, self._digest = SecondThread(), hashlib.sha256()
        self._digest_before = self._digest.copy()  # without the last file

    @property
    def sha256(self) -> str:
        """The hash of the bytes of all files, in order."""
        self._thread.wait()
        return self._digest.hexdigest()

    @property
    def characters(self) -> int:
        return sum(file.characters for file in self.files)

    def begin(self, number: int) -> FileTally:
        """Begin with a file, or go on with it."""
        if not self.files or self.files[-1].number != number:
            self.files.append(FileTally(number))
            self._thread.wait()
            self._digest_before = self._digest.copy()
        return self.files[-1]

    def add(self, block: Block) -> None:
        """Count the next block of the last file."""
        file = self.files[-1]
        self._thread.begin(self._digest.update, block.raw)
        _count(self.counts, block.codes, 1)
        file.size, file.characters, file.has_bom = (
            block.end, file.characters + len(block.codes), file.has_bom or block.has_bom,
        )  # fmt: skip

    def leave_out(self, why: str, counted: Iterable[Block]) -> None:
        """Take back what was counted of the last file, which cannot be read to its end."""
        for block in counted:
            _count(self.counts, block.codes, -1)
        self._thread.wait()
        self._digest = self._digest_before
        self.files.pop()
        self.left_out.append(why)

    def to_json(self) -> dict[str, Any]:
        codes = np.flatnonzero(self.counts)
        return {
            "files": [asdict(file) for file in self.files],
            "left_out": list(self.left_out),
            "finished": self.finished,
            "codes": codes.tolist(),
            "counts": self.counts[codes].tolist(),
            "sha256": self.sha256,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any], files: Sequence[TextFile], advance: Callable[[int], None]) -> "Tally":
        """The tally that `to_json` returned, if the files are still the ones that were counted, else a new one.

        Args:
            advance: is called with the number of bytes that were hashed since the call before.
        """
        tally = cls()
        for found in stored["files"]:
            file = tally.begin(found["number"])
            file.size, file.characters, file.has_bom = found["size"], found["characters"], found["has_bom"]
            try:
                with files[file.number].opened() as descriptor:
                    for piece in pieces(descriptor, file.size):
                        tally._digest.update(piece)
                        advance(len(piece))
            except (TextError, IndexError):
                return cls()
        if tally.sha256 != stored["sha256"] or len(stored["codes"]) != len(stored["counts"]):
            return cls()
        tally.counts[stored["codes"]] = stored["counts"]
        tally.left_out, tally.finished = list(stored["left_out"]), stored["finished"]
        return tally


def count(
    tally: Tally,
    files: Sequence[TextFile],
    reading: Reading,
    skip_unreadable: bool,
    advance: Callable[[int], None] = lambda size: None,
    save: Callable[[], None] = lambda: None,
) -> None:
    """Count what the tally lacks of the files.

    Args:
        advance: is called with the number of bytes that were read since the call before.
        save: is called after every block, when the tally may be stored.
    Raises:
        TextError: a file cannot be read and is not to be left out, or none can be read.
    """
    for number in range(tally.finished, len(files)):
        try:
            for block in blocks(files[number], reading, tally.begin(number).size):
                tally.add(block)
                advance(len(block.raw))
                save()
        except TextError as error:
            why = leave_out(error, skip_unreadable, len(files))
            tally.leave_out(why, _readable(files[number], reading, tally.files[-1].size))
        tally.finished += 1
    expect_one_read(tally.files, tally.left_out)


def _count(counts: np.ndarray, codes: np.ndarray, sign: int) -> None:
    """Add how often each of `codes` occurs to `counts`, or with the sign -1 subtract it."""
    if codes.dtype == np.uint8 and len(codes) >= SMALL:
        even = len(codes) // 2 * 2
        pairs = np.bincount(codes[:even].view(np.uint16), minlength=1 << 16).reshape(256, 256)
        found = pairs.sum(0) + pairs.sum(1)
        found += np.bincount(codes[even:], minlength=256)
    else:
        found = np.bincount(codes)
    counts[: len(found)] += sign * found


def _readable(file: TextFile, reading: Reading, size: int) -> Iterator[Block]:
    """The blocks of the first `size` bytes of a file, which were read before."""
    if size:
        for block in blocks(file, reading):
            yield block
            if block.end >= size:
                break
