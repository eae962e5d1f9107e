"""Dynamic evaluation: what a character's score depends on, what is learnt, on every engine; and how it is tuned."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import made
from support.problems import problem
from support.small_runs import TEXT

import cuchar
from cuchar import dynamic_scorer
from cuchar.checkpoint import write_checkpoint
from cuchar.devices.emulator import EmulatedDevice
from cuchar.dynamic import DynamicConfig, settings_file
from cuchar.dynamic_scorer import DynamicScorer
from cuchar.dynamic_tuning import tune
from cuchar.engines.base import Example
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DivergedError, OptionError
from cuchar.files import STDIN_TWICE
from cuchar.parameters import Parameters

CONFIG = DynamicConfig(rate=0.3, decay=0.4, segment=5)
ENGINES = {
    "NumPy": lambda model: NumpyEngine(model, np.float64),
    "C++": lambda model: CpuEngine(model, np.float64),
    "CUDA": lambda model: CudaEngine(model, EmulatedDevice(), np.float64),
}


@pytest.fixture(scope="module")
def case():
    """Trained weights, their second moments, a text, and the losses of it by the formula, one weight after the other."""
    model, trained, *_ = problem(7, 6, 2, 1, 1)
    generator = np.random.default_rng(8)
    squares, ids = generator.exponential(1e-6, trained.flat.size), generator.integers(7, size=33)
    squares[::9] = 0
    engine, roots = NumpyEngine(model, np.float64), [math.sqrt(square) for square in squares]
    mean = sum(roots) / len(roots)
    weights, gradients = Parameters(model, np.float64, trained.flat.copy()), Parameters(model, np.float64)
    losses, state = [], engine.zero_state(1)
    for start in range(0, 32, CONFIG.segment):
        inputs = ids[start : min(start + CONFIG.segment, 32), None]
        targets = ids[start + 1 : start + 1 + len(inputs), None]
        found, after = engine.losses(engine.fold(weights), inputs, targets, state)
        engine.loss_and_gradients(weights, Example(inputs, targets, state), gradients)
        for k, (w, w0, g) in enumerate(zip(weights.flat, trained.flat, gradients.flat, strict=True)):
            r = roots[k] / mean
            weights.flat[k] = w - CONFIG.rate * g / (r + 0.1) + min(1, CONFIG.decay * r) * (w0 - w)
        losses += list(found[:, 0])
        state = after
    assert min(1, CONFIG.decay * max(roots) / mean) == 1  # some weights are drawn back the whole way
    return model, trained, squares, ids, np.array(losses)


def scores(scorer, ids):
    return np.concatenate(list(scorer.losses(ids)))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("at_once", [1 << 15, 37])
def test_every_engine_follows_the_formula(case, name, at_once, monkeypatch):
    monkeypatch.setattr(dynamic_scorer, "WEIGHTS_AT_ONCE", at_once)
    model, trained, squares, ids, expected = case
    before = trained.flat.copy()
    found = scores(DynamicScorer(ENGINES[name](model), trained, squares, CONFIG), ids)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    np.testing.assert_array_equal(trained.flat, before)


@pytest.mark.parametrize("changed", [1, 5, 6, 16, 31])
def test_a_score_does_not_see_the_future_nor_its_own_character(case, changed):
    """With another character at one place, all scores before it have the same bits; its own and all later ones differ."""
    model, trained, squares, ids, _ = case
    others = ids.copy()
    others[changed] = (ids[changed] + 1) % 7
    engine = NumpyEngine(model, np.float64)
    first, second = (scores(DynamicScorer(engine, trained, squares, CONFIG), text) for text in (ids, others))
    same = first == second
    assert same[: changed - 1].all() and not same[changed - 1 :].any()


def test_what_is_learnt_from_a_text_helps_with_the_next_one(case):
    model, trained, squares, ids, _ = case
    config = DynamicConfig(rate=0.3, decay=0, segment=5)
    scorer = DynamicScorer(NumpyEngine(model, np.float64), trained, squares, config)
    means = [scores(scorer, ids).mean() for _ in range(3)]
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("decay", [0, 1])
def test_without_a_rate_it_is_static(case, decay):
    model, trained, squares, ids, _ = case
    engine = NumpyEngine(model, np.float64)
    expected, _ = engine.losses(engine.fold(trained), ids[:-1, None], ids[1:, None], engine.zero_state(1))
    found = scores(DynamicScorer(engine, trained, squares, DynamicConfig(0, decay, 5)), ids)
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-13)


def test_without_moments_all_weights_step_alike(case):
    model, trained, _, ids, _ = case
    engine, P = NumpyEngine(model, np.float64), trained.flat.size
    none, alike = (
        scores(DynamicScorer(engine, trained, squares, CONFIG), ids) for squares in (np.zeros(P), np.full(P, 4))
    )
    np.testing.assert_array_equal(none, alike)


@pytest.mark.filterwarnings("error")  # of which standard error would get lines
def test_a_rate_that_is_too_large_is_an_error(case):
    model, trained, squares, ids, _ = case
    with pytest.raises(DivergedError, match="found others after 5 characters: the rate is too large"):
        scores(DynamicScorer(CpuEngine(model, np.float64), trained, squares, DynamicConfig(1e308, 0, 5)), ids)


def test_a_model_that_is_broken_already_is_another_error(case):
    model, trained, squares, ids, _ = case
    broken = Parameters(model, np.float64, np.full_like(trained.flat, np.inf))
    with (
        pytest.raises(DivergedError, match="after 0 characters: the model's weights are too large"),
        np.errstate(all="ignore"),
    ):
        scores(DynamicScorer(NumpyEngine(model, np.float64), broken, squares, CONFIG), ids)


def test_checkpoints_have_settings_of_their_own():
    files = [settings_file(Path(name)).name for name in ("best.safetensors", "model.v1", "model.v2")]
    assert files == ["best.dynamic.json", "model.v1.dynamic.json", "model.v2.dynamic.json"]


def test_model_scores_by_it_and_says_so(trained):
    model = cuchar.load(trained)
    static, config = model.score(TEXT), DynamicConfig(rate=0.1, decay=0, segment=20)
    score = model.score(TEXT, dynamic=config)
    assert score.nats_per_char < static.nats_per_char - 0.05
    assert (score.dynamic, static.dynamic) == (config, None)
    assert repr(score).startswith("<cuchar.Score by dynamic evaluation ")
    assert score.nats_per_char == pytest.approx(np.nanmean(score.per_char), rel=1e-6)
    assert model.score(TEXT).nats_per_char == static.nats_per_char
    assert model.score(TEXT, dynamic=True).dynamic == DynamicConfig()
    with pytest.raises(OptionError, match="window: expected it or dynamic=True, found both"):
        model.score(TEXT, window=5, dynamic=True)
    with pytest.raises(OptionError, match=r"dynamic: expected true, false or a cuchar\.DynamicConfig, found 1"):
        model.score(TEXT, dynamic=1)


@pytest.mark.parametrize(
    "best", [DynamicConfig(0.1, 0.002, 4), DynamicConfig(30, 1.0, 512), DynamicConfig(1e-3, 1e-5, 1)]
)
def test_tuning_finds_the_lowest_score(best):
    """Of a score that is a bowl in the settings' logarithms: to half a step of the finer factors."""
    tried = []

    def score(config):
        tried.append(config)
        return sum(math.log(getattr(config, name) / getattr(best, name)) ** 2 for name in vars(best))

    found, value = tune(score, DynamicConfig())
    assert len(set(tried)) == len(tried) and value == min(map(score, set(tried)))
    assert found.segment == best.segment
    assert abs(math.log(found.rate / best.rate)) <= math.log(1.4) / 2
    assert abs(math.log(found.decay / best.decay)) <= math.log(2) / 2


