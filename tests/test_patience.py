"""`--patience`: a run ends after so many validations in a row that found no lower loss, and resumes exactly."""

from dataclasses import replace

import pytest
from support.checkpoints import signed, tensors_and_metadata
from support.notes import Notes
from support.run_records import ENDS, expect_resumed_runs_to_end_as, metrics, records_without_times
from support.small_runs import SMALL

import cuchar
from cuchar.checkpoint import read_checkpoint
from cuchar.errors import OptionError
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer

EPOCH = 8  # steps
CONFIG = replace(SMALL, batch=30, carry_state=True, epochs=9, val_fraction=0.01, save_every=3, log_every=5)
LOSSES = [3.0, 2.0, 2.5, 2.1, 2.0, 1.9, 2.0, 1.95, 1.8]  # after each epoch; the fifth equals the best, so is no better


@pytest.fixture
def losses(monkeypatch):
    """Let every epoch's validation find the loss that LOSSES has for it, and one in an epoch's middle a better one."""

    def validate(self):
        epoch, between = divmod(self.position.step, EPOCH)
        return 1.0 if between else LOSSES[epoch - 1]

    monkeypatch.setattr(Trainer, "_validate", validate)


def epochs_of(run):
    return sum("val_loss" in line for line in metrics(run))


@pytest.mark.parametrize("patience,epochs,best", [(1, 3, 2), (2, 4, 2), (3, 5, 2), (4, 9, 9), (None, 9, 9)])
def test_it_ends_after_so_many_validations_without_a_lower_loss(text, tmp_path, losses, patience, epochs, best):
    notes, run = Notes(), tmp_path / "run"
    start_run([text], replace(CONFIG, patience=patience), out=run, callbacks=[notes])
    assert epochs_of(run) == epochs and metrics(run)[-1]["step"] == epochs * EPOCH
    assert read_checkpoint(run / "best.safetensors").run["best_step"] == best * EPOCH
    said = f"patience={patience}: the last {patience} validations found no lower loss than that of step {2 * EPOCH}"
    assert (said in notes.notes) == (epochs < 9)


@pytest.mark.parametrize("how", ENDS)
def test_it_counts_on_where_it_was_interrupted(text, tmp_path, monkeypatch, losses, how):
    config = replace(CONFIG, patience=3)
    start_run([text], config, out=tmp_path / "whole")
    expected = records_without_times(tmp_path / "whole")
    assert expected["last.safetensors"][1]["position"]["worse"] == 3
    steps = (2 * EPOCH + 1, 3 * EPOCH, 3 * EPOCH + 1, 4 * EPOCH + 4, 5 * EPOCH - 1)
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, steps, monkeypatch, how)


def test_its_end_is_an_end_and_more_patience_goes_on(text, tmp_path, losses):
    run, notes = tmp_path / "run", Notes()
    start_run([text], replace(CONFIG, patience=2), out=run)
    before = records_without_times(run)
    for options in ({}, {"epochs": 20}, {"patience": 1}):
        resume_run(run, options=options, callbacks=[notes])
        ended = options.get("patience", 2)
        assert notes.notes.pop().endswith(f"as patience={ended} asks for; a larger patience goes on")
    assert not notes.notes and records_without_times(run) == before
    for patience in (3, 4):
        resume_run(run, options={"patience": patience})
    start_run([text], replace(CONFIG, patience=4), out=tmp_path / "whole")
    assert (
        records_without_times(run)["last.safetensors"] == records_without_times(tmp_path / "whole")["last.safetensors"]
    )
    assert metrics(run) == metrics(tmp_path / "whole")


def test_the_report_in_an_epochs_middle_does_not_count(text, tmp_path, losses):
    """Where a run ends by --max-steps it validates as a longer one would not; that must not move the end of the latter."""
    config = replace(CONFIG, patience=2)
    start_run([text], replace(config, max_steps=3 * EPOCH + 4), out=tmp_path / "parts")
    assert metrics(tmp_path / "parts")[-1]["val_loss"] == 1.0
    resume_run(tmp_path / "parts", options={"max_steps": None})
    start_run([text], config, out=tmp_path / "whole")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole") and epochs_of(tmp_path / "parts") == 4


def test_it_needs_something_to_validate_on(text, tmp_path, fails):
    without = "--patience 2: expected --val or --val-fraction with it, found neither"
    assert fails(2, "train", text, "--patience", 2, "--out", tmp_path / "run") == f"cuchar: {without}\n"
    start_run([text], replace(CONFIG, val_fraction=0, max_steps=3), out=tmp_path / "without")
    with pytest.raises(OptionError, match="patience=2: expected a run that validates, found one that does not"):
        resume_run(tmp_path / "without", options={"patience": 2, "max_steps": 9})
    cuchar.train(text, val=text, patience=1, max_steps=3, out=tmp_path / "with")
    assert read_checkpoint(tmp_path / "with").run["train"]["patience"] == 1


def test_files_that_know_no_patience_are_read_and_go_on(text, tmp_path, losses):
    """They are of a version before; that they are read is also seen in test_old_run.py."""
    start_run([text], replace(CONFIG, max_steps=2 * EPOCH), out=tmp_path / "run")
    for file in (tmp_path / "run").glob("*.safetensors"):
        tensors, body = tensors_and_metadata(file)
        for name in ("worse", "halvings"):
            del body["run"]["position"][name]
        for name in ("patience", "on_nan", "law"):
            del body["run"]["train"][name]
        file.write_bytes(signed(tensors, body))
    resume_run(tmp_path / "run", options={"max_steps": None, "patience": 2})
    assert epochs_of(tmp_path / "run") == 4
