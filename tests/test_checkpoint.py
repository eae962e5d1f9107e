"""Checkpoints come back bit by bit; damaged, impossible and foreign files are refused in one line; exports."""

import copy
import json
import os
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support.checkpoints import made, signed, tensors_and_metadata

import cuchar
from cuchar.checkpoint import _shapes, read_checkpoint, write_checkpoint
from cuchar.config import ModelConfig, TrainConfig
from cuchar.errors import CheckpointError, OutputError, RunError
from cuchar.export.pytorch import pytorch_file
from cuchar.runs import resume_run, start_run


@pytest.fixture
def checkpoint():
    return made()


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
        changed = bytearray(data)
        changed[at] ^= (0x01, 0x20, 0xFF)[at % 3]
        flipped.write_bytes(changed)
        try:
            back = read_checkpoint(flipped)
        except CheckpointError as error:
            assert "\n" not in str(error) and str(flipped) in str(error)
        else:  # the byte was padding, or a letter of JSON whose case does not matter
            assert back.parameters.flat.tobytes() == checkpoint.parameters.flat.tobytes()
            assert back.adam.m.tobytes() == checkpoint.adam.m.tobytes()
            assert back.vocabulary == checkpoint.vocabulary and back.run == checkpoint.run


def test_a_file_that_may_not_be_read_is_said_to_be_so(checkpoint, tmp_path, monkeypatch):
    file = tmp_path / "locked.safetensors"
    write_checkpoint(file, checkpoint)

    def refuse(self, *arguments, **options):  # tests may run as root, who may read anything
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(file)
    assert str(error.value) == f"{file}: expected a readable file, found: Permission denied"


def test_what_safetensors_repeats_of_a_damaged_file_is_shown_in_short(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "c", checkpoint)
    data = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(data.replace(b"F32", b"\xc2\x9b1", 1))  # CSI, which moves a cursor
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(tmp_path / "c")
    assert "expected a whole safetensors file, found damage: 'Error while deserializing header" in str(refused.value)
    assert str(refused.value).isprintable() and len(str(refused.value)) < len(str(tmp_path)) + 250


def test_a_text_in_place_of_a_checkpoint_is_called_another_kind_of_file(tmp_path):
    (tmp_path / "poem.txt").write_text("The moon is up, and yet it is not night")
    with pytest.raises(
        CheckpointError, match=r"poem\.txt: expected a whole safetensors file, found another kind of file"
    ):
        read_checkpoint(tmp_path / "poem.txt")


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


def put(*path_and_value):
    """A change of one value of the metadata."""
    *path, last, value = path_and_value

    def change(tensors, body):
        for key in path:
            body = body[key]
        body[last] = value

    return change


def both(*changes):
    return lambda tensors, body: [change(tensors, body) for change in changes]


def characters(text, is_bytes=False):
    """A change of the vocabulary to these characters, and of what else states its size."""
    return both(
        put("vocabulary", {"bytes": is_bytes, "characters": text}),
        put("model", "vocabulary_size", len(text)),
        put("run", "train", "bytes", is_bytes),
    )


def tensor(name, value):
    return lambda tensors, body: tensors.update({name: np.asarray(value)})


def deep(levels):
    value = 0
    for _ in range(levels):
        value = [value]
    return value


LAYERS = "metadata.model.layers: expected from 1 to 8, found"
POSITION = ("run", "position")


