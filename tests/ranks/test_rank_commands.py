"""`mpirun -n R cuchar ...`: to see it, it is one command; a run that it leaves is one that one process could have left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest
from support.process import CUCHAR, ROOT
from support.ranks import alone, ended, is_running, run, running_ranks, started
from support.run_records import metrics

from cuchar.checkpoint import read_checkpoint
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.host import training_bytes

SIZES = "--hidden 12 --window 8 --batch 5".split()
OPTIONS = [
    *SIZES,
    *"--lr 0.01 --dropout 0.2 --clip 0.5 --weight-decay 0.1 --val-fraction 0.1 --seed 4".split(),
    *"--log-every 1 --sample-every 10 --sample-length 60 --save-every 10".split(),
]
LOSS_BOUND = 1e-6  # over 20 steps, as in test_shared_training.py
ENDLESS = [*SIZES, *"--epochs 1000000 --log-every 10 --save-every 50".split()]


def train(ranks: int, *words: object, through: str = "MPI", **options):
    return run(through, ranks, [*CUCHAR, "train", *words], **options)


def expect_same_run(found: Path, expected: Path) -> None:
    """Check that a run has recorded what another has, but for rounding."""
    lines, others = metrics(found), metrics(expected)
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    for line, other in zip(lines, others, strict=True):
        assert line.keys() == other.keys() and line["lr"] == other["lr"]
        for name in {"loss", "val_loss", "grad_norm"} & line.keys():
            assert line[name] == pytest.approx(other[name], rel=0, abs=LOSS_BOUND), (line["step"], name)
    assert (found / "samples.txt").read_bytes() == (expected / "samples.txt").read_bytes()
    assert (found / "config.json").read_bytes() == (expected / "config.json").read_bytes()
    ours, theirs = read_checkpoint(found), read_checkpoint(expected)
    np.testing.assert_allclose(ours.parameters.flat, theirs.parameters.flat, rtol=0, atol=LOSS_BOUND)
    np.testing.assert_allclose(ours.state.h, theirs.state.h, rtol=0, atol=LOSS_BOUND)
    assert ours.state.h.shape == theirs.state.h.shape and keys(ours.run) == keys(theirs.run)


def keys(value):
    """The names of everything in a checkpoint's JSON."""
    return {name: keys(inner) for name, inner in value.items()} if isinstance(value, dict) else None


@pytest.fixture
def whole(text, tmp_path) -> Path:
    """A run of one process, of 20 steps."""
    assert train(1, text, *OPTIONS, "--max-steps", 20, "--out", tmp_path / "whole").statuses == [0]
    return tmp_path / "whole"


def test_a_run_on_three_ranks_is_that_of_one_and_goes_on_with_any_number(text, whole, tmp_path):
    first = train(3, text, *OPTIONS, "--max-steps", 12, "--out", tmp_path / "three")
    assert first.statuses == [0], first.stderr
    lines = first.stderr.splitlines()
    assert len(lines) == len(set(lines))  # nothing is said twice
    assert [line.split()[0:2] for line in lines if "loss" in line and line.startswith("step")]
    assert sum("3 processes, through MPI (MPICH" in line for line in lines) == 1
    assert any(line.endswith(": each trains on 1 or 2 of the batch's 5 rows") for line in lines)
    assert first.stdout.encode() == (tmp_path / "three/samples.txt").read_bytes()
    again = train(3, text, *OPTIONS, "--max-steps", 12, "--out", tmp_path / "again", through="torchrun")
    assert again.statuses == [0] * 3 and "3 processes, through TCP, as torchrun says" in again.stderr
    expect_same_bits(tmp_path / "three", tmp_path / "again")  # sums do not depend on what carries them
    for ranks in (1, 2):
        out = shutil.copytree(tmp_path / "three", tmp_path / f"on {ranks}")
        assert train(ranks, "--resume", out, "--max-steps", 20).statuses == [0]
        expect_same_run(out, whole)
    assert train(1, text, *OPTIONS, "--max-steps", 12, "--out", tmp_path / "one").statuses == [0]
    assert train(3, "--resume", tmp_path / "one", "--max-steps", 20).statuses == [0]
    expect_same_run(tmp_path / "one", whole)


