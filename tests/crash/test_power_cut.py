"""Whatever a power cut leaves on the disk, the run that is there ends as one that nothing has interrupted.

tests/support/power_cut.py says what a power cut can leave, and tests/support/power_cut_runs.py has the runs.
"""

import os
from random import Random

import pytest
from support.file_recorder import Recorder, Sync, write_tree
from support.memory import folder_in_memory
from support.power_cut import disks
from support.power_cut_runs import SCENARIOS, Course

from cuchar.errors import RunError
from cuchar.files import write_output
from cuchar.run_folder import RunFolder
from cuchar.runs import resume_run


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Make a Course of a scenario."""
    with folder_in_memory(tmp_path) as folder:
        yield lambda name, **options: Course(SCENARIOS[name], folder, monkeypatch, **options)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_disk_leads_to_the_same_end(name, course):
    found = course(name)
    assert found.complaints() == []
    places = {operation.place for operation in found.recorder.operations if isinstance(operation, Sync)}
    assert places <= SYNCS.keys() | NOT_NEEDED


def test_where_nothing_was_saved_yet_one_line_says_what_to_do(course):
    found = course("ends between two lines")
    begun = [
        tree
        for tree, _ in disks(found.recorder)
        if "config.json" not in tree.get("runs", {}).get("run", {"config.json"})
    ]
    assert begun
    for tree in begun:
        write_tree(found.disk, tree)
        with pytest.raises(RunError, match="found none; if a run had only just begun there, begin it again"):
            resume_run(found.run)


KILLS = {"the report finds the best": [5, 8, 34, 44], "goes back after it was stopped": [5, 21, 34, 44]}


@pytest.mark.parametrize("name,kill", [(name, kill) for name, kills in KILLS.items() for kill in kills])
def test_a_kill_and_then_a_power_cut(name, kill, course):
    """What a killed process has not waited for is not on the disk either, though the next process sees it."""
    assert course(name, kill=kill).complaints(most=15) == []


@pytest.mark.parametrize("kill", [2, 3, 4])
def test_a_kill_while_folders_are_made_and_then_a_power_cut(kill, course):
    assert course("ends between two lines", kill=kill).complaints() == []


@pytest.mark.parametrize("name", ["the report finds the best", "more steps", "goes back after it was stopped"])
def test_a_second_power_cut(name, course):
    """The power is cut again while the run that the first cut has left goes on."""
    twice = course(name)
    for tree, mark in Random(1).sample([*disks(twice.recorder)], 4):
        if mark != "the end":
            twice.record(tree)
            assert twice.complaints(most=15) == []


# --- the checks themselves: every mistake is noticed

SYNCS = {  # by call of fsync that a run makes, and by which function it comes there: a scenario in which it is needed
    "_make_folders > _sync_folder: os.fsync(descriptor)": "ends between two lines",
    "write_config > write_file: os.fsync(file.fileno())": "ends between two lines",
    "write_config > write_file: os.fsync(held)": "ends between two lines",
    "write_checkpoint > write_file: os.fsync(file.fileno())": "ends between two lines",
    "write_checkpoint > write_file: os.fsync(held)": "ends between two lines",
    "_copy > write_file: os.fsync(file.fileno())": "the report finds the best",
    "_copy > write_file: os.fsync(held)": "the report finds the best",
    "save_last > sync: os.fsync(opened.fileno())": "ends between two lines",
    "save_last > sync: os.fsync(self._descriptor)": "ends between two lines",
    "_finish > sync: os.fsync(opened.fileno())": "ends between two lines",
    "_finish > sync: os.fsync(self._descriptor)": "ends before the first line",
    "_resume > roll_back: os.fsync(opened.fileno())": "more steps",
    "save_last > _remove: os.fsync(self._descriptor)": "more steps, to an epoch's end",
    "forget_previous_last > _remove: os.fsync(self._descriptor)": "was stopped, ends with a save",
}
NOT_NEEDED = {"_go_back > roll_back: os.fsync(opened.fileno())"}  # whoever resumes the run rolls back again


@pytest.mark.parametrize("place", SYNCS)
def test_a_missing_wait_for_the_disk_is_noticed(place, course):
    assert course(SYNCS[place]).is_noticed(without=place)


def written_in_place(patch):
    def write_file(path, data, folder=None):
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    patch.setattr("cuchar.checkpoint.write_file", write_file)
    patch.setattr("cuchar.run_folder.write_file", write_file)


def renamed_instead_of_copied(patch):
    def rename(self, file, to):
        os.rename(file.name, to.name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)

    patch.setattr(RunFolder, "_copy", rename)


def removed_when_read(patch):
    read_last_due = RunFolder.read_last_due
    patch.setattr(RunFolder, "read_last_due", lambda self: (read_last_due(self), self.forget_previous_last())[0])


def rolled_back_before_saving(patch):
    save_last = RunFolder.save_last
    patch.setattr(RunFolder, "save_last", lambda self, last: (self.roll_back(last), save_last(self, last)))


def ends_of_lines_counted(patch):
    def has_report(self, last):
        return self.metrics.read_bytes()[last.run["lengths"]["metrics.jsonl"] :].endswith(b"\n")

    patch.setattr(RunFolder, "has_report", has_report)


def left_where_it_is(patch):
    patch.setattr(RunFolder, "complete_save", lambda self, last, is_due: None)


MISTAKES = {
    "checkpoints are written in place": (written_in_place, "ends between two lines"),
    "the best model is renamed aside": (renamed_instead_of_copied, "the report finds the best"),
    "the best model is renamed back": (renamed_instead_of_copied, "more steps"),
    "what is still needed is removed": (removed_when_read, "goes back after it was stopped"),
    "rolled back too early": (rolled_back_before_saving, "goes back after it was stopped"),
    "what is no longer needed stays, best": (left_where_it_is, "more steps"),
    "what is no longer needed stays, last": (left_where_it_is, "was stopped, ends with a save"),
    "the end of a line counts as a report": (ends_of_lines_counted, "the report finds the best"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_order_is_noticed(mistake, course, monkeypatch):
    mutate, name = MISTAKES[mistake]
    mutate(monkeypatch)
    assert course(name).is_noticed()


# --- results that a command writes


@pytest.mark.parametrize("before", [{}, {"page.html": b"the one before"}])
def test_an_output_is_the_old_one_or_the_new_one(before, tmp_path):
    disk = tmp_path / "disk"
    write_tree(disk, before)
    recorder = Recorder(disk)
    with recorder.watch():
        write_output(disk / "page.html", b"the new page")
        recorder.mark("written")
    recorder.expect_complete()
    found = {(mark, tree.get("page.html")) for tree, mark in disks(recorder)}
    assert found == {(None, before.get("page.html")), (None, b"the new page"), ("written", b"the new page")}
