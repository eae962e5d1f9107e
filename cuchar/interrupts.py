"""SIGINT and SIGTERM become a question that the training loop asks after every step."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SHOW_CURSOR = b"\x1b[?25h\n"  # the progress bar hides it


class Interrupted(Exception):
    """A signal ended training after a save; `exit_status` is the shell's for it."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_status = 128 + signum


@contextmanager
def signalled() -> Iterator[Callable[[], int | None]]:
    """Yields a function that gives the signal received, or None. A second SIGINT ends the process at once.

    Outside the main thread, where Python takes no handlers, nothing is ever received.
    """
    received: list[int] = []

    def handle(signum: int, _frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            if sys.stderr.isatty():
                os.write(2, SHOW_CURSOR)
            os._exit(130)
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
