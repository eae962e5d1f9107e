"""Finds what a text has twice: whole files by their SHA-256, and long lines by their CRC-32 and length.

Of so many long lines that not all are remembered, a sample is: those whose CRC-32 ends with some zero bits, more and more
of them as there are more lines. A line is in the sample with all its copies, so that the sample's share of repeated lines
is the text's. Source: Wegman's adaptive sampling, in Flajolet, "On adaptive sampling", Computing 43 (1990).
"""

import hashlib
from dataclasses import dataclass
from zlib import crc32

from cuchar.corpus_report.spans import Place, Span

LONG = 32  # bytes from which on a line is long: shorter ones are repeated in any text
REMEMBERED = 1 << 18  # distinct lines


@dataclass(frozen=True)
class Repeats:
    """What a text has twice.

    share: of the text's bytes, those of long lines that stood in it before.
    sampled: one in so many distinct long lines was looked at.
    most: the line that takes the most bytes by its repetitions: its place, and how often it is repeated; None if none is.
    files: files that equal an earlier one, each with that.
    """

    share: float
    sampled: int
    most: tuple[Place, int] | None
    files: list[tuple[str, str]]


class RepeatFinder:
    def __init__(self) -> None:
        # Where a line, by its key, came first: 2^40 times the file's index, and the line's number, or of bytes the offset.
        self._first: dict[int, int] = {}
        self._again: dict[int, int] = {}  # how often it came again
        self._mask = 0  # the bits of a CRC-32 that are zero in the sample
        self._files: list[str] = []
        self._digests: dict[bytes, str] = {}
        self._equal: list[tuple[str, str]] = []
        self._bytes = self._long_bytes = 0
        self._as_bytes = False
        self._begin_file()

    def _begin_file(self) -> None:
        self._digest = hashlib.sha256()
        self._crc = self._size = 0  # of the line that has not ended yet
        self._line, self._offset = 1, 0  # of the line that has not ended yet: its number, and where it begins

    def add(self, span: Span) -> None:
        raw, self._as_bytes = span.raw, span.as_bytes
        if self._files[-1:] != [span.file]:
            self._files.append(span.file)
        self._digest.update(raw)
        self._bytes += len(raw)
        first, *others = raw.split(b"\n")
        self._crc, self._size = crc32(first, self._crc), self._size + len(first)
        if others:
            self._see(self._crc, self._size)
            self._begin_line(self._size)
            for line in others[:-1]:
                if len(line) >= LONG:
                    self._see(crc32(line), len(line))
                self._begin_line(len(line))
            self._crc, self._size = crc32(others[-1]), len(others[-1])

    def _begin_line(self, size: int) -> None:
        """The line that had not ended has, after so many bytes."""
        self._line, self._offset = self._line + 1, self._offset + size + 1

    def end_file(self, name: str) -> None:
        """The file of the spans before has ended; it may have been empty, and such files are not called equal."""
        self._see(self._crc, self._size)
        if self._line > 1 or self._size:
            digest = self._digest.digest()
            if digest in self._digests:
                self._equal.append((name, self._digests[digest]))
            else:
                self._digests[digest] = name
        self._begin_file()

    def _see(self, crc: int, size: int) -> None:
        if size < LONG:
            return
        self._long_bytes += size
        if crc & self._mask:
            return
        key = size << 32 | crc
        if key in self._first:
            self._again[key] = self._again.get(key, 0) + 1
            return
        self._first[key] = ((len(self._files) - 1) << 40) + (self._offset if self._as_bytes else self._line)
        if len(self._first) > REMEMBERED:
            self._mask = 2 * self._mask + 1
            self._first = {key: place for key, place in self._first.items() if not key & self._mask}
            self._again = {key: count for key, count in self._again.items() if not key & self._mask}

    def repeats(self) -> Repeats:
        again = {key: count * (key >> 32) for key, count in self._again.items()}
        all_bytes = sum(key >> 32 for key in self._first) + sum(again.values())
        share = sum(again.values()) / all_bytes * self._long_bytes / self._bytes if again else 0.0
        most = None
        if again:
            key = max(again, key=again.__getitem__)
            file, at = divmod(self._first[key], 1 << 40)
            place = Place(self._files[file], 0, at) if self._as_bytes else Place(self._files[file], at, 1)
            most = place, self._again[key]
        return Repeats(share, self._mask + 1, most, self._equal)
