"""cuchar from Python: training with and without a bar, resuming, streams of text, every character's loss."""

import contextlib
import io
import math
import re
from itertools import islice

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from run_notebook import run
from support.checkpoints import made
from support.run_records import metrics, records_without_times
from support.small_runs import TEXT

import cuchar
from cuchar.checkpoint import read_checkpoint, write_checkpoint
from cuchar.errors import OptionError, RunError, TextError
from cuchar.evaluation import Score
from cuchar.sampling import SampleConfig

SMALL = {
    "hidden": 9,
    "layers": 1,
    "window": 7,
    "batch": 5,
    "lr": 0.02,
    "log_every": 6,
    "save_every": 10,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def of_bytes(tmp_path_factory):
    """A model of bytes whose text is half made of characters of two to four bytes, which it learns to write badly."""
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "text.txt").write_text("é漢🎈a " * 200)
    return cuchar.train(folder / "text.txt", out=folder / "run", bytes=True, **SMALL, max_steps=40)


# --- train and resume


class Stop(cuchar.Callback):
    """Ends the run after a step."""

    def __init__(self, last):
        self.last = last

    def step(self, step, loss, chars):
        if step == self.last:
            raise cuchar.StopTraining


def test_resume_ends_as_a_run_that_was_not_stopped(text, tmp_path):
    whole = cuchar.train(text, out=tmp_path / "whole", max_steps=40, **SMALL)
    stopped = cuchar.train(text, out=tmp_path / "run", max_steps=40, callbacks=[Stop(23)], **SMALL)
    assert not np.array_equal(stopped.parameters.flat, whole.parameters.flat)
    steps = []

    class Steps(cuchar.Callback):
        def step(self, step, loss, chars):
            steps.append(step)

    resumed = cuchar.resume(tmp_path / "run", device="cpu", callbacks=Steps())  # one callback needs no list
    assert steps == [*range(steps[0], 41)] and steps[0] > 23
    assert np.array_equal(resumed.parameters.flat, whole.parameters.flat)
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")
    assert resumed.engine.name == whole.engine.name


def test_resume_goes_on_to_a_larger_total(text, tmp_path):
    cuchar.train(text, out=tmp_path / "run", max_steps=12, **SMALL)
    moved = text.rename(tmp_path / "moved.txt")
    cuchar.resume(str(tmp_path / "run"), texts=moved, max_steps=np.int64(20), hidden=9, device="cpu")
    assert metrics(tmp_path / "run")[-1]["step"] == 20
    cuchar.resume(tmp_path / "run", texts=[moved])
    assert metrics(tmp_path / "run")[-1]["step"] == 20


