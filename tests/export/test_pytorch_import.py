"""PyTorch's tensors become a checkpoint; what is not such a model is refused in one line, before memory is taken."""

import json
import resource

import numpy as np
import pytest
from safetensors.numpy import save, save_file
from support.checkpoints import made, signed, tensors_and_metadata

import cuchar
from cuchar.checkpoint import read_checkpoint
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.reading import AS_UTF8

V, H, L, E = 4, 3, 2, 5
CHARACTERS = ["b", "é", "\n", "a"]  # not in the order in which cuchar has them
ORDER = [2, 3, 0, 1]


def tensors_of(prefix="lstm.", head="head.", inputs=V, biases=True):
    """What a PyTorch model may have: V, H, L as above, random values."""
    generator = np.random.default_rng(0)
    shapes = {}
    for layer in range(L):
        shapes[f"{prefix}weight_ih_l{layer}"] = (4 * H, H if layer else inputs)
        shapes[f"{prefix}weight_hh_l{layer}"] = (4 * H, H)
        if biases:
            shapes[f"{prefix}bias_ih_l{layer}"] = shapes[f"{prefix}bias_hh_l{layer}"] = (4 * H,)
    shapes[f"{head}weight"] = (V, H)
    if biases:
        shapes[f"{head}bias"] = (V,)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def imported(tmp_path):
    """Save tensors, import them, and give the checkpoint."""

    def run(tensors, vocabulary=CHARACTERS):
        save_file(tensors, tmp_path / "in.safetensors", {"vocabulary": json.dumps(vocabulary)})
        cuchar.import_model(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
        return read_checkpoint(tmp_path / "out.safetensors")

    return run


@pytest.fixture
def refused(fails, tmp_path):
    """Save a file, and give the line with which the import of it fails."""

    def run(tensors, metadata=None, *options):
        data = tensors
        if not isinstance(tensors, bytes):
            data = save(tensors, {"vocabulary": json.dumps(CHARACTERS)} if metadata is None else metadata)
        (tmp_path / "in.safetensors").write_bytes(data)
        line = fails(1, "import", tmp_path / "in.safetensors", tmp_path / "out.safetensors", *options)
        assert not (tmp_path / "out.safetensors").exists()
        start = f"cuchar: {tmp_path}/in.safetensors: "
        assert line.startswith(start)
        return line.removeprefix(start).strip()

    return run


def lstm_logits(tensors, ids, table):
    """The model's logits by the formulas in PyTorch's documentation of nn.LSTM, in float64.

    Args:
        table: [V, inputs], what the LSTM reads for each id.
    """
    x = np.asarray(table, np.float64)[ids]
    for layer in range(L):
        w_ih, w_hh, b_ih, b_hh = (
            tensors[f"lstm.{kind}_l{layer}"].astype(np.float64)
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, c, outputs = np.zeros(H), np.zeros(H), []
        for x_t in x:
            i, f, g, o = np.split(w_ih @ x_t + b_ih + w_hh @ h + b_hh, 4)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            outputs.append(h)
        x = np.array(outputs)
    return x @ tensors["head.weight"].T.astype(np.float64) + tensors["head.bias"]


@pytest.mark.parametrize("with_embedding", [False, True])
def test_the_model_predicts_what_it_did(imported, cli, tmp_path, with_embedding):
    tensors, table = tensors_of(inputs=E if with_embedding else V), np.eye(V)
    if with_embedding:
        table = tensors["embedding.weight"] = np.random.default_rng(1).normal(size=(V, E)).astype(np.float32)
    text = "ab\néba\n\nbéab" * 4
    ids = np.array([CHARACTERS.index(character) for character in text])
    expected = lstm_logits(tensors, ids, table)
    checkpoint = imported(tensors)
    assert checkpoint.vocabulary.characters() == sorted(CHARACTERS)
    engine = NumpyEngine(checkpoint.parameters.model, np.float32)
    own = checkpoint.vocabulary.encode(AS_UTF8.codes_of(text))
    logits, _ = engine.forward(engine.fold(checkpoint.parameters), own[:, None], engine.zero_state(1))
    # Some ten roundings of numbers below 10 on the way to a logit.
    assert np.abs(logits[:, 0] - expected[:, ORDER]).max() < 10 * 10 * 2**-24
    assert np.abs(expected).max() > 0.5
    result = cli("import", tmp_path / "in.safetensors", tmp_path / "again.safetensors")
    assert "2 layers of 3, 4 characters, float32\n" in result.stderr
    assert ("the embedding, of 5 numbers a character, was folded" in result.stderr) == with_embedding


def test_every_tensor_goes_to_its_place(imported):
    tensors = tensors_of()
    parameters = imported(tensors).parameters
    for layer in range(L):
        ih, hh, b_ih, b_hh = (tensors[f"lstm.{k}_l{layer}"] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        assert np.array_equal(parameters[f"lstm.weight_ih_l{layer}"], ih if layer else ih[:, ORDER])
        assert np.array_equal(parameters[f"lstm.weight_hh_l{layer}"], hh)
        assert np.array_equal(parameters[f"lstm.bias_l{layer}"], b_ih + b_hh)
    assert np.array_equal(parameters["head.weight"], tensors["head.weight"][ORDER])
    assert np.array_equal(parameters["head.bias"], tensors["head.bias"][ORDER])


@pytest.mark.parametrize("prefix,head", [("rnn.", "fc."), ("module.net.lstm.", "module.net.linear."), ("", "decoder.")])
def test_prefixes_may_be_any(imported, prefix, head):
    assert np.array_equal(imported(tensors_of(prefix, head)).parameters.flat, imported(tensors_of()).parameters.flat)


def test_a_model_without_biases(imported):
    parameters = imported(tensors_of(biases=False)).parameters
    assert not any(view.any() for name, view in parameters.items() if "bias" in name) and parameters.flat.any()


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_other_types_of_numbers(cli, tmp_path, dtype):
    """Halves become float32, which holds each of their values; doubles stay."""
    tensors = tensors_of()
    if dtype == "BF16":
        from safetensors import TensorSpec, serialize_file

        upper = {name: np.ascontiguousarray(values.view("<u4") >> 16).astype("<u2") for name, values in tensors.items()}
        tensors = {name: (bits.astype("<u4") << 16).view("<f4") for name, bits in upper.items()}
        specs = {
            name: TensorSpec(dtype="bfloat16", shape=bits.shape, data_ptr=bits.ctypes.data, data_len=bits.nbytes)
            for name, bits in upper.items()
        }
        serialize_file(specs, tmp_path / "in", {"vocabulary": json.dumps(CHARACTERS)})
    else:
        tensors = {name: values.astype("f2" if dtype == "F16" else "f8") for name, values in tensors.items()}
        save_file(tensors, tmp_path / "in", {"vocabulary": json.dumps(CHARACTERS)})
    result = cli("import", tmp_path / "in", tmp_path / "out")
    assert (f"{dtype} became float32" in result.stderr) == (dtype != "F64")
    parameters = read_checkpoint(tmp_path / "out").parameters
    expected = np.float64 if dtype == "F64" else np.float32
    assert parameters.flat.dtype == expected
    assert np.array_equal(parameters["lstm.weight_ih_l0"], tensors["lstm.weight_ih_l0"].astype(expected)[:, ORDER])
    biases = (tensors[f"lstm.bias_{kind}_l1"].astype(expected) for kind in ("ih", "hh"))
    assert np.array_equal(parameters["lstm.bias_l1"], sum(biases))


def test_a_checkpoint_goes_out_and_comes_back_bit_by_bit(tmp_path, cli):
    from cuchar.checkpoint import write_checkpoint

    for name, checkpoint in {
        "characters": made("abé", dtype="f4"), "double": made("abé", dtype="f8"), "bytes": made("Aaé", bytes=True),
    }.items():  # fmt: skip
        write_checkpoint(tmp_path / name, checkpoint)
        assert cli("export", tmp_path / name, tmp_path / "out.safetensors").status == 0
        assert cli("import", tmp_path / "out.safetensors", tmp_path / "back").status == 0
        back = read_checkpoint(tmp_path / "back")
        assert back.parameters.flat.tobytes() == checkpoint.parameters.flat.tobytes()
        assert back.vocabulary == checkpoint.vocabulary


def test_every_command_takes_it_and_info_says_where_it_is_from(imported, cli, tmp_path):
    imported(tensors_of())
    out = tmp_path / "out.safetensors"
    (tmp_path / "text").write_text("ab\né" * 9)
    assert len(cli("sample", out, "--length", 20, "--seed", 1).stdout.decode()) == 21
    assert b"nats per character" in cli("eval", out, tmp_path / "text").stdout
    assert cli("export", out, tmp_path / "x.onnx").status == 0
    shown = cli("info", out).stdout.decode()
    assert "imported" in shown and str(tmp_path / "in.safetensors")[:40] in shown and "2 layers of 3" in shown
    assert "trained" not in shown and "options" not in shown
    run = read_checkpoint(out).run
    assert run["position"]["step"] == run["characters"] == 0 and run["texts"] == [] and run["best"] is None


def test_what_a_checkpoint_says_of_its_origin_is_checked(imported, fails, tmp_path):
    imported(tensors_of())
    tensors, body = tensors_and_metadata(tmp_path / "out.safetensors")
    for change, message in (
        ({"imported": {"path": 3, "sha256": "0" * 64}}, "metadata.run.imported.path: expected text, found 3"),
        ({"imported": {"path": "x"}}, "metadata.run.imported.sha256: expected a value, found none"),
        ({}, "metadata.run.characters: expected at least 2, found 0"),
    ):
        run = {name: value for name, value in body["run"].items() if name != "imported"} | change
        (tmp_path / "changed").write_bytes(signed(tensors, {**body, "run": run}))
        assert message in fails(1, "info", tmp_path / "changed")


def test_a_vocabulary_from_a_file(cli, tmp_path, refused):
    (tmp_path / "v.json").write_text(json.dumps(CHARACTERS))
    message = "metadata.vocabulary: expected a JSON list of characters, there or in --vocabulary, found none"
    assert refused(tensors_of(), {}) == message
    arguments = (
        "import",
        tmp_path / "in.safetensors",
        tmp_path / "out.safetensors",
        "--vocabulary",
        tmp_path / "v.json",
    )
    assert cli(*arguments).status == 0
    assert read_checkpoint(tmp_path / "out.safetensors").vocabulary.characters() == sorted(CHARACTERS)


@pytest.mark.parametrize(
    "vocabulary,message",
    [
        (["a", "b", "c"], "expected a list of 4, one entry for each of the head's rows, found a list of 3"),
        ({"a": 0}, "expected a list of 4, one entry for each of the head's rows, found a dict"),
        (["a", "b", "c", "<unk>"], "vocabulary[3]: expected a text of one character, found '<unk>'"),
        (["a", "b", "c", 7], "vocabulary[3]: expected a text of one character, found 7"),
        ([1, 2, 3, 256], "vocabulary[3]: expected a byte, from 0 to 255, found 256"),
        (["a", "b", "c", "\ud800"], "vocabulary[3]: expected a text of one character, found "),
        (["a", "b", "c", "b"], "vocabulary: expected at least two entries, all distinct, found 'b' twice"),
    ],
)
def test_wrong_vocabularies(refused, vocabulary, message):
    assert message in refused(tensors_of(), {"vocabulary": json.dumps(vocabulary)})


def changed(change):
    tensors = tensors_of()
    change(tensors)
    return tensors


def zeros(*shape, dtype="f4"):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: t.clear(), "tensors: expected one LSTM's, such as lstm.weight_ih_l0, found none"),
        (lambda t: t.update({"b.weight_ih_l0": zeros(12, 4)}), "expected one LSTM's, such as lstm.weight_ih_l0, found 'b., lstm.'"),
        (lambda t: t.update({"lstm.weight_ih_l0_reverse": zeros(12, 4)}), "expected an LSTM that reads forwards alone, found a bidirectional one"),
        (lambda t: t.update({"lstm.weight_hr_l0": zeros(2, 3)}), "expected an LSTM without projections, found one with proj_size"),
        (lambda t: t.pop("lstm.bias_hh_l1"), "'lstm.': bias_hh_l1: expected a tensor, found none"),
        (lambda t: t.pop("lstm.weight_hh_l0"), "'lstm.': weight_hh_l0: expected a tensor, found none"),
        (lambda t: t.update({"lstm.weight_ih_l0": zeros(9, 4)}), "'lstm.weight_ih_l0': expected shape (12, 4), found (9, 4)"),
        (lambda t: t.update({"lstm.weight_hh_l1": zeros(3, 12)}), "'lstm.weight_hh_l1': expected shape (12, 3), found (3, 12)"),
        (lambda t: t.update({"lstm.weight_hh_l0": zeros()}), "'lstm.weight_hh_l0': expected shape (4H, H), as an LSTM has, found ()"),
        (lambda t: t.update({"lstm.weight_hh_l0": zeros(0, 0)}), "hidden: expected from 1 to 65536, found 0"),
        (lambda t: t.update({"head.weight": zeros(3, 4)}), "'head.bias': expected shape (3,), found (4,)"),
        (lambda t: t.update({"head.bias": zeros(3)}), "'head.bias': expected shape (4,), found (3,)"),
        (lambda t: (t.pop("head.weight"), t.pop("head.bias")), "expected one linear layer with a bias, such as head.weight, and at most one embedding, found none"),
        (lambda t: t.update({"b.weight": zeros(4, 3), "b.bias": zeros(4)}), "and at most one embedding, found 'b.weight, head.weight'"),
        (lambda t: t.update({"norm.weight": zeros(3)}), "expected an LSTM's, a linear layer's and an embedding's alone, found 'norm.weight'"),
        (lambda t: t.update({"emb.weight": zeros(9, 4)}), "'emb.weight': expected shape (4, 4), found (9, 4)"),
        (lambda t: t.update({"head.bias": zeros(4, dtype="i4")}), "'head.bias': expected F64 | F32 | F16 | BF16, found I32"),
        (lambda t: t["lstm.bias_ih_l0"].fill(np.nan), "lstm.bias_l0: expected finite numbers, found NaN or infinity"),
        (lambda t: t["lstm.bias_ih_l1"].fill(3e38) or t["lstm.bias_hh_l1"].fill(3e38), "lstm.bias_l1: expected finite numbers"),
        (lambda t: t.update({f"lstm.weight_ih_l{k}": zeros(1) for k in range(2, 10)}), "weight_hh_l2: expected a tensor, found none"),
        (lambda t: t.update({f"x{k}": zeros(1) for k in range(200)}), "tensors: expected at most 100, found 210"),
        (lambda t: t.update({"\x1b[2J": zeros(1)}), r"found '\x1b[2J'"),
    ],
)  # fmt: skip
def test_what_is_not_such_a_model(refused, change, message):
    assert message in refused(changed(change))


