"""Commands in terminals of their own."""

import pexpect
import pyte
from support.process import CUCHAR, environment


def in_terminal(columns, *arguments, **variables):
    """What a terminal of 50 rows gets from a command, as bytes and as the rows of its screen."""
    inherited = {name: value for name, value in environment().items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    child = pexpect.spawn(
        CUCHAR[0], [*CUCHAR[1:], *map(str, arguments)], dimensions=(50, columns), timeout=30,
        env={**inherited, "TERM": "xterm-256color", **variables},
    )  # fmt: skip
    shown = child.read()
    child.close()
    assert child.exitstatus == 0, shown
    screen = pyte.Screen(columns, 50)
    pyte.ByteStream(screen).feed(shown)
    return shown, [row.rstrip() for row in screen.display]
