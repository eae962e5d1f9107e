import numpy as np
import pytest

import cuchar
from cuchar.errors import TextError
from cuchar.sampling import SampleConfig, draw, probabilities

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def test_temperature_sharpens():
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig()), [0.1, 0.4, 0.2, 0.3], rtol=1e-6)
    squared = np.array([0.01, 0.16, 0.04, 0.09])
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(temperature=0.5)), squared / squared.sum(), rtol=1e-6)


def test_top_k_and_top_p_keep_the_likeliest():
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_k=2)), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_k=9)), [0.1, 0.4, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_p=0.65)), [0, 4 / 7, 0, 3 / 7], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_p=0.75)), [0, 4 / 9, 2 / 9, 3 / 9], rtol=1e-6)
    np.testing.assert_allclose(probabilities(LOGITS, SampleConfig(top_p=0.01)), [0, 1, 0, 0], rtol=1e-6)
    ties = probabilities(np.zeros(4), SampleConfig(top_k=3))
    np.testing.assert_allclose(ties, [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_exp_law_takes_the_exponential_for_logits(temperature):
    logits = np.array([0.5, -1.0, 1.5])
    twice = np.exp(np.exp(logits / temperature))
    found = probabilities(logits, SampleConfig(law="exp", temperature=temperature))
    np.testing.assert_allclose(found, twice / twice.sum(), rtol=1e-12)


def test_exp_law_bears_large_logits():
    assert probabilities(np.array([50.0, 40.0, -5.0]), SampleConfig(law="exp", temperature=0.01)).tolist() == [
        0.5,
        0.5,
        0,
    ]


@pytest.mark.parametrize("law", ["softmax", "exp"])
def test_draws_have_the_probabilities_frequencies(law):
    config, generator, count = SampleConfig(law=law, top_k=3), np.random.default_rng(0), 20_000
    p = probabilities(LOGITS, config)
    found = np.bincount([draw(LOGITS, config, generator) for _ in range(count)], minlength=4) / count
    assert np.all(np.abs(found - p) <= 4.5 * np.sqrt(p * (1 - p) / count))


def test_argmax_is_the_first_likeliest():
    assert draw(np.array([0, 2, 2, 1]), SampleConfig(argmax=True), np.random.default_rng(0)) == 1


def test_sample_is_what_the_model_says_character_by_character(trained):
    model = cuchar.load(trained)
    config = SampleConfig(temperature=0.7)
    text = model.sample(40, prime="the ", seed=5, temperature=0.7)
    ids = model.vocabulary.encode(model.vocabulary.codes_of("the " + text))
    weights, generator = model.engine.fold(model.parameters), np.random.default_rng(5)
    for at in range(4, 44):
        logits, _ = model.engine.forward(weights, ids[:at, None], model.engine.zero_state(1))
        assert draw(logits[-1, 0], config, generator) == ids[at]


def test_seed_repeats_and_no_seed_does_not(trained):
    model = cuchar.load(trained)
    assert model.sample(60, seed=1) == model.sample(60, seed=1) != model.sample(60, seed=2)
    assert len({model.sample(60) for _ in range(3)}) == 3


def test_long_primes_are_read_whole(trained):
    model = cuchar.load(trained)
    prime = "the quick brown fox " * 40  # more than one block
    logits, _ = model.engine.forward(
        model.engine.fold(model.parameters),
        model.vocabulary.encode(model.vocabulary.codes_of(prime))[:, None],
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
    with pytest.raises(TextError, match=r"'É' \(U\+00C9\) at position 1"):
        model.sample(5, prime="tÉh")
    assert model.sample(30, prime="tÉh", unknown="skip", seed=3) == model.sample(30, prime="th", seed=3)
