import math

import numpy as np
import pytest
from conftest import TEXT

import cuchar
from cuchar.errors import OptionError, TextError


def one_by_one(model, text, window):
    """Every character's loss from the model's own logits, in windows that start from zero."""
    ids = model.vocabulary.encode(model.vocabulary.codes_of(text))
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
def test_windows_start_from_zero_and_cover_every_character(trained, length, window):
    model, text = cuchar.load(trained), TEXT[:length]
    expected = one_by_one(model, text, window)
    ids = model.vocabulary.encode(model.vocabulary.codes_of(text))
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
    with pytest.raises(TextError, match="'É'"):
        model.score("thÉ")
    assert model.score("tÉhe", unknown="skip") == model.score("the")
    with pytest.raises(OptionError, match="--window: expected at least 1, found 0"):
        model.score("the", window=0)
