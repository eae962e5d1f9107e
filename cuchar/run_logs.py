"""Reads what runs have logged, also of a run that is training at this moment, is damaged or came from a stranger.

Nothing is written. What cannot be read is left out, and one line for each file says what and why. The last line of
metrics.jsonl is left out silently while it has no newline, since a run may be writing it.
"""

import json
import math
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cuchar.config import TrainConfig
from cuchar.errors import OptionError, RunError
from cuchar.folder_lock import is_in_use
from cuchar.kinds import MOST, Mismatch, describe
from cuchar.schema import CONFIG, MOST_JSON, parse_json

COUNTS = ("step", "epoch")
MEASURES = ("loss", "val_loss", "lr", "grad_norm", "chars_per_s", "elapsed_s")
LARGEST = 1e30  # of a measure; one that lies beyond, as a gradient's norm can, would leave axes no room for the others
LARGEST_FLOAT = sys.float_info.max
LONGEST_LINE = 1 << 16  # bytes; a run's lines have some two hundred


@dataclass(frozen=True)
class RunLog:
    """What one run has logged.

    name: the end of the path that tells this run from the others which were read with it.
    facts, config: what config.json says, and the options in it; None if it cannot be read.
    metrics: float64 [lines] for each name in COUNTS and MEASURES, NaN where a line lacks it or has one
        beyond LARGEST. Steps ascend.
    training: whether a training is at work in the folder.
    written: when metrics.jsonl was last written, or before the first line config.json: seconds since 1970.
    complaints: a line of text for each file that could not be read whole.
    """

    path: Path
    name: str
    facts: dict[str, Any] | None
    config: TrainConfig | None
    metrics: dict[str, np.ndarray]
    training: bool
    written: float
    complaints: list[str] = field(default_factory=list)

    def last(self, measure: str) -> float:
        """The newest value of a measure or count, NaN if there is none."""
        values = self.metrics[measure]
        known = values[~np.isnan(values)]
        return float(known[-1]) if len(known) else math.nan

    def best_validation_loss(self) -> float:
        """The lowest validation loss, NaN if there is none."""
        known = self.metrics["val_loss"][~np.isnan(self.metrics["val_loss"])]
        return float(known.min()) if len(known) else math.nan


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """The run folders that `paths` name, each once: run folders themselves, and those directly in a folder of runs.

    Raises:
        RunError: a path is neither.
    """
    found: dict[str, Path] = {}
    for path in paths:
        try:
            inside = [path] if _is_run(path) else sorted(folder for folder in path.iterdir() if _is_run(folder))
        except OSError as error:
            raise RunError(f"{path}: expected a run folder or a folder of runs, found: {error.strerror}") from None
        if not inside:
            raise RunError(f"{path}: expected a run folder or a folder of runs, found no config.json in it or below")
        for folder in inside:
            found.setdefault(os.path.realpath(folder), folder)
    return list(found.values())


