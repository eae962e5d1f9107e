"""The folder of a training run: which files are in it, who may write to it, and what its last checkpoint refers to.

The files are config.json, metrics.jsonl (one object a line), samples.txt, last.safetensors and best.safetensors. While
a run is training, its folder is held open by a descriptor, and every file in it is reached through that, so that a
folder which takes its place meanwhile is never written into. The descriptor also carries the lock, which ends with the
process, however that ends. Whatever else is in the folder is left alone, such as what a callback keeps in tensorboard/.

A run goes on from last.safetensors. It says how long the logs were when it was written, and what the best validation
loss was. A resumed run does again what came after that, so `roll_back` undoes it first: it cuts the logs, and restores
the best model that last.safetensors knows of. best.safetensors is written after last.safetensors, as a copy of it.
Only the report at a run's end may write a better one later. It keeps a copy of the one before in
previous-best.safetensors, since a run that is given more steps goes on from before that report.

What comes after a power cut to be on disk need not be what was written first. So everything that a later change counts
on is waited for by fsync before that change is made. Files other than temporary ones are copied and never renamed, since
a rename is two changes, of which the second may come to the disk alone. tests/support/power_cut.py says what the tests expect of a disk.

A run by `--on-nan rollback` goes back to a checkpoint that every run would have written there, interrupted or not. If
last.safetensors is another one, since the run was interrupted or had ended, previous-last.safetensors is that one.
"""

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from cuchar.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from cuchar.errors import CheckpointError, RunError
from cuchar.files import TEMPORARY, write_file
from cuchar.folder_lock import lock_folder
from cuchar.schema import CONFIG, parse_json
from cuchar.wording import command_to_resume

LOGS = ("metrics.jsonl", "samples.txt")
CHECKPOINTS = ("last.safetensors", "best.safetensors", "previous-best.safetensors", "previous-last.safetensors")
FILES = ("config.json", *LOGS, *CHECKPOINTS)


