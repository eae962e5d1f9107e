"""`--steps` was the name of `--window`: commands and programs that have it go on working, and are told in one line."""

import json
import sys
import warnings

import pytest
from support.process import ROOT
from support.run_records import records_without_times

import cuchar
from cuchar.bench import processes, run
from cuchar.errors import OptionError

LINE = "--steps is now called --window; the former name goes on working"
SMALL = "--hidden 5 --layers 1 --batch 3 --max-steps 4 --sample-length 9 --device cpu --out".split()
TINY = "--hidden 4 --layers 1 --batch 2 --device cpu --peer none --json".split()


@pytest.mark.parametrize("command", ["train", "bench"])
def test_help_has_the_present_name_alone(cli, command):
    shown = cli(command, "--help").stdout.decode()
    assert "--window" in shown and "--steps" not in shown
    assert "Characters in a window: the sequence length of truncated" in " ".join(shown.split())


def test_train_by_either_name_is_the_same(cli, text, tmp_path):
    new = cli("train", text, "--window", 6, *SMALL, tmp_path / "new")
    assert new.status == 0 and "--steps" not in new.stderr
    for number, options in enumerate((["--steps", 6], ["--steps", 6, "--window", 6])):
        old = cli("train", text, *options, *SMALL, tmp_path / f"{number}")
        assert old.status == 0 and old.stdout == new.stdout
        assert old.stderr.splitlines()[0] == LINE and old.stderr.count("--steps") == 1
        assert old.stderr.count("\n") == new.stderr.count("\n") + 1
        assert records_without_times(tmp_path / f"{number}") == records_without_times(tmp_path / "new")
        assert json.loads((tmp_path / f"{number}/config.json").read_text())["train"]["window"] == 6


def test_an_old_name_goes_before_a_presets_and_the_defaults(cli, text, tmp_path):
    command = ("train", text, "--preset", "char-rnn", "--steps", 6, *SMALL, tmp_path / "run")
    assert cli(*command).status == 0
    assert json.loads((tmp_path / "run/config.json").read_text())["train"]["window"] == 6


@pytest.mark.parametrize(
    "options,expected",
    [
        ("--steps 6 --window 7", "--steps is the former name of --window: expected one value, found 6 and 7"),
        ("--window 32 --steps 7", "--steps is the former name of --window: expected one value, found 7 and 32"),
        ("--steps 0", "--steps: expected at least 1, found 0"),
        ("--steps x", "Invalid value for '--steps':"),
        ("--window 0", "--window: expected at least 1, found 0"),
    ],
)
def test_mistakes_are_one_line(fails, text, tmp_path, options, expected):
    assert expected in fails(2, "train", text, *options.split(), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert expected in fails(2, "bench", *options.split(), *TINY)


@pytest.fixture
def bench(cli, monkeypatch):
    """The command, with contenders whose times are known."""
    monkeypatch.setattr(processes, "COMMAND", [sys.executable, str(ROOT / "tests/support/fake_contenders.py")])
    monkeypatch.setattr(run, "HELP_RUNS", 1)
    return lambda *options: cli("bench", *options, *TINY)


def test_bench_by_either_name_is_the_same(bench):
    new, old = bench("--window", 3), bench("--steps", 3)
    assert old.stderr.splitlines()[0] == LINE and "--steps" not in new.stderr
    configurations = [json.loads(done.stdout)["configurations"][0]["configuration"] for done in (new, old)]
    assert configurations[0] == configurations[1] and configurations[0]["T"] == 3


def test_a_sweep_by_either_name_is_the_same(bench):
    new, old = bench("--sweep", "window", "--window", 2), bench("--sweep", "steps", "--window", 2)
    line = "--sweep steps is now called --sweep window; the former name goes on working"
    assert old.stderr.splitlines()[0] == line and line not in new.stderr
    sweeps = [json.loads(done.stdout)["sweep"] for done in (new, old)]
    assert [sweep["along"] for sweep in sweeps] == ["window", "window"]
    for sweep in sweeps:
        assert [point["configuration"]["T"] for point in sweep["points"]] == [2, 4, 8, 16]
        assert sweep["points"][0]["configuration"]["name"] == "window 2"


def test_python_by_either_name_is_the_same(text, tmp_path):
    options = {"hidden": 5, "layers": 1, "batch": 3, "max_steps": 4, "sample_length": 9, "device": "cpu"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cuchar.train(text, window=6, out=tmp_path / "new", **options)
    with pytest.warns(DeprecationWarning) as told:
        cuchar.train(text, steps=6, out=tmp_path / "old", **options)
    assert [(str(one.message), one.filename) for one in told] == [(LINE.replace("--", ""), __file__)]
    assert records_without_times(tmp_path / "old") == records_without_times(tmp_path / "new")


@pytest.mark.parametrize(
    "options,expected",
    [
        ({"steps": 6, "window": 7}, "steps is the former name of window: expected one value, found 6 and 7"),
        ({"steps": "6"}, "steps: expected an integer, found '6'"),
        ({"steps": 6, "window": 10**5000}, "window: expected at most 9007199254740992, found an integer of 16610"),
    ],
)
def test_pythons_mistakes_are_one_line(text, tmp_path, options, expected):
    with pytest.raises(OptionError) as refused:
        cuchar.train(text, out=tmp_path / "run", **options)
    assert str(refused.value).startswith(expected) and not (tmp_path / "run").exists()
