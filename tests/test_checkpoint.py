import json
import os
import resource
from dataclasses import replace

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cuchar.adam import Adam
from cuchar.checkpoint import Checkpoint, _digest, read_checkpoint, write_checkpoint
from cuchar.config import ModelConfig
from cuchar.corpus import Vocabulary
from cuchar.engines.base import State
from cuchar.errors import CheckpointError, OutputError
from cuchar.export import export_pytorch
from cuchar.parameters import initialise


@pytest.fixture
def checkpoint():
    model, generator = ModelConfig(3, 2, 2), np.random.default_rng(0)
    parameters = initialise(model, 0)
    adam = Adam(parameters.flat.size)
    adam.m[:], adam.v[:] = generator.normal(size=(2, adam.m.size))
    state = State(*generator.normal(size=(2, 2, 4, 2)).astype(np.float32))
    return Checkpoint(
        parameters, Vocabulary.of(np.array([97, 98, 233])), adam, state, {"position": {"step": 7}, "x": 0.1}
    )


def test_everything_comes_back(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "c", checkpoint)
    back = read_checkpoint(tmp_path / "c")
    assert back.parameters.model == checkpoint.parameters.model
    assert back.parameters.flat.tobytes() == checkpoint.parameters.flat.tobytes()
    assert back.adam.m.tobytes() == checkpoint.adam.m.tobytes()
    assert back.adam.v.tobytes() == checkpoint.adam.v.tobytes()
    assert back.state.h.tobytes() == checkpoint.state.h.tobytes()
    assert back.state.c.tobytes() == checkpoint.state.c.tobytes()
    assert back.vocabulary == checkpoint.vocabulary and back.run == checkpoint.run
    assert os.listdir(tmp_path) == ["c"]


def test_names_in_the_file(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "c", checkpoint)
    tensors = load_file(tmp_path / "c")
    assert tensors["lstm.weight_ih_l0"].shape == (8, 3) and tensors["lstm.weight_ih_l1"].shape == (8, 2)
    assert tensors["adam.v.head.bias"].tolist() == checkpoint.adam.v[-3:].tolist()
    with safe_open(tmp_path / "c", "np") as opened:
        assert list(opened.metadata()) == ["cuchar"]


def test_same_checkpoint_same_bytes(checkpoint, tmp_path):
    for name in "ab":
        write_checkpoint(tmp_path / name, checkpoint)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_flipped_byte_passes(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "c", checkpoint)
    data = (tmp_path / "c").read_bytes()
    flipped = tmp_path / "flipped"
    for at in range(len(data)):
        for mask in (0x01, 0x20, 0xFF):
            changed = bytearray(data)
            changed[at] ^= mask
            flipped.write_bytes(changed)
            try:
                back = read_checkpoint(flipped)
            except CheckpointError as error:
                assert "\n" not in str(error) and str(flipped) in str(error)
            else:  # only padding and the case of JSON's own spelling may differ
                assert back.parameters.flat.tobytes() == checkpoint.parameters.flat.tobytes()
                assert back.adam.m.tobytes() == checkpoint.adam.m.tobytes()
                assert back.vocabulary == checkpoint.vocabulary and back.run == checkpoint.run


def test_no_truncation_passes(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "c", checkpoint)
    data = (tmp_path / "c").read_bytes()
    for length in [*range(0, 20), *range(20, len(data), 53), len(data) - 1]:
        (tmp_path / "short").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="expected a whole safetensors file"):
            read_checkpoint(tmp_path / "short")


@pytest.mark.parametrize("value,word", [(np.nan, "NaN"), (-np.inf, "infinity")])
def test_values_that_are_not_finite_are_refused(checkpoint, tmp_path, value, word):
    checkpoint.adam.v[0] = value
    write_checkpoint(tmp_path / "c", checkpoint)
    with pytest.raises(CheckpointError, match=rf"adam\.v\.lstm\.weight_ih_l0: expected finite numbers, found {word}"):
        read_checkpoint(tmp_path / "c")


