"""A bar on a terminal for what takes a while; it is gone once that is done, and never in a file or a pipe."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress


@contextmanager
def bar(
    what: str, total: int | None, is_shown: bool = True, done: int = 0, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """A context with a bar.

    Args:
        what: the words before the bar.
        total: how much there is to do; None if that is not known.
        is_shown: whether the bar is shown if standard error is a terminal.
        done: how much of the total was done before.
        console: what else is printed on it meanwhile stands above the bar; None is one of its own, on standard error.
    Yields:
        a function to call with how much was done since the call before.
    """
    console = console or Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (is_shown and console.is_terminal)) as progress:
        task = progress.add_task(what, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


def bytes_of(paths: Sequence[Path]) -> int | None:
    """The bytes of all files; None if one of them is a pipe or a device, or cannot be looked at."""
    try:
        return sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else None
    except (OSError, ValueError):
        return None
