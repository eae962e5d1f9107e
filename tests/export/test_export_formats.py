"""Which format a name or an option asks for, what JSON says, and the same from Python."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.checkpoints import made

import cuchar
from cuchar.export.json import json_file
from cuchar.export.pytorch import pytorch_file
from cuchar.vocabulary import Vocabulary


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_json_has_every_bit(dtype):
    checkpoint = made(dtype=dtype)
    value = json.loads(json_file(checkpoint.parameters, checkpoint.vocabulary))
    assert list(value) == ["format", "model", "vocabulary", "gates", "tensors"]
    assert value["format"] == "cuchar-json-1" and value["vocabulary"] == ["a", "b", "é"]
    assert value["model"] == {"vocabulary_size": 3, "hidden": 2, "layers": 2}
    assert value["gates"] == ["input", "forget", "cell", "output"]
    assert list(value["tensors"]) == [name for name, _ in checkpoint.parameters.items()]
    for name, view in checkpoint.parameters.items():
        found = np.array(value["tensors"][name], dtype)
        assert found.shape == view.shape and found.tobytes() == view.tobytes()


def test_a_vocabulary_of_bytes_is_numbers(tmp_path):
    from safetensors import safe_open

    parameters, vocabulary = made().parameters, Vocabulary(np.array([10, 65, 255], np.uint32), is_bytes=True)
    assert json.loads(json_file(parameters, vocabulary))["vocabulary"] == [10, 65, 255]
    (tmp_path / "x").write_bytes(pytorch_file(parameters, vocabulary))
    with safe_open(tmp_path / "x", "np") as opened:
        assert opened.metadata() == {"vocabulary": "[10, 65, 255]"}


def kind(file):
    data = file.read_bytes()
    if data.startswith(b"<!doctype html>"):
        return "web"
    if data.startswith(b'{"format"'):
        return "json"
    return "onnx" if data[:2] == b"\x08\x08" else "safetensors" if len(load_file(file)) == 10 else None


@pytest.mark.parametrize(
    "name,options,expected",
    [
        ("a.safetensors", [], "safetensors"),
        ("a.onnx", [], "onnx"),
        ("a.HTML", [], "web"),
        ("a.json", [], "json"),
        ("weights", [], "safetensors"),
        ("a.onnx", ["--format", "json"], "json"),
        ("a.txt", ["--format", "web"], "web"),
    ],
)
def test_the_ending_says_the_format(cli, trained, tmp_path, name, options, expected):
    assert cli("export", trained, tmp_path / name, *options).status == 0
    assert kind(tmp_path / name) == expected
    cuchar.load(trained).export(tmp_path / f"again {name}", *options[1:])
    assert (tmp_path / f"again {name}").read_bytes() == (tmp_path / name).read_bytes()


def test_standard_output_has_safetensors_or_what_is_asked_for(cli, trained, tmp_path):
    for options, expected in (([], "safetensors"), (["--format", "onnx"], "onnx")):
        done = cli("export", trained, "-", *options)
        (tmp_path / "out").write_bytes(done.stdout)
        assert done.status == 0 and kind(tmp_path / "out") == expected


def test_mistakes(fails, trained, tmp_path):
    line = fails(2, "export", trained, tmp_path / "a.bin")
    assert (
        "a.bin: expected a name that ends with one of .safetensors, .onnx, .html, .json, or --format, found another"
        in line
    )
    assert "--format: expected safetensors | onnx | web | json, found gguf" in fails(
        2, "export", trained, tmp_path / "a", "--format", "gguf"
    )
    model = cuchar.load(trained)
    for arguments, message in (
        (("a.json", "gguf"), "expected safetensors | onnx | web | json, found gguf"),
        (("a.json", []), "format: expected safetensors | onnx | web | json, found a list"),
        ((3,), "expected a path, found 3"),
    ):
        with pytest.raises(cuchar.CucharError, match=message.replace("|", "[|]")):
            model.export(*arguments)
    with pytest.raises(cuchar.CucharError, match=r"expected the name of an option, found none; is it weights\?"):
        model.export("a.html", weigths="int8")
    model.export(str(tmp_path / "named by a text.json"))
    assert json.loads((tmp_path / "named by a text.json").read_text())["vocabulary"] == model.vocabulary.entries()
