"""The command line in a process of its own, which finds cuchar in this checkout."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CUCHAR = [sys.executable, "-m", "cuchar"]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}


def start(*arguments: object, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen:
    """The command line in a process of its own, with pipes for its output unless `options` say otherwise."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*CUCHAR, *map(str, arguments)], env={**environment(), **(env or {})}, **pipes)