def test_tuning_avoids_what_diverges():
    found, _ = tune(lambda config: math.inf if config.rate > 0.3 else -config.rate, DynamicConfig(0.8))
    assert 0.3 / 1.4 < found.rate <= 0.3


@pytest.fixture
def texts(trained, tmp_path):
    """A model's file outside a run, a text to score, and one to tune on."""
    model = tmp_path / "model.safetensors"
    model.write_bytes((trained / "last.safetensors").read_bytes())
    (tmp_path / "test.txt").write_text(TEXT[:80])
    (tmp_path / "other.txt").write_text(TEXT[80:160])
    return model, tmp_path / "test.txt", tmp_path / "other.txt"


def test_command_tunes_on_another_text_and_keeps_the_settings(cli, texts, monkeypatch):
    monkeypatch.setattr("cuchar.file_scores.LONG_TEXT", 50)  # no text is read in chunks, nor said to be
    model, test, other = texts
    tuned = cli("eval", model, test, "--device", "cpu", "--dynamic", "--tune", other, "--save", "--json")
    assert tuned.status == 0, tuned.stderr
    score, kept = json.loads(tuned.stdout), json.loads(settings_file(model).read_text())
    assert settings_file(model).name == "model.dynamic.json"
    assert score["dynamic"] == kept == score["files"][0]["dynamic"]
    trials = [line.split(": ")[-1] for line in tuned.stderr.splitlines() if "nats per character" in line]
    loaded = cuchar.load(model, device="cpu")
    best = loaded.score(other.read_text(), dynamic=True)
    assert f"{best.nats_per_char:.4f} nats per character" == min(trials) and best.dynamic == DynamicConfig(**kept)
    again = cli("eval", model, test, "--device", "cpu", "--dynamic")
    assert again.stderr == f"dynamic evaluation: the settings are those of {settings_file(model)}\n"
    assert again.stdout.decode().splitlines()[0] == f"dynamic evaluation  {DynamicConfig(**kept)}"
    assert f"{score['nats_per_char']:.4f}" in again.stdout.decode()
    assert "dynamic" not in json.loads(cli("eval", model, test, "--json").stdout)


