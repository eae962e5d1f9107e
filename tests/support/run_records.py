"""What a run has recorded, without its times, and how to end one in the middle."""

import json
from pathlib import Path

from cuchar.checkpoint import read_checkpoint
from cuchar.interrupts import Interrupted
from cuchar.run_folder import RunFolder
from cuchar.training import Trainer


def metrics(run: Path, times=False) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return (
        lines if times else [{k: v for k, v in line.items() if k not in ("chars_per_s", "elapsed_s")} for line in lines]
    )


def interrupt_after(monkeypatch, step, error):
    """Make training end with `error` once `step` is done, before anything is recorded of it if it is a crash.

    With a learner that does many steps a call, at the first call's end from there on.
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
    if not isinstance(error, Interrupted):  # a process that is killed cleans nothing up
        monkeypatch.setattr(RunFolder, "discard_unused", lambda self: None)
    original_run = Trainer.run

    def run(self, signalled):
        original_run(self, lambda: 2 if hasattr(self, "asked") else None)

    monkeypatch.setattr(Trainer, "run", run)


def records_without_times(run: Path):
    """All that must be the same, but for times."""
    found = {"metrics": metrics(run), "samples": (run / "samples.txt").read_bytes()}
    for file in sorted(run.glob("*.safetensors")):
        checkpoint = read_checkpoint(file)
        position = dict(checkpoint.run["position"], elapsed_s=0)
        for mean in ("since_line", "since_summary", "since_epoch"):
            position[mean] = dict(position[mean], seconds=0)
        run_values = dict(checkpoint.run, position=position, lengths={})
        arrays = (
            checkpoint.parameters.flat,
            checkpoint.adam.m,
            checkpoint.adam.v,
            checkpoint.state.h,
            checkpoint.state.c,
        )
        found[file.name] = ([array.tobytes() for array in arrays], run_values)
    return found