def expect_same_bits(one: Path, other: Path) -> None:
    first, second = read_checkpoint(one), read_checkpoint(other)
    for name in ("m", "v"):
        assert getattr(first.adam, name).tobytes() == getattr(second.adam, name).tobytes()
    assert first.parameters.flat.tobytes() == second.parameters.flat.tobytes()
    assert first.state.h.tobytes() == second.state.h.tobytes() and first.state.c.tobytes() == second.state.c.tobytes()
    assert metrics(one) == metrics(other)


def wait_for(condition, seconds=60.0):
    until = monotonic() + seconds
    while not condition():
        assert monotonic() < until
        sleep(0.02)


def saved_step(folder: Path) -> int:
    return read_checkpoint(folder).run["position"]["step"] if (folder / "last.safetensors").exists() else 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_all_and_the_run_goes_on(rank, text, tmp_path):
    folder = tmp_path / "run"
    with started("MPI", 3, [*CUCHAR, "train", text, *ENDLESS, "--out", folder]) as processes:
        wait_for(lambda: saved_step(folder) >= 50)
        ranks = running_ranks(processes[0])
        assert sorted(ranks) == [0, 1, 2]
        os.kill(ranks[rank], signal.SIGKILL)
        killed = monotonic()
        found = ended(processes, 30)
        wait_for(lambda: not any(map(is_running, ranks.values())), 5)
        assert monotonic() - killed < 5
    assert all(found.statuses)
    saved = saved_step(folder)
    done = train(1, "--resume", folder, "--max-steps", saved + 3)
    assert done.statuses == [0] and f"resuming {folder} after step {saved}" in done.stderr
    assert saved_step(folder) == saved + 3


def test_sigterm_to_any_rank_saves_and_ends_all(text, tmp_path):
    folder = tmp_path / "run"
    with started("MPI", 3, [*CUCHAR, "train", text, *ENDLESS, "--out", folder]) as processes:
        wait_for(lambda: saved_step(folder) >= 50)
        os.kill(running_ranks(processes[0])[2], signal.SIGTERM)
        found = ended(processes, 30)
    assert found.statuses == [143]
    assert found.stderr.count("cuchar: stopped by SIGTERM; what was done is saved") == 1
    stopped = saved_step(folder)
    assert f"stopped after step {stopped}; to go on: cuchar train --resume {folder}" in found.stderr
    assert metrics(folder)[-1]["step"] == stopped // 10 * 10


def test_a_users_mistake_is_one_status_of_all(text, tmp_path):
    found = train(3, text, "--batch", 2, "--out", tmp_path / "run")
    assert found.statuses == [2] and found.stdout == ""
    assert found.stderr == "cuchar: --batch: expected at least a row for each of the 3 processes, found 2\n"
    assert not (tmp_path / "run").exists()


MISTAKES = [
    ("train TEXT --hiden 3", 2, "No such option: --hiden"),
    ("train", 2, "TEXT: expected a text file or folder (or --resume RUN), found none"),
    ("train MISSING", 1, "expected a text file, found no such file"),
    ("train SHORT", 1, "the text is too short: expected at least"),
    ("train TEXT --lr -1", 2, "--lr: expected"),
    ("train TEXT --out RUN", 1, "RUN: expected"),
    ("train MISSING --batch 1", 2, "--batch: expected at least a row for each of the 2 processes, found 1"),
    ("train --resume MISSING", 1, "MISSING: expected"),
    ("sample MISSING", 1, "MISSING: expected"),
]
COMMANDS = [
    "info", "sample RUN --seed 1 --length 50", "eval RUN TEXT", "export RUN OUT",
    "train TEXT --dry-run --hidden 32 --window 200 --batch 5",
    "train - --max-steps 3 --sample-length 20 --out NEW", "train TEXT --preset auto --max-steps 1 --out AUTO", "--version", "train --help",
]  # fmt: skip


