"""Files that are written whole or not at all, and where the results that a user asks for may go."""

import os
import re
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from cuchar.errors import OutputError
from cuchar.streams import STREAM, write_stdout

TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")  # what `write_file` calls a file until it is whole


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