def read_logs(folders: Sequence[Path]) -> list[RunLog]:
    return [_read_log(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def stamp(folders: Sequence[Path]) -> list[tuple[Path, bool, int, int]]:
    """A value that changes when a run of `folders` has logged something, or has begun or ended to train.

    The second member of each item says whether the run is training.
    """
    stamps = []
    for folder in folders:
        training = is_in_use(folder)
        try:
            status = (folder / "metrics.jsonl").stat()
            stamps.append((folder, training, status.st_mtime_ns, status.st_size))
        except OSError:
            stamps.append((folder, training, 0, 0))
    return stamps


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "config.json").is_file()
    except OSError:  # a folder that may not be looked into
        return False


def _names(folders: Sequence[Path]) -> list[str]:
    """For each folder the shortest end of its path that no other folder has."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]
    names, length = [""] * len(parts), 0
    while open_ := [number for number, name in enumerate(names) if not name]:
        length += 1
        ends = [part[-length:] for part in parts]
        for number in open_:
            if ends.count(ends[number]) == 1 or length >= len(parts[number]):
                names[number] = str(Path(*ends[number]))
    return names


def _read_log(folder: Path, name: str) -> RunLog:
    complaints: list[str] = []
    facts, config = _read_config(folder / "config.json", complaints)
    training = is_in_use(folder)  # before the metrics: a run that has ended in between is read to its end next time
    rows, written = _read_metrics(folder / "metrics.jsonl", complaints)
    columns = np.array(rows, np.float64).reshape(-1, len(COUNTS) + len(MEASURES)).T
    metrics = dict(zip((*COUNTS, *MEASURES), columns, strict=True))
    return RunLog(folder, name, facts, config, metrics, training, written or _mtime(folder / "config.json"), complaints)


def _read_config(file: Path, complaints: list[str]) -> tuple[dict[str, Any] | None, TrainConfig | None]:
    try:
        with _open(file) as opened:
            facts = CONFIG.check(parse_json(opened.read(MOST_JSON + 1).decode(), "configuration"), "")
            return facts, TrainConfig(**facts["train"])
    except OSError as error:
        found = error.strerror or "damage"
    except (ValueError, OptionError) as error:
        found = str(error)
    complaints.append(f"{file}: expected a run's configuration, found a wrong one: {found}")
    return None, None


def _read_metrics(file: Path, complaints: list[str]) -> tuple[list[list[float]], float]:
    """The values of every whole and right line, and when the file was last written, 0 if there is none yet."""
    rows: list[list[float]] = []
    wrong, first = 0, ""
    try:
        with _open(file) as opened:
            written = os.fstat(opened.fileno()).st_mtime
            for number, line in _whole_lines(opened):
                try:
                    rows.append(_values(line, rows[-1][0] if rows else 0))
                except (ValueError, RecursionError) as error:
                    wrong += 1
                    first = first or f"{file}:{number}: {_reason(error)}"
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        complaints.append(f"{file}: expected a readable file, found: {error.strerror}")
        return rows, 0
    if wrong:
        others = f", and {wrong - 1:,} more" if wrong > 1 else ""
        complaints.append(f"{first}: the line is left out{others}")
    return rows, written


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, Mismatch) else "expected a line of metrics in JSON, found something else"


def _open(file: Path) -> BinaryIO:
    """Open a regular file to read it; for a pipe, which would be waited for, or a device this raises an OSError."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(0, "not a regular file")


def _whole_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Every line that ends with a newline, with its number; of one that is too long, its beginning."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if line.endswith(b"\n") or len(line) == LONGEST_LINE:
            yield number, line
        while line and not line.endswith(b"\n"):
            line = file.readline(LONGEST_LINE)


def _values(line: bytes, step_before: float) -> list[float]:
    """A line's counts and measures, NaN for one that it lacks or that lies beyond LARGEST.

    Raises:
        Mismatch: the line is not a run's.
        ValueError, RecursionError: it is not JSON.
    """
    if not line.endswith(b"\n"):
        raise Mismatch("line", f"at most {LONGEST_LINE:,} bytes", "more")
    parsed = json.loads(line)
    if type(parsed) is not dict:
        raise Mismatch("line", "an object", describe(parsed))
    values = []
    for name in COUNTS:
        count = parsed.get(name)
        if type(count) is not int or not 0 <= count <= MOST:
            raise Mismatch(name, "a count", describe(count))
        values.append(float(count))
    for name in MEASURES:
        measure = parsed.get(name, math.nan)
        if name in parsed and not (type(measure) in (int, float) and -LARGEST_FLOAT <= measure <= LARGEST_FLOAT):
            raise Mismatch(name, "a finite number", describe(measure))
        values.append(float(measure) if abs(measure) <= LARGEST else math.nan)
    if values[0] <= step_before:
        raise Mismatch("step", f"more than the {step_before:.0f} before", str(parsed["step"]))
    return values


def _mtime(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0
