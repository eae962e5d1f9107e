"""`cuchar bench --load`: others compute in one contender's turns and in no other, and end with the benchmark."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from cuchar.bench import load
from cuchar.bench.contender import Burst
from cuchar.bench.load import COMPUTE, Busy
from cuchar.bench.processes import with_this_package
from cuchar.errors import DeviceError


def processor_time(process):
    """How long a process has computed, in ticks of a hundredth of a second."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_others_compute_in_their_turns_alone():
    with closing(Busy(2)) as busy:
        processes = busy._processes

        def turn(steps):
            before, deadline = [processor_time(each) for each in processes], time.monotonic() + 30
            while time.monotonic() < deadline:
                if all(processor_time(each) >= old + steps for each, old in zip(processes, before, strict=True)):
                    return Burst(seconds=1.0)
            raise AssertionError("they do not compute")

        assert busy.beside(turn)(5) == Burst(seconds=1.0)
        time.sleep(0.05)  # a signal takes a moment
        stopped = [processor_time(each) for each in processes]
        time.sleep(0.2)
        assert [processor_time(each) for each in processes] == stopped
    assert [each.returncode for each in processes] == [-9, -9]


def test_none_outlives_its_starter(monkeypatch):
    monkeypatch.chdir("/")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with closing(Busy(1)) as busy:
        [process] = busy._processes
        time.sleep(0.05)  # a signal takes a moment
        assert Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0] == "T"  # it is stopped
        assert processor_time(process) > 0  # and was ready before
    # One whose starter has ended while it was being prepared cannot say that it is ready.
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-c", COMPUTE],
            stdout=nobody,
            stderr=subprocess.PIPE,
            env=with_this_package({}),
            timeout=60,
        )
    assert b"BrokenPipeError" in done.stderr


def test_a_process_that_does_not_compute(monkeypatch):
    monkeypatch.setattr(load, "COMPUTE", "raise SystemExit(3)")
    with pytest.raises(DeviceError, match="load=2: expected busy processes, found that one ended at once"):
        Busy(2)


def test_figures_and_table(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "ROUNDS", 2)
    done = bench("--load", "1", "--json", "--out", tmp_path)
    found = json.loads(done.stdout)["load"]
    assert found["busy"] == 1 and list(found["timings"]) == ["one thread", "free", "under load"]
    assert [round(timing["ms"], 6) for timing in found["timings"].values()] == [2, 2, 2]  # a fake's step
    assert found["slowdown"] == {"value": 1, "low": 1, "high": 1}
    [file] = tmp_path.iterdir()
    assert file.name.endswith("-load.json") and json.loads(file.read_text())["load"] == found
    shown = bench("--load", "2").stdout.decode()
    assert "all threads, beside 2 busy processes" in shown
    assert "beside 2 busy processes a step takes 1.00 (1.00-1.00) times as long as on one free thread" in shown


def test_mistakes(fails):
    for options, expected in (
        ("--load 0", "--load: expected at least 1, found 0"),
        ("a b --load 1", "--load: expected one NAME, found a b"),
        ("--load 1 --sampling", "--load: expected it without --sampling, found both"),
        ("--load 1 --peer eager", "--load: expected it without --peer, found both"),
        ("--load 1 --ranks 2", "found both"),
    ):
        assert expected in fails(2, "bench", *options.split())
