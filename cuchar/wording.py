"""How messages name options and commands: a person at a terminal reads `--max-steps 5`, a program's author `max_steps=5`.

Python's spelling is the default. The command line asks for its own one with `command_line_wording`.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from os import PathLike
from typing import Any

_ON_COMMAND_LINE = ContextVar("on_command_line", default=False)
_NO_VALUE = object()


@contextmanager
def command_line_wording() -> Iterator[None]:
    """A context in which messages name options and commands as they are typed in a terminal."""
    token = _ON_COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _ON_COMMAND_LINE.reset(token)


def option(name: str, value: Any = _NO_VALUE) -> str:
    """The name of an option, or the option with a value; True is the value of an option that takes none.

    On the command line, `option("max_steps", 5)` is `--max-steps 5`, and `option("bytes", True)` is `--bytes`; in
    Python they are `max_steps=5` and `bytes=True`.
    """
    if not _ON_COMMAND_LINE.get():
        return name if value is _NO_VALUE else f"{name}={value!r}"
    dashed = "--" + name.replace("_", "-")
    return dashed if value is _NO_VALUE or value is True else f"{dashed} {value}"


def command_to_resume(run: str | PathLike[str]) -> str:
    """What goes on with a run folder."""
    if _ON_COMMAND_LINE.get():
        return f"cuchar train --resume {shlex.quote(str(run))}"
    return f"cuchar.resume({str(run)!r})"


def command_to_sample(run: str | PathLike[str]) -> str:
    """What writes with a run's model."""
    if _ON_COMMAND_LINE.get():
        return f"cuchar sample {shlex.quote(str(run))}"
    return f"cuchar.load({str(run)!r}).sample()"