def test_every_command_acts_once_and_every_mistake_is_one_line(trained, text, tmp_path):
    """Two ranks do commands one after the other; standard input is rank 0's."""
    (tmp_path / "short.txt").write_text("short")
    before = {file.name: file.read_bytes() for file in trained.iterdir()}
    printed = {}
    for ranks in (2, 1):
        folder = tmp_path / f"of {ranks}"
        folder.mkdir()
        names = {
            "TEXT": text, "MISSING": tmp_path / "none", "SHORT": tmp_path / "short.txt", "RUN": trained,
            "OUT": folder / "model.json", "NEW": folder / "new", "AUTO": folder / "auto",
        }  # fmt: skip
        lines = COMMANDS + [mistake[0] for mistake in MISTAKES] * (ranks == 2)
        words = [[str(names.get(word, word)) for word in line.split()] for line in lines]
        words = [
            [*line, *SIZES] if line[0] == "train" and not {"--help", "--batch", "--preset"} & {*line} else line
            for line in words
        ]
        command = [sys.executable, ROOT / "tests/support/commands_of_ranks.py", folder, json.dumps(words)]
        with text.open() as stdin:
            found = run("MPI", ranks, command, stdin=stdin, cwd=tmp_path)
        assert found.statuses == [0], found.stderr
        for number, line in enumerate(lines):
            printed[ranks, line] = [
                [(folder / f"{number}.{rank}.{what}").read_text() for what in ("out", "err", "status")]
                for rank in range(ranks)
            ]
    for line, status, expected in MISTAKES:
        expected = expected.replace("RUN:", f"{trained}:").replace("MISSING", f"{tmp_path}/none")
        zeroth, first = printed[2, line]
        assert zeroth[0] == "" and zeroth[1].startswith("cuchar: ") and zeroth[1].count("\n") == 1, zeroth
        assert expected in zeroth[1] and zeroth[2] == str(status)
        assert first == ["", "", "0" if line.startswith("sample") else str(status)]
    for line in COMMANDS:
        (zeroth, first), (alone,) = printed[2, line], printed[1, line]
        assert zeroth[2] == "0" and first == ["", "", "0"]
        if "max-steps" in line:
            assert "2 processes, through MPI" in zeroth[1] and len(zeroth[0].splitlines()) == len(alone[0].splitlines())
        elif line == "info":  # which says how many processes there are
            assert zeroth[0].count("\n") == alone[0].count("\n") > 3 and zeroth[1] == alone[1]
            assert "2, started by mpirun" in zeroth[0]
        elif "dry-run" in line:
            expect_plan_of_two(zeroth[0], alone[0])
            assert zeroth[1] == alone[1] == ""
        else:
            assert zeroth == [said.replace("of 1", "of 2") for said in alone]
            assert zeroth[0] or "export" in line
    assert saved_step(tmp_path / "of 2/new") == 3
    batches = [read_checkpoint(tmp_path / f"of {ranks}/auto").run["train"]["batch"] for ranks in (1, 2)]
    assert batches == [1, 2]  # as the preset has it for so short a text, and as two processes need it
    assert (tmp_path / "of 2/model.json").read_bytes() == (tmp_path / "of 1/model.json").read_bytes()
    assert {file.name: file.read_bytes() for file in trained.iterdir()} == before
    assert not (tmp_path / "runs").exists()


def expect_plan_of_two(plan: str, alone: str) -> None:
    """Check a plan for two processes that share 5 rows, beside that of one process: each needs the memory of 3 rows."""
    ours, others = (dict(line.split(maxsplit=1) for line in said.splitlines()[:10]) for said in (plan, alone))
    assert re.fullmatch(r"2 processes, through MPI .*: each trains on 2 or 3 of the batch's 5 rows", ours["together"])
    assert len(plan.splitlines()) == len(alone.splitlines()) + 1
    same = [name for name, value in ours.items() if others.get(name) == value]
    assert same == ["engine", "model", "text", "validation", "vocabulary", "steps"]
    model, config = ModelConfig(28, 32, 2), TrainConfig(hidden=32, window=200, batch=5)
    for found, rows, where in ((ours, 3, " in each process"), (others, 5, "")):
        expected = training_bytes(model, 4, config, rows) / 2**20
        assert found["memory"].startswith(f"{expected:.1f} MiB for training{where}, ")


