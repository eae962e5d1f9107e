"""The page that samples: in Chromium it draws the numbers, computes the logits and writes the text that cuchar does."""

import json
import re

import numpy as np
import pytest

import cuchar
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.evaluation import stream_losses
from cuchar.export.int8 import quantised, rounded
from cuchar.parameters import Parameters
from cuchar.philox import philox4x32, uniforms

HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> {data} {script} \\ \" ' & \u2028 \u2029 \u202e\n"
CORPUS = ("the quick brown fox jumps over the lazy dog, the dog sleeps and the fox is gone\n" * 12 + HOSTILE * 3) * 3
WORDS = 2**32 - 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that was trained on text with markup in it."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "fox.txt").write_text(CORPUS)
    options = dict(hidden=33, window=20, batch=16, lr=0.01, epochs=60, max_steps=300)
    cuchar.train(folder / "fox.txt", out=folder / "run", **options)
    return folder / "run"


@pytest.fixture(scope="module")
def model(run):
    return cuchar.load(run)


@pytest.fixture(scope="module")
def page_file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "<script>alert(3)<script>.html"
    model.export(file)
    return file


def write(page, **settings):
    """Fill in the settings, press the button, and return the text once it is whole."""
    for name, value in settings.items():
        page.fill(f"#{name.replace('_', '-')}", str(value))
    page.get_by_role("button", name="Write").click()
    page.wait_for_selector("#copy:enabled")
    return page.text_content("#text")


def test_random_words_are_those_of_philox(browser_page, page_file):
    """The known answers of tests/test_philox.py judge cuchar.philox; here its words judge the page's."""
    page, rng = browser_page(page_file), np.random.default_rng(0)
    cases = rng.integers(0, 2**32, (500, 6)).tolist()
    cases += [[0] * 6, [WORDS] * 6, [0x80000000] * 6, [0xFFFF, 0x10000] * 3]
    found = page.evaluate("cases => cases.map(words => philox(words.slice(0, 4), words.slice(4)))", cases)
    for words, four in zip(cases, found, strict=True):
        assert four == [int(word) for word in philox4x32(tuple(words[:4]), tuple(words[4:]))]


@pytest.mark.parametrize("seed", [0, 1, 2**32 + 5, 2**63 - 1])
def test_uniform_numbers_are_the_same_bits(browser_page, page_file, seed):
    page = browser_page(page_file)
    positions = [0, 1, 2, 3, 1000, WORDS, WORDS + 1, 2**40 + 7]
    found = page.evaluate(
        "([seed, positions]) => positions.map(position => uniform(keyOf(BigInt(seed)), position))",
        [str(seed), positions],
    )
    assert found == [float(uniforms(seed, range(1), range(at, at + 1))[0, 0]) for at in positions]


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_logits_are_those_of_the_float64_engine(browser_page, model, tmp_path, weights):
    model.export(tmp_path / "page.html", weights=weights)
    parameters = model.parameters if weights == "float32" else rounded(model.parameters)
    exact = Parameters(parameters.model, np.float64)
    exact.flat[:] = parameters.flat
    engine = NumpyEngine(parameters.model, np.float64)
    ids = np.random.default_rng(0).integers(0, len(model.vocabulary), (60, 1))
    logits, _ = engine.forward(engine.fold(exact), ids, engine.zero_state(1))
    found = browser_page(tmp_path / "page.html").evaluate(
        "ids => ids.map(id => (model.read(id), model.draw(0.5, { temperature: 1 }), Array.from(model.logits)))",
        ids[:, 0].tolist(),
    )
    # In double precision a logit of 33 products is off by some 1e-14, and rounded weights would show at 1e-8.
    assert np.abs(np.array(found) - logits[:, 0]).max() < 1e-12
    assert np.abs(logits).max() > 1


def test_argmax_gives_the_characters_of_the_command(cli, browser_page, run, page_file):
    page = browser_page(page_file)
    page.get_by_label("always the likeliest character").check()
    text = write(page, prime="the qu", length=2500)
    assert text + "\n" == cli("sample", run, "--prime", "the qu", "--length", 2500, "--argmax").stdout.decode()
    assert len(text) == 2506 and len(set(text)) > 10
    assert "seed" not in page.text_content("#status")  # nothing was drawn


@pytest.mark.parametrize(
    "settings,options",
    [
        ({"prime": "the fox", "temperature": "0.8"}, {"temperature": 0.8}),
        ({"temperature": "1.5"}, {"temperature": 1.5}),  # without a prime, the first character is drawn too
        ({"prime": "t", "temperature": "1", "top_k": 3}, {"top_k": 3}),
        ({"prime": "the", "temperature": "1e-9"}, {"temperature": 1e-9}),
    ],
)
def test_a_seed_gives_the_characters_of_the_command(browser_page, model, page_file, settings, options):
    text = write(browser_page(page_file), length=1000, seed=11, **settings)
    prime = settings.get("prime", "")
    assert text == prime + model.sample(1000, prime=prime, seed=11, **options)