def test_resume_returns_the_best_model(text, tmp_path):
    run = tmp_path / "run"
    cuchar.train(text, out=run, max_steps=12, val_fraction=0.1, **SMALL)
    assert cuchar.resume(run, max_steps=20).file == run / "best.safetensors"


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"max_steps": "50"}, "expected an integer, found '50'"),
        ({"lr": "high"}, "expected a number, found 'high'"),
        ({"texts": 3}, "expected a path, found 3"),
        ({"val": 3}, "expected a path, found 3"),
        ({"glob": 3}, "expected text, found 3"),
        ({"skip_unreadable": 1}, "expected true or false, found 1"),
        ({"progress": "yes"}, "expected true or false, found 'yes'"),
        ({"callbacks": [print]}, "expected a cuchar.Callback, found a builtin_function_or_method"),
        ({"callbacks": Stop}, "expected a cuchar.Callback, found a type"),
        ({"device": 3}, "expected auto | cpu | cuda | cuda:N | emulate, found 3"),
        ({"out": "elsewhere"}, "expected the name of an option, found none"),
        ({"epoch": 3}, "expected the name of an option, found none"),
    ],
)
def test_resume_names_what_is_no_argument(trained, arguments, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        cuchar.resume(trained, **arguments)
    if arguments.keys() & {"progress", "callbacks"}:
        with pytest.raises(OptionError, match=re.escape(message)):
            cuchar.train(trained.parent / "fox.txt", **arguments)


def test_resume_refuses_other_runs_and_options(trained, tmp_path):
    with pytest.raises(OptionError, match="expected a path, found None"):
        cuchar.resume(None)
    with pytest.raises(RunError):
        cuchar.resume(tmp_path)
    with pytest.raises(RunError, match=r"expected the run's 12 .*, found 13"):
        cuchar.resume(trained, hidden=13)


def test_resume_knows_former_names(trained):
    with pytest.warns(DeprecationWarning) as told:
        cuchar.resume(trained, steps=8)
    assert [one.filename for one in told] == [__file__]


# --- progress


def test_nothing_is_printed_without_progress(text, tmp_path, capfd):
    cuchar.train(text, out=tmp_path / "run", max_steps=8, **SMALL)
    cuchar.resume(tmp_path / "run", max_steps=12, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_progress_prints_what_the_command_prints(cli, text, tmp_path, capfdbinary):
    shown = cli("train", text, *"--hidden 9 --layers 1 --window 7 --batch 5 --lr 0.02 --log-every 6 --save-every 10".split(),
                *"--device cpu --max-steps 8 --out".split(), tmp_path / "run")  # fmt: skip
    cuchar.train(text, out=tmp_path / "api", max_steps=8, progress=True, **SMALL)
    out, err = (stream.decode() for stream in capfdbinary.readouterr())
    assert out == shown.stdout.decode() and out.startswith("--- step 8 ---\n")
    logs = [re.sub(r"[\d.,]+ (steps|chars)/s|in [\d.]+ s", "", log) for log in (err, shown.stderr)]
    ours, commands = (log.replace("/api", "/run").splitlines() for log in logs)
    assert ours[:-1] == commands[:-1] and any(line.startswith("step 8/8") for line in ours)
    assert ours[-1] == f"to write with it: cuchar.load('{tmp_path}/run').sample()"
    cuchar.resume(tmp_path / "api", max_steps=12, progress=True, device="cpu")
    out, err = (stream.decode() for stream in capfdbinary.readouterr())
    assert out.startswith("--- step 12 ---\n") and "resuming" in err and "step 12/12" in err


def test_samples_go_to_a_standard_output_that_takes_text_alone(tmp_path):
    """Control characters in them are escaped, as on a terminal."""
    (tmp_path / "text.txt").write_text("\x1b[31mé" * 200)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        cuchar.train(tmp_path / "text.txt", out=tmp_path / "run", max_steps=3, progress=True, **SMALL)
    sample = (tmp_path / "run/samples.txt").read_text()
    assert "\x1b" in sample and "é" in sample
    assert shown.getvalue() == sample.replace("\x1b", "\\x1b")


TRAINING = """
import os, signal, time
import cuchar

class Slow(cuchar.Callback):
    def step(self, step, loss, chars):
        time.sleep(0.03)

model = cuchar.train(
    "fox.txt", out="<b>run", max_steps=30, sample_every=10, sample_length=25, progress=True,
    hidden=9, layers=1, window=7, batch=5, save_every=10, device="cpu", callbacks=Slow(),
)
"""
INTERRUPTED = """
class Interrupt(cuchar.Callback):
    def step(self, step, loss, chars):
        if step == 35:
            os.kill(os.getpid(), signal.SIGINT)  # as the button does

try:
    cuchar.resume("<b>run", max_steps=4000, device="cpu", callbacks=Interrupt())
except cuchar.Interrupted as interrupted:
    print(interrupted)
"""


def test_a_notebook_has_a_bar_that_moves_in_its_place(text, tmp_path):
    """In a real kernel, without ipywidgets: one display that is replaced, and below it the samples, once each."""
    drawn = []

    class Client(NotebookClient):
        def process_message(self, message, cell, index):
            if message["msg_type"] in ("display_data", "update_display_data"):
                drawn.append(message["content"]["data"])
            return super().process_message(message, cell, index)

    code = (TRAINING, "import sys; 'ipywidgets' in sys.modules", "model", INTERRUPTED)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in code])
    run(notebook, tmp_path, Client)
    training, widgets, model, interrupted = (cell["outputs"] for cell in notebook.cells)

    before, bar, after = training  # nothing else came between the lines of each, which are all on standard output
    assert {before["name"], after["name"]} == {"stdout"}
    assert before["text"].startswith("engine: ") and "\nrun folder: <b>run\n" in before["text"]
    assert after["text"].startswith((tmp_path / "<b>run/samples.txt").read_text()[:40])
    assert [after["text"].count(f"--- step {step} ---\n") for step in (10, 20, 30)] == [1, 1, 1]
    assert after["text"].endswith("to write with it: cuchar.load('<b>run').sample()\n")

    assert re.fullmatch(r"step 30/30  loss \d\.\d{4}  0:00:0\d", bar["data"]["text/plain"])
    full = '<progress aria-label="training" max="30" value="30"></progress> <code>step 30/30  loss '
    assert bar["data"]["text/html"].startswith(full)
    lines = [data["text/plain"] for data in drawn]
    steps = [int(re.match(r"step (\d+)", line)[1]) for line in lines]
    assert lines[0] == "step 0" and lines[-1] == bar["data"]["text/plain"]
    assert steps == sorted(steps) and len(set(steps)) >= 4 and len(steps) <= 12  # a second's ten updates, and both ends
    moving = r"step \d+/30  loss \d\.\d{3}  [\d.]+ steps/s  [\d,]+ chars/s  ETA 0:00:0\d"
    assert all(re.fullmatch(moving, line) for line in lines[1:-1])

    assert widgets[0]["data"]["text/plain"] == "False"
    loaded = cuchar.load(tmp_path / "<b>run", device="cpu")
    assert model[0]["data"]["text/plain"] == repr(loaded).replace(f"{tmp_path}/", "")
    assert interrupted[0]["text"] == "SIGINT\n"
    assert 35 <= read_checkpoint(tmp_path / "<b>run").run["position"]["step"] < 4000


