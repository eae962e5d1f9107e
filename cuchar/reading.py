"""Turns the bytes of a text file into characters, in blocks, so that a file of any size can be read.

A character is the number that it has: a Unicode code point, or a byte's value where a file is read as bytes. Characters
are never altered, with two exceptions that a user learns of: a byte order mark at a file's beginning is left out, and
`--normalize nfc` brings characters to their composed form.
"""

import codecs
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuchar.errors import TextError
from cuchar.text_files import TextFile, pieces
from cuchar.wording import option

BLOCK = 1 << 20  # bytes that are read at once: Ctrl-C is obeyed between blocks
LINE_END = ord("\n")
OTHER_MARKS = {  # byte order marks of encodings that are not read; those of UTF-32 come first, since one begins as UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """How bytes become characters.

    Args:
        as_bytes: a byte is a character; then any file can be read, and the other two are not used.
        encoding: "utf-8" or "latin-1", in which every byte is a character too: U+0000 to U+00FF.
        normalize: None, or "nfc" for Unicode's composed form: e and a combining accent become one character.
    """

    as_bytes: bool = False
    encoding: str = "utf-8"
    normalize: str | None = None

    @classmethod
    def of(cls, train: Mapping[str, Any]) -> "Reading":
        """How the text of a run is read, from the options that the run stores; older ones lack some."""
        return cls(train["bytes"], train.get("encoding", "utf-8"), train.get("normalize"))

    @property
    def has_single_bytes(self) -> bool:
        """Whether every byte is a character by itself. Latin-1's characters are in composed form already."""
        return self.as_bytes or self.encoding == "latin-1"

    def codes_of(self, text: str | bytes) -> np.ndarray:
        """The characters of a text in memory: [n], of the smallest unsigned type; bytes are what a file would hold.

        Raises:
            TextError: the bytes are not UTF-8.
        """
        if self.as_bytes and isinstance(text, str):
            text = text.encode("utf-8", "surrogateescape")
        if isinstance(text, bytes):
            if self.has_single_bytes:
                return np.frombuffer(text, np.uint8)
            text = _utf8(text)
        return code_points(text if self.normalize is None else unicodedata.normalize("NFC", text))


AS_UTF8 = Reading()


@dataclass(frozen=True)
class Block:
    """A piece of a file: some whole characters, and the bytes that they were made of.

    Args:
        raw: the bytes; the `raw` of all blocks joined is the file.
        codes: [n], the characters, of the smallest unsigned type that holds this block's.
        end: the offset in the file at which `raw` ends; `blocks` can go on from there.
        has_bom: whether `raw` begins with a byte order mark, which is not among the characters.
    """

    raw: bytes
    codes: np.ndarray
    end: int
    has_bom: bool = False


def blocks(file: TextFile, reading: Reading, start: int = 0, size: int | None = None) -> Iterator[Block]:
    """Read a file from its beginning, or from `start`, the `end` of one of its blocks.

    Args:
        size: bytes that are read at once, BLOCK if it is None; a block has as many or a few fewer, which only depends on where it begins.
    Raises:
        TextError: the file cannot be read or is not UTF-8; the message names the line, column and byte of the first
            error. What comes before it may have been yielded.
    """
    with file.opened() as descriptor:
        size = BLOCK if size is None else size
        at, wanted = start, size
        while data := os.pread(descriptor, wanted, at):
            block = _decoded(file, descriptor, reading, at, data, len(data) < wanted)
            if not block.raw:  # not a single character is decided
                wanted *= 2
                continue
            at, wanted = block.end, size
            yield block


def _decoded(file: TextFile, descriptor: int, reading: Reading, at: int, data: bytes, is_last: bool) -> Block:
    """The block of as much of `data` as is decided: a last character may still lack bytes, or accents that follow it.

    Args:
        at: the offset in the file of `data`.
        is_last: whether the file ends with `data`.
    """
    if reading.has_single_bytes:
        return Block(data, np.frombuffer(data, np.uint8), at + len(data))
    if data.isascii():
        raw = data if reading.normalize is None or is_last else data[:-1]
        return Block(raw, np.frombuffer(raw, np.uint8), at + len(raw))
    if at == 0:
        for mark, name in OTHER_MARKS.items():
            if data.startswith(mark):
                hint = f"iconv -f {name} -t UTF-8 converts it"
                raise TextError(f"{file.path}: expected UTF-8, found {name} (by its byte order mark); {hint}")
    has_bom = at == 0 and data.startswith(codecs.BOM_UTF8)
    skipped = len(codecs.BOM_UTF8) if has_bom else 0
    try:
        text, used = codecs.utf_8_decode(data[skipped:] if has_bom else data, "strict", is_last)
    except UnicodeDecodeError as error:
        before = pieces(descriptor, at + skipped + error.start, _beginning(descriptor))
        raise _not_utf8(str(file.path), error, at + skipped, before) from None
    if reading.normalize is not None:
        if not is_last:
            text, all_of_it = text[: _border(text)], text
            used -= len(all_of_it[len(text) :].encode())
        text = unicodedata.normalize("NFC", text)
    raw = data[: skipped + used] if used or is_last else b""
    return Block(raw, code_points(text), at + len(raw), has_bom)


def _border(text: str) -> int:
    """Where a text may be cut so that its parts are normalised as the whole is; 0 if there is no such place.

    A character can join the ones before it only if it is a mark (an accent, a vowel sign), or a vowel or final
    consonant of Hangul. Source: Unicode Standard Annex 15, section 9 (stable code points).
    """
    for at in range(len(text) - 1, 0, -1):
        is_joining = "\u1160" <= text[at] <= "\u11ff" or unicodedata.category(text[at])[0] == "M"
        if not is_joining:
            return at
    return 0


def _utf8(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8("text", error, 0, [data[: error.start]]) from None


def code_points(text: str) -> np.ndarray:
    """The code points of a text: [n], as uint8, uint16 or uint32."""
    try:
        return np.frombuffer(text.encode("latin-1"), np.uint8)
    except UnicodeEncodeError:
        pairs = text.encode("utf-16-le", "surrogatepass")
    if len(pairs) == 2 * len(text):
        return np.frombuffer(pairs, "<u2")
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def place(file: TextFile, reading: Reading, index: int) -> str:
    """Where character `index` of a file stands: "FILE:LINE:COLUMN", counted from 1, or for a byte "FILE: offset N".

    The file is read again up to there.
    """
    if reading.as_bytes:
        return f"{file.path}: offset {index}"
    line, column = 1, 1
    for block in blocks(file, reading):
        before = block.codes[:index]
        line_ends = np.flatnonzero(before == LINE_END)
        line += len(line_ends)
        column = len(before) - int(line_ends[-1]) if len(line_ends) else column + len(before)
        index -= len(before)
        if not index and len(before) < len(block.codes):
            break
    return f"{file.path}:{line}:{column}"


def _not_utf8(name: str, error: UnicodeDecodeError, at: int, before: Iterable[bytes]) -> TextError:
    """The TextError for what is not UTF-8.

    Args:
        at: the offset in the text of the bytes that were decoded.
        before: what comes before the error in the text, in pieces.
    """
    line, column = 1, 1
    for piece in before:
        last = piece.rfind(b"\n")
        line, column = line + piece.count(b"\n"), 1 if last >= 0 else column
        # Every character has one byte that does not continue another, as 0x80 to 0xBF, here -128 to -65, do.
        column += int(np.count_nonzero(np.frombuffer(piece[last + 1 :], np.int8) > -65))
    return TextError(
        f"{name}:{line}:{column}: expected UTF-8, found byte 0x{error.object[error.start]:02x} at offset "
        f"{at + error.start} ({error.reason}); a model that is trained with {option('encoding', 'latin-1')} or {option('bytes', True)} reads any file"
    )


def _beginning(descriptor: int) -> int:
    """Where the text of a file begins: after its byte order mark, if it has one."""
    mark = codecs.BOM_UTF8
    return len(mark) if os.pread(descriptor, len(mark), 0) == mark else 0
