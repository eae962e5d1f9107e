"""`cuchar bench` with contenders whose times are known."""

import sys

import pytest
from support.process import ROOT

from cuchar.bench import processes, run

TINY = "--hidden 4 --layers 1 --window 3 --batch 2 --device cpu".split()


@pytest.fixture
def bench(cli, monkeypatch):
    """A function that runs `cuchar bench` on a tiny model with fake_contenders.py, which need no PyTorch."""
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, str(ROOT / "tests/support/fake_contenders.py")])
    monkeypatch.setattr(run, "HELP_RUNS", 1)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(run, "load_average", lambda: 0.1)

    def run_bench(*options, wrong=None):
        if wrong:
            monkeypatch.setenv("CUCHAR_FAKE_PEER", wrong)
        return cli("bench", *TINY, *options)

    return run_bench