# --- stream


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "prime": "the "}, {"stop": "o "}, {"top_k": 3}])
def test_a_stream_is_the_sample_in_pieces(trained, options):
    model = cuchar.load(trained, device="cpu")
    pieces = list(model.stream(150, seed=5, **options))
    assert "".join(pieces) == model.sample(150, seed=5, **options)
    assert {len(piece) for piece in pieces} == {1}
    assert len(pieces) == ("".join(pieces).index("o ") + 2 if "stop" in options else 150)


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0}, {"stop": "é"}, {"stop": "🎈".encode()[:2]}])
def test_a_stream_of_bytes_is_decoded_as_a_whole_is(of_bytes, options):
    """A character comes once it is whole. What is not UTF-8 becomes U+FFFD, also where the text ends within a character."""
    config, texts = SampleConfig(150, **options), []
    for seed in range(8):
        pieces = list(of_bytes.stream(150, seed=seed, **options))
        data = b"".join(piece for _, piece in of_bytes.continuations(config, seed).samples(1, np.empty(0, int)))
        texts.append("".join(pieces))
        assert texts[-1] == of_bytes.sample(150, seed=seed, **options) == data.decode("utf-8", "replace")
        assert {len(piece) for piece in pieces} == {1}
    assert any("\ufffd" in text for text in texts) and any("é" in text for text in texts)


def test_an_endless_stream_begins_at_once(trained):
    model = cuchar.load(trained, device="cpu")
    assert "".join(islice(model.stream(0, seed=3), 400)) == model.sample(400, seed=3)
    assert "".join(model.stream(length=0, seed=3, stop="fox")).count("fox") == 1


# --- score


