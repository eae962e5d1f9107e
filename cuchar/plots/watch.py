"""Follows runs that are training: reads them again whenever there is something new."""

from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep
from typing import Any

from cuchar.run_logs import RunLog, read_logs, run_folders, stamp

PAUSE_S = 1.0  # seconds between two looks; a look costs no more than a few system calls for each run


def follow(paths: Sequence[Path], show: Callable[[list[RunLog]], None], look: Callable[[], Any] = lambda: None) -> None:
    """Hand runs to `show` now and whenever one has logged something, until none is training any more.

    Args:
        paths: run folders, or folders of runs, in which new ones may appear.
        look: returns something else when the runs must be shown again for another reason, such as the terminal's size.
    Raises:
        RunError: a path is not that of a run, or no longer.
    """
    seen = None
    while True:
        folders = run_folders(paths)
        stamps = stamp(folders)
        if (now := (stamps, look())) != seen:
            show(read_logs(folders))
            seen = now
        if not any(training for _, training, _, _ in stamps):
            return
        sleep(PAUSE_S)
