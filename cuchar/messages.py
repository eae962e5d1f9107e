"""Where what is done with texts says what a user must know, and how far it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Messages:
    """Where messages for the user go.

    Args:
        note: takes a line of text.
        progress: takes what is being done, how many bytes of it are done, and how many there are; `done` is `total` in
            the last call, also if an error ends it.
    """

    note: Callable[[str], None] = lambda line: None
    progress: Callable[[str, int, int], None] = lambda what, done, total: None

    @contextmanager
    def counted(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A context in which so many bytes are worked through; it gives a function to call with the bytes just done."""
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.progress(what, min(done, total - 1), total)

        try:
            yield advance
        finally:
            self.progress(what, total, total)
