"""A run's end, its folder and its files: no work is lost, no other file is written to, and what is wrong is named."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from support.notes import Notes
from support.run_records import metrics, records_without_times

from cuchar.checkpoint import read_checkpoint, write_checkpoint
from cuchar.config import TrainConfig
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.errors import CheckpointError, OptionError, RunError
from cuchar.run_folder import RunFolder
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer
from cuchar.vocabulary import Vocabulary

CONFIG = TrainConfig(
    hidden=6, layers=1, window=7, batch=5, epochs=2, lr=0.01, log_every=6, sample_every=8, sample_length=9, save_every=10,
    carry_state=True, val_fraction=0.01,
)  # fmt: skip
EPOCH = 49  # steps


def validation_losses(monkeypatch, losses):
    """Let every validation find the loss that its step has in `losses`."""
    monkeypatch.setattr(Trainer, "_validate", lambda self: losses[self.position.step])


def assert_same_but_for_totals(*runs):
    """Compare runs without their totals: files from before a run was given more steps state the totals of that time."""
    first, second = map(records_without_times, runs)
    for found in (*first.values(), *second.values()):
        if isinstance(found, tuple):
            found[1]["train"].update(max_steps=None, epochs=None)
    assert first == second


# --- a run's end


class Full(Exception):
    """The disk is full."""


def fail_while_ending(patch, call, done):
    """Let the end of a run fail at this call of those that change the folder, before or after the call has `done` it."""
    calls = []
    finish = Trainer._finish

    def counted(original):
        def method(*arguments):
            calls.append(original)
            is_it = len(calls) == call
            if is_it and not done:
                raise Full
            original(*arguments)
            if is_it:
                raise Full

        return method

    def finish_counted(self):
        for name in ("append", "save_last", "save_best", "set_best_aside", "sync"):
            patch.setattr(RunFolder, name, counted(getattr(RunFolder, name)))
        finish(self)

    patch.setattr(Trainer, "_finish", finish_counted)


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("before", [None, 2.0])
def test_a_run_that_fails_while_it_ends_is_ended_by_resuming_it(text, tmp_path, monkeypatch, before, done):
    """It may fail anywhere. Its last model is its best; `before` is the loss of the model that was it until then."""
    config = replace(CONFIG, max_steps=EPOCH + 18 if before else 18)
    validation_losses(monkeypatch, {EPOCH: before, config.max_steps: 1.0})
    start_run([text], config, out=tmp_path / "whole")
    whole = records_without_times(tmp_path / "whole")
    assert whole["best.safetensors"][1]["best"] == 1.0 and ("previous-best.safetensors" in whole) == bool(before)
    for call in range(1, 20):
        run = tmp_path / f"{call}"
        try:
            with monkeypatch.context() as patch:
                fail_while_ending(patch, call, done)
                start_run([text], config, out=run)
        except Full:
            resume_run(run)
        else:
            break
        assert records_without_times(run) == whole, call
    assert call > 8  # those that write last, a sample, best set aside, best, the logs, the line, the logs


def test_a_report_whose_line_is_torn_is_made_again(text, tmp_path):
    start_run([text], replace(CONFIG, max_steps=17), out=tmp_path / "run")
    log = tmp_path / "run/metrics.jsonl"
    whole, expected = log.read_bytes(), metrics(tmp_path / "run")
    for cut in (1, 30):
        log.write_bytes(whole[:-cut])
        notes = Notes()
        resume_run(tmp_path / "run", callbacks=[notes])
        assert metrics(tmp_path / "run") == expected and not any("is finished" in note for note in notes.notes)


@pytest.mark.parametrize(
    "losses",
    [
        {EPOCH: 2.0, EPOCH + 18: 1.0, EPOCH + 31: 1.5},  # the best model is one that the longer run never validates
        {EPOCH: 2.0, EPOCH + 18: 1.0, EPOCH + 31: 3.0},  # the best model was there before
        {EPOCH: 1.0, EPOCH + 18: 2.0, EPOCH + 31: 3.0},
        {EPOCH: 3.0, EPOCH + 18: 2.0, EPOCH + 31: 1.0},
    ],
)
def test_more_steps_for_a_finished_run_give_the_best_model_of_the_longer_run(text, tmp_path, monkeypatch, losses):
    validation_losses(monkeypatch, losses)
    config = replace(CONFIG, max_steps=EPOCH + 31)
    start_run([text], config, out=tmp_path / "whole")
    start_run([text], replace(config, max_steps=EPOCH + 18), out=tmp_path / "parts")
    resume_run(tmp_path / "parts", options={"max_steps": EPOCH + 31})
    assert_same_but_for_totals(tmp_path / "parts", tmp_path / "whole")
    assert read_checkpoint(tmp_path / "parts/best.safetensors").run["best"] == min(losses[EPOCH], losses[EPOCH + 31])


def test_more_steps_where_the_only_validation_was_the_reports(text, tmp_path, monkeypatch):
    validation_losses(monkeypatch, {18: 1.0, 31: 2.0})
    config = replace(CONFIG, max_steps=31)
    start_run([text], config, out=tmp_path / "whole")
    start_run([text], replace(config, max_steps=18), out=tmp_path / "parts")
    resume_run(tmp_path / "parts", options={"max_steps": 31})
    assert_same_but_for_totals(tmp_path / "parts", tmp_path / "whole")


def test_a_run_that_ends_says_what_it_is_and_what_to_do(text, tmp_path):
    notes, run = Notes(), tmp_path / "a run"
    start_run([text], replace(CONFIG, max_steps=20), out=run, callbacks=[notes])
    loss, best = metrics(run)[-1]["loss"], metrics(run)[-1]["val_loss"]
    ended, then = notes.notes[-2:]
    assert ended.startswith("20 steps in ") and ended.endswith(str(run))
    assert f" s: mean loss {loss:.4f} since step 18, best validation loss {best:.4f}; " in ended
    assert then == f"to write with it: cuchar.load('{run}').sample()"


@pytest.mark.parametrize("max_steps,said", [(99, True), (98, False), (None, False)])
def test_more_steps_than_the_epochs_have_are_pointed_out(text, tmp_path, max_steps, said):
    notes = Notes()
    start_run([text], replace(CONFIG, max_steps=max_steps, sample_every=0), out=tmp_path / "run", callbacks=[notes])
    found = "max_steps=99: epochs=2 ends the run before, after some 98 steps"
    assert (found in notes.notes) == said


@pytest.mark.parametrize("warmup,max_steps,said", [(99, None, 98), (98, None, None), (9, 8, 8), (8, 8, None)])
def test_a_warm_up_that_is_longer_than_the_run_is_pointed_out(text, tmp_path, warmup, max_steps, said):
    notes, config = Notes(), replace(CONFIG, warmup=warmup, max_steps=max_steps, sample_every=0)
    start_run([text], config, out=tmp_path / "run", callbacks=[notes])
    found = [note for note in notes.notes if note.startswith("warmup=")]
    expected = (
        f"warmup={warmup}: the run ends before, after some {said} steps, and its learning rate never rises to lr=0.01"
    )
    assert found == ([expected] if said else [])


@pytest.mark.parametrize("max_steps,sampled", [(5, [5]), (8, [8]), (EPOCH, [8, 16, 24, 32, 40, 48, EPOCH])])
def test_a_run_of_any_length_shows_a_sample_at_its_end(text, tmp_path, max_steps, sampled):
    start_run([text], replace(CONFIG, max_steps=max_steps), out=tmp_path / "run")
    blocks = (tmp_path / "run/samples.txt").read_text().split("--- step ")[1:]
    assert [int(block.split()[0]) for block in blocks] == sampled


def test_a_finished_run_names_the_total_that_ended_it(text, tmp_path):
    for name, totals in (("max_steps=20", {"max_steps": 20}), ("epochs=1", {"epochs": 1, "max_steps": 1000})):
        run, notes = tmp_path / name, Notes()
        start_run([text], replace(CONFIG, **totals), out=run)
        resume_run(run, options={"max_steps": 1000} if "epochs" in totals else {"epochs": 9}, callbacks=[notes])
        (note,) = notes.notes
        assert note.endswith(f", as {name} asks for; a larger {name.split('=')[0]} goes on")


# --- its folder


@pytest.fixture
def run(text, tmp_path):
    """A run that can go on, with a best model."""
    start_run([text], replace(CONFIG, max_steps=EPOCH + 11), out=tmp_path / "run")
    return tmp_path / "run"


def go_on(run, **options):
    resume_run(run, options={"max_steps": EPOCH + 21}, **options)


def files_of(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.mark.parametrize("log", ["metrics.jsonl", "samples.txt"])
def test_logs_that_are_no_regular_files_are_not_written_to(run, tmp_path, log):
    elsewhere = tmp_path / "precious"
    elsewhere.write_bytes((run / log).read_bytes() + b"precious")
    (run / log).unlink()
    (run / log).symlink_to(elsewhere)
    with pytest.raises(RunError, match=rf"{log}: expected a regular file, found a link"):
        go_on(run)
    assert elsewhere.read_bytes().endswith(b"precious")
    (run / log).unlink()
    os.mkfifo(run / log)
    with pytest.raises(RunError, match=rf"{log}: expected a regular file, found something else"):
        go_on(run)


def test_a_link_in_the_place_of_a_new_runs_log_is_refused(text, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/metrics.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match=r"found a run in it \(metrics.jsonl\)"):
        start_run([text], CONFIG, out=tmp_path / "run")
    assert not (tmp_path / "precious").exists()


@pytest.mark.parametrize("log", ["metrics.jsonl", "samples.txt"])
def test_a_log_that_is_too_short_is_named_and_never_filled_up(run, log):
    counted = read_checkpoint(run / "last.safetensors").run["lengths"][log]
    for found in (counted - 1, 0):
        os.truncate(run / log, found)
        with pytest.raises(RunError, match=rf"{log}: expected the {counted:,} bytes that .*, found {found:,}"):
            go_on(run)
        assert (run / log).stat().st_size == found
    (run / log).unlink()
    with pytest.raises(RunError, match=rf"{log}: expected the {counted:,} bytes that .*, found 0"):
        go_on(run)


def test_a_folder_that_takes_the_place_of_a_runs_is_not_written_into(text, tmp_path, monkeypatch):
    config, run, moved = replace(CONFIG, epochs=1), tmp_path / "run", tmp_path / "moved"
    start_run([text], config, out=tmp_path / "whole")
    advance = Trainer._advance

    def moving(self, steps):
        advance(self, steps)
        if self.position.step == 7:
            run.rename(moved)
            run.mkdir()
            (run / "metrics.jsonl").write_text("another's")

    monkeypatch.setattr(Trainer, "_advance", moving)
    start_run([text], config, out=run)
    assert files_of(run) == {"metrics.jsonl": b"another's"}
    assert records_without_times(moved) == records_without_times(tmp_path / "whole")


def test_a_folder_that_is_gone_ends_the_run_with_one_line(text, tmp_path, monkeypatch):
    advance = Trainer._advance

    def removing(self, steps):
        advance(self, steps)
        if self.position.step == 7:
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(Trainer, "_advance", removing)
    with pytest.raises(RunError, match=r"samples.txt: expected to add \d+ bytes, found: No such file or directory"):
        start_run([text], CONFIG, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_killed_processes_were_writing_is_removed_and_nothing_else(run, text, tmp_path):
    others = {".last.safetensors.tmp", ".notes.txt.12.tmp", "x.last.safetensors.12.tmp", ".metrics.jsonl.12.tmp"}
    for name in {".last.safetensors.1234.tmp", ".best.safetensors.7.tmp", ".config.json.99.tmp"} | others:
        (run / name).write_text("x")
    go_on(run)
    assert {name for name in files_of(run) if name.endswith(".tmp")} == others
    new = tmp_path / "new"
    new.mkdir()
    (new / ".config.json.3.tmp").write_text("")
    start_run([text], replace(CONFIG, max_steps=3), out=new)
    assert not [name for name in files_of(new) if name.endswith(".tmp")]


def test_a_new_folder_is_on_disk_with_its_parents_and_the_last_line_too(text, tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def recording(descriptor):
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording)
    start_run([text], replace(CONFIG, max_steps=3), out=tmp_path / "a/b")
    inodes = [inode for inode, _ in synced]
    assert {folder.stat().st_ino for folder in (tmp_path, tmp_path / "a", tmp_path / "a/b")} <= set(inodes)
    log = (tmp_path / "a/b/metrics.jsonl").stat()
    last_line = synced.index((log.st_ino, log.st_size))
    assert (tmp_path / "a/b").stat().st_ino in inodes[last_line:]  # the log is new in the folder


def test_a_start_that_fails_leaves_nothing_that_refuses_the_next(text, tmp_path, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    for owner, name in ((CpuEngine, "learner"), (Trainer, "_advance")):
        for out in (tmp_path / "new/run", tmp_path):
            before = sorted(tmp_path.iterdir())
            with monkeypatch.context() as patch, pytest.raises(MemoryError):
                patch.setattr(owner, name, no_memory)
                start_run([text], CONFIG, out=out)
            assert sorted(tmp_path.iterdir()) == before
    start_run([text], replace(CONFIG, max_steps=3), out=tmp_path)


def test_the_folder_of_a_start_that_was_killed_can_be_used(text, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Trainer, "_advance", lambda *_: (_ for _ in ()).throw(MemoryError))
        patch.setattr(RunFolder, "discard_unused", lambda self: None)
        start_run([text], CONFIG, out=run)
    assert files_of(run).keys() == {"config.json"}
    start_run([text], replace(CONFIG, batch=3, max_steps=3), out=run)
    assert json.loads((run / "config.json").read_text())["train"]["batch"] == 3
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"colour": "blue"}')
    with pytest.raises(RunError, match=r"config\.json: expected a run's configuration, found a wrong one: texts"):
        start_run([text], CONFIG, out=other)
    assert files_of(other) == {"config.json": b'{"colour": "blue"}'}


def test_an_option_of_no_known_name_is_an_error(run):
    with pytest.raises(OptionError, match="is it hidden"):
        resume_run(run, options={"hiden": 6})


# --- its files


def edited(run, change):
    """Let a checkpoint say something else, with a digest that fits."""
    checkpoint = read_checkpoint(run / "last.safetensors")
    change(checkpoint.run)
    write_checkpoint(run / "last.safetensors", checkpoint)


def test_a_checkpoint_of_another_run_is_refused(run):
    original = (run / "last.safetensors").read_bytes()
    zeros = "0" * 64
    for change, found in (
        (lambda of: of["train"].update(lr=0.5), r"lr to be config.json's 0\.01, found 0\.5"),
        (lambda of: of["train"].update(carry_state=False), "carry_state to be config.json's True, found False"),
        (lambda of: of.update(sha256=zeros), f"the text's SHA-256 to be config.json's .*, found {zeros}"),
        (lambda of: of.update(val=["/x"], val_sha256=zeros), f"the validation text's SHA-256 .* None, found {zeros}"),
    ):
        edited(run, change)
        before = files_of(run)
        with pytest.raises(RunError, match=rf"last\.safetensors: expected {found}"):
            go_on(run)
        assert files_of(run) == before
        (run / "last.safetensors").write_bytes(original)
    edited(run, lambda of: of["train"].update(max_steps=7, epochs=1))
    go_on(run)
    checkpoint = read_checkpoint(run / "last.safetensors")
    codes = checkpoint.vocabulary.codes.copy()
    codes[-1] += 1
    write_checkpoint(run / "last.safetensors", replace(checkpoint, vocabulary=Vocabulary(codes)))
    with pytest.raises(RunError, match=r"last\.safetensors: expected the vocabulary of the run's text, found another"):
        resume_run(run, options={"max_steps": EPOCH + 31})


def test_a_damaged_best_model_does_not_stop_the_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "sound")
    go_on(tmp_path / "sound")
    for damaged in (b"", (run / "best.safetensors").read_bytes()[:-1], None):
        copy = tmp_path / f"{damaged and len(damaged)}"
        shutil.copytree(run, copy)
        (copy / "best.safetensors").unlink()
        (copy / "previous-best.safetensors").unlink(missing_ok=True)
        if damaged is not None:
            (copy / "best.safetensors").write_bytes(damaged)
        notes = Notes()
        go_on(copy, callbacks=[notes])
        assert metrics(copy) == metrics(tmp_path / "sound")
        said = "best.safetensors cannot be read; the next validation writes another"
        assert any(said in note for note in notes.notes)
        assert read_checkpoint(copy / "best.safetensors").run["best"] == metrics(copy)[-1]["val_loss"]


def test_a_best_model_that_is_the_last_one_too_is_written_again(text, tmp_path, monkeypatch):
    """A kill between the writing of the one and of the other leaves such a folder."""
    validation_losses(monkeypatch, {EPOCH: 1.0, EPOCH + 3: 2.0})
    run = tmp_path / "run"
    start_run([text], replace(CONFIG, epochs=1), out=run)
    assert (run / "best.safetensors").read_bytes() == (run / "last.safetensors").read_bytes()
    expected = (run / "best.safetensors").read_bytes()
    for left in (None, b"damaged"):
        (run / "best.safetensors").unlink(missing_ok=True)
        if left:
            (run / "best.safetensors").write_bytes(left)
        shutil.copytree(run, tmp_path / f"{left}")
        resume_run(tmp_path / f"{left}", options={"max_steps": EPOCH + 3, "epochs": 2})
        assert (tmp_path / f"{left}/best.safetensors").read_bytes() == expected


def test_a_missing_last_model_is_an_error_that_says_what_to_do(run, text, tmp_path):
    shutil.copytree(run, tmp_path / "whole")
    go_on(tmp_path / "whole")
    (run / "last.safetensors").unlink()
    before = files_of(run)
    with pytest.raises(
        RunError, match=r"last\.safetensors: .* a copy of best\.safetensors under its name lets the run go on"
    ):
        go_on(run)
    assert files_of(run) == before
    shutil.copy(run / "best.safetensors", run / "last.safetensors")
    go_on(run)
    assert metrics(run) == metrics(tmp_path / "whole")
    found, expected = (read_checkpoint(folder / "last.safetensors") for folder in (run, tmp_path / "whole"))
    assert found.parameters.flat.tobytes() == expected.parameters.flat.tobytes()
    (run / "last.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"last\.safetensors: expected a whole safetensors file"):
        go_on(run)
