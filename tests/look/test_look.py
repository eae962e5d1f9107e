"""`cuchar look` and what it writes: its size, what it leaves out, and that nothing in it becomes markup."""

import base64
import json
import re
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
from support.checkpoints import made
from support.planted import HOSTILE, lively_model, prose
from support.small_runs import TEXT

import cuchar
from cuchar.checkpoint import write_checkpoint
from cuchar.errors import DivergedError, OptionError, TextError
from cuchar.html_page import digest
from cuchar.look import activations, page, ranking
from cuchar.look.page import make_page
from cuchar.reading import AS_UTF8


def data_of(written: bytes) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', written.decode(), re.DOTALL)[1])


def unpacked(value: str, dtype: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(value)), dtype)


class Tags(HTMLParser):
    """The tags of a page, as a browser would see them, and the attributes of each."""

    def __init__(self, written: bytes):
        super().__init__()
        self.tags = []
        self.feed(written.decode())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_page_holds_the_text_its_predictions_and_its_cells(trained):
    model = cuchar.load(trained)
    ids = model.vocabulary.encode(model.reading.codes_of(TEXT))
    data = data_of(make_page(model.parameters, model.vocabulary, ids, "fox", chars=500))
    characters = [chr(code) for code in data["characters"]]
    assert "".join(characters[at] for at in unpacked(data["ids"], "<u2")) == TEXT[:500]
    guesses = unpacked(data["guesses"], "<u2").reshape(5, 500)
    probabilities = unpacked(data["chances"], "u1").reshape(5, 500)
    assert (np.diff(probabilities.astype(int), axis=0) <= 0).all()
    likeliest = model.sample(1, prime=TEXT[:300], argmax=True)
    assert characters[guesses[0, 300]] == likeliest
    assert data["bits"] == pytest.approx(model.score(TEXT[:500]).bits_per_char, abs=2e-3)
    assert (data["total"], data["title"], data["exact"]) == (len(TEXT), "fox", True)
    assert sorted(cell["cell"] for cell in data["cells"]) == list(range(24)) and data["gates"] == 24
    for cell in data["cells"]:
        assert len(unpacked(cell["values"], "i1")) == 500 and len(cell["gates"]) == 4


def test_twenty_thousand_characters_of_the_default_model_are_less_than_5_mb(monkeypatch):
    monkeypatch.setattr(activations, "ONE_STREAM", 0)  # which is quicker
    text = prose(20_000)
    parameters, vocabulary = lively_model(text, 64)
    written = make_page(parameters, vocabulary, vocabulary.encode(AS_UTF8.codes_of(text)), "prose")
    data = data_of(written)
    assert 3_000_000 < len(written) < 5_000_000
    assert len(data["cells"]) == 128 and data["gates"] > 64


def test_what_has_no_room_is_left_out_and_counted(monkeypatch):
    """The best ranked cells are there, and the gates of the best ranked among them."""
    monkeypatch.setattr(page, "LARGEST", 120_000)
    monkeypatch.setattr(ranking, "MARGIN", -1)  # every cell is said to track something
    text = prose(3_000)
    parameters, vocabulary = lively_model(text, 64)
    written = make_page(parameters, vocabulary, vocabulary.encode(AS_UTF8.codes_of(text)), "prose")
    data = data_of(written)
    assert 90_000 < len(written) <= 120_000
    assert 20 < len(data["cells"]) < 128 and 0 < data["gates"] < len(data["cells"])
    assert ["gates" in cell for cell in data["cells"]] == [at < data["gates"] for at in range(len(data["cells"]))]
    scores = [abs(cell["tracks"][0][1]) if cell["tracks"] else 0 for cell in data["cells"]]
    assert scores == sorted(scores, reverse=True) and min(scores) > 0


def test_nothing_becomes_markup(tmp_path, cli):
    """Not the text, nor a file's name, nor the vocabulary of a checkpoint from anyone."""
    folder = tmp_path / "<script>alert(3)"
    folder.mkdir()
    text = folder / "<img src=x onerror=alert(4)>\u2028.txt"
    text.write_bytes(HOSTILE.encode() * 20)
    checkpoint = made("".join(sorted({*HOSTILE})), hidden=4)
    write_checkpoint(folder / "<b>model.safetensors", checkpoint)
    result = cli("look", folder / "<b>model.safetensors", text, "-o", tmp_path / "page.html")
    assert result.status == 0, result.stderr
    written, plain = (tmp_path / "page.html").read_bytes(), tmp_path / "plain.html"
    harmless = cuchar.load(folder / "<b>model.safetensors")
    harmless.look(HOSTILE * 20, plain, title="a text")
    assert Tags(written).tags == Tags(plain.read_bytes()).tags
    assert data_of(written)["title"] == f"{text.name}, as <b>model.safetensors reads it"
    assert b"alert(" not in written.replace(b"\\u003cimg src=x onerror=alert(4)>", b"")
    assert written.count(b"<script") == 2 and b"<!--" not in written
    assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", written)


