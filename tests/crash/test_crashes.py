"""A hundred kills change nothing that a run leaves."""

import subprocess
import sys
from pathlib import Path

from support.process import environment

CONFIGURATIONS = 10


def test_killed_runs_end_as_untouched_ones(tmp_path):
    command = [sys.executable, Path(__file__).parent / "harness.py", "100", "0", tmp_path]
    crashes = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert crashes.returncode == 0, crashes.stdout + crashes.stderr
    lines = crashes.stdout.splitlines()
    assert len(lines) == CONFIGURATIONS and lines[-1].endswith(": 100 killed so far, 0 different")
