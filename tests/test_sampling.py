"""Probabilities of characters by law, temperature, top-k, top-p and min-p; draws by them; what a model samples."""

import numpy as np
import pytest
from support.statistics_of_draws import LAWS, chance_of_more

import cuchar
from cuchar.config import ModelConfig
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import TextError
from cuchar.generation import generate
from cuchar.parameters import Parameters
from cuchar.philox import uniforms
from cuchar.sampling import SampleConfig, draw, penalised, probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def test_temperature_sharpens():
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig()), [0.1, 0.4, 0.2, 0.3], rtol=1e-6)
    squared = np.array([0.01, 0.16, 0.04, 0.09])
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(temperature=0.5)), squared / squared.sum(), rtol=1e-6)


def test_top_k_top_p_and_min_p_keep_the_likeliest():
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_k=2)), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_k=9)), [0.1, 0.4, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_p=0.65)), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_p=0.75)), [0, 4 / 9, 2 / 9, 3 / 9], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_p=0.01)), [0, 1, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(min_p=0.7)), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(min_p=0.3)), [0, 4 / 9, 2 / 9, 3 / 9], rtol=1e-6)
    assert probabilities(np.array([2.0, 1, 2, 0]), SampleConfig(min_p=1)).tolist() == [0.5, 0, 0.5, 0]
    # After top_p, which keeps two; if min_p came first, top_p would keep one. After the temperature, which squares.
    both = SampleConfig(top_p=0.5, min_p=0.6)
    np.testing.assert_allclose(probabilities(LOGITS, both), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    squared = SampleConfig(temperature=0.5, min_p=0.6)
    np.testing.assert_allclose(probabilities(LOGITS, squared), [0, 1, 0, 0], rtol=1e-6)
    ties = probabilities(np.zeros(4), SampleConfig(top_k=3))
    np.testing.assert_allclose(ties, [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_exp_law_takes_the_exponential_for_logits(temperature):
    logits = np.array([0.5, -1.0, 1.5])
    twice = np.exp(np.exp(logits / temperature))
    found = probabilities(logits, SampleConfig(law="exp", temperature=temperature))
    np.testing.assert_allclose(found, twice / twice.sum(), rtol=1e-12)


def test_exp_law_bears_large_logits():
    config = SampleConfig(law="exp", temperature=0.01)
    assert probabilities(np.array([50.0, 40.0, -5.0]), config).tolist() == [0.5, 0.5, 0]


@pytest.mark.parametrize("options", LAWS)
def test_draws_have_the_probabilities_frequencies(options):
    config, draws = SampleConfig(**options), uniforms(1, range(1000), range(100)).reshape(-1)
    logits = np.random.default_rng(2).normal(0, 0.8, 11).astype(np.float32)
    found = np.bincount(draw(np.tile(logits, (draws.size, 1)), config, draws), minlength=11)
    assert chance_of_more(found, draws.size * probabilities(logits, config)) > 1e-6


def test_chance_is_that_of_tables():
    """The 95th percentile of chi-square with two degrees of freedom is 5.991, with ten 18.307."""
    for freedom, percentile in ((2, 5.991), (10, 18.307)):
        expected = np.ones(freedom + 1)
        found = expected + np.array([np.sqrt(percentile / 2), -np.sqrt(percentile / 2), *[0] * (freedom - 1)])
        assert chance_of_more(found, expected) == pytest.approx(0.05, rel=1e-3)
    assert chance_of_more(np.array([10, 0, 1]), np.array([11.0, 0, 0])) == 0


def test_every_row_is_drawn_by_itself():
    generator = np.random.default_rng(0)
    logits, chances = generator.normal(size=(40, 9)), uniforms(0, range(40), range(1))[0]
    for options in [*LAWS, {"argmax": True}]:
        config = SampleConfig(**options)
        alone = [int(draw(logits[s : s + 1], config, chances[s : s + 1])[0]) for s in range(40)]
        assert draw(logits, config, chances).tolist() == alone and len(set(alone)) > 3


def test_likelier_is_the_larger_float32_then_the_lower_id():
    close = np.array([1.0, 1.0 + 1e-12, 0.5, 1.0])
    assert np.flatnonzero(probabilities(close, SampleConfig(top_k=2))).tolist() == [0, 1]
    assert np.flatnonzero(probabilities(np.array([-0.0, 0.0, -1.0]), SampleConfig(top_k=1))).tolist() == [0]


@pytest.mark.parametrize("options", [{}, {"law": "exp"}])
def test_any_temperature_above_0_will_do(options):
    for temperature in (1e-320, 1e-30, 1e30, 1e308):
        p = probabilities(np.array([3.0, 2.0, 3.0]), SampleConfig(temperature=temperature, **options))
        assert p.tolist() == ([1 / 3] * 3 if temperature > 1 or (options and temperature < 1) else [0.5, 0, 0.5])


def test_logits_that_are_not_finite_give_no_character():
    logits = np.array([[0, np.nan, 1], [0, 1, 2], [np.inf, 0, 0], [0, 0, -np.inf]], np.float32)
    for config in (SampleConfig(), SampleConfig(argmax=True), SampleConfig(law="exp", top_k=2)):
        assert (draw(logits, config, np.full(4, 0.5)) < 0).tolist() == [True, False, True, True]


def test_argmax_is_the_first_likeliest():
    logits = np.array([[0, 2, 2, 1], [1, 0, 0, 1]])
    assert draw(logits, SampleConfig(argmax=True), np.array([0.9, 0.1])).tolist() == [1, 0]


def test_penalised_logits_are_divided_or_multiplied_once():
    logits, recent = np.array([[3, -3, 0, 1], [3, -3, 0, 1]], np.float32), [np.array([0, 3]), np.array([1, 3])]
    assert penalised(logits, recent, 1.5).tolist() == [[2, -4.5, 0, 1], [3, -3, 0, 1 / 1.5]]
    assert penalised(logits, recent, 1) is logits


def test_a_penalty_looks_back_at_64_characters_of_prime_and_stream():
    """The model always gives the same logits, so that the likeliest id comes which is not among the last 64."""
    engine, prime = NumpyEngine(ModelConfig(66, 1, 1)), np.array([65, 65, 65, *range(64)])
    parameters = Parameters(engine.model)
    parameters["head.bias"][:] = np.linspace(2, 1, 66)
    law, nothing = SampleConfig(length=200, argmax=True, repeat_penalty=3), np.empty(0, int)
    made = np.concatenate(
        [ids for ids, _ in generate(engine, engine.fold(parameters), law, 0, range(2), prime, nothing)]
    )
    assert made.T.tolist() == [[(64 + k) % 65 for k in range(200)]] * 2


@pytest.mark.parametrize("penalty", [1, 1.3])
@pytest.mark.parametrize("prime", ["the ", ""])
def test_sample_is_what_the_model_says_character_by_character(trained, prime, penalty):
    model, options = cuchar.load(trained), {"temperature": 0.7, "repeat_penalty": penalty}
    config = SampleConfig(**options)
    text = model.sample(80, prime=prime, seed=5, **options)
    ids = model.vocabulary.encode(model.reading.codes_of(prime + text))
    weights, chances = model.engine.fold(model.parameters), uniforms(5, range(1), range(80))
    for at in range(max(1, len(prime)), len(ids)):
        logits, _ = model.engine.forward(weights, ids[:at, None], model.engine.zero_state(1))
        logits = penalised(logits[-1], [ids[i : i + 1] for i in range(max(0, at - 64), at)], penalty)
        assert draw(logits, config, chances[at - len(prime)]) == ids[at]


def test_seed_repeats_and_no_seed_does_not(trained):
    model = cuchar.load(trained)
    assert model.sample(60, seed=1) == model.sample(60, seed=1) != model.sample(60, seed=2)
    assert len({model.sample(60) for _ in range(3)}) == 3


def test_long_primes_are_read_whole(trained):
    model = cuchar.load(trained)
    prime = "the quick brown fox " * 40  # more than one block
    logits, _ = model.engine.forward(
        model.engine.fold(model.parameters),
        model.vocabulary.encode(model.reading.codes_of(prime))[:, None],
        model.engine.zero_state(1),
    )
    assert model.sample(1, prime=prime, argmax=True) == model.vocabulary.characters()[int(np.argmax(logits[-1, 0]))]


def test_without_a_prime_every_character_can_begin(trained):
    model = cuchar.load(trained)
    begun = {model.sample(1, seed=seed) for seed in range(400)}
    assert begun == set(model.vocabulary.characters())


def test_stop_ends_after_the_text_and_only_made_text_counts(trained):
    model = cuchar.load(trained)
    text = model.sample(2000, prime="fox", stop="o", seed=0)
    assert text.endswith("o") and text.count("o") == 1
    pair = model.sample(5000, stop="e ", seed=0)
    assert pair.endswith("e ") and pair.count("e ") == 1
    with pytest.raises(TextError, match="'☃'"):
        model.sample(10, stop="☃")


def test_unknown_prime_characters(trained):
    model = cuchar.load(trained)
    with pytest.raises(TextError, match=r"^position 1: character 'É' \(U\+00C9\)"):
        model.sample(5, prime="tÉh")
    assert model.sample(30, prime="tÉh", unknown="skip", seed=3) == model.sample(30, prime="th", seed=3)
