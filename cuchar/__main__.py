"""The command `cuchar`. Ctrl-C ends it with exit status 130 at any moment, and never with a traceback.

So only what is quick to import is imported before the signal handler is set.
"""

import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

INTERRUPTED = 128 + signal.SIGINT
SHOW_CURSOR = b"\x1b[?25h\n"  # shows the cursor again, which a progress bar hides
_interrupted = False


def main() -> None:
    """Run the command line in a process of its own."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not if it is ignored, as in background jobs
        sys.excepthook, sys.unraisablehook = _uncaught, _unraisable
        signal.signal(signal.SIGINT, _interrupt)
    from cuchar.files import prepare_streams

    prepare_streams()
    from cuchar.cli.main import main as run

    try:
        run()
    finally:  # nothing is left to stop, and a signal must not disturb Python while it exits
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(_signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, so that files and child processes are cleaned up, or end the process at once.

    The process ends at once the second time, and while a module is being imported: many modules turn an interrupt in
    the middle of their import into another error.
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
    """End quietly at any error after an interrupt, since libraries turn an interrupt into errors of their own.

    For example, ctypes makes an ArgumentError of it.
    """
    if _interrupted:
        _end()
    sys.__excepthook__(kind, error, trace)


def _unraisable(unraisable: Any) -> None:
    """End quietly after an interrupt that came where no exception can be raised, as in a `__del__`."""
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
