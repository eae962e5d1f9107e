"""SIGINT, SIGTERM and SIGHUP become a question that the training loop asks after every step."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
SHOW_CURSOR = b"\x1b[?25h\n"  # the progress bar hides it


class Interrupted(KeyboardInterrupt):
    """A signal ended training after a save, so that `cuchar train --resume` goes on from there.

    It is a KeyboardInterrupt, since Ctrl-C is the usual signal: a program that calls `cuchar.train` is stopped by it as
    by any Ctrl-C, unless it catches it. `exit_status` is what a shell reports: 130 for SIGINT, 143 for SIGTERM, 129 for
    SIGHUP, which a terminal sends that goes away.
    """

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.exit_status = 128 + signum


@contextmanager
def signalled() -> Iterator[Callable[[], int | None]]:
    """Yields a function that gives the signal received, or None. A second SIGINT ends the process at once.

    A signal that the process was started to ignore stays ignored, as nohup does with SIGHUP. Outside the main thread,
    where Python takes no handlers, nothing is ever received.
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
