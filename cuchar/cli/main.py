"""Runs a command, and turns every error into one line and an exit status."""

import re
import sys
from typing import NoReturn

import typer

from cuchar.cli.app import app
from cuchar.errors import CucharError
from cuchar.launch import launched
from cuchar.wording import command_line_wording


def main() -> None:
    """Run a command; every error is one line on standard error and an exit status."""
    from cuchar.files import ReaderGone, say, silence_stdout
    from cuchar.interrupts import Interrupted

    if launched().rank > 0:  # rank 0 speaks for all, and does what is not training for all
        if sys.argv[1:2] != ["train"]:
            _leave_to_rank_0()
        silence_stdout()
    try:
        with command_line_wording():
            status = _run()
        sys.stdout.flush()
        sys.exit(status)
    except CucharError as error:
        _fail(str(error), error.exit_status)
    except Interrupted as interrupted:
        _fail(f"stopped by {interrupted}; what was done is saved", interrupted.exit_status)
    except KeyboardInterrupt:
        silence_stdout()  # what it came between may have been written already, and would be again
        if sys.stderr.isatty():
            say("")  # the shell's prompt gets a line of its own
        sys.exit(130)
    except ReaderGone:
        sys.exit(0)
    except MemoryError as error:
        _fail(": ".join(filter(None, ("expected enough memory, found too little", str(error)))), 1)
    except OSError as error:
        silence_stdout()
        _fail(f"{error.filename or 'standard output'}: expected to read or write, found: {error.strerror}", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # only typer's errors have it, for words that it cannot parse
            raise
        message = " ".join(error.format_message().split())
        _fail(message + _found(message), getattr(error, "exit_code", 2))


def _run() -> int | None:
    """Run the command, and return its exit status.

    This does not call app(), since typer would handle every KeyboardInterrupt and EPIPE in its own way there.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("cuchar", sys.argv[1:]) as context:
            status: int | None = command.invoke(context)
            return status
    except typer.Exit as ended:  # --help, --version
        return ended.exit_code


def _found(message: str) -> str:
    """The value given for the option that typer's message names, as an ending of that message, which lacks it."""
    for name in re.findall(r"'(--?[\w-]+)'", message):
        if name in sys.argv[:-1]:
            return f", found {sys.argv[sys.argv.index(name) + 1]}"
    return ""


def _leave_to_rank_0() -> NoReturn:
    """End without doing anything; a process that may have been started alone, with a launcher's variables, says so."""
    from cuchar.files import say_from_any_rank

    launch = launched()
    if launch.by != "MPI":
        say_from_any_rank(
            f"cuchar: this is rank {launch.rank} of {launch.size} (RANK, WORLD_SIZE), and rank 0 does what is not training"
        )
    sys.exit(0)


def _fail(message: str, status: int) -> None:
    from cuchar.files import say

    say(f"cuchar: {message}")
    sys.exit(status)