@pytest.mark.parametrize(
    "change,message",
    [
        # the model
        (put("model", "layers", 0), f"{LAYERS} 0"),
        (put("model", "layers", 10**9), f"{LAYERS} 1000000000"),
        (put("model", "layers", True), "metadata.model.layers: expected an integer, found True"),
        (put("model", "layers", 2.0), "metadata.model.layers: expected an integer, found 2.0"),
        (put("model", "layers", 10**4000), f"{LAYERS} an integer of 13288 bits"),
        (put("model", "hidden", -1), "metadata.model.hidden: expected from 1 to 65536, found -1"),
        (put("model", "hidden", 3), "metadata.model.hidden: expected 2, found 3"),
        (both(put("model", "hidden", 3), put("run", "train", "hidden", 3)),
         "lstm.weight_ih_l0: expected shape (12, 3), found (8, 3)"),
        (both(put("model", "hidden", 65_536), put("run", "train", "hidden", 65_536)),
         "lstm.weight_ih_l0: expected shape (262144, 3), found (8, 3)"),
        (put("model", "vocabulary_size", 4), "metadata.model.vocabulary_size: expected 3, found 4"),
        (lambda t, b: b.pop("vocabulary"), "metadata.vocabulary: expected a value, found none"),
        (put("model", []), "metadata.model: expected an object, found a list"),
        (put("format", 2), "metadata.format: expected checkpoint format 1, found 2"),
        (put("more", 1), "metadata: expected no more than format, model, vocabulary, run, sha256, found 'more'"),
        (put("model", "layers", deep(900)), "metadata.model.layers: expected an integer, found a list"),
        # the vocabulary
        (characters("bab"), "metadata.vocabulary.characters: expected characters in ascending order, found 'bab'"),
        (characters("abb"), "expected characters in ascending order, found 'abb'"),
        (characters("a"), "metadata.vocabulary.characters: expected from 2 to 65,536 characters, found 'a'"),
        (characters("a\ud800"), "metadata.vocabulary.characters: expected no surrogates, found 'a\\ud800'"),
        (characters("ab\u0100", True), "the last one's number: expected at most 255, found 256"),
        (put("vocabulary", "bytes", 0), "metadata.vocabulary.bytes: expected true or false, found 0"),
        (put("vocabulary", "bytes", True), "metadata.vocabulary.bytes: expected False, found True"),
        (put("vocabulary", "characters", ["a", "b"]), "metadata.vocabulary.characters: expected text, found a list"),
        # the run
        (put("run", None), "metadata.run: expected an object, found None"),
        (put("run", "texts", ["a", 7]), "metadata.run.texts[1]: expected text, found 7"),
        (put("run", "texts", ["a\0b"]), "metadata.run.texts[0]: expected a file's name, found 'a\\x00b'"),
        (put("run", "texts", ["\ud800"]), "metadata.run.texts[0]: expected a file's name, found '\\ud800'"),
        (put("run", "sha256", "0" * 63), "metadata.run.sha256: expected 64 hexadecimal digits, found '000"),
        (put("run", "characters", 0), "metadata.run.characters: expected at least 2, found 0"),
        (put("run", "val_sha256", "0" * 64), "metadata.run: val and val_sha256 together: expected True, found False"),
        (put("run", "best", float("inf")), "metadata: expected JSON, found Infinity in it"),
        (put("run", "best", float("nan")), "metadata: expected JSON, found NaN in it"),
        (put("run", "best", "low"), "metadata.run.best: expected a number, found 'low'"),
        (put("run", "train", "lr", -0.1), "metadata.run.train.lr: expected a number above 0, found -0.1"),
        (lambda t, b: b["run"]["train"].pop("seed"), "metadata.run.train.seed: expected a value, found none"),
        (put("run", "train", "decay", 0.5), "metadata.run.train: expected options that agree, found decay: expected"),
        (put("run", "lengths", "metrics.jsonl", -1), 'metadata.run.lengths.metrics.jsonl: expected at least 0, found -1'),
        (put("run", "loss_scaling", {"scale": 1.0, "good_steps": 0}), "metadata.run: loss_scaling: expected False"),
        (put("run", "train", "precision", "fp16"), "metadata.run: loss_scaling: expected True, found False"),
        (put("run", "logit_scale", {"factor": 0, "val_loss": 1.0}), "logit_scale.factor: expected from 0.5 to 1.5, found 0"),
        (put("run", "logit_scale", {"factor": 1.0}), "metadata.run.logit_scale.val_loss: expected a value, found none"),
        # its position
        (put(*POSITION, "window", -3), "metadata.run.position.window: expected at least 0, found -3"),
        (put(*POSITION, "window", 8), "metadata.run.position.window: expected at most 7, found 8"),
        (put(*POSITION, "step", 2**53 + 1), "metadata.run.position.step: expected at most 9007199254740992, found"),
        (put(*POSITION, "offset", 5), "metadata.run.position.offset: expected at most 4, found 5"),
        (put(*POSITION, "epoch", 8), "metadata.run.position.epoch: expected at most 7, found 8"),
        (put(*POSITION, "history", 0, "loss", None), "run.position.history[0].loss: expected a number, found None"),
        (put(*POSITION, "history", {}), "metadata.run.position.history: expected a list, found a dict"),
        (put(*POSITION, "since_line", "count", 8), "run.position.since_line.count: expected at most 7, found 8"),
        (put(*POSITION, "since_line", "seconds", 0.0), "since_line.seconds: expected at least a nanosecond a step"),
        (put("run", "generators", "batches", "state", "inc", 2**128), "batches.state.inc: expected from 0 to 3402823"),
        (put("run", "generators", "batches", "bit_generator", "MT19937"), "expected PCG64, found MT19937"),
        # the tensors
        (lambda t, b: t.pop("head.bias"), "head.bias: expected shape (3,), found no such tensor"),
        (lambda t, b: t.pop("state.c"), "state.c: expected shape (2, 4, 2), found no such tensor"),
        (tensor("head.bias", np.zeros(4, "f4")), "head.bias: expected shape (3,), found (4,)"),
        (lambda t, b: t.update({"head.bias": t["head.bias"].reshape(3, *[1] * 60)}),
         "head.bias: expected shape (3,), found 61 dimensions"),
        (tensor("state.h", np.zeros((2, 3, 2), "f4")), "state.h: expected shape (2, 4, 2), found (2, 3, 2)"),
        (lambda t, b: t.update({name: t[name].astype("i1") for name in t}),
         "tensors: expected one type, F32 or F64, found I8"),
        (tensor("state.h", np.zeros((2, 4, 2))), "tensors: expected one type, F32 or F64, found F32 and F64"),
        (tensor("more\nmore", np.zeros(1)), "tensors: expected no others than a checkpoint's, found 'more\\nmore'"),
        (tensor("adam.v.head.bias", np.full(3, -1, "f4")), "adam.v.head.bias: expected means of squares, found -1.0"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_though_it_is_signed(checkpoint, tmp_path, change, message):
    file = tmp_path / "c"
    write_checkpoint(file, checkpoint)
    tensors, body = copy.deepcopy(tensors_and_metadata(file))
    change(tensors, body)
    file.write_bytes(signed(tensors, body))
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(file)
    assert str(refused.value).startswith(f"{file}: ") and message in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < len(str(file)) + 400


@pytest.mark.parametrize(
    "old,new,message",
    [
        ('"best": 1.25', '"best": 1e999', "metadata.run.best: expected a finite number, found inf"),
        ('"best": 1.25', '"best": ' + "[" * 100_000, "metadata: expected JSON of a few levels, found a deeper one"),
        ('"best": 1.25', '"best": ' + "9" * 5000, "metadata: expected JSON, found Exceeds the limit (4300 digits)"),
        ('"best": 1.25', f'"best": {" " * (1 << 25)}1', "expected at most 33,554,432 characters of JSON, found"),
        ('"format": 1', '"format": 1, "format": 2', "metadata.format: expected checkpoint format 1, found 2"),
        ("{", "[", "metadata: expected JSON, found Expecting ',' delimiter"),
    ],
)  # fmt: skip
def test_json_that_is_not_ours_is_named(checkpoint, tmp_path, old, new, message):
    write_checkpoint(tmp_path / "c", checkpoint)
    with safe_open(tmp_path / "c", "np") as opened:
        text = opened.metadata()["cuchar"]
    assert old in text
    save_file(load_file(tmp_path / "c"), tmp_path / "c", {"cuchar": text.replace(old, new, 1)})
    with pytest.raises(CheckpointError) as refused:
        read_checkpoint(tmp_path / "c")
    assert message in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "options",
    [
        {}, {"dtype": "f8"}, {"layers": 1}, {"layers": 8, "hidden": 1}, {"precision": "fp16"},
        {"characters": "\0\x7f\xff", "bytes": True}, {"characters": "\0é\u2028\U0010ffff"}, {"carry_state": True},
    ],
)  # fmt: skip
def test_what_may_be_is_read(tmp_path, options):
    saved = made(**options)
    write_checkpoint(tmp_path / "c", saved)
    back = read_checkpoint(tmp_path / "c")
    assert back.run == saved.run and back.vocabulary == saved.vocabulary
    assert back.parameters.flat.dtype == saved.parameters.flat.dtype
    assert back.parameters.flat.tobytes() == saved.parameters.flat.tobytes()
    assert len(cuchar.load(tmp_path / "c", device="cpu").sample(3, seed=1).encode()) >= 3


def test_a_checkpoint_of_before_precisions_is_read(checkpoint, tmp_path):
    del checkpoint.run["train"]["precision"]
    write_checkpoint(tmp_path / "c", checkpoint)
    assert read_checkpoint(tmp_path / "c").run == checkpoint.run


def test_the_name_of_a_text_may_be_any_that_a_file_can_have(checkpoint, tmp_path):
    checkpoint.run["texts"] = [os.fsdecode(b"/texts/caf\xe9\n.txt")]
    write_checkpoint(tmp_path / "c", checkpoint)
    assert read_checkpoint(tmp_path / "c").run["texts"] == ["/texts/caf\udce9\n.txt"]


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "best.safetensors").mkdir()
    for path in (tmp_path / "pipe", "/dev/zero", tmp_path):
        with pytest.raises(CheckpointError, match="expected a file, found a folder, a pipe or a device"):
            read_checkpoint(path)
    with pytest.raises(CheckpointError, match="expected a checkpoint or a run folder, found: File name too long"):
        read_checkpoint("a long text " * 1000)
    with pytest.raises(CheckpointError, match=r"expected a path that a file can have, found 'a\\x00b'"):
        read_checkpoint("a\0b")
    with pytest.raises(CheckpointError, match="checkpoint: expected a path, found 3"):
        read_checkpoint(3)


def test_a_file_larger_than_memory_is_not_read(checkpoint, tmp_path):
    """The header is right, and the file sparse: 3.1 TB of zeros take a few KB of the disk."""
    write_checkpoint(tmp_path / "c", checkpoint)
    _, body = tensors_and_metadata(tmp_path / "c")
    for sizes in (body["model"], body["run"]["train"]):
        sizes |= {"hidden": 65_536, "layers": 8}
    header, end = {"__metadata__": {"cuchar": json.dumps({**body, "sha256": "0" * 64})}}, 0
    for name, shape in _shapes(ModelConfig(3, 65_536, 8), 4).items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    data = json.dumps(header).encode()
    with open(tmp_path / "sparse", "wb") as file:
        file.write(struct.pack("<Q", len(data)) + data)
        file.truncate(8 + len(data) + end)
    assert Path(tmp_path / "sparse").stat().st_size > 3e12
    with pytest.raises(CheckpointError, match=r"expected at most this machine's .* GiB of memory, found 2,880\.\d GiB"):
        read_checkpoint(tmp_path / "sparse")
    (tmp_path / "sparse").unlink()  # a copy of the folder might not be sparse


def test_other_files_are_named(checkpoint, tmp_path):
    save_file({"w": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(CheckpointError, match="found another model's safetensors file"):
        read_checkpoint(tmp_path / "other")
    with pytest.raises(CheckpointError, match="missing: expected a checkpoint or a run folder, found nothing there"):
        read_checkpoint(tmp_path / "missing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="folder: expected a run folder with a checkpoint in it, found none"):
        read_checkpoint(tmp_path / "folder")


def test_a_window_beyond_the_epochs_last_is_not_resumed(text, tmp_path):
    """Only the text says how many windows there are, so the check comes when training resumes."""
    run = start_run([text], TrainConfig(hidden=3, window=8, batch=4, max_steps=3, log_every=1), out=tmp_path / "run")
    tensors, body = tensors_and_metadata(run / "last.safetensors")
    body["run"]["position"] |= {"step": 1000, "window": 1000}
    (run / "last.safetensors").write_bytes(signed(tensors, body))
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match=r"last\.safetensors: expected one of 54 windows, found 1000$"):
        resume_run(run, options={"max_steps": 2000})
    assert (run / "metrics.jsonl").read_bytes() == before


def test_run_folder_gives_the_best_and_else_the_last(checkpoint, tmp_path):
    write_checkpoint(tmp_path / "last.safetensors", checkpoint)
    assert read_checkpoint(tmp_path).run["best"] == 1.25
    checkpoint.run["best"] = 0.5
    write_checkpoint(tmp_path / "best.safetensors", checkpoint)
    assert read_checkpoint(tmp_path).run["best"] == 0.5


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
    (tmp_path / "out.safetensors").write_bytes(pytorch_file(checkpoint.parameters, checkpoint.vocabulary))
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
