"""Does what `cuchar plot` was asked for."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from cuchar.errors import OutputError, RunError
from cuchar.files import say
from cuchar.plots.figure import draw
from cuchar.plots.files import write_figure
from cuchar.plots.terminal import Chart
from cuchar.plots.watch import follow
from cuchar.run_logs import RunLog, read_logs, run_folders

COLUMNS = 80  # of a chart that goes to a file or a pipe


def plot_to_file(paths: Sequence[Path], out: Path, x: str, watch: bool) -> None:
    """Draw runs into a file; with `watch`, again and again while one of them is training.

    Raises:
        RunError: a path is not that of a run, or there is nothing to draw yet and `watch` is false.
        OutputError: the file could not be written.
    """
    complain = _complainer()

    def write(logs: list[RunLog]) -> None:
        complain(logs)
        write_figure(draw(logs, x), out)

    if watch:
        say(f"drawing {out} whenever there is something new, until no run is training; Ctrl-C stops")
        follow(paths, write)
    else:
        write(_logs_with_lines(paths))
        say(f"wrote {out}")


def plot_to_terminal(paths: Sequence[Path], x: str, watch: bool) -> None:
    """Draw runs on standard output; with `watch`, again and again while one of them is training.

    Raises:
        RunError: as for `plot_to_file`.
        OutputError: `watch` is true, and standard output is not a terminal that can move its cursor.
    """
    console, complain = Console(highlight=False), _complainer()
    if not watch:
        logs = _logs_with_lines(paths)
        complain(logs)
        console.width = _columns()
        console.print(Chart(logs, x))
        return
    if not console.is_interactive:
        raise OutputError("--watch: expected a terminal that can move its cursor, or --out FILE, found neither")
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=sys.stderr.isatty()) as live:

        def show(logs: list[RunLog]) -> None:
            complain(logs)
            live.update(Chart(logs, x, fill=True), refresh=True)

        follow(paths, show, look=lambda: console.size)


def _logs_with_lines(paths: Sequence[Path]) -> list[RunLog]:
    logs = read_logs(run_folders(paths))
    if not any(len(log.metrics["step"]) for log in logs):
        for complaint in (complaint for log in logs for complaint in log.complaints):
            say(complaint)
        raise RunError(f"{paths[0]}: expected lines of metrics to draw, found none yet")
    return logs


def _complainer() -> Callable[[list[RunLog]], None]:
    """What says each complaint about runs once."""
    said: set[str] = set()

    def complain(logs: list[RunLog]) -> None:
        for complaint in (complaint for log in logs for complaint in log.complaints):
            if complaint not in said:
                said.add(complaint)
                say(complaint)

    return complain


def _columns() -> int:
    """How wide a chart on standard output should be."""
    if not sys.stdout.isatty():
        return COLUMNS
    return os.get_terminal_size(sys.stdout.fileno()).columns or COLUMNS