class RunFolder:
    """An open, locked run folder; make one with `create` or `reopen`."""

    def __init__(self, path: Path, descriptor: int, lock_note: str | None, made: list[Path]):
        """
        Args:
            descriptor: of the open and locked folder.
            lock_note: what a user must know of the lock, or None.
            made: the folders that were made for the run, innermost first.
        """
        self.path, self._descriptor, self._made = path, descriptor, made
        self.notes = [lock_note] if lock_note else []
        self.config_file = path / "config.json"
        self.metrics, self.samples = (path / name for name in LOGS)
        self.last, self.best, self.previous_best, self.previous_last = (path / name for name in CHECKPOINTS)
        self._remove_unfinished_files()

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "RunFolder":
        """Make a new run's folder and its config.json; if that fails, nothing is left behind.

        The folder may hold the config.json of a run that was killed before it had logged or saved anything.

        Raises:
            RunError: the folder holds a run, is in use, or cannot be made.
            OutputError: config.json cannot be written.
        """
        made = _make_folders(path)
        folder = cls(path, *lock_folder(path), made)
        try:
            expect_no_run(path)
            if folder._status(folder.config_file):
                folder.read_config()  # raises an error if it is not a run's
            folder.write_config(config)
        except BaseException:
            _remove_folders(made)
            folder.close()
            raise
        return folder

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Lock a folder that holds a run.

        Raises:
            RunError: the folder holds no run, or is in use.
        """
        if not (path / "config.json").is_file():
            hint = "; if a run had only just begun there, begin it again" if path.is_dir() else ""
            raise RunError(f"{path}: expected a run folder with a config.json, found none{hint}")
        return cls(path, *lock_folder(path), [])

    def read_config(self) -> dict[str, Any]:
        """What config.json says.

        Raises:
            RunError: it cannot be read, or is not a run's configuration.
        """
        try:
            with self._open(self.config_file, os.O_RDONLY) as opened:
                return CONFIG.check(parse_json(opened.read().decode(), "configuration"), "")
        except OSError as error:
            found = error.strerror
        except ValueError as error:
            found = str(error)
        raise RunError(f"{self.config_file}: expected a run's configuration, found a wrong one: {found}")

    def write_config(self, config: dict[str, Any]) -> None:
        write_file(self.config_file, (json.dumps(config, indent=2) + "\n").encode(), self._descriptor)

    def append(self, log: Path, data: bytes) -> None:
        """Append to metrics.jsonl or samples.txt.

        Raises:
            RunError: it could not be written, or is not a regular file.
        """
        with (
            _telling(log, f"to add {len(data)} bytes"),
            self._open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as opened,
        ):
            opened.write(data)

    def lengths(self) -> dict[str, int]:
        """How many bytes metrics.jsonl and samples.txt have now."""
        return {log.name: self._size(log) for log in (self.metrics, self.samples)}

    def read_last(self) -> Checkpoint | None:
        """The last checkpoint, or None if the run has saved none yet.

        Raises:
            CheckpointError: it is damaged.
            RunError: it is missing, although there is another one.
        """
        if self._status(self.last):
            return read_checkpoint(self.last)
        for other in (self.best, self.previous_best, self.previous_last):
            if self._status(other):
                raise RunError(
                    f"{self.last}: expected the run's newest checkpoint, found none beside {other.name}; "
                    f"a copy of {other.name} under its name lets the run go on from there"
                )
        return None

    def read_last_due(self) -> Checkpoint | None:
        """The checkpoint that was set aside as previous-last.safetensors, or the last one if there is none."""
        return read_checkpoint(self.previous_last) if self._status(self.previous_last) else self.read_last()

    def complete_save(self, checkpoint: Checkpoint, is_due: bool) -> None:
        """Do what comes after the writing of `checkpoint`, the last one, as far as the run had no time for it.

        If it is the best model too, it becomes best.safetensors. What was kept until it was written is removed.
        """
        run, found = checkpoint.run, _loss_of(self.best)
        if run.get("best_step") == run["position"]["step"] and found != run["best"]:
            self.save_best(checkpoint)
            found = run["best"]
        if found == run["best"]:  # else the report has written a better one
            self._remove(self.previous_best.name)
        if is_due:
            self.forget_previous_last()

    def roll_back(self, checkpoint: Checkpoint | None) -> float:
        """Make the folder what it was when `checkpoint`, its last one, was written; with None, before any step.

        Returns:
            the best validation loss so far, or infinity if there is none or its model cannot be read.
        Raises:
            RunError: a log is shorter than it was then, is not a regular file, or cannot be cut.
        """
        lengths = checkpoint.run["lengths"] if checkpoint else {}
        for log in (self.metrics, self.samples):
            length, found = lengths.get(log.name, 0), self._size(log)
            if found < length:
                raise RunError(f"{log}: expected the {length:,} bytes that {self.last.name} counts on, found {found:,}")
            if found > length:
                with _telling(log, f"to cut it to {length:,} bytes"), self._open(log, os.O_WRONLY) as opened:
                    opened.truncate(length)
                    os.fsync(opened.fileno())  # while metrics.jsonl has the report, samples and best model must too
        if checkpoint is None or checkpoint.run["best"] is None:
            self._remove(self.best.name)
            return math.inf
        loss = checkpoint.run["best"]
        if _loss_of(self.best) != loss and _loss_of(self.previous_best) == loss:
            self._copy(self.previous_best, self.best)
        return math.inf if _loss_of(self.best) is None else loss

    def has_report(self, checkpoint: Checkpoint) -> bool:
        """Whether metrics.jsonl has at least one more whole line than when `checkpoint` was written.

        A power cut can leave the end of a line without its beginning.
        """
        try:
            with self._open(self.metrics, os.O_RDONLY) as opened:
                opened.seek(checkpoint.run["lengths"]["metrics.jsonl"])
                added = opened.read()
            return added.endswith(b"\n") and all(type(json.loads(line)) is dict for line in added.splitlines())
        except (OSError, ValueError, RecursionError):
            return False

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Replace last.safetensors, after the logs whose lengths it states are safely on disk."""
        self.sync()
        write_checkpoint(self.last, checkpoint, self._descriptor)
        self._remove(self.previous_best.name)

    def save_best(self, checkpoint: Checkpoint) -> None:
        write_checkpoint(self.best, checkpoint, self._descriptor)

    def set_best_aside(self) -> None:
        """Copy best.safetensors to previous-best.safetensors, before a better model takes its name."""
        if self._status(self.best):
            self._copy(self.best, self.previous_best)

    def set_last_aside(self) -> None:
        """Copy last.safetensors to previous-last.safetensors, before another checkpoint takes its place."""
        self._copy(self.last, self.previous_last)

    def forget_previous_last(self) -> None:
        self._remove(self.previous_last.name)

    def sync(self) -> None:
        """Wait until the logs are safely on disk.

        Raises:
            RunError: the disk does not take them.
        """
        for log in (self.metrics, self.samples):
            with (
                _telling(log, "to have it on disk"),
                suppress(FileNotFoundError),
                self._open(log, os.O_RDONLY) as opened,
            ):
                os.fsync(opened.fileno())
        with _telling(self.path, "to have it on disk"):
            os.fsync(self._descriptor)

    def discard_unused(self) -> None:
        """Undo `create`, as far as that can be done, unless something was logged or saved since."""
        if not self._results():
            with suppress(RunError):
                self._remove(self.config_file.name)
            _remove_folders(self._made)

    def close(self) -> None:
        os.close(self._descriptor)

    def _results(self) -> list[str]:
        """The names of the logs and checkpoints that are in the folder."""
        return [name for name in (*LOGS, *CHECKPOINTS) if self._status(self.path / name)]

    def _status(self, file: Path) -> os.stat_result | None:
        """The status of a file itself, not of what a link points to; None if there is no such file."""
        try:
            return os.stat(file.name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _size(self, log: Path) -> int:
        status = self._status(log)
        if status is None:
            return 0
        _expect_regular(log, status.st_mode)
        return status.st_size

    def _open(self, file: Path, flags: int) -> BinaryIO:
        """Open a regular file of the folder. A link is not followed, and a pipe that nobody writes to not waited for.

        Raises:
            RunError: it is not a regular file.
            OSError: it cannot be opened.
        """
        status = self._status(file)
        if status is not None:
            _expect_regular(file, status.st_mode)
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        opened = os.open(file.name, flags, 0o666, dir_fd=self._descriptor)
        return os.fdopen(opened, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "ab")

    def _copy(self, file: Path, to: Path) -> None:
        with _telling(file, "a readable file"), self._open(file, os.O_RDONLY) as opened:
            data = opened.read()
        write_file(to, data, self._descriptor)

    def _remove(self, name: str) -> None:
        """Remove a file, if it is there, and wait until it is gone from the disk too."""
        with _telling(self.path / name, "to remove it"), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)
            os.fsync(self._descriptor)

    def _remove_unfinished_files(self) -> None:
        """Remove what a killed process had not finished writing; since the folder is locked, nobody is writing now."""
        for name in os.listdir(self._descriptor):
            unfinished = TEMPORARY.fullmatch(name)
            if unfinished and unfinished[1] in ("config.json", *CHECKPOINTS):
                self._remove(name)


