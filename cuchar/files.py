"""What a command reads from and writes to: the standard streams, and files that are written whole or not at all.

Standard output is for the product, standard error for what is said about it. What a command has to say must not end it:
standard error takes everything, even after its terminal or its reader has gone. Standard output's errors are the command's.
"""

import codecs
import io
import os
import re
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from cuchar.errors import OutputError, TextError

STREAM = Path("-")  # as a file: standard input where a text is read, standard output where a result goes
# C0, C1, what reverses the direction of text, and surrogates, of which undecodable bytes in a file's name are made.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")  # what `write_file` calls a file until it is whole


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


def expect_output(option: str, output: Path, inputs: Iterable[Path], binary: bool = False) -> None:
    """Complain before any work is done of a place where its result must not or cannot go.

    Args:
        option: what named it on the command line.
        output: a file, or `-` for standard output.
        inputs: files that the command reads (`-` is standard input), and those of the run that it reads from.
        binary: not for a terminal.
    Raises:
        OutputError: it is one of the inputs, under whatever name; a folder; in a folder that is not there; a
            terminal that would get bytes.
    """
    for file in inputs:
        if _same(output, file):
            raise OutputError(
                f"{option} {output}: expected a file of its own, found one that it reads or the run keeps: {file}"
            )
    if binary and output == STREAM and sys.stdout.isatty():
        raise OutputError(f"{option} -: expected a file or a pipe, found a terminal")
    if output.is_dir():
        raise OutputError(f"{option} {output}: expected a file to write, found a folder")
    target = Path(os.path.realpath(output))
    if target.is_symlink():
        raise OutputError(f"{option} {output}: expected a file, found links in a circle")
    if not target.parent.is_dir():
        raise OutputError(f"{option} {output}: expected a file in a folder that is there, found no {target.parent}")


def write_output(output: Path, data: bytes) -> None:
    """Write what the user asked for.

    A regular file, also at the end of a link, is replaced at once or not at all. Standard output (`-`), a pipe, a device
    and an open descriptor (/dev/stdout, /dev/fd/63) are written to as they are.

    Raises:
        OutputError: it could not be written.
        ReaderGone: standard output was closed.
    """
    descriptor = _descriptor(output)
    if output == STREAM or descriptor == 1:
        write_stdout(data)
        return
    target = Path(os.path.realpath(output))
    if descriptor is None and (target.is_file() or not target.exists()):
        write_file(target, data)
        return
    try:
        with suppress(BrokenPipeError), open(output if descriptor is None else os.dup(descriptor), "wb") as file:
            file.write(data)
    except OSError as error:
        raise OutputError(f"{output}: expected to write {len(data):,} bytes, found: {error.strerror}") from None


def write_file(path: Path, data: bytes, folder: int | None = None) -> None:
    """Replace `path` by `data` at once or not at all.

    Args:
        folder: a descriptor of the folder that `path` is in, for a writer who must not mistake another folder of the
            same name for it; None opens the folder that has the name now.
    Raises:
        OutputError: it could not be written; no temporary file is left.
    """
    temporary = f".{path.name}.{os.getpid()}.tmp"
    held = folder
    try:
        if held is None:
            held = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o666, dir_fd=held), "wb") as file:
            with suppress(FileNotFoundError):  # who may read the file stays the same
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path.name, dir_fd=held).st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path.name, src_dir_fd=held, dst_dir_fd=held)
        os.fsync(held)
    except OSError as error:
        kept = f"; {path.name} there is the one before" if path.exists() else ""
        raise OutputError(f"{path}: expected to write {len(data):,} bytes, found: {error.strerror}{kept}") from None
    finally:
        if held is not None:
            with suppress(OSError):  # it is there only if something failed, or Ctrl-C came
                os.unlink(temporary, dir_fd=held)
            if folder is None:
                os.close(held)


def _same(output: Path, file: Path) -> bool:
    """Whether writing to `output` would change what is read from `file`.

    Two names of one regular file are the same. So are two of one that is not there yet; pipes and devices never are.
    """
    try:
        written, read = _status(output, 1), _status(file, 0)
    except OSError:
        return os.path.realpath(output) == os.path.realpath(file)
    return stat.S_ISREG(written.st_mode) and os.path.samestat(written, read)


def _status(path: Path, stream: int) -> os.stat_result:
    return os.fstat(stream) if path == STREAM else path.stat()


def _descriptor(path: Path) -> int | None:
    """The open descriptor that `path` is another name of, as /dev/stdout is of 1."""
    with suppress(OSError):
        path.stat()  # a circle of links ends here
        while os.path.realpath(path.parent) != os.path.realpath("/dev/fd"):
            path = path.parent / path.readlink()
        return int(path.name)
    return None
