"""A run of an older version, whose files call the window's length `steps`, is read, resumed and sampled from as ever.

tests/support/old_run/ was written by the version of commit 42b5154 with `--device cpu`: 15 of its run's 40 training
steps. finished.safetensors is the last checkpoint of the whole run, which that version finished too.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import by_former_names, signed, tensors_and_metadata
from support.notes import Notes
from support.small_runs import DISCIPLINES

import cuchar
from cuchar.checkpoint import read_checkpoint
from cuchar.config import TrainConfig
from cuchar.engines.choose import choose_engine
from cuchar.errors import CheckpointError, RunError
from cuchar.runs import resume_run, start_run

OLD_RUN = Path(__file__).parent / "support/old_run"
TEXT = "banana bandana " * 60


@pytest.fixture
def old(tmp_path):
    """A copy of the run's folder."""
    (tmp_path / "banana.txt").write_text(TEXT)
    run = shutil.copytree(OLD_RUN, tmp_path / "old")
    (run / "finished.safetensors").unlink()
    return run


def options_of(run):
    """The run's options by every file of its folder that states them."""
    stored = {file.name: tensors_and_metadata(file)[1]["run"]["train"] for file in run.glob("*.safetensors")}
    return {"config.json": json.loads((run / "config.json").read_text())["train"], **stored}


def expect_the_numbers_of(found, expected):
    """Check all that training goes on from.

    The old version's softmax was less exact: a rounding in each of the 25 steps since then may differ. Without a C++
    compiler NumPy trains, and only the first digits agree.
    """
    is_cpp = choose_engine("cpu", expected.parameters.model)[0].name == "C++"
    for ours, theirs in (
        (found.parameters.flat, expected.parameters.flat),
        (found.adam.m, expected.adam.m),
        (found.adam.v, expected.adam.v),
        (found.state.h, expected.state.h),
        (found.state.c, expected.state.c),
    ):
        if is_cpp:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=25 * np.finfo(np.float32).eps * np.abs(theirs).max())
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    assert found.run["generators"] == expected.run["generators"]
    assert found.run["position"]["step"] == expected.run["position"]["step"]


def test_an_old_run_ends_as_the_old_version_ended_it(old, tmp_path):
    before = options_of(old)
    assert all("steps" in options and "window" not in options for options in before.values())
    assert before.keys() == {"config.json", "last.safetensors", "best.safetensors"}
    heard = Notes()
    resume_run(old, texts=[tmp_path / "banana.txt"], options={"max_steps": 40}, device="cpu", callbacks=[heard])
    expect_the_numbers_of(read_checkpoint(old / "last.safetensors"), read_checkpoint(OLD_RUN / "finished.safetensors"))
    now = options_of(old)
    assert all(now[name]["window"] == 9 and "steps" not in now[name] for name in before)
    assert not any("--window" in note for note in heard.notes)  # nobody's command named it


def test_an_old_commands_option_resumes_an_old_run(old, tmp_path, cli, fails):
    command = ("train", tmp_path / "banana.txt", "--resume", old, "--device", "cpu", "--max-steps", 40)
    assert "--window: expected the run's 9 to resume" in fails(1, *command, "--window", 8)
    result = cli(*command, "--steps", 9)
    assert result.status == 0 and result.stderr.startswith("--steps is now called --window;")
    expect_the_numbers_of(read_checkpoint(old / "last.safetensors"), read_checkpoint(OLD_RUN / "finished.safetensors"))


def test_an_old_checkpoint_writes_what_it_wrote(cli):
    """40 characters after "ban", by the old version's `cuchar sample --seed 1`."""
    file = OLD_RUN / "finished.safetensors"
    made = "abanadbbbbnana bn n dnb nnaanaabnndn d a"
    assert cli("sample", file, "--seed", 1, "--length", 40, "--prime", "ban").stdout.decode() == f"ban{made}\n"
    assert cuchar.load(file, device="cpu").sample(40, prime="ban", seed=1) == made
    shown = " ".join(cli("info", file).stdout.decode().split())
    assert " window=9, " in shown and " steps=" not in shown


@pytest.mark.parametrize("config", [DISCIPLINES["windows"], DISCIPLINES["carried, step schedule"]])
def test_a_run_of_today_with_yesterdays_names_goes_on_as_it_is(text, tmp_path, config):
    """All checkpoints and config.json of a new run are rewritten with the former names, whichever engine trains it."""
    short, long = TrainConfig(**{**config.to_json(), "max_steps": 17}), {"max_steps": 60}
    run = start_run([text], short, out=tmp_path / "new", device="cpu")
    old = shutil.copytree(run, tmp_path / "old")
    stored = json.loads((old / "config.json").read_text())
    by_former_names(stored["train"])
    (old / "config.json").write_text(json.dumps(stored))
    for file in old.glob("*.safetensors"):
        tensors, body = tensors_and_metadata(file)
        by_former_names(body["run"]["train"])
        file.write_bytes(signed(tensors, body))
        assert read_checkpoint(file).run["train"] == short.to_json()
    for folder in (run, old):
        resume_run(folder, options=long, device="cpu")
    for file in run.glob("*.safetensors"):
        expected, found = tensors_and_metadata(file), tensors_and_metadata(old / file.name)
        assert expected[0].keys() == found[0].keys()
        assert all(expected[0][name].tobytes() == found[0][name].tobytes() for name in expected[0])
        assert list(found[1]["run"]["train"]) == list(expected[1]["run"]["train"])


BOTH = "train: expected no more than hidden, layers, window, batch, "
WRONG_OPTIONS = [
    ({"steps": 9, "window": 9}, BOTH, "found 'steps'"),
    ({"steps": 9, "window": 8}, BOTH, "found 'steps'"),
    ({}, "train.window: expected a value, found none", ""),
    ({"steps": 0}, "train.steps: expected at least 1, found 0", ""),
    ({"window": True}, "train.window: expected an integer, found True", ""),
]


@pytest.mark.parametrize("given,message,end", WRONG_OPTIONS)
def test_a_file_with_both_names_or_neither_is_refused(old, given, message, end):
    def edited(train):
        del train["steps"]
        train |= given

    tensors, body = tensors_and_metadata(old / "last.safetensors")
    edited(body["run"]["train"])
    (old / "last.safetensors").write_bytes(signed(tensors, body))
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(old / "last.safetensors")
    assert f"last.safetensors: metadata.run.{message}" in str(refused.value) and str(refused.value).endswith(end)
    stored = json.loads((old / "config.json").read_text())
    edited(stored["train"])
    (old / "config.json").write_text(json.dumps(stored))
    with pytest.raises(RunError) as refused:
        resume_run(old)
    assert f"found a wrong one: {message}" in str(refused.value) and str(refused.value).endswith(end)
    assert "\n" not in str(refused.value)


def test_damage_in_an_old_checkpoint_is_found(old):
    """Its digest was made of the names that it has, not of today's."""
    file = old / "last.safetensors"
    file.write_bytes(file.read_bytes().replace(b'\\"steps\\": 9', b'\\"steps\\": 8'))
    with pytest.raises(CheckpointError, match="expected the contents that were saved, found damaged ones"):
        read_checkpoint(file)
