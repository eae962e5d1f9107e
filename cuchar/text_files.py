"""Which files a text is made of: those that were named, and those in the folders that were named.

A text is read twice, and from any place, so what can be read only once, as standard input and pipes, is copied to a
temporary file first.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from cuchar.errors import TextError
from cuchar.files import STDIN_TWICE, STREAM, opened_stdin
from cuchar.wording import command_to_resume, option

CACHE_TAG = (
    "CACHEDIR.TAG"  # stands in folders of what can be made again, as text_cache.py's; see https://bford.info/cachedir
)
AT_ONCE = 1 << 20  # bytes that are read or copied at once


class TextFile:
    """A file of text, which can be read more than once.

    Args:
        path: the file; `-` is standard input.
    Raises:
        TextError: what can be read only once cannot be read or copied.
    """

    def __init__(self, path: Path):
        self.path = path
        self._copy = _copy_of(path) if _is_read_once(path) else None

    @property
    def is_copy(self) -> bool:
        """Whether the bytes lie in a temporary file, and `path` no longer gives them."""
        return self._copy is not None

    @contextmanager
    def opened(self) -> Iterator[int]:
        """A context with a descriptor, for `os.pread` and `os.fstat`.

        Raises:
            TextError: the file cannot be opened, or what is done in the context raised an OSError.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY) if self._copy is None else os.dup(self._copy.fileno())
        except (OSError, ValueError) as error:
            raise unreadable(self.path, error) from None
        try:
            yield descriptor
        except OSError as error:
            raise unreadable(self.path, error) from None
        finally:
            os.close(descriptor)


def pieces(descriptor: int, end: int, start: int = 0) -> Iterator[bytes]:
    """The bytes of a file from `start` to before `end`, AT_ONCE at a time; fewer if it has no more."""
    while piece := os.pread(descriptor, min(AT_ONCE, end - start), start):
        yield piece
        start += len(piece)


def _is_read_once(path: Path) -> bool:
    """Whether this is standard input, a pipe, a socket or a device."""
    try:
        return path == STREAM or stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR)
    except (OSError, ValueError):
        return False


def _copy_of(path: Path) -> BinaryIO:
    """A temporary file without a name, which has all bytes of standard input, a pipe or a device."""
    try:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed when its TextFile is gone)
    except OSError as error:
        raise _no_room(path, error) from None
    try:
        with opened_stdin() if path == STREAM else path.open("rb") as source:
            while data := source.read(AT_ONCE):
                try:
                    copy.write(data)
                    copy.flush()
                except OSError as error:
                    raise _no_room(path, error) from None
                if len(data) < AT_ONCE:  # the end; to read once more would ask a terminal for a second Ctrl-D
                    break
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    return copy


def _no_room(path: Path, error: OSError) -> TextError:
    return TextError(
        f"{path}: expected room for a copy of it in the temporary folder, found: {error.strerror}; "
        "the environment variable TMPDIR names another one"
    )


def absolute(text: str | Path) -> str:
    """The absolute path of a text, which a run stores to find the text again, or `-` for standard input."""
    return str(text) if Path(text) == STREAM else str(Path(text).resolve())


def expect_kept(texts: Sequence[str], what: str) -> Sequence[str]:
    """Check that texts which a run has stored (`absolute`) can be read again, and return them.

    Raises:
        TextError: one of them was standard input.
    """
    if str(STREAM) in texts:
        raise TextError(
            f"{what}: expected it again, as a file or as -, because it came from standard input, found none"
        )
    return texts


def text_files(paths: Sequence[str | Path], glob: str | None = None) -> list[Path]:
    """`paths` with every folder replaced by the files in it.

    Raises:
        TextError: there is nothing at a path, a folder is that of a run or has no file to read, or standard input is named
            twice.
    """
    files: list[Path] = []
    for given in paths:
        path = Path(given)
        if path == STREAM:
            if path in files:
                raise TextError(STDIN_TWICE)
            files.append(path)
            continue
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except (OSError, ValueError) as error:
            raise unreadable(given, error) from None
        files += _files_in(path, glob) if is_folder else [path]
    if not files:
        raise TextError("expected at least one text file, found none")
    return files


def _files_in(folder: Path, glob: str | None) -> list[Path]:
    """The regular files in a folder, sorted, at any depth, whose names match `glob`.

    Hidden files and folders, links to folders (which may form loops), caches and the folders of runs are left out.
    Files and folders that may not be looked at are included: to read them gives the error that says why.
    """
    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=lambda error: found.append(Path(error.filename))):
        if CACHE_TAG in names:
            folders.clear()
            continue
        if _is_run(names):
            if Path(parent) == folder:
                hint = f"{command_to_resume(folder)} goes on with it"
                raise TextError(f"{folder}: expected a text, found the folder of a run; {hint}")
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        named = (name for name in names if not name.startswith(".") and (glob is None or fnmatchcase(name, glob)))
        found.extend(file for name in named if _may_be_text(file := Path(parent, name)))
    if not found:
        matching = "" if glob is None else f" whose name matches {option('glob', glob)}"
        raise TextError(f"{folder}: expected a folder with text files, found none in it{matching}")
    return sorted(found)


def _is_run(names: Sequence[str]) -> bool:
    """Whether a folder with these files is one that `cuchar train` writes."""
    return "config.json" in names and ("metrics.jsonl" in names or "last.safetensors" in names)


def _may_be_text(file: Path) -> bool:
    """Whether this is a regular file, not a pipe, socket or device, which a reader would wait for."""
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return True


def unreadable(path: str | Path, error: OSError | ValueError) -> TextError:
    """The TextError for a path that cannot be read; it considers that someone gave a text in place of its path."""
    name = str(path)
    missing = isinstance(error, FileNotFoundError)
    if not isinstance(error, OSError) or error.errno == errno.ENAMETOOLONG or (missing and "\n" in name):
        return TextError(f"expected the path of a text file, found a text of {len(name):,} characters")
    if missing:
        return TextError(f"{name}: expected a text file, found no such file")
    return TextError(f"{name}: expected a readable file, found: {error.strerror}")
