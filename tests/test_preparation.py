"""What needs no text is checked before one is read, since to read a large one takes minutes."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.checkpoints import made

from cuchar.checkpoint import write_checkpoint
from cuchar.errors import CucharError, RunError
from cuchar.ranks.together import Leader
from cuchar.runs import resume_run, start_run

TOO_FEW = "batch: expected at least a row for each of the {} processes, found {}"


@pytest.fixture(autouse=True)
def unread(monkeypatch):
    monkeypatch.setattr("cuchar.preparation.load_corpus", lambda *_, **__: pytest.fail("a text was read"))


@pytest.fixture
def processes(monkeypatch):
    """Let there be so many processes, of which this is the first."""

    def started(count):
        ranks = SimpleNamespace(size=count)
        monkeypatch.setattr("cuchar.runs.together", lambda lead: lead(Leader(ranks, 0)))

    return started


@pytest.mark.parametrize(
    "options,how,expected",
    [
        ({"patience": 3}, {}, "patience=3: expected val or val_fraction with it"),
        ({"patience": 3, "val_fraction": 0}, {"preset": "auto"}, "patience=3: expected val or val_fraction with it"),
        ({"precision": "bf16"}, {"device": "cpu"}, "precision='bf16': expected a GPU's tensor cores"),
        ({}, {"device": "cuda:9"}, "device='cuda:9': expected an NVIDIA GPU"),
        ({}, {"val": "none.txt"}, "none.txt: expected a text file, found no such file"),
        ({}, {"val": "-"}, "-: expected standard input to be named once, found it twice"),
        ({"bytes": True}, {"init_from": "abc.safetensors"}, "expected a model of bytes, found one of characters"),
        ({"batch": 8}, {}, TOO_FEW.format(9, 8)),
        ({"batch": 8}, {"preset": "auto"}, TOO_FEW.format(9, 8)),
    ],
)
def test_of_a_new_run(options, how, expected, processes, tmp_path, monkeypatch):
    processes(9)
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "abc.safetensors", made("abc"))
    with pytest.raises(CucharError, match=expected):
        start_run(["-"], options, **how)


@pytest.mark.parametrize(
    "out,found",
    [
        ("file/run", "Not a directory"),
        ("to-nowhere/run", "Not a directory"),
        ("to-itself/run", "Too many levels of symbolic links"),
        ("locked/run", "Permission denied"),
        ("x" * 300, "File name too long"),
    ],
)
def test_of_the_place_for_a_run(out, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("to-nowhere").symlink_to("nowhere")
    Path("to-itself").symlink_to("to-itself")
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, *_, **__: Path(path).name != "locked")  # to root, nothing is locked
    with pytest.raises(RunError) as raised:
        start_run(["-"], {}, out=out)
    assert str(raised.value) == f"{out}: expected to make a run folder, found: {found}"


@pytest.mark.parametrize(
    "count,how,expected",
    [
        (4, {"device": "cuda:9"}, "device='cuda:9': expected an NVIDIA GPU"),
        (4, {"texts": ["none.txt"]}, "none.txt: expected a text file, found no such file"),
        (4, {"options": {"patience": 2}}, "patience=2: expected a run that validates, found one that does not"),
        (4, {"val": "none.txt"}, "none.txt: expected a text file, found no such file"),
        (5, {}, TOO_FEW.format(5, 4)),
    ],
)
def test_of_a_run_that_goes_on(count, how, expected, processes, trained):
    processes(count)
    with pytest.raises(CucharError, match=expected):
        resume_run(trained, **how)


def test_of_a_dry_run(trained, text, fails):
    line = fails(1, "train", text, "--dry-run", "--out", trained)
    assert f"{trained}: expected a new run folder, found a run in it" in line


def test_a_batch_that_goes_by_the_text_is_not_known_before(processes, text, tmp_path):
    processes(40)  # the default is a batch of 32, but the preset has a row for each
    with pytest.raises(pytest.fail.Exception, match="a text was read"):
        start_run([text], {}, preset="auto", out=tmp_path / "run")
