"""What a command reads from and writes to: the standard streams, and files that are written whole or not at all.

Standard output is for a command's product, standard error for messages about it. A message must not end the command, so
standard error accepts everything, even after its terminal or its reader has gone. An error of standard output does end
the command.
"""

import codecs
import errno
import io
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from cuchar.errors import OutputError, TextError
from cuchar.launch import launched

STREAM = Path("-")  # in place of a file's name: standard input for a text, standard output for a result
STDIN_TWICE = f"{STREAM}: expected standard input to be named once, found it twice"
# Control characters (C0 and C1), characters that change the direction of text, and surrogates, which stand for
# undecodable bytes in a file's name.
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")  # what `write_file` calls a file until it is whole


class ReaderGone(Exception):
    """Nobody reads standard output any more, as when `| head` has ended. What is written after that is thrown away."""


class _Product(io.FileIO):
    """Standard output, which raises ReaderGone instead of BrokenPipeError, at which rich would end the process."""

    def write(self, data: Any, /) -> Any:
        try:
            return super().write(data)
        except BrokenPipeError:
            silence_stdout()
            raise ReaderGone from None


class _Forgiving(io.FileIO):
    """Standard error, which accepts whatever is written to it, even after its reader or its terminal has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or len(data)  # write returns None if it must not block and there is no room
        except OSError:
            return len(data)


def prepare_streams() -> None:
    """Make this process's standard streams what the rest of the program expects.

    A stream that is closed is opened in such a way that using it fails, as gnulib's stdopen does. Otherwise a file that
    is opened later could get its number, and would receive what is meant for the stream. A terminal gets the characters
    that it can show, and escapes for others; files and pipes always get UTF-8.
    """
    for descriptor, contrary in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, contrary), True)  # open takes the lowest free number, which is this
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    sys.stdout = _text(_Product(1, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Forgiving(2, "w", closefd=False), sys.stderr)


def _text(raw: io.FileIO, replaced: TextIO | None) -> TextIO:
    encoding = replaced.encoding if replaced and raw.isatty() else "utf-8"
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=True)


def escape(text: str, keep: str = "") -> str:
    """`text` with all CONTROLS but those in `keep` escaped as Python writes them: \\x1b, \\n, \\u202e."""
    return CONTROLS.sub(lambda found: found[0] if found[0] in keep else repr(found[0])[1:-1], text)


def say(text: str) -> None:
    """Print one line on standard error; control characters in it, as names of files may have, are escaped.

    Of several processes that train together, rank 0 speaks for all.
    """
    if launched().rank == 0:
        say_from_any_rank(text)


def say_from_any_rank(text: str) -> None:
    """Do what `say` does, whichever rank this process has."""
    print(escape(text), file=sys.stderr, flush=True)


@contextmanager
def opened_stdin() -> Iterator[BinaryIO]:
    """A context with standard input, to be read; after it, standard input is closed.

    Raises:
        TextError: it was read before, because `-` was given twice.
    """
    if sys.stdin.closed:
        raise TextError(STDIN_TWICE)
    with sys.stdin as stdin:
        yield stdin.buffer


def write_stdout(data: bytes) -> None:
    """Write bytes to standard output unaltered and at once.

    Raises:
        ReaderGone: nobody reads the pipe any more.
        OSError: standard output cannot be written to.
    """
    sys.stdout.flush()  # so that what was printed before comes first
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def silence_stdout() -> None:
    """Throw away what is still buffered for standard output and all that follows.

    Otherwise Python would try to write it when it exits, and fail again.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class TextOutput:
    """Writes a model's text to standard output piece by piece, each at once.

    A terminal would obey control characters, so it gets them escaped, all but newlines and tabs. Bytes that are not
    UTF-8 and characters that its encoding lacks are escaped too. Files and pipes get what the model wrote. What takes
    text alone in place of standard output, as a notebook does, is treated like a terminal.

    Args:
        raw: whether a terminal, too, gets what the model wrote.
    """

    def __init__(self, raw: bool = False):
        self._takes_bytes = hasattr(sys.stdout, "buffer")
        self._as_it_is = self._takes_bytes and (raw or not sys.stdout.isatty())
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")  # a piece may end within a character

    def write(self, text: bytes) -> None:
        """Write the next piece of text; the errors are those of `write_stdout`."""
        if self._as_it_is:
            write_stdout(text)
            return
        shown = escape(self._decoder.decode(text), keep="\n\t")
        if self._takes_bytes:
            write_stdout(shown.encode(sys.stdout.encoding, "backslashreplace"))
        else:
            print(shown, end="", flush=True)


