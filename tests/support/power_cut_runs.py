"""Small runs during which the power is cut: what is recorded of them, and whether a disk leads to the same end.

The runs are the smallest that do all that a run does.
"""

import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from support.divergence import diverging_step
from support.file_recorder import Killed, Recorder, Tree, read_tree, write_tree
from support.power_cut import disks
from support.run_records import ENDS, interrupt_after, records_without_times
from support.small_runs import TINY, TINY_EPOCH, TINY_TEXT

from cuchar.callbacks import Callback
from cuchar.checkpoint import read_position
from cuchar.config import TrainConfig
from cuchar.engines.host import HostLearner
from cuchar.errors import CucharError
from cuchar.interrupts import Interrupted
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer

REPORTED = replace(TINY, max_steps=TINY_EPOCH + 3)
LOSSES = {TINY_EPOCH: 2.0, TINY_EPOCH + 3: 1.0, TINY_EPOCH + 4: 3.0, 2 * TINY_EPOCH: 3.0}
GOING_BACK = replace(TINY, max_steps=11, on_nan="rollback")


@dataclass
class Scenario:
    """A process that trains, and during which the power is cut.

    Args:
        stop: the step after which a signal ends it.
        resumes: the options with which it resumes the run of a process before it; None begins a run.
        stopped: the step after which a signal has ended the process before.
        losses: what validations find, by step; None validates nothing.
        limits: for `diverging_step`.
    """

    config: TrainConfig
    stop: int | None = None
    resumes: dict[str, Any] | None = None
    stopped: int | None = None
    losses: dict[int, float] | None = None
    limits: dict[int, float] = field(default_factory=dict)


SCENARIOS = {
    "ends before the first line": Scenario(replace(TINY, max_steps=2)),
    "ends between two lines": Scenario(replace(TINY, max_steps=7)),
    "ends with an epoch, validated": Scenario(
        replace(TINY, sample_every=TINY_EPOCH), losses={TINY_EPOCH: 2.0, 2 * TINY_EPOCH: 1.0}
    ),
    "the report finds the best": Scenario(REPORTED, losses=LOSSES),
    "more steps": Scenario(REPORTED, resumes={"max_steps": TINY_EPOCH + 4}, losses=LOSSES),
    "more steps, to an epoch's end": Scenario(
        replace(REPORTED, save_every=99), resumes={"max_steps": 2 * TINY_EPOCH}, losses=LOSSES
    ),
    "is stopped": Scenario(GOING_BACK, stop=6),
    "goes back after it was stopped": Scenario(GOING_BACK, resumes={}, stopped=6, limits={7: 0.006}),
    "was stopped, ends with a save": Scenario(replace(GOING_BACK, max_steps=TINY_EPOCH), resumes={}, stopped=6),
}


class Promises(Callback):
    """Marks each checkpoint that was saved: from then on, no power cut may take it away."""

    def __init__(self, recorder: Recorder):
        self.recorder = recorder

    def saved(self, checkpoint):
        position = checkpoint.run["position"]
        self.recorder.mark((position["halvings"], position["step"]))


class Course:
    """A scenario whose process is recorded, and what every run of it must end as.

    Args:
        kill: the number of the operation before which the process is killed; it is then resumed, and recorded too.
    """

    def __init__(self, scenario: Scenario, folder: Path, patch: pytest.MonkeyPatch, kill: int | None = None):
        self.scenario, self.patch = scenario, patch
        self.text, self.disk = folder / "fox.txt", folder / "disk"
        self.run = self.disk / "runs/run"
        self.text.write_text(TINY_TEXT)
        self.disk.mkdir()
        patch.setattr(os, "fsync", lambda descriptor: None)  # nothing has to be on the disk of this machine
        patch.setattr("cuchar.training.perf_counter", itertools.count().__next__)  # every run has the same times
        patch.setattr(HostLearner, "_step", diverging_step(scenario.limits))
        if scenario.losses is not None:
            patch.setattr(Trainer, "_validate", lambda trainer: scenario.losses[trainer.position.step])
        self.ended_before = None
        if scenario.resumes is not None:
            self._until(scenario.stopped, self._start)
            self.ended_before = None if scenario.stopped else self._outcome()
        before = read_tree(self.disk)
        self._go_on()
        self.expected = self._outcome()
        self.record(before, kill)

    def record(self, before: Tree, kill: int | None = None) -> None:
        """Begin the run, or go on with the one that is there, on a disk, and record what is done to that."""
        write_tree(self.disk, before)
        self.recorder, self.begin = Recorder(self.disk, lambda number, kind: kill_if(number == kill)), 0
        promises = Promises(self.recorder)
        with self.recorder.watch(), suppress(Killed):
            self._until(self.scenario.stop, lambda: self._go_on(promises))
        if kill:
            assert self.recorder.is_killed
            self.begin = len(self.recorder.operations)
            with self.recorder.watch():
                self._go_on(promises)
        if not self.scenario.stop:
            self.recorder.mark("the end")
        self.recorder.expect_complete()

    def _until(self, stop: int | None, call: Callable[[], None]) -> None:
        if not stop:
            call()
            return
        with self.patch.context() as stopping, pytest.raises(Interrupted):
            interrupt_after(stopping, stop, ENDS["interrupted"])
            call()

    def _start(self, *callbacks: Callback) -> None:
        start_run([self.text], self.scenario.config, out=self.run, device="cpu", callbacks=callbacks)

    def _go_on(self, *callbacks: Callback) -> None:
        """Begin the run, or go on with the one that is there: what a user does after a power cut."""
        if (self.run / "config.json").exists():
            resume_run(self.run, options=self.scenario.resumes, device="cpu", callbacks=callbacks)
        else:
            self._start(*callbacks)

    def _outcome(self) -> Any:
        return records_without_times(self.run), {path.name for path in self.run.iterdir()}

    def wrong(self, tree: Tree, mark: Any) -> str | None:
        """What is wrong with a disk that a power cut has left; None if nothing is."""
        write_tree(self.disk, tree)
        try:
            if mark == "the end":
                return None if self._outcome() == self.expected else "something of a run that had ended is lost"
            if mark:
                position = read_position(self.run / "last.safetensors")
                found = position.halvings, position.step
                if found < mark:
                    return f"{mark} was saved, and {found} is there"
            self._go_on()
            if self._outcome() != self.expected:
                return "it ends otherwise"
            if self.ended_before:
                write_tree(self.disk, tree)
                resume_run(self.run, device="cpu")
                if self._outcome() not in (self.ended_before, self.expected):
                    return "resumed without more steps, it ends otherwise"
        except (CucharError, OSError, KeyError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return None

    def complaints(self, most: int | None = None) -> list[str]:
        """What is wrong with the possible disks, or with a sample of so many of them; each complaint comes once."""
        found = list(disks(self.recorder, begin=self.begin))
        if most is not None:
            found = Random(0).sample(found, min(most, len(found)))
        return sorted({complaint for disk in found if (complaint := self.wrong(*disk))})

    def is_noticed(self, without: str = "") -> bool:
        """Whether something is wrong with one of the possible disks.

        They are tried in a random order. Those that are possible too with all of the calls of fsync are right.
        """
        right = {repr(disk) for disk in disks(self.recorder)} if without else set()
        found = [disk for disk in disks(self.recorder, without=without) if repr(disk) not in right]
        Random(0).shuffle(found)
        return any(self.wrong(*disk) for disk in found)


def kill_if(now: bool) -> None:
    if now:
        raise Killed
