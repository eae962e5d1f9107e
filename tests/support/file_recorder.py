"""Records what a program does to the files below one folder, and can let any of these operations fail or be the last.

The recorder stands between Python and the kernel: while it watches, it takes the place of the calls by which cuchar
changes files. What is done by other calls would go unnoticed, so `Recorder.expect_complete` compares what was recorded
with what is really there. Nothing waits for the disk: `os.fsync` is recorded and not called.
"""

import builtins
import io
import linecache
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tree = dict[str, Any]  # by name: the bytes of a file, or the Tree of a folder


class Killed(BaseException):
    """The process is killed: whatever it still tries to change after this raises the same again."""


@dataclass(eq=False)
class File:
    """A file itself, whatever its names are; `data` is what it holds now, and `before` what it held at first."""

    before: bytes = b""
    data: bytearray = field(default_factory=bytearray)


@dataclass(eq=False)
class Folder:
    """A folder itself, whatever its name is; `entries` are those that it has now, and `before` those of the beginning."""

    before: dict[str, "File | Folder"] = field(default_factory=dict)
    entries: dict[str, "File | Folder"] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Write:
    file: File
    at: int
    data: bytes


@dataclass(frozen=True, eq=False)
class Truncate:
    file: File
    length: int


@dataclass(frozen=True, eq=False)
class Entry:
    """A folder's name begins to mean `node`, or nothing any more. A rename is two of these."""

    folder: Folder
    name: str
    node: File | Folder | None


@dataclass(frozen=True, eq=False)
class Sync:
    """The program waits until a file or folder is on disk.

    place: the function that called the one that waits, that one itself, and its line.
    """

    node: File | Folder
    place: str


@dataclass(frozen=True, eq=False)
class Mark:
    """A note of the test among the operations."""

    what: Any


Operation = Write | Truncate | Entry | Sync | Mark


