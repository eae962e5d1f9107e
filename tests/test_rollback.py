"""`--on-nan rollback`: a run that diverges goes back, halves its learning rate, and still resumes to the same bytes."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.divergence import diverging_step
from support.notes import Notes
from support.run_records import (
    ENDS,
    expect_resumed_runs_to_end_as,
    interrupt_after,
    metrics,
    records_without_times,
)
from support.small_runs import DISCIPLINES, SMALL

from cuchar.callbacks import Callback, StopTraining
from cuchar.checkpoint import read_checkpoint, write_checkpoint
from cuchar.engines.host import HostLearner
from cuchar.errors import DivergedError
from cuchar.interrupts import Interrupted
from cuchar.run_folder import RunFolder
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer

CONFIG = replace(SMALL, on_nan="rollback", max_steps=37)
LIMITS = {13: 0.006, 27: 0.003}  # with a learning rate of 0.01, step 13 needs one halving and step 27 another


@pytest.fixture
def diverging(monkeypatch):
    monkeypatch.setattr(HostLearner, "_step", diverging_step(LIMITS))


def names(run):
    return {file.name for file in run.iterdir()}


def position(file):
    return read_checkpoint(file).run["position"]


@pytest.mark.parametrize("chunk", [1, 7])
def test_it_goes_back_halves_the_rate_says_so_and_goes_on(text, tmp_path, monkeypatch, diverging, chunk):
    monkeypatch.setattr(HostLearner, "chunk", chunk)
    notes, run = Notes(), tmp_path / "run"
    start_run([text], replace(CONFIG, log_every=1), out=run, callbacks=[notes])
    found = "expected the loss to be finite, found nan"
    assert [note for note in notes.notes if "back to" in note] == [
        f"step 13: {found}; back to step 10, with the learning rate times 1/2",
        f"step 27: {found}; back to step 20, with the learning rate times 1/4",
    ]
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(1, 38))
    assert [line["lr"] for line in lines] == [0.01] * 10 + [0.005] * 10 + [0.0025] * 17
    assert position(run / "last.safetensors")["halvings"] == 2
    assert (run / "samples.txt").read_bytes().count(b"--- step 16 ---") == 1


def test_an_end_that_a_callback_asked_for_stays_one(text, tmp_path, monkeypatch):
    """If the report at that end finds what is not finite, the run goes back, and ends there."""
    validate, starts = Trainer._validate, []

    class Enough(Callback):
        def start(self, run):
            starts.append((run.step, run.best))

        def step(self, step, loss, chars):
            if step == 13:
                raise StopTraining

    def nan_at_13(self):
        if self.position.step == 13:
            self._expect_finite(math.nan, "the validation loss", 13)
        return validate(self)

    monkeypatch.setattr(Trainer, "_validate", nan_at_13)
    start_run([text], replace(CONFIG, val_fraction=0.2), out=tmp_path / "run", callbacks=[Enough()])
    assert position(tmp_path / "run/last.safetensors")["step"] == 10 and starts == [(0, math.inf), (10, math.inf)]


def test_it_goes_on_as_a_run_that_was_stopped_there(text, tmp_path, monkeypatch, diverging):
    """The run until step 10, made to go on with half the rate, is what the rolled-back run must be."""
    start_run([text], replace(CONFIG, max_steps=10), out=tmp_path / "by hand")
    checkpoint = read_checkpoint(tmp_path / "by hand/last.safetensors")
    checkpoint.run["position"]["halvings"] = 1
    write_checkpoint(tmp_path / "by hand/last.safetensors", checkpoint)
    resume_run(tmp_path / "by hand", options={"max_steps": 26})
    start_run([text], replace(CONFIG, max_steps=26), out=tmp_path / "run")
    by_hand, run = (records_without_times(tmp_path / name) for name in ("by hand", "run"))
    for name in ("metrics", "samples"):
        assert by_hand[name] == run[name]
    assert by_hand["last.safetensors"][0] == run["last.safetensors"][0]


def test_before_the_first_save_it_goes_back_to_the_beginning(text, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(HostLearner, "_step", diverging_step({4: 0.006}))
        start_run([text], CONFIG, out=tmp_path / "run")
    start_run([text], replace(CONFIG, lr=0.005, on_nan="stop"), out=tmp_path / "expected")
    run, expected = (records_without_times(tmp_path / name) for name in ("run", "expected"))
    assert run["metrics"] == expected["metrics"] and run["samples"] == expected["samples"]
    assert run["last.safetensors"][0] == expected["last.safetensors"][0]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("discipline", ["windows", "everything", "carried, step schedule"])
def test_a_resumed_run_goes_back_to_where_the_uninterrupted_one_does(
    text, tmp_path, monkeypatch, diverging, discipline, how
):
    """Interrupted after step 12, it saves step 12, and all the same must go back to step 10."""
    config = replace(DISCIPLINES[discipline], on_nan="rollback", max_steps=37)
    start_run([text], config, out=tmp_path / "whole")
    expected = records_without_times(tmp_path / "whole")
    assert expected["last.safetensors"][1]["position"]["halvings"] == (1 if discipline == "everything" else 2)
    assert "previous-last.safetensors" in expected  # step 30, since the run ends at step 37
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, (3, 10, 12, 21, 26, 36), monkeypatch, how)


def interrupted(monkeypatch, step, call):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(patch, step, ENDS["interrupted"])
        call()


def test_interrupted_again_and_again_it_goes_back_to_the_same_step(text, tmp_path, monkeypatch, diverging):
    start_run([text], CONFIG, out=tmp_path / "whole")
    run = tmp_path / "run"
    interrupted(monkeypatch, 11, lambda: start_run([text], CONFIG, out=run))
    interrupted(monkeypatch, 12, lambda: resume_run(run))
    assert (
        position(run / "last.safetensors")["step"] == 12 and position(run / "previous-last.safetensors")["step"] == 10
    )
    interrupted(monkeypatch, 20, lambda: resume_run(run))
    assert "previous-last.safetensors" not in names(run)
    resume_run(run)
    assert records_without_times(run) == records_without_times(tmp_path / "whole")


def test_it_goes_back_to_an_epochs_end(text, tmp_path, monkeypatch, diverging):
    config, notes = replace(CONFIG, batch=30, carry_state=True, epochs=4, save_every=10_000), Notes()
    start_run([text], config, out=tmp_path / "whole", callbacks=[notes])
    assert [note.split(";")[1].split(",")[0] for note in notes.notes if "back to" in note] == [
        " back to step 8",
        " back to step 24",
    ]
    expected = records_without_times(tmp_path / "whole")
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, (8, 9, 12, 25), monkeypatch)


class Killed(Exception):
    pass


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("stop", [None, 12])
def test_killed_while_it_goes_back_it_ends_the_same(text, tmp_path, monkeypatch, diverging, stop, done):
    """It is killed before or after every call that changes the folder; `stop`: it was interrupted there before."""
    start_run([text], CONFIG, out=tmp_path / "whole")
    expected, go_back = records_without_times(tmp_path / "whole"), Trainer._go_back

    def kill(patch, fatal):
        calls = []

        def counted(original):
            def method(*arguments):
                calls.append(original)
                if len(calls) == fatal and not done:
                    raise Killed
                result = original(*arguments)
                if len(calls) == fatal:
                    raise Killed
                return result

            return method

        def going_back(self, diverged):
            patch.setattr(Trainer, "_go_back", go_back)
            for name in ("roll_back", "save_last", "set_last_aside", "forget_previous_last"):
                patch.setattr(RunFolder, name, counted(getattr(RunFolder, name)))
            go_back(self, diverged)

        patch.setattr(Trainer, "_go_back", going_back)
        patch.setattr(RunFolder, "discard_unused", lambda self: None)

    begun = tmp_path / "begun"
    if stop:
        interrupted(monkeypatch, stop, lambda: start_run([text], CONFIG, out=begun))
    for fatal in range(1, 20):
        run = tmp_path / f"{fatal}"
        try:
            with monkeypatch.context() as patch:
                kill(patch, fatal)
                if stop:
                    resume_run(shutil.copytree(begun, run))
                else:
                    start_run([text], CONFIG, out=run)
            break
        except Killed:
            resume_run(run)
            assert records_without_times(run) == expected, fatal
    assert fatal == 13  # every call from the first going back on: 3, a save's 2, 3 again, and 2 saves


def test_a_checkpoint_that_is_no_longer_needed_is_removed_after_a_kill_too(text, tmp_path, monkeypatch):
    config = replace(CONFIG, max_steps=20)
    start_run([text], config, out=tmp_path / "whole")
    run = tmp_path / "run"
    interrupted(monkeypatch, 12, lambda: start_run([text], config, out=run))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "forget_previous_last", lambda self: (_ for _ in ()).throw(Killed))
        resume_run(run)
    assert {"previous-last.safetensors", "last.safetensors"} < names(run)
    resume_run(run)
    assert names(run) == names(tmp_path / "whole")
    assert records_without_times(run) == records_without_times(tmp_path / "whole")


def test_it_stops_after_ten_halvings(text, tmp_path, monkeypatch):
    with (
        monkeypatch.context() as patch,
        pytest.raises(
            DivergedError,
            match=r"training stopped at step 13: .*last.safetensors keeps step 10; the learning rate was halved 10 times",
        ),
    ):
        patch.setattr(HostLearner, "_step", diverging_step({13: 0.01 / 2**10.5}))
        start_run([text], CONFIG, out=tmp_path / "run")
    assert position(tmp_path / "run")["halvings"] == 10
    monkeypatch.setattr(HostLearner, "_step", diverging_step({13: 0.01 / 2**9.5}))
    start_run([text], CONFIG, out=tmp_path / "just enough")
    assert position(tmp_path / "just enough")["halvings"] == 10


def test_a_rate_that_lets_parameters_explode_is_halved_too(text, tmp_path):
    notes = Notes()
    with pytest.raises(DivergedError, match="the learning rate was halved 10 times"):
        start_run([text], replace(CONFIG, lr=1e45), out=tmp_path / "run", callbacks=[notes])
    assert len([note for note in notes.notes if "back to step 0" in note]) == 10
    kept = read_checkpoint(tmp_path / "run")
    assert kept.run["position"]["step"] == 0 and np.abs(kept.parameters.flat).max() <= 1


def test_a_run_that_stopped_can_be_told_to_go_back(text, tmp_path, monkeypatch, diverging):
    stopping = replace(CONFIG, on_nan="stop")
    with pytest.raises(DivergedError, match="a lower lr, clip=5 or on_nan='rollback' may help"):
        start_run([text], stopping, out=tmp_path / "run")
    resume_run(tmp_path / "run", options={"on_nan": "rollback"})
    assert metrics(tmp_path / "run")[-1]["step"] == 37
    interrupted(monkeypatch, 12, lambda: start_run([text], stopping, out=tmp_path / "interrupted"))
    notes = Notes()
    resume_run(tmp_path / "interrupted", options={"on_nan": "rollback"}, callbacks=[notes])
    assert any("back to step 12, " in note for note in notes.notes)  # nothing else was kept


@pytest.mark.parametrize("what", ["parameter", "first moment", "second moment", "state h"])
def test_what_is_not_finite_is_never_saved(text, tmp_path, monkeypatch, what):
    original = HostLearner._step

    def spoiling(self, inputs, targets, step, rate):
        found = original(self, inputs, targets, step, rate)
        training = self.training
        if step == 20 and rate > 0.006:
            {"parameter": training.parameters.flat, "first moment": training.adam.m,
             "second moment": training.adam.v, "state h": self.state.h}[what].flat[3] = math.inf  # fmt: skip
        return found

    monkeypatch.setattr(HostLearner, "_step", spoiling)
    notes = Notes()
    start_run([text], CONFIG, out=tmp_path / "run", callbacks=[notes])
    (note,) = [note for note in notes.notes if "back to step 10" in note]
    assert what in note and "step 20: expected " in note and position(tmp_path / "run")["halvings"] == 1


def test_a_validation_loss_that_is_not_finite_is_no_best_one(text, tmp_path, monkeypatch):
    validate = Trainer._validate

    def failing(self):
        if self.position.halvings == 0 and self.position.epoch == 1:
            self._expect_finite(math.nan, "the validation loss", self.position.step)
        return validate(self)

    with monkeypatch.context() as patch:
        patch.setattr("cuchar.training.stream_losses", lambda *_: iter([np.full((1, 9), np.nan)]))
        with pytest.raises(DivergedError, match="expected the validation loss to be finite, found nan"):
            start_run([text], replace(CONFIG, val_fraction=0.1, on_nan="stop"), out=tmp_path / "run")
    assert "best.safetensors" not in names(tmp_path / "run")
    monkeypatch.setattr(Trainer, "_validate", failing)
    start_run([text], replace(CONFIG, val_fraction=0.1, max_steps=None), out=tmp_path / "back")
    assert position(tmp_path / "back/last.safetensors")["halvings"] == 1
