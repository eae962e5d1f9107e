"""A disk that is full, over its quota or broken ends a run with one line; later the run goes on to the same bytes."""

import errno
import itertools
import os
from dataclasses import replace

import pytest
from support.divergence import diverging_step
from support.file_recorder import Recorder, read_tree, write_tree
from support.memory import folder_in_memory
from support.run_records import ENDS, interrupt_after, records_without_times
from support.small_runs import TINY, TINY_EPOCH, TINY_TEXT

from cuchar.checkpoint import read_position
from cuchar.engines.host import HostLearner
from cuchar.errors import OutputError, RunError
from cuchar.files import write_file
from cuchar.interrupts import Interrupted
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
NEEDS_ROOM = ("create", "write", "fsync", "rename", "mkdir")


class Failing:
    """Lets one operation fail, and if `stays` is set all later ones that need room on the disk."""

    def __init__(self, number: int, stays: bool):
        self.number, self.stays = number, stays
        self.error = ERRORS[number % len(ERRORS)]
        self.kind = ""

    def __call__(self, number: int, kind: str) -> None:
        if number == self.number or (self.stays and number > self.number and kind in NEEDS_ROOM):
            self.kind = self.kind or kind
            raise OSError(self.error, os.strerror(self.error))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("cuchar.training.perf_counter", itertools.count().__next__)
    with folder_in_memory(tmp_path) as folder:
        (folder / "fox.txt").write_text(TINY_TEXT)
        (folder / "disk").mkdir()
        yield folder


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("which", ["new", "more steps", "goes back"])
def test_every_failing_operation_ends_the_run_with_one_line(which, stays, folder, monkeypatch):
    disk, run, options = folder / "disk", folder / "disk/runs/run", {}
    config = replace(TINY, max_steps=TINY_EPOCH + 3)
    losses = {TINY_EPOCH: 2.0, TINY_EPOCH + 3: 1.0, TINY_EPOCH + 4: 3.0}

    def go_on():
        if (run / "config.json").exists():
            resume_run(run, options=options, device="cpu")
        else:
            start_run([folder / "fox.txt"], config, out=run, device="cpu")

    if which == "goes back":
        config = replace(config, on_nan="rollback")
        monkeypatch.setattr(HostLearner, "_step", diverging_step({7: 0.006}))
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            interrupt_after(patch, 6, ENDS["interrupted"])
            go_on()
    else:
        monkeypatch.setattr(Trainer, "_validate", lambda trainer: losses[trainer.position.step])
    if which == "more steps":
        go_on()
        options["max_steps"] = TINY_EPOCH + 4
    before = read_tree(disk)
    go_on()
    expected = records_without_times(run)
    failed = set()
    for number in itertools.count(1, 2 if stays else 1):
        write_tree(disk, before)
        failing = Failing(number, stays)
        recorder = Recorder(disk, failing)
        try:
            with recorder.watch():
                go_on()
            assert not failing.kind
            break
        except (RunError, OutputError) as error:
            line = str(error)
        recorder.expect_complete()
        failed.add(failing.kind)
        assert line.startswith(str(run)) and ": expected " in line and "\n" not in line
        assert f", found: {os.strerror(failing.error)}" in line, (number, line)
        if failing.kind != "unlink":
            assert not [file.name for file in disk.rglob("*.tmp")], (number, line)
        if which != "new":
            assert read_position(run / "last.safetensors").step >= (4 if which == "goes back" else TINY_EPOCH + 3)
        go_on()
        assert records_without_times(run) == expected, (number, line)
    assert number > 30 and failed >= {"create", "write", "fsync", "rename"}


def test_the_command_says_so_and_can_be_resumed(folder, cli):
    """The disk becomes full when the first checkpoint is written."""
    run, words = (
        folder / "disk/run",
        "--hidden 2 --window 5 --batch 3 --max-steps 7 --save-every 4 --log-every 3".split(),
    )
    recorder = Recorder(folder / "disk", Failing(15, stays=True))
    with recorder.watch():
        ended = cli("train", folder / "fox.txt", *words, "--out", run)
    said = [line for line in ended.stderr.splitlines() if "expected" in line]
    assert ended.status == 1 and len(said) == 1 and ended.stderr.endswith(said[0] + "\n")
    assert said[0].startswith(f"cuchar: {run}/last.safetensors: expected to write ")
    assert said[0].endswith(" bytes, found: No space left on device")
    assert cli("train", "--resume", run).status == 0 and read_position(run / "last.safetensors").step == 7


def test_a_start_without_room_leaves_nothing(folder):
    for number in (1, 3, 5, 6, 7):
        with Recorder(folder / "disk", Failing(number, stays=True)).watch(), pytest.raises((RunError, OutputError)):
            start_run([folder / "fox.txt"], TINY, out=folder / "disk/runs/run", device="cpu")
        assert read_tree(folder / "disk") == {}


def test_a_new_file_whose_name_may_be_lost_is_not_called_the_old_one(folder):
    write_tree(folder / "disk", {"file": b"old"})
    with Recorder(folder / "disk", Failing(5, stays=False)).watch(), pytest.raises(OutputError) as raised:
        write_file(folder / "disk/file", b"new")
    assert str(raised.value).endswith("; file there is the new one, which a power cut may take away")
    assert read_tree(folder / "disk") == {"file": b"new"}
