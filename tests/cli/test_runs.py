"""cuchar runs: the table's values and order, what it leaves out where there is no room, its JSON, and damaged runs."""

import json
import os
import shutil
import time
from datetime import datetime

import pytest
from support.logged_runs import line, log_run
from support.process import start
from support.terminals import in_terminal

from cuchar.checkpoint import read_position
from cuchar.run_folder import RunFolder


@pytest.fixture
def runs(tmp_path, monkeypatch, trained):
    """The current folder, with runs/: validated, better, unvalidated, empty, and a trained one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    lines = [line(100, 2.5), line(200, 2.25, val_loss=2.5, epoch=0), line(400, 1.0, val_loss=2.75, epoch=1)]
    log_run(tmp_path / "runs/validated", lines, hidden=128, dropout=0.25, lr=0.01)
    log_run(tmp_path / "runs/better", [line(1500, 3.0, val_loss=2.25, elapsed_s=3725.4)], lr=0.01, max_steps=2000)
    log_run(tmp_path / "runs/unvalidated", [line(10, 0.5)], layers=3, lr=0.01, carry_state=True)
    log_run(tmp_path / "runs/empty", [], lr=0.01)
    for folder in (tmp_path / "runs").iterdir():
        os.utime(folder / "metrics.jsonl", (1_700_000_000, 1_700_000_000))
    return tmp_path / "runs"


def test_the_table(runs, cli):
    done = cli("runs")
    assert done.stderr == ""
    assert [row.rstrip() for row in done.stdout.decode().splitlines()] == [
        "run          state    model  text           steps  epochs    loss  best val  written              took  options",
        "better       stopped  2x64   fox.txt  1,500/2,000     0/4  3.0000    2.2500  2023-11-14 22:13  1:02:05  no --carry-state --dropout 0",
        "validated    stopped  2x128  fox.txt          400     1/4  1.0000    2.5000  2023-11-14 22:13  0:00:40  no --carry-state --dropout 0.25",
        "unvalidated  stopped  3x64   fox.txt           10     0/4  0.5000            2023-11-14 22:13  0:00:01  --carry-state --dropout 0",
        "empty        stopped  2x64   fox.txt            0     0/4                    2023-11-14 22:13           no --carry-state --dropout 0",
        "best validation loss first, then runs without validation by their last training loss; nats per character",
        "options of all: --lr 0.01",
    ]  # fmt: skip


def test_json(runs, cli):
    found = {run["name"]: run for run in json.loads(cli("runs", "--json").stdout)}
    assert [*found] == ["better", "validated", "unvalidated", "empty"]
    validated = found["validated"]
    assert validated["options"].pop("dropout") == 0.25 and validated.pop("options")["window"] == 32
    assert validated == {
        "path": "runs/validated", "name": "validated", "state": "stopped", "hidden": 128, "layers": 2,
        "texts": ["/books/fox.txt"], "characters": 1760, "step": 400, "max_steps": None, "epoch": 1, "epochs": 4,
        "loss": 1.0, "best_val_loss": 2.5, "last_written": "2023-11-14T22:13:20+00:00", "elapsed_s": 40.0,
    }  # fmt: skip
    assert (found["empty"]["loss"], found["empty"]["best_val_loss"], found["empty"]["elapsed_s"]) == (None, None, None)


def state_of(cli, folder):
    (run,) = json.loads(cli("runs", folder, "--json").stdout)
    return run["state"], run["step"], run["epoch"]


def test_states(trained, cli, tmp_path):
    """A run that has done all its steps is finished until it is given more; one whose folder is held is running."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    assert state_of(cli, run) == ("finished", 30, 0)
    metrics = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(b"".join(metrics.splitlines(keepends=True)[:-1]))
    assert state_of(cli, run)[0] == "stopped"  # killed before its last line
    (run / "metrics.jsonl").unlink()  # interrupted before its first line: the checkpoint knows how far it has come
    (row,) = json.loads(cli("runs", run, "--json").stdout)
    assert (row["step"], row["elapsed_s"]) == (30, read_position(run / "last.safetensors").elapsed_s) and row[
        "elapsed_s"
    ]
    (run / "metrics.jsonl").write_bytes(metrics)
    held = RunFolder.reopen(run)
    assert state_of(cli, run) == ("running", 30, 0)
    held.close()
    config = json.loads((run / "config.json").read_text())
    config["train"]["max_steps"] = 40
    (run / "config.json").write_text(json.dumps(config))
    assert state_of(cli, run)[0] == "stopped"


