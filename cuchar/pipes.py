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
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderGone from None
