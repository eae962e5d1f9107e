"""What a model goes on with: whole samples, several primes at once, and the probability of each text."""

import itertools
import math

import numpy as np
import pytest

import cuchar
from cuchar import continuations, evaluation
from cuchar.config import ModelConfig
from cuchar.continuations import log_probabilities
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import OptionError, TextError
from cuchar.generation import begin
from cuchar.parameters import initialise
from cuchar.sampling import SampleConfig

PRIMES = ["the ", "q", "", "fox jumps over", "lazy dog\n" * 40, "", "brown f", "the "]


def encoded(model, prime):
    return model.vocabulary.encode(model.reading.codes_of(prime))


def drawn(model, config, count, prime):
    """The texts of samples, as `cuchar sample` writes them."""
    texts = {}
    for number, text in model.continuations(config, 2).samples(count, encoded(model, prime)):
        texts[number] = texts.get(number, b"") + text
    return list(texts.values())


@pytest.mark.parametrize("prime", [(), (2,), (1, 3, 0)], ids=len)
def test_the_probabilities_of_all_texts_add_up_to_1(prime):
    """Of 4 characters all 64 texts of 3: temperature 1 draws them with these probabilities."""
    parameters = initialise(ModelConfig(4, 5, 2), 1, np.float64)
    parameters.flat *= 3
    engine, texts = (
        NumpyEngine(parameters.model, np.float64),
        list(map(np.array, itertools.product(range(4), repeat=3))),
    )
    streams = begin(engine, engine.fold(parameters), 0, range(64), [np.array(prime, int)])
    if not prime:
        streams.ids[:] = [text[0] for text in texts]  # instead of what was drawn
    found = log_probabilities(engine, engine.fold(parameters), streams, texts)
    assert np.exp(found).sum() == pytest.approx(1, rel=1e-12) and np.ptp(found) > 1


@pytest.mark.parametrize("steps", [1, 256])
def test_a_log_probability_is_what_the_model_itself_says(trained, monkeypatch, steps):
    """Temperature and top_k do not count. The texts have different lengths, of which some are more than is scored at once."""
    monkeypatch.setattr(evaluation, "ROW_STEPS", steps)
    model = cuchar.load(trained)
    config = SampleConfig(length=400, temperature=1.5, top_k=26, stop="xe")
    for prime in ("", "the "):
        samples = list(model.continuations(config, 2).whole_samples(5, encoded(model, prime)))
        lengths = {len(sample.text) for sample in samples}
        assert [sample.encoded for sample in samples] == drawn(model, config, 5, prime)
        assert len(lengths) > 2 and max(lengths) == 400
        for sample in samples:
            losses = model.score(prime + sample.text).per_char[max(1, len(prime)) :]
            first = 0 if prime else math.log(len(model.vocabulary))
            assert sample.log_probability == pytest.approx(-first - losses.sum(), rel=1e-12)


def test_whole_samples_come_a_few_at_a_time(trained, monkeypatch):
    model, config = cuchar.load(trained), SampleConfig(length=30, stop="e")
    together = list(model.continuations(config, 2).whole_samples(8, encoded(model, "the ")))
    monkeypatch.setattr(continuations, "MOST_STREAMS", 3)
    assert list(model.continuations(config, 2).whole_samples(8, encoded(model, "the "))) == together


@pytest.mark.parametrize("law", [{}, {"repeat_penalty": 1.5}])
def test_what_follows_a_prime_is_the_same_whatever_primes_are_beside_it(trained, monkeypatch, law):
    """Prime n is gone on from as sample n of it is; bits and all, which the C++ engine has the same for any batch."""
    model, config = cuchar.load(trained), SampleConfig(length=60, stop="\n", **law)
    options = {"seed": 2, "length": 60, "stop": "\n", **law}
    together = list(model.complete(PRIMES, **options))
    assert len({len(one.text) for one in together}) > 3
    for number, (prime, one) in enumerate(zip(PRIMES, together, strict=True)):
        expected = drawn(model, config, number + 1, prime)[number] if prime else b""
        assert one.encoded == expected and (one.log_probability < 0) == bool(prime)
    others = ["dog"] * len(PRIMES)
    for number, prime in enumerate(PRIMES):
        assert (
            list(model.complete([*others[:number], prime, *others[number + 1 :]], **options))[number]
            == together[number]
        )
    monkeypatch.setattr(continuations, "MOST_PRIMES", 3)
    assert list(model.complete(PRIMES, **options)) == together
    assert list(model.complete([])) == []


def test_mistakes_in_primes_are_told_at_once(trained):
    model = cuchar.load(trained)
    with pytest.raises(TextError, match=r"^primes\[1\]: position 2: character 'É'"):
        model.complete(["the", "thÉ"])
    assert next(model.complete(["tÉh"], 9, unknown="skip", seed=3)) == next(model.complete(["th"], 9, seed=3))
    with pytest.raises(OptionError, match=r"^prime: expected the name of an option, found none; is it primes\?"):
        model.complete(["the"], prime="a")
    with pytest.raises(OptionError, match=r"^primes: expected primes, found 'the'"):
        model.complete("the")
    with pytest.raises(OptionError, match=r"^length: expected at least 1, or stop with it, found 0"):
        next(model.complete(["the"], 0))
    with pytest.raises(OptionError, match=r"^length: expected at least 1, or stop with it, found 0"):
        next(model.continuations(SampleConfig(length=0)).whole_samples(1, encoded(model, "the")))


@pytest.mark.parametrize("primes", [["", ""], ["", "the "]])
def test_nothing_is_drawn_after_an_empty_prime(trained, primes):
    """If it were, what never makes the stop would be drawn for ever."""
    model = cuchar.load(trained)
    config = SampleConfig(length=0, argmax=True, stop=model.sample(1, prime="the ", argmax=True))
    found = list(model.continuations(config, 2).complete([encoded(model, prime) for prime in primes]))
    assert [bool(continuation.encoded) for continuation in found] == [bool(prime) for prime in primes]
    assert [continuation.log_probability for continuation in found if not continuation.encoded] == [0] * primes.count(
        ""
    )
