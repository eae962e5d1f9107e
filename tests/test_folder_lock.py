"""The lock on a run folder says where it does not keep every other training out."""

import errno
import fcntl
import os
from dataclasses import replace

import pytest
from support.notes import Notes
from support.small_runs import TINY, TINY_TEXT

from cuchar import folder_lock
from cuchar.errors import RunError
from cuchar.folder_lock import is_in_use, lock_folder
from cuchar.runs import resume_run, start_run


def lie_on(kind, folder, monkeypatch):
    """Let the machine say that a folder is on a file system of this type, which is mounted twice, beside others."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = folder.parent / "mountinfo"
    mounts.write_text(
        "21 1 0:19 / /proc rw,relatime shared:12 - proc proc rw\n"
        f"40 1 {number} / /mnt/a\\040b rw master:3 shared:4 - {kind} server:/home rw,vers=4.2\n"
        f"41 1 {number} /sub /home rw - {kind} server:/home rw\n"
    )
    monkeypatch.setattr(folder_lock, "MOUNTS", mounts)


def fail_to_lock(number, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def note_of(folder):
    descriptor, note = lock_folder(folder)
    os.close(descriptor)
    return note


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"])
def test_a_lock_on_a_networks_file_system_holds_on_this_machine_alone(kind, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    lie_on(kind, run, monkeypatch)
    assert note_of(run) == (
        f"{run} is on {kind}, where its lock keeps out other trainings of this machine alone: "
        "let no other machine train in it"
    )


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "ceph"])
def test_a_lock_on_another_file_system_holds(kind, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    lie_on(kind, tmp_path / "run", monkeypatch)
    assert note_of(tmp_path / "run") is None


def test_a_machine_that_does_not_say_what_is_mounted_is_believed_to_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "MOUNTS", tmp_path / "none")
    assert note_of(tmp_path) is None


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL])
def test_a_file_system_without_locks_is_trained_on_with_a_note(number, tmp_path, monkeypatch):
    fail_to_lock(number, monkeypatch)
    assert note_of(tmp_path) == (
        f"{tmp_path} is on a file system that has no locks ({os.strerror(number)}): "
        "nothing but you keeps a second training out of it"
    )
    assert not is_in_use(tmp_path)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES])
def test_a_lock_that_another_has_is_no_missing_lock(number, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "PAUSE_S", 0)
    fail_to_lock(number, monkeypatch)
    with pytest.raises(RunError, match="expected a folder nobody trains in, found another training at work"):
        lock_folder(tmp_path)
    assert is_in_use(tmp_path)


def test_runs_begin_and_go_on_with_the_note(tmp_path, monkeypatch):
    run, text = tmp_path / "run", tmp_path / "fox.txt"
    text.write_text(TINY_TEXT)
    fail_to_lock(errno.ENOLCK, monkeypatch)
    for call in (
        lambda notes: start_run([text], replace(TINY, max_steps=3), out=run, callbacks=[notes], device="cpu"),
        lambda notes: resume_run(run, options={"max_steps": 5}, callbacks=[notes], device="cpu"),
    ):
        notes = Notes()
        call(notes)
        assert [note for note in notes.notes if "has no locks (No locks available)" in note] == [note_of(run)]
