"""The folder of a training run: which files are in it, who may write to it, and what its last checkpoint refers to.

The files are config.json, metrics.jsonl (one object a line), samples.txt, last.safetensors and best.safetensors. While
a run is training, its folder is held open by a descriptor, and every file in it is reached through that, so that a
folder which takes its place meanwhile is never written into. The descriptor also carries the lock, which ends with the
process, however that ends. Whatever else is in the folder is left alone, such as what a callback keeps in tensorboard/.

A run goes on from last.safetensors. It says how long the logs were when it was written, and what the best validation
loss was. A resumed run does again what came after that, so `roll_back` undoes it first: it cuts the logs, and restores
the best model that last.safetensors knows of. best.safetensors is written after last.safetensors, as a copy of it.
Only the report at a run's end may write a better one later. It keeps the one before in previous-best.safetensors,
since a run that is given more steps goes on from before that report.

A run by `--on-nan rollback` goes back to a checkpoint that every run would have written there, interrupted or not. If
last.safetensors is another one, since the run was interrupted or had ended, previous-last.safetensors is that one.
"""

import fcntl
import json
import math
import os
import stat
from contextlib import suppress
from pathlib import Path
from time import sleep
from typing import Any, BinaryIO

from cuchar.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from cuchar.errors import CheckpointError, RunError
from cuchar.files import TEMPORARY, write_file
from cuchar.schema import CONFIG, parse_json
from cuchar.wording import command_to_resume

LOGS = ("metrics.jsonl", "samples.txt")
CHECKPOINTS = ("last.safetensors", "best.safetensors", "previous-best.safetensors", "previous-last.safetensors")
FILES = ("config.json", *LOGS, *CHECKPOINTS)
LOCK_TRIES = 5  # a look by `is_in_use` holds a lock too, but for microseconds only, and must not stop a training
LOCK_PAUSE_S = 0.02


class RunFolder:
    """An open, locked run folder; make one with `create` or `reopen`."""

    def __init__(self, path: Path, descriptor: int, made: list[Path]):
        """
        Args:
            descriptor: of the open and locked folder.
            made: the folders that were made for the run, innermost first.
        """
        self.path, self._descriptor, self._made = path, descriptor, made
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
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            for made in missing:
                _sync_folder(made.parent)
        except OSError as error:
            raise RunError(f"{path}: expected to make a run folder, found: {error.strerror}") from None
        folder = cls(path, _open_locked(path), missing)
        try:
            expect_no_run(path)
            if folder._status(folder.config_file):
                folder.read_config()  # raises an error if it is not a run's
            folder.write_config(config)
        except BaseException:
            folder._remove_folders()
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
            raise RunError(f"{path}: expected a run folder with a config.json, found none")
        return cls(path, _open_locked(path), [])

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
        try:
            with self._open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as opened:
                opened.write(data)
        except OSError as error:
            raise RunError(f"{log}: expected to add {len(data)} bytes, found: {error.strerror}") from None

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

    def complete_best(self, checkpoint: Checkpoint) -> None:
        """Write best.safetensors if `checkpoint`, the last one, is the best model too and was not copied to it yet."""
        run = checkpoint.run
        if run.get("best_step") == run["position"]["step"] and _loss_of(self.best) != run["best"]:
            self.save_best(checkpoint)

    def roll_back(self, checkpoint: Checkpoint | None) -> float:
        """Make the folder what it was when `checkpoint`, its last one, was written; with None, before any step.

        Returns:
            the best validation loss so far, or infinity if there is none or its model cannot be read.
        Raises:
            RunError: a log is shorter than it was then, or is not a regular file.
        """
        lengths = checkpoint.run["lengths"] if checkpoint else {}
        for log in (self.metrics, self.samples):
            length, found = lengths.get(log.name, 0), self._size(log)
            if found < length:
                raise RunError(f"{log}: expected the {length:,} bytes that {self.last.name} counts on, found {found:,}")
            if found > length:
                with self._open(log, os.O_WRONLY) as opened:
                    opened.truncate(length)
        if checkpoint is None or checkpoint.run["best"] is None:
            self._remove(self.best.name)
            return math.inf
        loss = checkpoint.run["best"]
        if _loss_of(self.best) != loss and _loss_of(self.previous_best) == loss:
            self._rename(self.previous_best, self.best)
        return math.inf if _loss_of(self.best) is None else loss

    def has_report(self, checkpoint: Checkpoint) -> bool:
        """Whether metrics.jsonl has at least one more whole line than when `checkpoint` was written."""
        try:
            with self._open(self.metrics, os.O_RDONLY) as opened:
                opened.seek(checkpoint.run["lengths"]["metrics.jsonl"])
                return opened.read().endswith(b"\n")
        except OSError:
            return False

    def save_last(self, checkpoint: Checkpoint) -> None:
        """Replace last.safetensors, after the logs whose lengths it states are safely on disk."""
        self.sync()
        write_checkpoint(self.last, checkpoint, self._descriptor)
        self._remove(self.previous_best.name)

    def save_best(self, checkpoint: Checkpoint) -> None:
        write_checkpoint(self.best, checkpoint, self._descriptor)

    def set_best_aside(self) -> None:
        """Rename best.safetensors to previous-best.safetensors, before a better model takes its name."""
        if self._status(self.best):
            self._rename(self.best, self.previous_best)

    def set_last_aside(self) -> None:
        """Copy last.safetensors to previous-last.safetensors, before another checkpoint takes its place."""
        with self._open(self.last, os.O_RDONLY) as opened:
            write_file(self.previous_last, opened.read(), self._descriptor)

    def forget_previous_last(self) -> None:
        self._remove(self.previous_last.name)

    def sync(self) -> None:
        """Wait until the logs are safely on disk."""
        for log in (self.metrics, self.samples):
            with suppress(FileNotFoundError), self._open(log, os.O_RDONLY) as opened:
                os.fsync(opened.fileno())
        os.fsync(self._descriptor)

    def discard_unused(self) -> None:
        """Undo `create`, unless something was logged or saved since."""
        if not self._results():
            self._remove(self.config_file.name)
            self._remove_folders()

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

    def _rename(self, file: Path, to: Path) -> None:
        os.rename(file.name, to.name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def _remove_unfinished_files(self) -> None:
        """Remove what a killed process had not finished writing; since the folder is locked, nobody is writing now."""
        for name in os.listdir(self._descriptor):
            unfinished = TEMPORARY.fullmatch(name)
            if unfinished and unfinished[1] in ("config.json", *CHECKPOINTS):
                self._remove(name)

    def _remove_folders(self) -> None:
        with suppress(OSError):  # a folder that holds something else by now stays
            for folder in self._made:
                folder.rmdir()


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


def _open_locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RunError(f"{path}: expected a folder to write to, found: {error.strerror}") from None
    for tries_left in reversed(range(LOCK_TRIES)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError:
            if tries_left:
                sleep(LOCK_PAUSE_S)
    os.close(descriptor)
    raise RunError(f"{path}: expected a folder nobody trains in, found another training at work")


def is_in_use(path: Path) -> bool:
    """Whether a training is at work in a run folder; False also for a folder that may not be opened."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # several may look at once
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks, on which nothing can train either
        return False
    finally:
        os.close(descriptor)  # gives the lock back
    return False


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