def test_an_mpi_that_is_not_there_is_one_clear_line(text, tmp_path):
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py/__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'mpi4py'\")")
    hidden = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    found = train(2, text, *SIZES, "--out", tmp_path / "run", env=hidden)
    assert found.statuses == [1]
    assert found.stderr == (
        "cuchar: 2 processes: expected mpi4py, by which they train together, found none; "
        "pip install 'cuchar[mpi]' brings it, with an mpirun\n"
    )
    assert not (tmp_path / "run").exists()


def test_an_mpirun_of_another_mpi_is_one_clear_line(text, tmp_path):
    other = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"}
    found = run("torchrun", 1, [*CUCHAR, "train", text, *SIZES, "--out", tmp_path / "run"], env=other)
    assert found.statuses == [1]
    assert found.stderr.startswith(
        "cuchar: 2 processes: expected mpirun and mpi4py to be of one MPI, found mpi4py with MPICH "
    )
    assert found.stderr.endswith(", which sees 1\n") and found.stderr.count("\n") == 1


PROGRAM = """
import json, sys
import cuchar
from cuchar.launch import launched

text, folder = sys.argv[1:]
sizes = dict(hidden=12, window=8, batch=5, max_steps=6)
said = []
for run in ("first", "second"):
    model = cuchar.train(text, out=f"{folder}/{run}", **sizes)
    said.append(model.sample(20, seed=1))
for options in (dict(batch=1), dict(out=f"{folder}/first"), dict(lr=1e38, max_steps=50)):
    try:
        cuchar.train(text, **{"out": f"{folder}/other", **sizes, **options})
    except cuchar.CucharError as error:
        said.append(f"{type(error).__name__}: {error}")
print(json.dumps(said), file=open(f"{folder}/{launched().rank}.json", "w"))
"""


def test_a_program_gets_the_model_and_the_errors_in_every_rank(text, tmp_path):
    found = run("MPI", 2, [sys.executable, "-c", PROGRAM, text, tmp_path])
    assert found.statuses == [0] and found.stderr == "" and found.stdout == ""
    zeroth, first = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert zeroth == first
    assert zeroth[0] == zeroth[1] and len(zeroth[0]) == 20
    assert [said.split(":")[0] for said in zeroth[2:]] == ["OptionError", "RunError", "DivergedError"]


BROKEN_PROGRAM = """
import sys
import cuchar

text, folder = sys.argv[1:]
sizes = dict(hidden=12, window=8, batch=5, max_steps=2)
cuchar.train(text, out=f"{folder}/first", **sizes)
if cuchar.launch.launched().rank == 0:
    raise KeyError("a mistake of the program")
cuchar.train(text, out=f"{folder}/second", **sizes)
"""


@pytest.mark.parametrize("through", ["MPI", "torchrun"])
def test_a_program_that_fails_on_one_rank_ends_on_all(through, text, tmp_path):
    began = monotonic()
    found = run(through, 2, [sys.executable, "-c", BROKEN_PROGRAM, text, tmp_path])
    assert all(found.statuses) and "KeyError: 'a mistake of the program'" in found.stderr
    assert monotonic() - began < 60


PLANTED = [sys.executable, ROOT / "tests/support/planted_command.py"]
TWENTY_FIVE = [*SIZES, *"--lr 0.01 --max-steps 25 --save-every 10 --log-every 1 --sample-every 0".split()]


def planted(plant: str, rank: int, *words: object, ranks=3, through="MPI"):
    began = monotonic()
    found = run(through, ranks, [*PLANTED, plant, rank, "train", *words])
    assert monotonic() - began < 60  # and not for ever
    return found