def _make_folders(path: Path) -> list[Path]:
    """Make a folder and those that it is to be in, and wait until each has its name on disk.

    That is done from without to within, and for the innermost one that was there before too, since a process that was
    killed may have made it and had no time to wait.

    Returns:
        the folders that were made, innermost first.
    Raises:
        RunError: a folder cannot be made; none that was made is left.
    """
    missing = [folder for folder in (path, *path.parents) if not _is_there(folder)]
    there = next(folder for folder in (path, *path.parents) if _is_there(folder))
    try:
        for folder in (there, *reversed(missing)):
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)
    except OSError as error:
        _remove_folders(missing)
        raise RunError(f"{path}: expected to make a run folder, found: {error.strerror}") from None
    return missing


def _is_there(folder: Path) -> bool:
    """Whether there is something at the path of a folder, be it a link to nowhere.

    Raises:
        RunError: that cannot be found out, so that no folder can be made there.
    """
    with _telling(folder, "to make a run folder"), suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(folder)
        return True
    return False


def _remove_folders(made: list[Path]) -> None:
    for folder in made:
        with suppress(OSError):  # a folder that holds something else by now stays
            folder.rmdir()


def expect_place_for_run(path: Path) -> None:
    """Check that a new run's folder can be made, without making it.

    Raises:
        RunError: there is a run, or the folder cannot be made or written to.
    """
    expect_no_run(path)
    there = next(folder for folder in (path, *path.parents) if _is_there(folder))
    is_folder = os.path.isdir(there)
    if not is_folder or not os.access(there, os.W_OK | os.X_OK):
        found = errno.EACCES if is_folder else errno.ENOTDIR
        raise RunError(f"{path}: expected to make a run folder, found: {os.strerror(found)}")


def expect_no_run(path: Path) -> None:
    """Check that a folder, if it is there at all, holds no run's results.

    Raises:
        RunError: it does.
    """
    for name in (*LOGS, *CHECKPOINTS):
        if os.path.lexists(path / name):
            raise RunError(
                f"{path}: expected a new run folder, found a run in it ({name}); {command_to_resume(path)} goes on with it"
            )


@contextmanager
def _telling(file: Path, expected: str) -> Iterator[None]:
    """A context in which an error of the operating system becomes a RunError that says what was expected of a file."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{file}: expected {expected}, found: {error.strerror}") from None


def _expect_regular(file: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise RunError(f"{file}: expected a regular file, found {'a link' if stat.S_ISLNK(mode) else 'something else'}")


def _loss_of(file: Path) -> float | None:
    """The best validation loss that a checkpoint states; None if the file cannot be read."""
    try:
        best: float | None = read_checkpoint(file).run["best"]
    except CheckpointError:
        return None
    return best


def _sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on disk, if it may be read, as waiting takes."""
    with suppress(PermissionError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
