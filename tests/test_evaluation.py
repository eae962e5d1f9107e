"""Scores: one stream with carried state, windows from a zero state, long texts in chunks side by side."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from support.small_runs import TEXT

import cuchar
from cuchar import evaluation
from cuchar.config import ModelConfig
from cuchar.engines.base import State
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import OptionError, TextError
from cuchar.evaluation import Score, chunk_losses


def one_by_one(model, text, window):
    """Every character's loss, from the logits of windows that start from a zero state."""
    ids = model.vocabulary.encode(model.reading.codes_of(text))
    weights, losses = model.engine.fold(model.parameters), []
    for start in range(0, len(ids) - 1, window):
        inputs, targets = ids[start : start + window], ids[start + 1 : start + window + 1]
        inputs = inputs[: len(targets)]
        logits = model.engine.forward(weights, inputs[:, None], model.engine.zero_state(1))[0][:, 0].astype(float)
        losses += list(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(targets)), targets])
    return np.array(losses)


@pytest.mark.parametrize("length", [2, 257, 258, 700])
def test_score_is_one_stream_with_carried_state(trained, length):
    model, text = cuchar.load(trained), TEXT[:length]
    expected = one_by_one(model, text, window=length)
    score = model.score(text)
    assert score.chars == len(expected) == length - 1
    assert score.nats_per_char == pytest.approx(expected.mean(), rel=1e-5)
    assert score.bits_per_char == score.nats_per_char / math.log(2)
    assert score.perplexity == pytest.approx(math.exp(score.nats_per_char))


