"""`--init-from`: a new run begins with a checkpoint's weights, matched character by character."""

import hashlib
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.checkpoints import made
from support.notes import Notes
from support.run_records import ENDS, interrupt_after, metrics, records_without_times
from support.small_runs import SMALL, TEXT

import cuchar
from cuchar import init_from
from cuchar.batches import Windows
from cuchar.checkpoint import read_checkpoint, write_checkpoint
from cuchar.config import ModelConfig
from cuchar.corpus import load_corpus
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import CheckpointError, OptionError
from cuchar.init_from import read_source
from cuchar.interrupts import Interrupted
from cuchar.parameters import initialise
from cuchar.run_folder import RunFolder
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer
from cuchar.vocabulary import Vocabulary

OTHER = TEXT.replace("quick", "Quîck").replace("z", "!").replace("\n", "\t")  # new ! Q î \t, without q z \n
CONFIG = replace(SMALL, max_steps=23, seed=5)


class Recorder(Notes):
    """Keeps the notes, and the parameters of the first checkpoint."""

    def __init__(self):
        super().__init__()
        self.first = None

    def saved(self, checkpoint):
        if self.first is None:
            self.first = (checkpoint.run["position"]["step"], checkpoint.parameters.flat.copy())


@pytest.fixture
def source(text, tmp_path):
    return start_run([text], replace(SMALL, max_steps=40, val_fraction=0.1), out=tmp_path / "source")


@pytest.fixture
def other(tmp_path):
    file = tmp_path / "other.txt"
    file.write_text(OTHER)
    return file


def test_known_characters_keep_their_weights_and_new_ones_get_initial_ones(source, other, tmp_path):
    heard, kept = Recorder(), read_checkpoint(source)
    start_run([other], CONFIG, out=tmp_path / "run", init_from=source, callbacks=[heard])
    there, here = ("".join(sorted(set(text))) for text in (TEXT, OTHER))
    drawn = initialise(ModelConfig(len(here), SMALL.hidden, SMALL.layers), CONFIG.seed)
    step, flat = heard.first
    begun = initialise(drawn.model, 0)
    begun.flat[:] = flat
    assert step == 0 and here[:3] == "\t !" and there[:2] == "\n "
    for at, character in enumerate(here):
        found = [begun["lstm.weight_ih_l0"][:, at], begun["head.weight"][at], begun["head.bias"][at]]
        of, at = (kept.parameters, there.index(character)) if character in there else (drawn, at)
        expected = [of["lstm.weight_ih_l0"][:, at], of["head.weight"][at], of["head.bias"][at]]
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True)), character
    for name in ("lstm.weight_hh_l0", "lstm.bias_l0", "lstm.weight_ih_l1", "lstm.weight_hh_l1", "lstm.bias_l1"):
        assert np.array_equal(begun[name], kept.parameters[name])
    file = source / "best.safetensors"
    (note,) = [note for note in heard.notes if "init_from" in note]
    assert note.startswith(f"init_from='{file}' (")
    known = len(set(TEXT) & set(OTHER))
    assert note.endswith(
        f"{known} of {len(here)} characters keep their weights, 4 are new, {len(there) - known} of the checkpoint's are dropped"
    )
    facts = json.loads((tmp_path / "run/config.json").read_text())["init_from"]
    assert facts == read_checkpoint(tmp_path / "run").run["init_from"] and facts["path"] == str(file)


def test_its_first_loss_is_the_checkpoints(source, text, tmp_path):
    cuchar.train(
        text, init_from=source, window=7, batch=5, carry_state=True, max_steps=1, log_every=1, out=tmp_path / "run"
    )
    parameters, ids = read_checkpoint(source).parameters, load_corpus([text]).ids
    engine = NumpyEngine(parameters.model)
    inputs, targets = Windows(ids, 5, 7, 7)[0]
    losses, _ = engine.losses(engine.fold(parameters), inputs, targets, engine.zero_state(5))
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_sizes_are_the_checkpoints(source, other, tmp_path, cli, fails):
    out, command = tmp_path / "run", ("train", other, "--max-steps", 2, "--init-from", source)
    file = source / "best.safetensors"
    assert (
        fails(2, *command, "--hidden", 64)
        == f"cuchar: --hidden: expected the 9 of --init-from {file}, or none, found 64\n"
    )
    assert "--layers: expected the 2 of" in fails(2, *command, "--layers", 1)
    assert cli(*command, "--layers", 2, "--preset", "best", "--batch", 8, "--out", out).status == 0
    train = read_checkpoint(out).run["train"]
    assert (train["hidden"], train["layers"], train["dropout"]) == (9, 2, 0.5)
    with pytest.raises(OptionError, match="hidden: expected the 9 of"):
        start_run([other], replace(CONFIG, hidden=8), out=tmp_path / "no", init_from=source)
    assert not (tmp_path / "no").exists()
    assert "expected a checkpoint or a run folder, found nothing there" in fails(
        1, "train", other, "--init-from", tmp_path / "gone"
    )
    assert "--init-from: expected --resume" in fails(2, "train", "--resume", out, "--init-from", source)
    with pytest.raises(OptionError, match="init_from: expected a path, found 3"):
        cuchar.train(other, init_from=3)


