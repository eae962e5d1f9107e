"""Standard output as a pipe: the product goes into it at once, until nobody reads it."""

import os
import sys


class ReaderGone(Exception):
    """Nobody reads standard output any more (`| head` has what it wanted)."""


def write_stdout(data: bytes) -> None:
    """The product, as it is, at once.

    Raises:
        ReaderGone: the pipe was closed. What is written after that goes nowhere.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        silence_stdout()
        raise ReaderGone from None


def silence_stdout() -> None:
    """What is still buffered, and all that follows, goes nowhere: Python would fail again on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