def test_mistakes(fails, texts):
    model, test, other = texts
    assert "--window: expected it or --dynamic, found both" in fails(2, "eval", model, test, "--dynamic", "--window", 3)
    assert "--tune: expected it with --dynamic, found it alone" in fails(2, "eval", model, test, "--tune", other)
    assert "--save: expected it with --tune, found it alone" in fails(2, "eval", model, test, "--dynamic", "--save")
    same = fails(2, "eval", model, other, test, "--dynamic", "--tune", test)
    assert "expected a text other than those that are scored, found one of them" in same
    assert fails(1, "eval", model, "-", "--dynamic", "--tune", "-") == f"cuchar: {STDIN_TWICE}\n"


def test_settings_that_diverge_are_not_kept(cli, texts):
    model, test, other = texts
    checkpoint = made("".join(sorted(set(TEXT))))
    checkpoint.parameters.flat[:] = 3e38
    write_checkpoint(model, checkpoint)
    result = cli("eval", model, test, "--device", "cpu", "--dynamic", "--tune", other, "--save")
    expected = f"cuchar: --tune {other}: expected settings that give finite losses, found none"
    assert result.status == 1 and result.stderr.splitlines()[-1] == expected
    assert not settings_file(model).exists()


@pytest.mark.parametrize(
    "content,found",
    [
        (b"{", "settings: expected JSON, found"),
        (b"\xff", "expected settings of dynamic evaluation, found"),
        (b'{"rate": 1, "decay": 0}', "settings.segment: expected a value, found none"),
        (b'{"rate": -1, "decay": 0, "segment": 3}', "settings.rate: expected at least 0, found -1"),
        (b'{"rate": 1, "decay": 0, "segment": 3, "more": 1}', "expected no more than rate, decay, segment"),
    ],
)
def test_damaged_settings_are_an_error(fails, texts, content, found):
    settings_file(texts[0]).write_bytes(content)
    assert found in fails(1, "eval", texts[0], texts[1], "--dynamic")


def test_tuning_begins_with_the_usual_settings_and_replaces_damaged_ones(cli, texts):
    model, test, other = texts
    settings_file(model).write_bytes(b"{")
    result = cli("eval", model, test, "--device", "cpu", "--dynamic", "--tune", other, "--save")
    assert result.status == 0, result.stderr
    assert f"tuning: {DynamicConfig()}: " in result.stderr
    DynamicConfig(**json.loads(settings_file(model).read_text()))


def test_the_text_is_checked_before_anything_is_tuned(cli, texts):
    model, test, other = texts
    test.write_text("the quick\nbrown ?\n")
    result = cli("eval", model, test, "--device", "cpu", "--dynamic", "--tune", other, "--save")
    assert result.status == 1 and "test.txt:2:7: character '?'" in result.stderr and "tuning" not in result.stderr
    assert not settings_file(model).exists()


def test_a_table_goes_neither_over_the_tuning_text_nor_over_the_settings(fails, texts):
    model, test, other = texts
    settings_file(model).write_text("mine")
    for output in (other, settings_file(model)):
        before = output.read_bytes()
        message = fails(1, "eval", model, test, "--dynamic", "--tune", other, "--per-char", output)
        assert "expected a file of its own, found one that it reads or the run keeps" in message
        assert output.read_bytes() == before


def test_tuning_needs_two_characters(fails, texts):
    model, test, other = texts
    other.write_text("t")
    expected = f"cuchar: --tune {other}: expected at least 2 known characters, found 1\n"
    assert fails(1, "eval", model, test, "--device", "cpu", "--dynamic", "--tune", other) == expected


def test_tuning_says_so_where_it_is_best_not_to_learn(cli, texts, monkeypatch):
    """Here whatever is learnt makes the score worse."""
    model, test, other = texts
    monkeypatch.setattr(dynamic_scorer, "DAMPING", -10.0)  # steps go up the gradient
    result = cli("eval", model, test, "--device", "cpu", "--dynamic", "--tune", other, "--json")
    assert f"tuning: on {other} it is best not to learn\n" in result.stderr
    assert result.stderr.startswith("tuning: without learning: ")
    assert json.loads(result.stdout)["dynamic"]["rate"] == 0


def test_tuning_does_not_chase_what_gains_next_to_nothing():
    tried = []

    def score(config):
        tried.append(config)
        return 1 + 1e-5 * config.decay

    best, _ = tune(score, DynamicConfig())
    assert best == DynamicConfig() and len(tried) < 15


def test_settings_that_are_no_file_are_an_error(fails, texts):
    os.mkfifo(settings_file(texts[0]))  # whose end would be waited for
    expected = f"cuchar: {settings_file(texts[0])}: expected a file, found a folder, a pipe or a device\n"
    assert fails(1, "eval", texts[0], texts[1], "--dynamic") == expected