def test_every_character_has_its_loss(trained):
    model, part = cuchar.load(trained, device="cpu"), TEXT[:90]
    score = model.score(part)
    ids = model.vocabulary.encode(model.reading.codes_of(part))
    assert score.text == part and score.per_char.shape == (90,) and math.isnan(score.per_char[0])
    for at in (1, 2, 50, 89):  # the loss of a character is that of the text up to it
        logits = model.engine.forward(model._weights, ids[:at, None], model.engine.zero_state(1))[0][-1, 0].astype(
            float
        )
        expected = np.log(np.exp(logits).sum()) - logits[ids[at]]
        assert score.per_char[at] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert np.nanmean(score.per_char) == pytest.approx(score.nats_per_char, rel=1e-12)
    pairs = score.surprise()
    assert "".join(character for character, _ in pairs) == part
    np.testing.assert_allclose([bits for _, bits in pairs], score.per_char / math.log(2), rtol=1e-12)
    windowed = model.score(part, window=10).per_char
    np.testing.assert_allclose(windowed[1:11], score.per_char[1:11], rtol=1e-5, atol=1e-6)
    assert abs(windowed[11] - score.per_char[11]) > 0.01


def test_skipped_characters_have_no_loss(trained):
    model = cuchar.load(trained, device="cpu")
    score, known = model.score("É the\ud800 foxÖ", unknown="skip"), model.score(" the fox")
    assert score.text == "É the\ud800 foxÖ" and (score.skipped, score.chars) == (3, 7)
    assert np.flatnonzero(np.isnan(score.per_char)).tolist() == [0, 1, 5, 10]
    np.testing.assert_array_equal(score.per_char[~np.isnan(score.per_char)], known.per_char[1:])
    assert [character for character, _ in score.surprise()] == list("É the\ud800 foxÖ")


def test_a_model_of_bytes_scores_bytes(of_bytes):
    score = of_bytes.score("aé")
    assert score.text == "aÃ©" and score.chars == 2 and len(score.surprise()) == 3
    assert of_bytes.score("aé".encode()) == score
    with pytest.raises(TextError):
        of_bytes.score("b")


def test_a_models_characters_may_be_given_as_their_utf8(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    write_checkpoint(path, made("abé"))
    model = cuchar.load(path)
    assert model.score("abé".encode()).text == "abé"
    assert model.score("abé".encode()) == model.score("abé")


def test_scores_are_equal_by_what_they_say(trained):
    model = cuchar.load(trained, device="cpu")
    score = model.score(TEXT[:90])
    assert score == model.score(TEXT[:90]) and hash(score) == hash(model.score(TEXT[:90]))
    assert score != model.score(TEXT[:91]) and isinstance(score, cuchar.Score)


# --- what they are


def test_representations_are_one_line(trained, of_bytes, tmp_path):
    model = cuchar.load(trained, device="cpu")
    count = len(set(TEXT))
    numbers = model.parameters.flat.size
    engine = model.engine.name
    assert repr(model) == (
        f"<cuchar.Model 2x12, {count} characters, {numbers:,} parameters, engine: {engine}, from {trained}/last.safetensors>"
    )
    assert f"<cuchar.Model 1x9, {len(of_bytes.vocabulary)} bytes, " in repr(of_bytes)
    odd = tmp_path / "a\nb\x1b.safetensors"
    odd.write_bytes((trained / "last.safetensors").read_bytes())
    assert repr(cuchar.load(odd)).endswith("/a\\nb\\x1b.safetensors>")
    assert repr(Score.of(np.array([1.0, 3.0]), skipped=1234)) == (
        "<cuchar.Score 2.0000 nats (2.8854 bits) per character, perplexity 7.3891; 2 characters scored, 1,234 skipped>"
    )
    assert re.fullmatch(r"<cuchar\.Score \d\.\d{4} nats .*; 89 characters scored>", repr(model.score(TEXT[:90])))


def test_an_unknown_character_of_a_stop_text_cannot_be_skipped(trained):
    """So the message does not advise it."""
    for unknown in ("error", "skip"):
        with pytest.raises(cuchar.CucharError) as raised:
            cuchar.load(trained).sample(30, stop="foé", unknown=unknown)
        assert str(raised.value).startswith("stop: position 2: ") and "unknown" not in str(raised.value)