def with_metadata(metadata):
    """The bytes of a model's file whose header says this of metadata."""
    data = save(tensors_of())
    size = int.from_bytes(data[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(data[8 : 8 + size])}).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


OTHER_METADATA = (
    [],
    [["vocabulary", "[]"]],
    0,
    False,
    "",
    "vocabulary",
    {"vocabulary": CHARACTERS},
    {"vocabulary": None},
)
HEADER = json.dumps(
    {"lstm.weight_ih_l0": {"dtype": "F32", "shape": [1 << 40, 4], "data_offsets": [0, 1 << 44]}}
).encode()


@pytest.mark.parametrize(
    "data,message",
    [
        (b"", "contents: expected a safetensors file that is whole"),
        (b"hello, this is text\n", "FILE) writes one), found another kind of file"),
        (b"PK\x03\x04" + bytes(40), "contents: expected a safetensors file (safetensors.torch.save_file(model.state_dict(), FILE) writes one), found what torch.save writes"),
        ((1 << 60).to_bytes(8, "little"), "found another kind of file"),
        ((5 << 20).to_bytes(8, "little"), "found one whose header has 5,242,880 bytes"),
        (len(HEADER).to_bytes(8, "little") + HEADER, "contents: expected a safetensors file that is whole"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "contents: expected a safetensors file that is whole"),
        (save(tensors_of(), {"vocabulary": "[" * 100_000}), "metadata.vocabulary: expected JSON of a few levels, found a deeper one"),
        (save(tensors_of(), {"vocabulary": "[NaN]"}), "metadata.vocabulary: expected JSON, found NaN in it"),
        (with_metadata(None), "metadata.vocabulary: expected a JSON list of characters, there or in --vocabulary, found none"),
        *((with_metadata(other), "contents: expected a safetensors file that is whole") for other in OTHER_METADATA),
    ],
    ids=range(10 + len(OTHER_METADATA)),
)  # fmt: skip
def test_hostile_files_take_no_memory(refused, data, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message in refused(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def test_mistakes_with_files(fails, tmp_path, cli):
    save_file(tensors_of(), tmp_path / "in.safetensors", {"vocabulary": json.dumps(CHARACTERS)})
    file, out = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    assert f"{tmp_path}/no: expected a safetensors file, found nothing there" in fails(
        1, "import", tmp_path / "no", out
    )
    assert "expected a file of its own" in fails(1, "import", file, file)
    line = fails(1, "import", file, out, "--vocabulary", tmp_path / "no")
    assert f"{tmp_path}/no: expected a JSON file, found nothing there" in line
    (tmp_path / "v.json").write_bytes(b"\xff")
    assert "--vocabulary: expected a readable file in UTF-8" in fails(
        1, "import", file, out, "--vocabulary", tmp_path / "v.json"
    )
    assert not out.exists()
    done = cli("import", file, "-")
    assert done.status == 0
    (tmp_path / "from stdout").write_bytes(done.stdout)
    assert read_checkpoint(tmp_path / "from stdout").vocabulary.characters() == sorted(CHARACTERS)
    assert "cuchar import makes a checkpoint of PyTorch's" in fails(1, "info", file)


def test_from_python_nothing_that_is_read_or_kept_is_replaced(tmp_path, trained, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(tensors_of(), "in.safetensors")
    (tmp_path / "characters.json").write_text(json.dumps(CHARACTERS))
    before = [(tmp_path / name).read_bytes() for name in ("in.safetensors", "characters.json")]
    for out in ("in.safetensors", "characters.json", trained / "best.safetensors"):
        with pytest.raises(cuchar.CucharError, match=f"^out {out}: expected a file of its own, found one"):
            cuchar.import_model("in.safetensors", out, vocabulary="characters.json")
    assert [(tmp_path / name).read_bytes() for name in ("in.safetensors", "characters.json")] == before
    with pytest.raises(
        cuchar.CucharError, match=r"^out: expected a file, from which the model is then loaded, found -$"
    ):
        cuchar.import_model("in.safetensors", "-", vocabulary="characters.json")
    assert cuchar.import_model("in.safetensors", "out", vocabulary="characters.json").vocabulary.codes.size == V