@pytest.mark.parametrize("length,window", [(2, 5), (200, 7), (700, 1), (700, 10), (701, 10), (50, 49), (50, 50)])
@pytest.mark.parametrize("at_once", [30, 64 * 4096])
def test_windows_start_from_zero_and_cover_every_character(trained, length, window, at_once, monkeypatch):
    """Also where a call of the engine takes fewer windows than usual, or a part of one."""
    monkeypatch.setattr(evaluation, "BLOCK_CHARS", at_once)
    model, text = cuchar.load(trained), TEXT[:length]
    expected = one_by_one(model, text, window)
    ids = model.vocabulary.encode(model.reading.codes_of(text))
    found = np.concatenate(list(model.losses(ids, window)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert model.score(text, window=window).chars == length - 1


def test_window_and_stream_differ(trained):
    model = cuchar.load(trained)
    assert abs(model.score(TEXT, window=4).nats_per_char - model.score(TEXT).nats_per_char) > 0.01


def test_too_short_and_unknown_texts(trained):
    model = cuchar.load(trained)
    with pytest.raises(TextError, match="at least 2 known characters to score, found 1"):
        model.score("t")
    with pytest.raises(TextError, match=r"^position 2: character 'É'"):
        model.score("thÉ")
    assert model.score("the").skipped == 0
    assert model.score("tÉheÖ", unknown="skip") == replace(model.score("the"), skipped=2)
    with pytest.raises(OptionError, match="window: expected at least 1, found 0"):
        model.score("the", window=0)


# --- chunks side by side


class Echo(NumpyEngine):
    """An engine for which a character's loss is the character, and a state the sum of the characters since zero."""

    def __init__(self):
        super().__init__(ModelConfig(2, 1, 1), np.float64)
        self.entered = []

    def forward(self, weights, inputs, state):
        return None, State(state.h + inputs.sum(axis=0)[None, :, None], state.c)

    def losses(self, weights, inputs, targets, state):
        assert inputs.shape[1] <= evaluation.CHUNKS
        self.entered += zip(inputs[0], state.h[0, :, 0], strict=True)
        return targets.astype(float), self.forward(weights, inputs, state)[1]


@pytest.mark.parametrize("length", [2, 3, 20, 21, 22, 23, 41, 50, 91, 92, 122, 123, 181, 182, 270, 271, 274, 999, 4321])
def test_chunks_score_every_character_once_and_in_order(length, monkeypatch):
    """A chunk begins with the state that the 20 characters before it leave, the first one with zeros."""
    monkeypatch.setattr(evaluation, "CHUNKS", 3)
    monkeypatch.setattr(evaluation, "CHUNK", 30)
    monkeypatch.setattr(evaluation, "WARM_UP", 20)
    monkeypatch.setattr(evaluation, "CHUNK_STEPS", 7)
    engine, ids = Echo(), np.random.default_rng(0).integers(1, 1 << 40, length)  # no two sums are equal
    assert np.concatenate(list(chunk_losses(engine, None, ids))).tolist() == ids[1:].tolist()
    sums, place = np.cumsum([0, *ids]), {character: at for at, character in enumerate(ids)}
    for character, state in engine.entered:
        at = place[character]
        if at < length - 1:  # the last character, which is nobody's input, fills up the last chunk
            begun = [start for start in range(max(0, at - 29), at + 1) if (at - start) % 7 == 0]
            assert state in [sums[at] - sums[max(0, start - 20)] for start in begun if start >= 20 or start == 0]
    assert [at for at, state in engine.entered if state == 0] == [ids[0]]


@pytest.mark.parametrize("length", [300, 16_400, 20_011])
def test_chunks_lose_what_the_warm_up_does_not_remember(trained, length):
    """After 256 characters, a state of the fox's model is, but for rounding, what it would be after all of them."""
    model = cuchar.load(trained)
    ids = model.vocabulary.encode(model.reading.codes_of((TEXT * 12)[:length]))
    exact, chunked = (np.concatenate(list(model.losses(ids, chunked=chunked))) for chunked in (False, True))
    np.testing.assert_allclose(chunked, exact, rtol=2e-5, atol=2e-6)


def test_a_shorter_warm_up_is_worse(trained, monkeypatch):
    model = cuchar.load(trained)
    ids = model.vocabulary.encode(model.reading.codes_of(TEXT))
    exact, errors = np.concatenate(list(model.losses(ids))), []
    for warm_up in (1, 4, 16, 64):
        monkeypatch.setattr(evaluation, "WARM_UP", warm_up)
        errors.append(np.abs(np.concatenate(list(model.losses(ids, chunked=True))) - exact).mean())
    assert errors == sorted(errors, reverse=True) and errors[0] > 100 * errors[-1]


def test_eval_scores_a_long_text_in_chunks_and_says_so(cli, fails, trained, text, tmp_path, monkeypatch):
    monkeypatch.setattr("cuchar.file_scores.LONG_TEXT", len(TEXT) - 1)
    model, tables = cuchar.load(trained), {}
    ids = model.vocabulary.encode(model.reading.codes_of(TEXT))
    for options in ((), ("--exact",)):
        result = cli("eval", trained, text, "--per-char", tmp_path / "out.tsv", *options)
        expected = "" if options else (
            "scored in chunks of at most 4,096 characters, each after the 256 before it, which warm its state; "
            "--exact reads one stream\n"
        )  # fmt: skip
        assert (result.status, result.stderr) == (0, expected)
        tables[options] = (tmp_path / "out.tsv").read_text()
        losses = np.concatenate(list(model.losses(ids, chunked=not options)))
        rows = tables[options].splitlines()[1:]
        assert [row.split("\t")[2] for row in rows] == [f"{nats:.6f}" for nats in losses]
    monkeypatch.setattr("cuchar.file_scores.LONG_TEXT", len(TEXT))
    result = cli("eval", trained, text, "--per-char", tmp_path / "out.tsv")
    assert result.stderr == "" and (tmp_path / "out.tsv").read_text() == tables["--exact",]
    assert "--window: expected it or --exact, found both" in fails(2, "eval", trained, text, "--exact", "--window", 8)


def test_one_stream_is_read_as_ever(trained):
    """Its losses are, bit by bit, those of carrying the state from block to block."""
    model = cuchar.load(trained)
    ids, state = model.vocabulary.encode(model.reading.codes_of(TEXT)), model.engine.zero_state(1)
    expected, weights = [], model.engine.fold(model.parameters)
    for start in range(0, len(ids) - 1, 256):
        inputs, targets = ids[:-1][start : start + 256, None], ids[1:][start : start + 256, None]
        losses, state = model.engine.losses(weights, inputs, targets, state)
        expected.append(losses[:, 0])
    assert np.array_equal(np.concatenate(list(model.losses(ids))), np.concatenate(expected))


def test_a_perplexity_beyond_all_numbers_is_infinite_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = Score.of(np.array([1000.0]))
    assert (score.nats_per_char, score.perplexity) == (1000.0, np.inf)