@pytest.mark.parametrize(
    "plant,line", [("has_little_memory", "not even --batch 1 fits"), ("has_no_compiler", "found no /nonexistent")]
)
def test_a_rank_that_cannot_begin_ends_all_with_one_line(plant, line, text, tmp_path):
    found = planted(plant, 1, text, *SIZES, "--device", "emulate", "--out", tmp_path / "run")
    assert found.statuses == [1] and found.stdout == ""
    said = [said for said in found.stderr.splitlines() if not said.startswith("compiling the kernels")]
    assert len(said) == 1 and said[0].startswith("cuchar: rank 1 on ") and line in said[0], said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rank,through", [(1, "MPI"), (0, "torchrun")])
def test_a_rank_that_fails_ends_all_and_what_was_saved_stays(rank, through, text, tmp_path):
    found = planted("fails", rank, text, *TWENTY_FIVE, "--out", tmp_path / "run", ranks=2, through=through)
    assert all(found.statuses)
    assert "RuntimeError: planted" in found.stderr
    if rank:
        assert "\ncuchar: rank 1 on " in found.stderr and ": planted\n" in found.stderr
    assert saved_step(tmp_path / "run") == 10


@pytest.mark.parametrize("rank,through", [(0, "MPI"), (1, "torchrun")])
def test_a_device_that_fails_on_one_rank_ends_all_with_a_line(rank, through, text, tmp_path):
    out = ["--out", tmp_path / "run"]
    found = planted("has_a_broken_device", rank, text, *TWENTY_FIVE, *out, ranks=2, through=through)
    assert all(found.statuses) and "Traceback" not in found.stderr
    said = [line.partition(": ")[2] for line in found.stderr.splitlines() if line.startswith("cuchar: ")]
    if rank == 0:
        assert said == ["planted"]
    else:
        assert len(said) == 2 and any(line.startswith("rank 1 on ") and line.endswith(": planted") for line in said)
        assert "rank 1: expected it to go on, found it ended" in said
    assert saved_step(tmp_path / "run") == 10


def test_other_parameters_on_a_rank_are_found_before_they_are_saved(text, tmp_path):
    found = planted("has_other_parameters", 1, text, *TWENTY_FIVE, "--out", tmp_path / "run")
    assert found.statuses == [1]
    assert found.stderr.splitlines()[-1] == (
        "cuchar: rank 1: expected the parameters of rank 0, found others: its processor or its versions differ; "
        "what was saved before is whole"
    )
    assert saved_step(tmp_path / "run") == 10


def test_a_loss_that_is_not_finite_on_one_rank_stops_all_or_has_all_go_back(text, tmp_path):
    found = planted("is_not_finite", 1, text, *TWENTY_FIVE, "--out", tmp_path / "stopped")
    assert found.statuses == [1]
    said = found.stderr.splitlines()[-1]
    assert said.startswith("cuchar: training stopped at step 13: expected the loss to be finite, found nan")
    assert saved_step(tmp_path / "stopped") == 10 and metrics(tmp_path / "stopped")[-1]["step"] == 12
    out = tmp_path / "going back"
    found = planted("is_not_finite", 1, text, *TWENTY_FIVE, "--on-nan", "rollback", "--out", out, through="torchrun")
    assert found.statuses == [0] * 3, found.stderr
    assert found.stderr.count("; back to step 10, with the learning rate times 1/2") == 1
    assert [line["lr"] for line in metrics(out)] == [0.01] * 10 + [0.005] * 15


def test_a_rank_that_torchrun_may_not_have_started_says_that_it_does_nothing(tmp_path):
    """A container may have RANK and WORLD_SIZE set for every command that is started in it."""
    env = alone() | {"RANK": "1", "WORLD_SIZE": "2"}
    done = subprocess.run([*CUCHAR, "info"], env=env, cwd=tmp_path, capture_output=True, text=True)
    line = "cuchar: this is rank 1 of 2 (RANK, WORLD_SIZE), and rank 0 does what is not training\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", line)
