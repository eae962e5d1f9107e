"""Reading what runs have logged: values, names, damage, hostile files, and runs that are training."""

import fcntl
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.logged_runs import line, log_run, write_lines

from cuchar.errors import RunError
from cuchar.folder_lock import is_in_use
from cuchar.run_folder import RunFolder
from cuchar.run_logs import LONGEST_LINE, read_logs, run_folders, stamp


def read(folder):
    (log,) = read_logs([folder])
    return log


def test_every_value_is_where_it_belongs(tmp_path):
    values = line(100, 2.5, epoch=1, lr=0.25, grad_norm=0.75, chars_per_s=1234, elapsed_s=8.5)
    log = read(log_run(tmp_path / "run", [values, {**line(200, 2.25, epoch=2), "val_loss": 2.75}], batch=5, window=7))
    first = {name: float(column[0]) for name, column in log.metrics.items() if not np.isnan(column[0])}
    assert first == values
    assert np.isnan(log.metrics["val_loss"][0]) and log.metrics["val_loss"][1] == 2.75
    assert (log.config.batch, log.config.window, log.facts["characters"]) == (5, 7, 1760)
    assert (log.name, log.training, log.complaints) == ("run", False, [])
    assert log.written == (tmp_path / "run/metrics.jsonl").stat().st_mtime


def test_last_and_best_values(tmp_path):
    losses = [(1, 2.5), (2, 1.5), (3, None), (4, 1.75)]
    lines = [line(step) | ({} if loss is None else {"val_loss": loss}) for step, loss in losses]
    log = read(log_run(tmp_path / "run", [*lines, line(5, 1.25)]))
    assert (log.last("loss"), log.last("val_loss"), log.best_validation_loss()) == (1.25, 1.75, 1.5)
    none = read(log_run(tmp_path / "none", []))
    assert np.isnan([none.last("loss"), none.best_validation_loss()]).all() and none.complaints == []