class Recorder:
    """Watches the files below a folder.

    Args:
        root: the folder; nothing else may change it meanwhile. What is in it now counts as being on disk.
        before: is called before every operation with its number, from 1, and its kind: create, write, truncate, fsync,
            rename, unlink, mkdir or rmdir. What it raises, the program gets in place of the operation; a write that
            gets an OSError has written half of its data.
    """

    def __init__(self, root: Path, before: Callable[[int, str], None] = lambda number, kind: None):
        self.root, self.before = root, before
        self.folder = _read(root)
        self.operations: list[Operation] = []
        self.count = 0
        self.is_killed = False
        self._open: dict[int, File | Folder] = {}  # by descriptor

    @contextmanager
    def watch(self) -> Iterator[None]:
        """A context in which the files are watched; it may be entered again, as by another process."""
        self.is_killed = False
        owners = {
            os: {
                "open": self._os_open, "close": self._os_close, "fsync": self._fsync, "mkdir": self._mkdir,
                "rename": self._rename, "replace": self._rename, "unlink": self._unlink, "rmdir": self._rmdir,
            },
            builtins: {"open": self._open_file},
            io: {"open": self._open_file},
        }  # fmt: skip
        self._real = {name: getattr(os, name) for name in owners[os]} | {"open_file": io.open}
        before = [(owner, name, getattr(owner, name)) for owner, names in owners.items() for name in names]
        for owner, names in owners.items():
            for name, stand_in in names.items():
                setattr(owner, name, stand_in)
        try:
            yield
        finally:
            for owner, name, original in before:
                setattr(owner, name, original)
            for descriptor in self._open:  # as the kernel does when a process is killed
                os.close(descriptor)
            self._open.clear()

    def mark(self, what: Any) -> None:
        self.operations.append(Mark(what))

    def expect_complete(self) -> None:
        """Check that no change of a file or folder has gone unnoticed."""
        assert _tree(self.folder) == read_tree(self.root)

    def _look(self, kind: str) -> None:
        """Let the operation that is now due be the last, or fail, if it is to."""
        if self.is_killed:
            raise Killed
        self.count += 1
        try:
            self.before(self.count, kind)
        except Killed:
            self.is_killed = True
            raise

    def _find(self, path: Any, dir_fd: int | None) -> tuple[Folder | None, str]:
        """The folder in which `path` is, and its name there; None if it is not below the root, or is the root."""
        if dir_fd is not None:
            found = self._open.get(dir_fd)
            return (found if isinstance(found, Folder) else None), os.fspath(path)
        absolute = Path(os.path.abspath(path))
        if self.root not in absolute.parents:
            return None, ""
        folder: Any = self.folder
        for part in absolute.relative_to(self.root).parts[:-1]:
            folder = folder.entries.get(part) if isinstance(folder, Folder) else None
        return folder, absolute.name

    def _enter(self, folder: Folder, name: str, node: File | Folder | None) -> None:
        folder.entries.pop(name, None)
        if node is not None:
            folder.entries[name] = node
        self.operations.append(Entry(folder, name, node))

    # What takes the place of Python's calls.

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        folder, name = self._find(path, dir_fd)
        is_new = folder is not None and bool(flags & os.O_CREAT) and name not in folder.entries
        if is_new:
            self._look("create")
        descriptor = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        if folder is None:
            if os.path.abspath(path) == str(self.root):
                self._open[descriptor] = self.folder
            return descriptor
        if is_new:
            self._enter(folder, name, File())
        node = self._open[descriptor] = folder.entries[name]
        if flags & os.O_TRUNC and isinstance(node, File):
            self._truncated(node, 0)
        return descriptor

    def _os_close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._real["close"](descriptor)

    def _open_file(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) and isinstance(node := self._open.get(file), File):
            raw = _Watched(self, node, file, mode)
            return io.BufferedReader(raw) if mode == "rb" else io.BufferedWriter(raw)
        if not isinstance(file, int) and mode.strip("bt") != "r" and self._find(file, None)[0]:
            raise AssertionError(f"{file}: opened for writing in a way that is not watched")
        return self._real["open_file"](file, mode, *arguments, **options)

    def _fsync(self, descriptor: int) -> None:
        node = self._open.get(descriptor)
        if node is not None:
            self._look("fsync")
            frame = sys._getframe(1)
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).split("#")[0].strip()
            caller = frame.f_back.f_code.co_name if frame.f_back else ""
            self.operations.append(Sync(node, f"{caller} > {frame.f_code.co_name}: {line}"))

    def _mkdir(self, path: Any, mode: int = 0o777) -> None:
        folder, name = self._find(path, None)
        if folder is not None:
            self._look("mkdir")
        self._real["mkdir"](path, mode)
        if folder is not None:
            self._enter(folder, name, Folder())

    def _rename(self, path: Any, to: Any, *, src_dir_fd: int | None = None, dst_dir_fd: int | None = None) -> None:
        (folder, name), (new_folder, new_name) = self._find(path, src_dir_fd), self._find(to, dst_dir_fd)
        if folder is not None:
            self._look("rename")
        self._real["rename"](path, to, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if folder is not None and new_folder is not None:
            self._enter(new_folder, new_name, folder.entries[name])
            self._enter(folder, name, None)

    def _unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("unlink", path, dir_fd)

    def _rmdir(self, path: Any, *, dir_fd: int | None = None) -> None:
        self._removed("rmdir", path, dir_fd)

    def _removed(self, kind: str, path: Any, dir_fd: int | None) -> None:
        folder, name = self._find(path, dir_fd)
        if folder is not None and (name in folder.entries or self.is_killed):
            self._look(kind)
        self._real[kind](path, dir_fd=dir_fd)
        if folder is not None:
            self._enter(folder, name, None)

    def _written(self, file: File, at: int, data: bytes) -> None:
        file.data[at : at + len(data)] = data
        self.operations.append(Write(file, at, data))

    def _truncated(self, file: File, length: int) -> None:
        if length < len(file.data):
            del file.data[length:]
            self.operations.append(Truncate(file, length))


class _Watched(io.FileIO):
    """An open file whose writes and truncations are recorded."""

    def __init__(self, recorder: Recorder, node: File, descriptor: int, mode: str):
        super().__init__(descriptor, mode)
        self._recorder, self._node, self._descriptor = recorder, node, descriptor
        self._appends = mode == "ab"

    def write(self, data: Any, /) -> int:
        data = bytes(data)
        try:
            self._recorder._look("write")
        except OSError:
            self._write(data[: len(data) // 2])
            raise
        self._write(data)
        return len(data)

    def _write(self, data: bytes) -> None:
        at = len(self._node.data) if self._appends else self.tell()
        assert super().write(data) == len(data)
        self._recorder._written(self._node, at, data)

    def truncate(self, size: int | None = None, /) -> int:
        self._recorder._look("truncate")
        length = super().truncate(size)
        self._recorder._truncated(self._node, length)
        return length

    def close(self) -> None:
        self._recorder._open.pop(self._descriptor, None)
        super().close()


def _read(path: Path) -> Folder:
    folder = Folder()
    for child in path.iterdir():
        data = None if child.is_dir() else child.read_bytes()
        folder.entries[child.name] = _read(child) if data is None else File(data, bytearray(data))
    folder.before = dict(folder.entries)
    return folder


def _tree(folder: Folder) -> Tree:
    return {
        name: _tree(node) if isinstance(node, Folder) else bytes(node.data) for name, node in folder.entries.items()
    }


def read_tree(path: Path) -> Tree:
    """All files and folders that are in a folder now."""
    return {child.name: read_tree(child) if child.is_dir() else child.read_bytes() for child in path.iterdir()}


def write_tree(path: Path, tree: Tree) -> None:
    """Let these files and folders be all that is in a folder."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, content in tree.items():
        if isinstance(content, dict):
            write_tree(path / name, content)
        else:
            (path / name).write_bytes(content)