def test_markup_in_the_vocabulary_is_text(browser_page, page_file, model):
    page = browser_page(page_file)
    assert page.locator("script").count() == 2 and page.locator("img").count() == 0
    text = write(
        page, prime="</script><script>alert(1)</script><img src=x onerror=alert(2)>", length=3000, temperature=2
    )
    assert "<" in text[70:] and page.locator("#text *").count() == 2 and page.locator("img").count() == 0
    written = page_file.read_text()
    assert written.count("<script") == 2 and "alert(" not in written
    data = re.search(r'<script id="model" type="application/json">(.*?)</script>', written)[1]
    assert not set(data) & set("<>&\u2028\u2029\u202e")
    assert "".join(map(chr, json.loads(data)["codes"])) == "".join(sorted(set(CORPUS)))
    assert "default-src 'none'" in written and "unsafe" not in written


def test_bytes_come_as_utf8(browser_page, tmp_path):
    (tmp_path / "bytes.txt").write_text("naïve 😀 café ☕ done\n" * 60)
    model = cuchar.train(
        tmp_path / "bytes.txt", bytes=True, hidden=24, batch=8, window=16, lr=0.02, epochs=99, max_steps=150,
        out=tmp_path / "run",
    )  # fmt: skip
    model.export(tmp_path / "page.html")
    page = browser_page(tmp_path / "page.html")
    ids = model.vocabulary.encode(model.reading.codes_of("ï😀☕n"))
    pieces = page.evaluate("ids => [...ids.map(id => [id]), []].map(reader())", ids.tolist())
    assert pieces == ["", "ï", "", "", "", "😀", "", "", "☕", "n", ""]  # a character comes with its last byte
    assert page.evaluate("id => [[id], []].map(reader())", int(ids[0])) == ["", "\ufffd"]
    text = write(page, prime="na", length=1000, seed=1, temperature=1)
    assert text == "na" + model.sample(1000, prime="na", seed=1) and "😀" in text


def test_a_beginning_is_read_as_the_models_texts_are(browser_page, tmp_path):
    (tmp_path / "text").write_text("cafe\u0301 au lait ☕\n" * 30)
    model = cuchar.train(
        tmp_path / "text", normalize="nfc", max_vocab=8, hidden=6, batch=2, window=5, max_steps=3, out=tmp_path / "run"
    )
    model.export(tmp_path / "page.html")
    page = browser_page(tmp_path / "page.html")
    expected = model.vocabulary.encode(model.reading.codes_of("e\u0301 ☃a")).tolist()
    assert page.evaluate("text => idsOf(text)", "e\u0301 ☃a") == expected and len(expected) == 4


def test_text_comes_as_it_is_made_and_stops(browser_page, page_file):
    page = browser_page(page_file)
    page.fill("#length", "1000000")
    page.get_by_role("button", name="Write").click()
    page.wait_for_selector("#made:not(:empty)")
    before = len(page.text_content("#made"))
    page.wait_for_timeout(100)
    assert (
        before < len(page.text_content("#made")) < 1_000_000 and page.get_by_role("button", name="Copy").is_disabled()
    )
    page.get_by_role("button", name="Stop").click()
    page.wait_for_selector("#copy:enabled")
    count = len(page.text_content("#made"))
    assert page.text_content("#status").startswith(f"{count:,} characters, ")
    page.wait_for_timeout(50)
    assert len(page.text_content("#made")) == count


def test_a_new_text_takes_the_place_of_one_being_written(browser_page, page_file, model):
    page = browser_page(page_file)
    page.fill("#length", "1000000")
    page.get_by_role("button", name="Write").click()
    assert write(page, prime="the ", length=300, seed=5, temperature=1) == "the " + model.sample(
        300, prime="the ", seed=5
    )


@pytest.mark.parametrize(
    "name,value,message",
    [
        ("temperature", "0", "Temperature: expected a number above 0, found 0"),
        ("temperature", "", "Temperature: expected a number above 0, found nothing"),
        ("top-k", "-1", "Top k: expected a whole number, 0 for off, found -1"),
        ("length", "0", "Characters: expected a whole number from 1 to 1000000, found 0"),
        ("seed", str(2**63), f"Seed: expected a whole number up to {2**63 - 1}, found {2**63}"),
        ("prime", "fox Ω", 'Begin with: expected characters that the model knows, which are COUNT, found "Ω"'),
    ],
)
def test_mistakes_are_one_line(browser_page, page_file, model, name, value, message):
    page = browser_page(page_file)
    page.fill(f"#{name}", value)
    page.get_by_role("button", name="Write").click()
    assert page.get_by_role("alert").text_content() == message.replace("COUNT", str(len(model.vocabulary)))
    assert page.text_content("#text") == ""