def test_a_resumed_run_goes_on(trained, cli, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (before,) = json.loads(cli("runs", run, "--json").stdout)
    assert start("train", "--resume", run, "--max-steps", 1000, "--epochs", 1).wait(60) == 0
    (after,) = json.loads(cli("runs", run, "--json").stdout)
    assert (after["state"], after["max_steps"], after["epoch"], after["epochs"]) == ("finished", 1000, 1, 1)
    assert after["step"] > before["step"] == 30 and before["epoch"] == 0
    assert datetime.fromisoformat(after["last_written"]) >= datetime.fromisoformat(before["last_written"])


@pytest.mark.parametrize(
    "columns,header,left_out",
    [
        (40, "run state loss best val", "written, text, took, epochs, steps, options, model"),
        (80, "run state model steps loss best val options", "written, text, took, epochs"),
        (200, "run state model text steps epochs loss best val written took options", None),
    ],
)
def test_a_terminal_has_the_columns_that_fit(runs, columns, header, left_out):
    _, rows = in_terminal(columns, "runs", TZ="UTC")
    assert " ".join(rows[0].split()) == header
    assert [row.split()[0] for row in rows[1:] if "stopped" in row] == ["better", "validated", "unvalidated", "empty"]
    if columns == 40:
        assert [row.split()[2:] for row in rows[1:3]] == [["3.0000", "2.2500"], ["1.0000", "2.5000"]]
    said = " ".join(" ".join(row.split()) for row in rows)
    assert ("no room for" in said) == (left_out is not None)
    assert left_out is None or f"no room for: {left_out} (a wider terminal, a pipe or --json has all)" in said


def test_pipes_get_whole_lines_without_codes(runs):
    log_run(runs / ("n" * 150), [line(1)])
    output, error = start("runs", env={"COLUMNS": "20", "TERM": "xterm-256color"}).communicate(timeout=30)
    rows = output.decode().splitlines()
    assert error == b"" and b"\x1b" not in output and len(rows) == 7
    assert sum(row.startswith("n" * 150 + "  stopped") for row in rows) == 1


def test_damaged_and_hostile_runs_are_lines_too(runs, cli):
    (runs / "better/config.json").write_text("{")
    (runs / "validated/last.safetensors").write_bytes(b"junk")
    log_run(runs / "a\x1b[31m\nb", [line(1, 9.0)])
    os.utime(runs / "unvalidated/metrics.jsonl", (2**40, 2**40))
    done = cli("runs")
    rows = [" ".join(row.split()) for row in done.stdout.decode().splitlines()]
    assert done.status == 0 and b"\x1b" not in done.stdout
    assert "better stopped 1,500 0 3.0000 2.2500 2023-11-14 22:13 1:02:05" in rows
    assert any(row.startswith("a\\x1b[31m\\nb stopped 2x64 fox.txt 1 0/4 9.0000") for row in rows)
    config, checkpoint = done.stderr.splitlines()
    assert config.startswith("runs/better/config.json: expected a run's configuration, found a wrong one: ")
    assert checkpoint.startswith(
        "runs/validated/last.safetensors: expected a whole safetensors file, found another kind"
    )
    assert len(json.loads(cli("runs", "--json").stdout)) == 5


def test_many_texts_are_counted(tmp_path, cli):
    folder = log_run(tmp_path / "run", [line(1)])
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "texts": [f"/books/{n}.txt" for n in range(1234)]}))
    assert "  0.txt +1,233  " in cli("runs", folder).stdout.decode()


@pytest.mark.parametrize("words", ["runs", "runs notes", "runs gone"])
def test_no_runs(tmp_path, monkeypatch, fails, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    folder = words.split()[-1]
    assert f"cuchar: {folder}: expected a run folder or a folder of runs, found" in fails(1, *words.split())


def test_two_runs_of_one_name(tmp_path, cli):
    for parent in "ab":
        log_run(tmp_path / parent / "run", [line(1)])
    rows = cli("runs", tmp_path / "a", tmp_path / "b").stdout.decode().splitlines()
    assert [row.split()[0] for row in rows[1:3]] == ["a/run", "b/run"]