def expect_output(option: str, output: Path, inputs: Iterable[Path], binary: bool = False) -> None:
    """Check, before any work is done, that a result may and can be written to `output`.

    Args:
        option: the option or argument that named it on the command line.
        output: a file, or `-` for standard output.
        inputs: files that the command reads (`-` is standard input), and those of the run that it reads from.
        binary: whether the result is bytes, which are not for a terminal.
    Raises:
        OutputError: the output is one of the inputs, whatever its name; it is a folder, or in a folder that is not
            there or may not be written to; or it is a terminal, and the result is bytes.
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
    if _replaced(output) and not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"{option} {output}: expected a folder that may be written to, found: {os.strerror(errno.EACCES)}"
        )


def write_output(output: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a result, whole or in pieces as they are made, to the place that the user named.

    A regular file, also at the end of a link, is replaced at once or not at all. Standard output (`-`), a pipe, a
    device and an open descriptor (/dev/stdout, /dev/fd/63) are written to directly.

    Raises:
        OutputError: the output could not be written.
        ReaderGone: nobody reads standard output any more.
    """
    pieces = _Pieces([data] if isinstance(data, bytes) else data)
    target = _replaced(output)
    if target is not None:
        write_file(target, pieces)
        return
    descriptor = _descriptor(output)
    if output == STREAM or descriptor == 1:
        for piece in pieces:
            write_stdout(piece)
        return
    try:
        with suppress(BrokenPipeError), open(output if descriptor is None else os.dup(descriptor), "wb") as file:
            file.writelines(pieces)
    except OSError as error:
        raise OutputError(f"{output}: expected to write {pieces.size:,} bytes, found: {error.strerror}") from None


def _replaced(output: Path) -> Path | None:
    """The file that a result replaces or makes; None if the result is written directly to what is there."""
    target = Path(os.path.realpath(output))
    is_direct = output == STREAM or _descriptor(output) is not None or (target.exists() and not target.is_file())
    return None if is_direct else target


class _Pieces:
    """Data that are written piece by piece. `size` is how many bytes of them there are so far."""

    def __init__(self, pieces: Iterable[bytes]):
        self._pieces, self.size = pieces, 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.size += len(piece)
            yield piece


def write_file(path: Path, data: bytes | Iterable[bytes], folder: int | None = None) -> None:
    """Replace `path` by `data`, whole or in pieces as they are made, at once or not at all.

    Args:
        folder: a descriptor of the folder that `path` is in. With it, a folder that has taken that folder's name
            meanwhile is never written into. With None, the folder that has the name now is opened.
    Raises:
        OutputError: the file could not be written; the old file is still there, and no temporary file is left. Or the
            new one is there, and only the wait for its name to be on disk has failed.
    """
    temporary = f".{path.name}.{os.getpid()}.tmp"
    held, is_replaced, pieces = folder, False, _Pieces([data] if isinstance(data, bytes) else data)
    try:
        if held is None:
            held = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o666, dir_fd=held), "wb") as file:
            with suppress(FileNotFoundError):  # the new file gets the permissions of the one that it replaces
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(path.name, dir_fd=held).st_mode))
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path.name, src_dir_fd=held, dst_dir_fd=held)
        is_replaced = True
        os.fsync(held)
    except OSError as error:
        kept = f"; {path.name} there is the one before" if path.exists() else ""
        if is_replaced:
            kept = f"; {path.name} there is the new one, which a power cut may take away"
        raise OutputError(f"{path}: expected to write {pieces.size:,} bytes, found: {error.strerror}{kept}") from None
    finally:
        if held is not None:
            with suppress(OSError):  # the temporary file is there only if something failed, or Ctrl-C came
                os.unlink(temporary, dir_fd=held)
            if folder is None:
                os.close(held)


def _same(output: Path, file: Path) -> bool:
    """Whether writing to `output` would change what is read from `file`.

    That is so if both are names of one regular file, or of one file that is not there yet, but never for pipes and
    devices.
    """
    try:
        written, read = _status(output, 1), _status(file, 0)
    except OSError:
        return os.path.realpath(output) == os.path.realpath(file)
    return stat.S_ISREG(written.st_mode) and os.path.samestat(written, read)


def _status(path: Path, stream: int) -> os.stat_result:
    return os.fstat(stream) if path == STREAM else path.stat()


def _descriptor(path: Path) -> int | None:
    """The open descriptor that `path` is another name of, as /dev/stdout is of 1; None if it is of none."""
    with suppress(OSError):
        path.stat()  # raises an OSError for a circle of links
        while os.path.realpath(path.parent) != os.path.realpath("/dev/fd"):
            path = path.parent / path.readlink()
        return int(path.name)
    return None
