"""What becomes of a text's files that cannot be read: an error ends the reading, or they are left out."""

from collections.abc import Sequence
from typing import Any

from cuchar.errors import TextError
from cuchar.wording import option


def leave_out(error: TextError, skip_unreadable: bool, files: int) -> str:
    """The line that says why a file is left out.

    Args:
        error: says why the file cannot be read.
        files: how many files the text has.
    Raises:
        TextError: files are not to be left out; if there are several, it names the option by which they are.
    """
    if skip_unreadable:
        return str(error)
    hint = f"; {option('skip_unreadable', True)} leaves such files out" if files > 1 else ""
    raise TextError(f"{error}{hint}") from None


def expect_one_read(read: Sequence[Any], left_out: Sequence[str]) -> None:
    """Check that at least one file was read.

    Raises:
        TextError: all were left out; it says why the first one was.
    """
    if not read:
        raise TextError(f"expected a readable text file, found none: {left_out[0]}")


def left_out_notes(left_out: Sequence[str], files: int) -> list[str]:
    """Lines of text that say which files were left out, and how many; no line if none was.

    Args:
        left_out: a line for each file that was left out, saying why.
        files: how many were read.
    """
    if not left_out:
        return []
    return [f"left out {line}" for line in left_out] + [f"left out {len(left_out)} of {len(left_out) + files} files"]
