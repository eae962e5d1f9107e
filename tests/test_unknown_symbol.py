"""--max-vocab, --normalize and --encoding: a model knows how its texts are read, wherever it is used."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from support.checkpoints import made

import cuchar
from cuchar.checkpoint import checkpoint_bytes, read_checkpoint
from cuchar.config import TrainConfig
from cuchar.errors import CheckpointError, OptionError
from cuchar.export.json import json_file
from cuchar.export.onnx import onnx_model
from cuchar.export.pytorch import pytorch_file
from cuchar.reading import AS_UTF8, Reading
from cuchar.vocabulary import Vocabulary

SIZES = {"hidden": 6, "layers": 1, "window": 5, "batch": 2, "max_steps": 4, "device": "cpu"}
COMPOSED, APART = "caf\u00e9 \u00fc\n" * 30, "cafe\u0301 u\u0308\n" * 30


def test_the_most_frequent_characters_are_kept_and_ties_go_by_number():
    counts = np.bincount([ord(c) for c in "aaaabbbccddxy"])
    vocabulary = Vocabulary.of_counts(counts, most=4)
    assert vocabulary.characters() == ["a", "b", "c", "\ufffd"] and vocabulary.has_unknown
    assert vocabulary.encode(AS_UTF8.codes_of("abdcy☃")).tolist() == [0, 1, 3, 2, 3, 3]
    assert vocabulary.has(AS_UTF8.codes_of("az")).all()
    assert vocabulary.ids_of_known(AS_UTF8.codes_of("adc")).tolist() == [0, 3, 2]
    assert vocabulary.decode(np.array([3, 0])).decode() == "\ufffda"
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert vocabulary != Vocabulary(vocabulary.codes)
    many = Vocabulary.of_counts(np.array([0, *[7] * 500]), most=301)
    assert many.codes.tolist() == [*range(1, 301), 0xFFFD]


def test_a_vocabulary_that_fits_has_no_unknown_symbol():
    vocabulary = Vocabulary.of_counts(np.bincount([97, 98, 98]), most=2)
    assert vocabulary == Vocabulary.of(np.array([97, 98])) and list(vocabulary.to_json()) == ["bytes", "characters"]


def test_the_symbol_in_the_text_itself_is_the_unknown_symbol():
    codes = [ord(c) for c in "aaab\ufffd\ufffd\ufffd\ufffdc"]
    vocabulary = Vocabulary.of_counts(np.bincount(codes), most=3)
    assert vocabulary.characters() == ["a", "b", "\ufffd"]


def test_a_run_and_its_model_use_the_unknown_symbol(tmp_path, cli):
    text, out = tmp_path / "text", tmp_path / "run"
    text.write_text("the quick brown fox ☃🦊\n" * 30)
    result = cli(
        "train", text, "--max-vocab", 8, "--out", out, *"--hidden 6 --window 5 --batch 2 --max-steps 4".split()
    )
    assert result.status == 0 and "distinct ones, became U+FFFD, the unknown symbol" in result.stderr
    model = cuchar.load(out)
    assert len(model.vocabulary) == 8 and model.score("☕ the").chars == 4
    assert cli("sample", out, "--prime", "é", "--length", 3).stdout.startswith("\ufffd".encode())
    scored = json.loads(cli("eval", out, text, "--json").stdout)
    assert scored["chars"] == 23 * 30 - 1 and scored["skipped"] == 0
    outside = sum(character not in model.vocabulary.characters() for character in text.read_text())
    assert scored["replaced"] == scored["files"][0]["replaced"] == model.score(text.read_text()).replaced == outside
    (tmp_path / "other").write_text("wholly ÄÖÜ others\n" * 30)
    again = cuchar.resume(out, max_steps=6, device="cpu")
    assert again.vocabulary == model.vocabulary
    tuned = cuchar.train(
        tmp_path / "other", max_vocab=9, init_from=out, out=tmp_path / "tuned", **SIZES | {"layers": 2}
    )
    assert tuned.vocabulary.has_unknown


def test_what_is_outside_the_vocabulary_is_counted_and_scored_as_the_symbol(tmp_path, cli):
    (tmp_path / "model").write_bytes(checkpoint_bytes(with_unknown()))
    (tmp_path / "1").write_text("a☃b\ufffd🦊é")
    (tmp_path / "2").write_text("ab" * 4 + "x")
    command = ("eval", tmp_path / "model", tmp_path / "1", tmp_path / "2")
    scored = json.loads(cli(*command, "--json").stdout)
    assert [scored["replaced"], *(file["replaced"] for file in scored["files"])] == [4, 3, 1]
    model = cuchar.load(tmp_path / "model")
    as_symbols = model.score("a\ufffdb\ufffd\ufffd\ufffd" + "ab" * 4 + "\ufffd")
    assert (scored["nats_per_char"], scored["chars"]) == (as_symbols.nats_per_char, as_symbols.chars)
    assert as_symbols.replaced == 0 and repr(model.score("a☃")).endswith(
        "; 1 characters scored, 1 scored as the unknown symbol>"
    )
    total, table = cli(*command).stdout.decode().split("\n\n")
    assert total.endswith("characters replaced 4 outside the vocabulary, read and scored as the unknown symbol")
    shown = [line.split() for line in table.splitlines()]
    assert [line[5] for line in shown] == ["replaced", "3", "1"]


def test_composed_and_decomposed_texts_train_the_same_model(tmp_path):
    models = []
    for name, content in (("composed", COMPOSED), ("apart", APART)):
        (tmp_path / name).write_text(content)
        models.append(cuchar.train(tmp_path / name, normalize="nfc", out=tmp_path / f"{name}-run", **SIZES))
    assert models[0].vocabulary == models[1].vocabulary and "\u0301" not in models[0].vocabulary.characters()
    assert models[0].parameters.flat.tobytes() == models[1].parameters.flat.tobytes()
    assert models[0].score(APART).nats_per_char == models[0].score(COMPOSED).nats_per_char
    assert models[0].sample(5, prime="e\u0301", seed=1) == models[0].sample(5, prime="é", seed=1)


def test_latin_1_is_read_wherever_the_model_is_used(tmp_path, cli):
    (tmp_path / "text").write_bytes(COMPOSED.encode("latin-1"))
    model = cuchar.train(tmp_path / "text", encoding="latin-1", out=tmp_path / "run", **SIZES)
    assert model.vocabulary.characters() == sorted(set(COMPOSED))
    scored = json.loads(cli("eval", tmp_path / "run", tmp_path / "text", "--json").stdout)
    assert scored["nats_per_char"] == pytest.approx(model.score(COMPOSED).nats_per_char, abs=1e-6)
    prime = cli("sample", tmp_path / "run", "--prime-file", tmp_path / "text", "--length", 1).stdout
    assert prime.startswith(COMPOSED.encode())
    assert cli("look", tmp_path / "run", tmp_path / "text", "-o", tmp_path / "page.html").status == 0
    options = ["--format", "web", "--text", tmp_path / "text"]
    assert cli("export", tmp_path / "run", tmp_path / "web.html", *options).status == 0


@pytest.mark.parametrize("name", ["latin-1", "Latin1", "ISO-8859-1", "iso8859_1", "L1", "CP819"])
def test_other_spellings_are_stored_as_the_usual_ones(name):
    config = TrainConfig(encoding=name, normalize="NFC")
    assert config == TrainConfig(encoding="latin-1", normalize="nfc") and Reading.of(config.to_json()).has_single_bytes
    assert Reading.of(TrainConfig(encoding="Utf8").to_json()) == AS_UTF8


@pytest.mark.parametrize(
    "name", ["utf-8-sig", "utf-16", "latin-2", "hex", "", "a\0", "\ud800", "../utf-8", "x" * 9999, 8]
)
def test_other_encodings_are_refused(name):
    with pytest.raises(OptionError, match=r"^encoding: expected utf-8 \| latin-1, found "):
        TrainConfig(encoding=name)


def test_a_run_may_be_resumed_by_another_spelling(tmp_path, cli, fails):
    (tmp_path / "text").write_text(COMPOSED)
    train = ("train", tmp_path / "text", *"--hidden 3 --window 5 --batch 2 --max-steps 1 --device cpu".split())
    assert cli(*train, *"--encoding UTF8 --normalize NFC --out".split(), tmp_path / "run").status == 0
    stored = json.loads((tmp_path / "run/config.json").read_text())["train"]
    assert (stored["encoding"], stored["normalize"]) == ("utf-8", "nfc")
    assert (
        cli("train", "--resume", tmp_path / "run", *"--encoding U8 --normalize Nfc --max-steps 2".split()).status == 0
    )
    refused = fails(1, "train", "--resume", tmp_path / "run", *"--encoding latin1".split())
    assert "--encoding: expected the run's utf-8 to resume" in refused


def test_bytes_refuse_even_the_usual_encoding_if_it_is_given(tmp_path, fails):
    (tmp_path / "text").write_text(COMPOSED)
    line = "cuchar: --encoding utf-8: expected it or --bytes, found both\n"
    for command in ("train", "corpus"):
        assert fails(2, command, tmp_path / "text", "--bytes", "--encoding", "utf-8") == line
    with pytest.raises(OptionError, match=r"^encoding='utf-8': expected it or bytes=True, found both$"):
        cuchar.train(tmp_path / "text", bytes=True, encoding="utf-8", normalize=None)
    with pytest.raises(OptionError, match=r"^bytes: expected true or false, found "):
        cuchar.train(tmp_path / "text", bytes=np.ones(2), encoding="utf-8")


@pytest.mark.parametrize("options", [{"max_vocab": 9}, {"normalize": "nfc"}, {"encoding": "latin-1"}])
def test_bytes_have_no_such_options(options):
    ((name, value),) = options.items()
    with pytest.raises(OptionError, match=f"^{name}={value!r}: expected it or bytes=True, found both$"):
        TrainConfig(bytes=True, **options)


def with_unknown():
    checkpoint = made(characters="ab\ufffd", max_vocab=3)
    checkpoint.vocabulary = Vocabulary(checkpoint.vocabulary.codes, has_unknown=True)
    return checkpoint


def test_a_checkpoint_says_that_there_is_an_unknown_symbol(tmp_path):
    (tmp_path / "x").write_bytes(checkpoint_bytes(with_unknown()))
    assert read_checkpoint(tmp_path / "x").vocabulary.has_unknown


@pytest.mark.parametrize("characters,is_bytes", [("abc", False), ("abÿ", True)])
def test_an_unknown_symbol_that_is_not_there_is_refused(tmp_path, characters, is_bytes):
    checkpoint = made(characters=characters, bytes=is_bytes)
    checkpoint.vocabulary = Vocabulary(checkpoint.vocabulary.codes, is_bytes, has_unknown=True)
    (tmp_path / "x").write_bytes(checkpoint_bytes(checkpoint))
    with pytest.raises(
        CheckpointError, match=r"vocabulary\.unknown: expected U\+FFFD among the characters, found none"
    ):
        read_checkpoint(tmp_path / "x")


def test_exports_say_it_and_an_import_keeps_it(tmp_path, cli):
    checkpoint = with_unknown()
    parameters, vocabulary = checkpoint.parameters, checkpoint.vocabulary
    assert json.loads(json_file(parameters, vocabulary))["unknown"] == "\ufffd"
    assert {prop.key: prop.value for prop in onnx_model(parameters, vocabulary).metadata_props}["unknown"] == "\ufffd"
    (tmp_path / "x.safetensors").write_bytes(pytorch_file(parameters, vocabulary))
    with safe_open(tmp_path / "x.safetensors", "np") as opened:
        assert opened.metadata()["unknown"] == "\ufffd"
    model = cuchar.import_model(tmp_path / "x.safetensors", tmp_path / "imported", device="cpu")
    assert model.vocabulary == vocabulary
    plain = Vocabulary(vocabulary.codes)
    assert "unknown" not in json.loads(json_file(parameters, plain))