def test_copy_without_a_permission_selects(browser_page, page_file):
    page = browser_page(page_file)
    text = write(page, length=50, seed=3)
    page.get_by_role("button", name="Copy").click()
    page.wait_for_timeout(100)
    status = page.text_content("#status")
    assert status == "copied" or page.evaluate("getSelection().toString()").strip() == text.strip()


def test_every_control_has_a_name_and_the_page_fits_a_phone(browser_page, page_file):
    page = browser_page(page_file, width=320, height=600, color_scheme="dark")
    for label in ("Begin with", "Temperature", "Top k", "Characters", "Seed", "always the likeliest character"):
        assert page.get_by_label(label).count() == 1
    assert page.get_by_text("The same seed and settings give the text of").is_visible()
    assert [button.text_content() for button in page.get_by_role("button").all()] == ["Write", "Stop", "Copy"]
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = browser_page(page_file, color_scheme="light").evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < 600 < sum(map(int, re.findall(r"\d+", light)))


def test_eight_bits_are_the_nearest_and_a_quarter_of_the_size(model, tmp_path):
    matrix = np.array([[127, -63.5, 0.4], [0, 0, 0], [-2.54, 1.26, 0.0]], np.float32)
    integers, scales = quantised(matrix)
    assert integers.tolist() == [[127, -64, 0], [0, 0, 0], [-127, 63, 0]]
    assert scales.tolist() == [1, 0, np.float32(np.float32(2.54) / 127)]
    for name, view in model.parameters.items():
        error = np.abs(rounded(model.parameters)[name] - view)
        allowed = np.abs(view).max(axis=1, keepdims=True) / 127 * 0.5001 if view.ndim == 2 else 0
        assert (error <= allowed).all(), name
    for weights in ("float32", "int8"):
        model.export(tmp_path / weights, "web", weights=weights)
    bare = 20_000  # the page without weights
    sizes = [(tmp_path / weights).stat().st_size - bare for weights in ("float32", "int8")]
    assert 3 < sizes[0] / sizes[1] < 4.2


def test_what_eight_bits_cost_is_said(cli, run, model, browser_page, tmp_path):
    """On a text it is what the NumPy engine scores; on the model's own writing, its entropy and a little more."""
    (tmp_path / "text.txt").write_text("Ω" + CORPUS[:1500])  # a character that the model does not know is left out
    ids = model.vocabulary.encode(model.reading.codes_of(CORPUS[:1500]))[None]
    engine = NumpyEngine(model.parameters.model, np.float32)
    expected = [
        np.mean(np.concatenate(list(stream_losses(engine, engine.fold(weights), ids)), axis=1))
        for weights in (model.parameters, rounded(model.parameters))
    ]
    for weights in ("int8", "float32"):  # of both weights, whichever the page has
        options = ("--weights", weights, "--text", tmp_path / "text.txt")
        said = cli("export", run, tmp_path / "page.html", *options).stderr.splitlines()[0]
        found = re.fullmatch(
            r"On the text's first 1,500 characters, the loss is ([\d.]+) nats per character with float32 weights, ([\d.]+) with int8.",
            said,
        )
        assert [float(loss) for loss in found.groups()] == pytest.approx(expected, abs=1e-4)
        page = browser_page(tmp_path / "page.html")
        assert page.text_content("#loss") == said
        assert page.locator("#same").is_visible() == (weights == "float32")
    said = cli("export", run, tmp_path / "own.html", "--weights", "int8").stderr
    own = re.match(r"On the model's own writing, the loss is ([\d.]+) .* ([\d.]+) with int8\.\n", said)
    assert 0 <= float(own[2]) - float(own[1]) < 0.02


def test_mistakes_of_the_command(fails, run, tmp_path, monkeypatch):
    out = tmp_path / "page.html"
    assert "--weights: expected float32 | int8, found int4" in fails(2, "export", run, out, "--weights", "int4")
    assert "--weights: expected --format web with it, found --format json" in fails(
        2, "export", run, tmp_path / "x.json", "--weights", "int8"
    )
    assert "expected a text file, found no such file" in fails(1, "export", run, out, "--text", tmp_path / "none")
    (tmp_path / "Ω").write_text("ΩΩΩ")
    assert "expected at least 2 known characters to score" in fails(1, "export", run, out, "--text", tmp_path / "Ω")
    assert f"OUT {tmp_path / 'Ω'}: expected a file of its own" in fails(
        1, "export", run, tmp_path / "Ω", "--text", tmp_path / "Ω"
    )
    monkeypatch.setattr("cuchar.export.web.MOST_BYTES", 1000)
    assert re.search(
        r"--format web: expected at most 1,000 bytes of weights, found [\d,]+", fails(1, "export", run, out)
    )
    assert not out.exists()
