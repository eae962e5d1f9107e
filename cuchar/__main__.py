"""The command `cuchar`, from its first line to its last: Ctrl-C ends it with 130, and never with a traceback.

Only what is quick to import comes before the handler.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT
SHOW_CURSOR = b"\x1b[?25h\n"  # a progress bar hides it
_interrupted = False


def main() -> None:
    """Run the command line in a process of its own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell's background jobs ignore it: so be it
        sys.excepthook, sys.unraisablehook = _uncaught, _unraisable
        signal.signal(signal.SIGINT, _interrupt)
    from cuchar.files import prepare_streams

    prepare_streams()
    from cuchar.cli import main as run

    try:
        run()
    finally:  # nothing is left to stop, and Python's way out is not to be disturbed
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(_signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, which lets files and child processes be cleaned up, or end at once.

    At once the second time, and within an import: many a module that is imported by halves makes another error of it.
    """
    global _interrupted
    if _interrupted:
        _end()
    _interrupted = True
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _uncaught(kind: Any, error: Any, trace: Any) -> None:
    """Any error after an interrupt is the interrupt's: ctypes, for one, makes an ArgumentError of it."""
    if _interrupted:
        _end()
    sys.__excepthook__(kind, error, trace)


def _unraisable(unraisable: Any) -> None:
    """An interrupt that came where no exception can be raised, as in a `__del__`."""
    if _interrupted:
        _end()
    sys.__unraisablehook__(unraisable)


def _end() -> NoReturn:
    try:
        if os.isatty(2):
            os.write(2, SHOW_CURSOR)
    finally:
        os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
