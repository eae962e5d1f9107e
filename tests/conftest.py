"""Shared by all tests: the command line in this process, a small trained run, and a browser."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
from support.browser import chromium, visitor
from support.process import CUCHAR, environment
from support.small_runs import TEXT

from cuchar.cli.main import main

# A shell's background jobs ignore SIGINT, and so does every process that they start: tests send it to such processes.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is, and not whether the code is right.
hypothesis.settings.register_profile("cuchar", deadline=None)
hypothesis.settings.load_profile("cuchar")


@dataclass
class Result:
    status: int
    stdout: bytes
    stderr: str


@pytest.fixture
def cli(monkeypatch, capfdbinary) -> Callable[..., Result]:
    """Run a command in this process."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["cuchar", *map(str, arguments)])
        capfdbinary.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        sys.stdout.flush()
        captured = capfdbinary.readouterr()
        return Result(ended.value.code or 0, captured.out, captured.err.decode())

    return run


@pytest.fixture
def fails(cli):
    """Run a command that must fail with one line on standard error, and give that line."""

    def run(status: int, *arguments: object) -> str:
        result = cli(*arguments)
        assert result.status == status, result.stderr
        assert result.stdout == b""
        assert result.stderr.startswith("cuchar: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    return run


@pytest.fixture
def text(tmp_path) -> Path:
    path = tmp_path / "fox.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a run that was trained on the fox for 30 steps."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "fox.txt").write_text(TEXT)
    command = [*CUCHAR, "train", folder / "fox.txt"]
    options = "--hidden 12 --window 8 --batch 4 --lr 0.02 --max-steps 30 --out".split()
    subprocess.run([*command, *options, folder / "run"], check=True, capture_output=True, env=environment())
    return folder / "run"


@pytest.fixture(scope="module")
def browser():
    """Chromium, for the tests of one file: as long as it runs, no other test could call asyncio.run()."""
    with chromium() as running:
        yield running


@pytest.fixture
def browser_page(browser):
    """Open a file: `browser_page(path, width=360, color_scheme="dark")`. Errors and network requests fail the test."""
    with visitor(browser) as visit:
        yield visit
