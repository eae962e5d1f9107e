"""The folder of a training run: what is in it, who may write to it.

config.json, metrics.jsonl (one object a line), samples.txt, last.safetensors and
best.safetensors. The folder itself is locked while a training writes to it; the lock
goes with the process, however it ends.
"""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from cuchar.checkpoint import Checkpoint, write_checkpoint
from cuchar.errors import RunError
from cuchar.files import write_file

FILES = ("config.json", "metrics.jsonl", "samples.txt", "last.safetensors", "best.safetensors")
CONFIG_KEYS = {"texts", "sha256", "characters", "val", "val_sha256", "train"}


class RunFolder:
    """An open, locked run folder; make one with `create` or `reopen`."""

    def __init__(self, path: Path, lock: int):
        self.path, self._lock = path, lock
        self.config_file, self.metrics, self.samples, self.last, self.best = (path / name for name in FILES)

    @classmethod
    def create(cls, path: Path, config: dict[str, Any]) -> "RunFolder":
        """A new run's folder with its config.json; nothing is left behind if that fails.

        Raises:
            RunError: the folder holds a run, is in use, or cannot be made.
        """
        existed = path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{path}: expected to make a run folder, found: {error.strerror}") from None
        folder = cls(path, _lock_folder(path))
        try:
            held = [name for name in FILES if (path / name).exists()]
            if held:
                raise RunError(
                    f"{path}: expected a new run folder, found a run in it ({held[0]}); --resume {path} continues it"
                )
            folder.write_config(config)
        except BaseException:
            folder.close()
            if not existed:
                with suppress(OSError):
                    path.rmdir()
            raise
        return folder

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """Lock a folder that holds a run.

        Raises:
            RunError: no run there, or in use.
        """
        if not (path / "config.json").is_file():
            raise RunError(f"{path}: expected a run folder with a config.json, found none")
        return cls(path, _lock_folder(path))

    def read_config(self) -> dict[str, Any]:
        try:
            config = json.loads(self.config_file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.config_file}: expected a run's configuration, found: {error}") from None
        if not isinstance(config, dict) or not config.keys() >= CONFIG_KEYS:
            raise RunError(f"{self.config_file}: expected a run's configuration, found another JSON value")
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        write_file(self.config_file, (json.dumps(config, indent=2) + "\n").encode())

    def append(self, file: Path, data: bytes) -> None:
        """Add to metrics.jsonl or samples.txt.

        Raises:
            RunError: it could not be written.
        """
        try:
            with open(file, "ab") as opened:
                opened.write(data)
        except OSError as error:
            raise RunError(f"{file}: expected to add {len(data)} bytes, found: {error.strerror}") from None

    def lengths(self) -> dict[str, int]:
        """Bytes of metrics.jsonl and samples.txt now."""
        return {file.name: file.stat().st_size if file.exists() else 0 for file in (self.metrics, self.samples)}

    def truncate(self, lengths: dict[str, int]) -> None:
        """Cut metrics.jsonl and samples.txt back to what they were at a checkpoint."""
        for file in (self.metrics, self.samples):
            if file.exists():
                os.truncate(file, lengths.get(file.name, 0))

    def save(self, file: Path, checkpoint: Checkpoint) -> None:
        for log in (self.metrics, self.samples):
            if log.exists():
                with open(log, "rb") as opened:
                    os.fsync(opened.fileno())
        write_checkpoint(file, checkpoint)

    def discard(self) -> None:
        """Take back a `create` after which nothing was trained."""
        self.config_file.unlink()
        with suppress(OSError):  # where it holds something else, it was there before
            self.path.rmdir()

    def close(self) -> None:
        os.close(self._lock)


def _lock_folder(path: Path) -> int:
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RunError(f"{path}: expected a folder to write to, found: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RunError(f"{path}: expected a folder nobody trains in, found another training at work") from None
    return lock