def test_bytes_and_characters_do_not_mix(source, other, tmp_path, fails):
    assert "expected a model of bytes, found one of characters\n" in fails(
        1, "train", other, "--init-from", source, "--bytes"
    )
    start_run([other], replace(CONFIG, bytes=True, max_steps=2), out=tmp_path / "bytes")
    assert "expected a model of characters, found one of bytes; --bytes trains such a model\n" in fails(
        1, "train", other, "--init-from", tmp_path / "bytes"
    )


@pytest.mark.parametrize("how", ENDS)
def test_a_resumed_run_needs_the_checkpoint_no_more(source, other, tmp_path, monkeypatch, how):
    def begin(out):
        start_run([other], CONFIG, out=out, init_from=source)

    begin(tmp_path / "whole")
    for step in (1, 4, 12):
        with monkeypatch.context() as patch, pytest.raises((Interrupted, RuntimeError)):
            interrupt_after(patch, step, ENDS[how])
            begin(tmp_path / f"{step}")
    shutil.rmtree(source)
    for step in (1, 4, 12):
        resume_run(tmp_path / f"{step}")
        assert records_without_times(tmp_path / f"{step}") == records_without_times(tmp_path / "whole")


def test_killed_before_its_beginning_was_saved_it_reads_the_checkpoint_again(source, other, tmp_path, monkeypatch):
    file = source / "last.safetensors"
    start_run([other], CONFIG, out=tmp_path / "whole", init_from=file)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Trainer, "_save_last", lambda self: (_ for _ in ()).throw(RuntimeError))
        patch.setattr(RunFolder, "discard_unused", lambda self: None)
        start_run([other], CONFIG, out=tmp_path / "run", init_from=file)
    contents = file.read_bytes()
    file.unlink()
    with pytest.raises(CheckpointError, match="found nothing there"):
        resume_run(tmp_path / "run")
    shutil.copy(source / "best.safetensors", file)
    with pytest.raises(CheckpointError, match=r"expected the checkpoint that the run began with .*, found another"):
        resume_run(tmp_path / "run")
    file.write_bytes(contents)
    resume_run(tmp_path / "run")
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")


@pytest.mark.filterwarnings("error")
def test_weights_that_no_float32_holds(tmp_path):
    checkpoint, file = made("abc", dtype="f8"), tmp_path / "big.safetensors"
    checkpoint.parameters["head.weight"][2] = -1e300
    write_checkpoint(file, checkpoint)
    source, config = read_source(file), replace(SMALL, hidden=2, layers=2)
    with pytest.raises(CheckpointError) as raised:
        source.parameters_for(checkpoint.vocabulary, config)
    assert str(raised.value) == (f"init_from='{file}': expected weights that a float32 can hold, found larger ones")
    without = Vocabulary(np.array([ord(character) for character in "abz"], np.uint32), False)
    assert np.isfinite(source.parameters_for(without, config).flat).all()  # the large ones are dropped with their c


def test_a_checkpoint_that_is_replaced_while_it_is_read(source, tmp_path, monkeypatch):
    file = tmp_path / "model.safetensors"
    shutil.copy(source / "last.safetensors", file)

    def read_before_it_is_replaced(path):
        checkpoint = read_checkpoint(path)
        shutil.copy(source / "best.safetensors", tmp_path / "other")
        os.replace(tmp_path / "other", path)
        return checkpoint

    monkeypatch.setattr(init_from, "read_checkpoint", read_before_it_is_replaced)
    with pytest.raises(CheckpointError, match=f"^{file}: expected one checkpoint while it is read, found another"):
        read_source(file)
    assert read_source(file).sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
