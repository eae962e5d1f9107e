"""What a run has recorded, without its times; and how to end one in the middle, to resume it and to compare."""

import json
from pathlib import Path

import pytest

from cuchar.checkpoint import read_checkpoint
from cuchar.interrupts import Interrupted
from cuchar.run_folder import RunFolder
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer

ENDS = {"interrupted": Interrupted(2), "crashed": RuntimeError("crash")}


def metrics(run: Path, times=False) -> list[dict]:
    """The lines of a run's metrics.jsonl; without those values that depend on the time unless `times`."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    if not times:
        lines = [{k: v for k, v in line.items() if k not in ("chars_per_s", "elapsed_s")} for line in lines]
    return lines


def interrupt_after(monkeypatch, step, error):
    """Make training end with `error` once `step` is done; if it is a crash, before anything of that step is recorded.

    Where a learner does many steps a call, training ends with the first call that reaches `step`.
    """
    original = Trainer._advance

    def crashing(self, steps):
        original(self, steps)
        if self.position.step >= step:
            if isinstance(error, Interrupted):
                self.asked = error
            else:
                raise error

    monkeypatch.setattr(Trainer, "_advance", crashing)
    if not isinstance(error, Interrupted):  # a process that is killed does not clean up
        monkeypatch.setattr(RunFolder, "discard_unused", lambda self: None)
    original_run = Trainer.run

    def run(self, signalled):
        original_run(self, lambda: 2 if hasattr(self, "asked") else None)

    monkeypatch.setattr(Trainer, "run", run)


def expect_resumed_runs_to_end_as(
    expected, text, config, folder: Path, steps, monkeypatch, how="interrupted", **options
):
    """End a run after each of these steps, by one of ENDS, and resume it: its records must be the `expected` ones."""
    error = ENDS[how]
    for step in steps:
        out = folder / f"{step}"
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            interrupt_after(patch, step, error)
            start_run([text], config, out=out, **options)
        resume_run(out, **options)
        assert records_without_times(out) == expected, step


def records_without_times(run: Path):
    """All that two runs of one training must have in common: their metrics, samples and checkpoints, without times."""
    found = {"metrics": metrics(run), "samples": (run / "samples.txt").read_bytes()}
    for file in sorted(run.glob("*.safetensors")):
        checkpoint = read_checkpoint(file)
        position = dict(checkpoint.run["position"], elapsed_s=0)
        for mean in ("since_line", "since_summary", "since_epoch"):
            position[mean] = dict(position[mean], seconds=0)
        run_values = dict(checkpoint.run, position=position, lengths={})
        adam, state = checkpoint.adam, checkpoint.state
        arrays = (checkpoint.parameters.flat, adam.m, adam.v, state.h, state.c)
        found[file.name] = ([array.tobytes() for array in arrays], run_values)
    return found
