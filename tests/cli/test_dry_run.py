"""`cuchar train --dry-run` says what a run would do, measures it, and leaves nothing behind."""

import re

import numpy as np
import pytest
from support.small_runs import TEXT

from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.host import HostLearner
from cuchar.parameters import parameter_count

OPTIONS = "--hidden 9 --window 7 --batch 5 --epochs 3 --device cpu --dry-run".split()


@pytest.fixture
def plan(cli, monkeypatch, tmp_path):
    """Plan a run; returns the facts by name, and all lines. Nothing may be written anywhere."""
    monkeypatch.setattr("cuchar.plan.MEASURED_S", 0.02)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        before = sorted(tmp_path.rglob("*"))
        result = cli("train", *arguments)
        assert result.status == 0, result.stderr
        assert sorted(tmp_path.rglob("*")) == before and result.stderr == ""
        lines = result.stdout.decode().splitlines()
        return dict(re.split(r"  +| ", line, maxsplit=1) for line in lines), lines

    return run


def test_it_says_what_the_run_will_be(plan, text, cli, tmp_path):
    facts, lines = plan(text, *OPTIONS, "--val-fraction", 0.1)
    assert facts["engine"].endswith("(asked for)")
    assert facts["text"] == "1,760 characters, of which 1,584 are trained on"
    assert facts["validation"] == "176 characters after every epoch"
    assert facts["vocabulary"].startswith('28 characters: "\\n abcdefg')
    count = parameter_count(ModelConfig(28, 9, 2))
    assert facts["model"] == f"2 layers of 9, {count:,} parameters"
    assert facts["steps"] == "135: 3 epochs of 45"
    assert re.fullmatch(r"0:00:\d\d, an estimate: [\d.]+ ms a step, measured over [\d,]+; .*", facts["time"])
    assert "run folder  runs/fox-" in "\n".join(lines)
    result = cli("train", text, *OPTIONS[:-1], "--val-fraction", 0.1, "--out", tmp_path / "run")
    assert "1,584 characters, 28 distinct; " in result.stderr and f"{count:,} parameters; 135 steps" in result.stderr


@pytest.mark.parametrize("carried", [[], ["--carry-state"]])
def test_it_shows_the_window_that_the_run_reads_first(plan, text, cli, tmp_path, monkeypatch, carried):
    read, step = [], HostLearner._step

    def watched(self, inputs, targets, *rest):
        read.append((inputs, targets))
        return step(self, inputs, targets, *rest)

    _, lines = plan(text, *OPTIONS, *carried)
    with monkeypatch.context() as patch:
        patch.setattr(HostLearner, "_step", watched)
        cli("train", text, *OPTIONS[:-1], *carried, "--max-steps", 1, "--out", tmp_path / "run")
    characters, expected = sorted(set(TEXT)), []
    for row in range(3):
        for name, ids in zip(("reads", "predicts"), read[0], strict=True):
            shown = "".join(characters[id] for id in ids[:, row]).replace("\n", "\\n")
            expected.append(f'{name:<11} "{shown}"')
    assert lines[lines.index("the first window, of 7 characters, 3 of its 5 rows:") + 1 :] == expected


def test_its_time_is_the_steps_times_what_was_measured(plan, text, monkeypatch):
    """A clock by which every call of the learner takes 3 seconds, and a learner with 4 steps a call.

    Nothing is learned meanwhile, so a learning rate that would let the parameters explode does no harm.
    """
    monkeypatch.setattr("cuchar.engines.host.HostLearner.chunk", 4)
    ticks = iter(range(0, 10**6, 3))
    monkeypatch.setattr("cuchar.plan.perf_counter", lambda: next(ticks))
    facts, _ = plan(text, *OPTIONS, "--max-steps", 100, "--lr", 1e45)
    assert facts["steps"] == "100: 3 epochs of 50, at most 100"
    assert facts["time"].startswith("0:01:15, an estimate: 750.00 ms a step, measured over 4;")


def test_what_needs_no_measuring_is_said_before_it(text, cli, monkeypatch):
    """A large model's steps may take minutes, and who sees how much memory they need may not want to wait for them."""

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("cuchar.plan._measure", fail)
    result = cli("train", text, *OPTIONS)
    facts = [line.split()[0] for line in result.stdout.decode().splitlines()]
    assert result.status == 1 and facts == "engine model text validation vocabulary steps memory".split()


def test_hostile_text_and_names_are_escaped(plan, tmp_path):
    file = tmp_path / "\x1b[2J.txt"
    file.write_text("\x1b]0;owned\x07\x9b31m\u202e" * 50)
    _, lines = plan(file, *OPTIONS, "--carry-state")
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", "\n".join(lines))
    assert any("\\u001b]0;own" in line for line in lines)
    file.write_bytes(bytes(range(256)) * 9)
    facts, lines = plan(file, *OPTIONS, "--bytes")
    assert facts["vocabulary"].startswith('256 characters: "\\u0000')
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", "\n".join(lines))


def test_it_raises_what_the_run_would_raise(plan, text, fails, trained, tmp_path):
    assert "the text is too short" in fails(1, "train", text, "--dry-run", "--batch", 10_000)
    assert "expected a new run folder, found a run in it" in fails(1, "train", text, *OPTIONS, "--out", trained)
    assert "--patience 2: expected --val" in fails(2, "train", text, *OPTIONS, "--patience", 2)
    line = fails(2, "train", "--resume", trained, "--dry-run")
    assert line == f"cuchar: --dry-run: expected a new run on TEXT, found --resume {trained}\n"


def test_it_says_which_options_the_run_does_not_live_to_use(plan, text):
    _, lines = plan(text, *OPTIONS, "--warmup", 151, "--max-steps", 151)
    assert lines[:2] == [
        "--max-steps 151: --epochs 3 ends the run before, after some 150 steps",
        "--warmup 151: the run ends before, after some 150 steps, and its learning rate never rises to --lr 0.001",
    ]


def test_it_says_what_preset_and_checkpoint_do(plan, text, trained):
    _, lines = plan(text, "--preset", "auto", "--dry-run", "--device", "cpu")
    assert lines[0].startswith("--preset auto, for 1,760 characters: --layers 2 ")
    facts, lines = plan(text, *OPTIONS[2:], "--init-from", trained)
    assert "28 of 28 characters keep their weights" in lines[0] and facts["model"].startswith("2 layers of 12,")


@pytest.mark.parametrize("dropout,weight_dropout", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5)])
def test_the_memory_of_a_window_is_what_the_cpp_engine_allocates(dropout, weight_dropout):
    """Sizes are multiples of a register's numbers, so that nothing is padded; each array begins at a cache line."""
    model = ModelConfig(32, 64, 2)
    config = TrainConfig(hidden=64, window=9, batch=16, dropout=dropout, weight_dropout=weight_dropout)
    engine = CpuEngine(model)
    tape = engine._tape(9, 16, with_backward=True, dropout=dropout > 0)
    arrays = [tape.inputs, tape.targets, tape.h, tape.c, tape.logits, tape.losses, *tape._back.values()]
    windows = Windows(np.zeros(1000, np.uint8), 16, 9, 9)
    expected = sum(array.nbytes for array in arrays)
    copies = (
        6 if weight_dropout else 5
    )  # weights, gradients, two moments, folded weights, weights of which some are dropped
    assert engine.training_bytes(config, windows) - copies * 4 * parameter_count(model) == expected