def test_a_real_run(trained):
    log = read(trained)
    lines = [json.loads(text) for text in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [*log.metrics["loss"]] == [values["loss"] for values in lines] and log.config.hidden == 12
    assert log.complaints == []


def test_a_value_beyond_any_axis_is_left_out_and_its_line_kept(tmp_path):
    huge = [line(10, 2.5, grad_norm=1e30), line(20, 2.25, grad_norm=1e31), line(30, 2.0, grad_norm=-(10**300))]
    log = read(log_run(tmp_path / "run", huge))
    assert [*log.metrics["loss"]] == [2.5, 2.25, 2.0] and log.complaints == []
    assert log.metrics["grad_norm"][0] == 1e30 and np.isnan(log.metrics["grad_norm"][1:]).all()


@pytest.mark.parametrize("end", [b'{"step": 30', b'{"step": 30, "epoch": 0, "loss": 1}', b"\xff"])
def test_a_line_that_is_being_written_is_left_out_silently(tmp_path, end):
    log = read(log_run(tmp_path / "run", [line(10), line(20)], end))
    assert [*log.metrics["step"]] == [10, 20] and log.complaints == []


DAMAGE = {
    "not json\n": "expected a line of metrics in JSON, found something else",
    "[" * 60_000 + "\n": "expected a line of metrics in JSON, found something else",
    "[1]\n": "line: expected an object, found a list",
    '{"step": true, "epoch": 0}\n': "step: expected a count, found True",
    '{"step": 11.0, "epoch": 0}\n': "step: expected a count, found 11.0",
    '{"step": 11}\n': "epoch: expected a count, found None",
    '{"step": 99999999999999999999, "epoch": 0}\n': "step: expected a count, found 99999999999999999999",
    '{"step": 10, "epoch": 0}\n': "step: expected more than the 10 before, found 10",
    '{"step": 11, "epoch": 0, "loss": NaN}\n': "loss: expected a finite number, found nan",
    '{"step": 11, "epoch": 0, "lr": -Infinity}\n': "lr: expected a finite number, found -inf",
    '{"step": 11, "epoch": 0, "val_loss": "\\u001b[31m"}\n': "val_loss: expected a finite number, found '\\x1b[31m'",
    '{"step": 11, "epoch": 0, "loss": 1' + "0" * 400 + "}\n": "loss: expected a finite number, found an integer",
    "x" * (2 * LONGEST_LINE) + "\n": "line: expected at most 65,536 bytes, found more",
}  # fmt: skip


@pytest.mark.parametrize("wrong", DAMAGE, ids=range(len(DAMAGE)))
def test_a_wrong_line_is_left_out_and_named(tmp_path, wrong):
    right = json.dumps(line(20)) + "\n"
    folder = log_run(tmp_path / "run", [line(10)], f"{wrong}{right}{wrong}{wrong}".encode())
    log = read(folder)
    assert [*log.metrics["step"]] == [10, 20]
    (complaint,) = log.complaints
    assert complaint.startswith(f"{folder}/metrics.jsonl:2: {DAMAGE[wrong]}")
    assert complaint.endswith(": the line is left out, and 2 more")


def test_a_wrong_configuration_leaves_the_metrics(tmp_path):
    folder = log_run(tmp_path / "run", [line(10)])
    for data in (b"{", b"\xff", b'{"texts": 1}', b"[" * 100_000):
        (folder / "config.json").write_bytes(data)
        log = read(folder)
        assert [*log.metrics["step"]] == [10] and (log.facts, log.config) == (None, None)
        (complaint,) = log.complaints
        assert complaint.startswith(f"{folder}/config.json: expected a run's configuration, found a wrong one: ")


def test_pipes_and_folders_in_the_place_of_logs_are_not_waited_for(tmp_path):
    folder = log_run(tmp_path / "run", [])
    (folder / "metrics.jsonl").unlink()
    assert read(folder).complaints == []  # nothing was logged yet
    os.mkfifo(folder / "metrics.jsonl")
    assert "metrics.jsonl: expected a readable file, found: not a regular file" in read(folder).complaints[0]
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    assert "metrics.jsonl: expected a readable file, found: not a regular file" in read(folder).complaints[0]


# --- folders and names


def test_runs_and_folders_of_runs(tmp_path):
    a, b = (log_run(tmp_path / "runs" / name, []) for name in "ab")
    (tmp_path / "runs/notes").mkdir()
    (tmp_path / "link").symlink_to(a)
    assert run_folders([tmp_path / "runs"]) == [a, b]
    assert run_folders([b, tmp_path / "runs", tmp_path / "link"]) == [b, a]  # each once
    for path in (tmp_path / "runs/notes", tmp_path / "gone", a / "config.json"):
        with pytest.raises(RunError, match=f"^{path}: expected a run folder or a folder of runs, found"):
            run_folders([a, path])


def test_names_are_as_long_as_they_must_be(tmp_path):
    paths = [tmp_path / name for name in ("x/a/run", "y/a/run", "y/b/run", "y/other")]
    logs = read_logs([log_run(path, []) for path in paths])
    assert [log.name for log in logs] == ["x/a/run", "y/a/run", "b/run", "other"]


# --- runs that are training


def test_a_training_is_seen_and_its_end_too(tmp_path):
    folder = log_run(tmp_path / "run", [line(10)])
    idle = stamp([folder])
    run = RunFolder.reopen(folder)
    assert is_in_use(folder) and read(folder).training and [in_use for _, in_use, _, _ in stamp([folder])] == [True]
    run.close()
    assert not is_in_use(folder) and stamp([folder]) == idle
    write_lines(folder, [line(10), line(20)])
    assert stamp([folder]) != idle
    assert not is_in_use(Path("no/such/folder"))


def test_a_look_does_not_stop_a_training_from_beginning(tmp_path):
    """A look holds a shared lock; a training that begins meanwhile waits for its end."""
    folder = log_run(tmp_path / "run", [])
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    assert not is_in_use(folder)  # another look is no training
    release = threading.Timer(0.03, os.close, [descriptor])
    release.start()
    RunFolder.reopen(folder).close()
    release.join()
    with pytest.raises(RunError, match="found another training at work"):
        held = RunFolder.reopen(folder)
        try:
            RunFolder.reopen(folder)
        finally:
            held.close()


def test_reading_changes_nothing(tmp_path):
    folder = log_run(tmp_path / "run", [line(10)])
    (folder / ".last.safetensors.1.tmp").write_bytes(b"half")  # RunFolder would remove it
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    folder.chmod(0o555)
    read_logs(run_folders([folder]))
    folder.chmod(0o755)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_two_hundred_runs_are_read_in_a_second(tmp_path):
    for number in range(200):
        log_run(tmp_path / f"run{number}", [line(step) for step in range(1, 101)])
    began = time.process_time()
    logs = read_logs(run_folders([tmp_path]))
    assert time.process_time() - began < 1
    assert sum(len(log.metrics["step"]) for log in logs) == 20_000