def rewritten(path, change):
    """The checkpoint at `path` with its tensors and body changed, and a digest that fits."""
    with safe_open(path, "np") as opened:
        body = json.loads(opened.metadata()["cuchar"])
    tensors = load_file(path)
    del body["sha256"]
    change(tensors, body)
    body["sha256"] = _digest(tensors, body)
    save_file(tensors, path, {"cuchar": json.dumps(body)})


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t, b: t.pop("head.bias"), r"head\.bias: expected shape \(3,\), found no such tensor"),
        (lambda t, b: t.update({"head.bias": np.zeros(4, np.float32)}), r"expected shape \(3,\), found \(4,\)"),
        (lambda t, b: b.update(format=2), "expected checkpoint format 1, found 2"),
        (lambda t, b: b.pop("vocabulary"), "found unreadable metadata"),
        (lambda t, b: b["model"].update(hidden=3), r"lstm\.weight_ih_l0: expected shape \(12, 3\), found \(8, 3\)"),
    ],
)
def test_other_contents_are_named(checkpoint, tmp_path, change, message):
    write_checkpoint(tmp_path / "c", checkpoint)
    rewritten(tmp_path / "c", change)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "c")


def test_other_files_are_named(checkpoint, tmp_path):
    save_file({"w": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="found another model's safetensors file"):
        read_checkpoint(tmp_path / "other")
    with pytest.raises(CheckpointError, match="missing: expected a checkpoint or a run folder, found nothing there"):
        read_checkpoint(tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="folder: expected a run folder with a checkpoint in it, found none"):
        read_checkpoint(tmp_path / "folder")


def test_run_folder_gives_the_best_and_else_the_last(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "last.safetensors", checkpoint)
    assert read_checkpoint(tmp_path).run["position"]["step"] == 7
    write_checkpoint(tmp_path / "best.safetensors", replace(checkpoint, run={"position": {"step": 3}}))
    assert read_checkpoint(tmp_path).run["position"]["step"] == 3


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_failed_save_keeps_the_one_before(checkpoint, tmp_path, monkeypatch, failing):
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, checkpoint)
    before = path.read_bytes()

    def full(*_, **options):
        raise OSError(28, "No space left on device")

    checkpoint.parameters.flat[:] = 0
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if failing == "write":  # a limit on a file's size stands in for the disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    else:
        monkeypatch.setattr(os, failing, full)
    try:
        with pytest.raises(OutputError) as raised:
            write_checkpoint(path, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = "File too large" if failing == "write" else "No space left on device"
    assert str(raised.value).endswith(f"found: {found}; last.safetensors there is the one before")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["last.safetensors"]


def test_export_has_pytorchs_names_and_shapes(checkpoint, tmp_path):
    export_pytorch(checkpoint, tmp_path / "out.safetensors")
    tensors = load_file(tmp_path / "out.safetensors")
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        "lstm.weight_ih_l0": (8, 3), "lstm.weight_hh_l0": (8, 2), "lstm.bias_ih_l0": (8,), "lstm.bias_hh_l0": (8,),
        "lstm.weight_ih_l1": (8, 2), "lstm.weight_hh_l1": (8, 2), "lstm.bias_ih_l1": (8,), "lstm.bias_hh_l1": (8,),
        "head.weight": (3, 2), "head.bias": (3,),
    }  # fmt: skip
    for name, view in checkpoint.parameters.items():
        exported = name.replace("bias_l", "bias_ih_l") if name.startswith("lstm") else name
        assert np.array_equal(tensors[exported], view)
    assert not tensors["lstm.bias_hh_l1"].any()
    with safe_open(tmp_path / "out.safetensors", "np") as opened:
        assert {key: json.loads(value) for key, value in opened.metadata().items()} == {"vocabulary": ["a", "b", "é"]}
