"""The standard streams: standard output for the product, standard error for what is said about it.

What a command has to say must not end it: standard error takes everything, even after its terminal or its reader has
gone. Standard output's errors are the command's.
"""

import codecs
import io
import os
import re
import sys
from pathlib import Path
from typing import Any, TextIO

from cuchar.errors import TextError

STREAM = Path("-")  # as a file: standard input where a text is read, standard output where a result goes
# C0, C1, what reverses the direction of text, and surrogates, of which undecodable bytes in a file's name are made.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class ReaderGone(Exception):
    """Nobody reads standard output any more (`| head` has what it wanted). What is written after that goes nowhere."""


class _Product(io.FileIO):
    """Standard output. Whoever prints to it, rich too, which would end the process with 1, meets ReaderGone."""

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except BrokenPipeError:
            silence_stdout()
            raise ReaderGone from None


class _Forgiving(io.FileIO):
    """Standard error. It takes whatever is written to it, also after a pipe's reader or a terminal has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or len(data)  # None: it does not block, and is full
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Make this process's standard streams what the rest of the program expects.

    A closed one is opened so that what it is there for fails (gnulib's stdopen does the same): no file that is opened
    later gets its number and, with it, what is meant for the stream. A terminal gets the characters that it can show,
    and escapes for others; files and pipes get UTF-8 everywhere.
    """
    for descriptor, contrary in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, contrary), True)  # the lowest free number is this one
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = _text(_Product(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Forgiving(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, replaced: TextIO | None) -> TextIO:
    encoding = replaced.encoding if replaced and raw.isatty() else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True)


def escape(text: str, keep: str = "") -> str:
    """`text` with CONTROLS, but for those in `keep`, as Python writes them: \\x1b, \\n, \\u202e."""
    return CONTROLS.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)


def say(text: str) -> None:
    """A line on standard error, whatever names of files it has in it."""
    print(escape(text), file=sys.stderr, flush=True)


def read_stdin() -> bytes:
    """All of standard input; there is no more of it, so it is closed.

    Raises:
        TextError: it was read before: `-` was given twice.
        OSError: it cannot be read.
    """
    if sys.stdin.closed:
        raise TextError(f"{STREAM}: expected standard input to be named once, found it twice")
    with sys.stdin as stdin:
        return stdin.buffer.read()


def write_stdout(data: bytes) -> None:
    """The product, as it is, at once.

    Raises:
        ReaderGone: the pipe was closed.
    """
    sys.stdout.flush()  # what was printed before comes before
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def silence_stdout() -> None:
    """What is still buffered, and all that follows, goes nowhere: Python would fail again on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class TextOutput:
    """A model's text on standard output, piece by piece, at once.

    A terminal obeys control characters, so it is shown them escaped, but for newlines and tabs; likewise bytes that are
    not UTF-8, and what its encoding lacks. Files and pipes get what the model wrote.

    raw: a terminal, too, gets what the model wrote.
    """

    def __init__(self, raw: bool = False):
        self._as_it_is = raw or not sys.stdout.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")  # a piece may end within a character

    def write(self, text: bytes) -> None:
        """Raises: as `write_stdout`."""
        if not self._as_it_is:
            text = escape(self._decoder.decode(text), keep="\n\t").encode(sys.stdout.encoding, "backslashreplace")
        write_stdout(text)
