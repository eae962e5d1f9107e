"""Turns SIGINT, SIGTERM and SIGHUP into a question that the training loop asks whenever it has done some steps."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
SHOW_CURSOR = b"\x1b[?25h\n"  # shows the cursor again, which the progress bar hides


class Interrupted(KeyboardInterrupt):
    """A signal ended training after a save, so that `cuchar train --resume` goes on from there.

    It is a KeyboardInterrupt, since Ctrl-C is the usual signal: it stops a program that calls `cuchar.train` as any
    Ctrl-C does, unless the program catches it. `exit_status` is what a shell reports: 130 for SIGINT, 143 for SIGTERM,
    129 for SIGHUP, which a terminal sends when it goes away.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_status = 128 + signum

    def __reduce__(self) -> tuple[type["Interrupted"], tuple[int]]:
        """How the exception is sent to another process."""
        return Interrupted, (self.exit_status - 128,)


@contextmanager
def signalled() -> Iterator[Callable[[], int | None]]:
    """A context in which signals are noted instead of obeyed. A second SIGINT ends the process at once.

    A signal that was ignored when the process was started stays ignored, such as SIGHUP under nohup. Outside the main
    thread, where Python allows no signal handlers, no signal is ever noted.

    Yields:
        a function that returns the number of the first signal received, or None.
    """
    received: list[int] = []

    def handle(signum: int, _frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            if sys.stderr.isatty():
                with suppress(OSError):  # the terminal may be gone
                    os.write(2, SHOW_CURSOR)
            os._exit(130)
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    heeded = [signum for signum in SIGNALS if signal.getsignal(signum) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, handle) for signum in heeded}
    try:
        yield lambda: received[0] if received else None
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
