"""Beam search against a search of all texts, and against one that recomputes everything."""

import itertools

import numpy as np
import pytest

import cuchar
from cuchar.beam import beam_search
from cuchar.config import ModelConfig
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DivergedError, OptionError, TextError
from cuchar.parameters import initialise

V, LENGTH = 4, 4
PRIME = np.array([2, 0, 3])


def engine_and_weights(seed):
    parameters = initialise(ModelConfig(V, 5, 2), seed, np.float64)
    parameters.flat *= 4
    engine = NumpyEngine(parameters.model, np.float64)
    return engine, engine.fold(parameters)


def log_probability(engine, weights, text):
    """Of a text after the prime, computed from its beginning."""
    ids = np.array([*PRIME, *text])[:, None]
    losses, _ = engine.losses(weights, ids[:-1], ids[1:], engine.zero_state(1))
    return -float(losses[len(PRIME) - 1 :].sum())


def plain_beam(engine, weights, width):
    """The texts that are kept, best first, each scored anew."""
    kept = [()]
    for _ in range(LENGTH):
        longer = [(*text, character) for text in kept for character in range(V)]
        kept = sorted(longer, key=lambda text: -log_probability(engine, weights, text))[:width]
    return kept


@pytest.mark.parametrize("seed", range(5))
def test_a_wide_beam_finds_the_likeliest_of_all_texts(seed):
    of = engine_and_weights(seed)
    scored = {text: log_probability(*of, text) for text in itertools.product(range(V), repeat=LENGTH)}
    likeliest = max(scored, key=scored.get)
    for width in (V ** (LENGTH - 1), V**LENGTH + 9):  # the second is wider than there are texts
        found, reached = beam_search(*of, PRIME, LENGTH, width)
        assert tuple(found) == likeliest and reached == pytest.approx(scored[likeliest], rel=1e-12)


def test_a_narrow_beam_keeps_the_likeliest_beginnings():
    differing = 0
    for seed in range(12):
        of, reached = engine_and_weights(seed), []
        for width in (1, 2, 3, 7):
            found, log_p = beam_search(*of, PRIME, LENGTH, width)
            assert tuple(found) == plain_beam(*of, width)[0]
            assert log_p == pytest.approx(log_probability(*of, found), rel=1e-12)
            reached.append(log_p)
        differing += reached[0] < reached[-1]
    assert differing > 2  # else the widths would not have been told apart


def test_of_equally_likely_texts_the_first_is_found():
    """There are so many candidates that a sort which is not stable would find others."""
    parameters = initialise(ModelConfig(100, 5, 1), 0, np.float64)
    parameters.flat[:] = 0
    parameters["head.bias"][2::3] = 1
    engine = NumpyEngine(parameters.model, np.float64)
    for width in (1, 3, 20):
        found, _ = beam_search(engine, engine.fold(parameters), PRIME, LENGTH, width)
        assert found.tolist() == [2] * LENGTH


def test_logits_that_are_not_finite_are_an_error():
    engine, weights = engine_and_weights(0)
    weights.head_bias[1] = np.nan
    with pytest.raises(DivergedError, match="expected finite logits to rank"):
        beam_search(engine, weights, PRIME, LENGTH, 2)


def test_beam_of_a_trained_model(trained):
    model = cuchar.load(trained)
    narrow, wide = (model.beam("the ", 40, width=width) for width in (1, 20))
    assert narrow.text == model.sample(40, prime="the ", argmax=True)
    assert narrow.log_probability < wide.log_probability < 0
    losses = model.score("the " + wide.text).per_char[4:]
    assert wide.log_probability == pytest.approx(-losses.sum(), rel=1e-5)
    with pytest.raises(TextError, match=r"^prime: expected a character that the model knows, found none"):
        model.beam("É", unknown="skip")
    for options, message in (({"width": 0}, "width: expected from 1 to 4096"), ({"length": 0}, "length: expected at")):
        with pytest.raises(OptionError, match=message):
            model.beam("the", **options)