def test_the_policy_names_the_scripts_by_their_digests():
    parameters, vocabulary = lively_model("ab", 2)
    written = make_page(parameters, vocabulary, np.array([0, 1] * 30, np.uint8), "t")
    policy = next(a["content"] for tag, a in Tags(written).tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag, start in (("script", '<script type="module">'), ("style", "<style>")):
        (source,) = re.findall(rf"{start}(.*?)</{tag}>", written.decode(), re.DOTALL)
        assert f"{tag}-src {digest(source)};" in policy
    assert not [a for _, a in Tags(written).tags if {"src", "href", "style", "onclick"} & a.keys()]


def test_a_model_of_bytes(tmp_path, cli):
    checkpoint = made("".join(map(chr, range(256))), hidden=3, bytes=True)
    write_checkpoint(tmp_path / "bytes.safetensors", checkpoint)
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)) * 4)
    result = cli(
        "look", tmp_path / "bytes.safetensors", tmp_path / "noise.bin", "--out", tmp_path / "p.html", "--chars", 300
    )
    assert result.status == 0
    data = data_of((tmp_path / "p.html").read_bytes())
    ids = unpacked(data["ids"], "<u2")
    assert data["bytes"] and [data["characters"][at] for at in ids] == [*range(256), *range(44)]


def test_the_command_says_what_it_wrote(trained, text, tmp_path, cli):
    result = cli("look", trained, text, "-o", tmp_path / "p.html")
    assert (result.status, result.stdout) == (0, b"")
    assert re.fullmatch(r"wrote \S+p\.html \(0\.\d MB\): open it in a browser\n", result.stderr)
    assert cli("look", trained, text, text, "-o", "-").stdout.startswith(b"<!doctype html>")
    unknown = tmp_path / "unknown.txt"
    unknown.write_text("É" + TEXT)
    assert cli("look", trained, unknown, "-o", tmp_path / "q.html", "--unknown", "skip").status == 0
    assert data_of((tmp_path / "q.html").read_bytes())["total"] == len(TEXT)
    (tmp_path / "line.txt").write_text("the quick brown fox " * 50)
    assert cli("look", trained, tmp_path / "line.txt", "-o", tmp_path / "q.html").status == 0


def test_mistakes_are_one_line_and_nothing_is_lost(trained, text, tmp_path, fails):
    kept, out = text.read_bytes(), tmp_path / "p.html"
    assert "--out" in fails(1, "look", trained, text, "-o", text) and text.read_bytes() == kept
    assert "the run keeps" in fails(1, "look", trained, text, "-o", trained / "last.safetensors")
    for name, contents in (("empty.txt", ""), ("short.txt", "t"), ("foreign.txt", "ÉÉÉ")):
        (tmp_path / name).write_text(contents)
        line = fails(1, "look", trained, tmp_path / name, "-o", out, "--unknown", "skip")
        assert f"expected at least 2 known characters to look at, found {int(name == 'short.txt')}" in line
    assert "foreign.txt:1:1: character 'É'" in fails(1, "look", trained, tmp_path / "foreign.txt", "-o", out)
    assert "--chars: expected from 2 to 100000, found 1" in fails(2, "look", trained, text, "-o", out, "--chars", 1)
    assert "--unknown: expected error | skip, found x" in fails(2, "look", trained, text, "-o", out, "--unknown", "x")
    assert "--out" in fails(2, "look", trained, text)
    assert not out.exists()


def test_python_speaks_of_its_arguments(trained, tmp_path):
    model = cuchar.load(trained)
    with pytest.raises(TextError, match="at least 2 known characters"):
        model.look("t", tmp_path / "p.html")
    with pytest.raises(OptionError, match="chars"):
        model.look(TEXT, tmp_path / "p.html", chars="many")
    with pytest.raises(OptionError, match="page"):
        model.look(TEXT, None)


def test_a_model_that_diverged_is_said_to_have(recwarn):
    parameters, vocabulary = lively_model(TEXT, 4)
    parameters.flat[...] = np.sign(parameters.flat) * 3e38
    with pytest.raises(DivergedError, match="expected finite predictions"):
        make_page(parameters, vocabulary, vocabulary.encode(AS_UTF8.codes_of(TEXT)), "fox")
    assert not recwarn.list


@pytest.mark.parametrize("count", [2, 3, 19, 20, 21])
def test_a_text_too_short_for_any_property_has_a_page(trained, count):
    """In so few characters no property varies and no sequence is frequent: there is nothing to rank by."""
    model = cuchar.load(trained)
    ids = model.vocabulary.encode(model.reading.codes_of(TEXT))[:count]
    data = data_of(make_page(model.parameters, model.vocabulary, ids, "A text", 100))
    assert data["total"] == count and not any(cell["tracks"] for cell in data["cells"])
