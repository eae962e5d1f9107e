"""Many streams at once: each is what it would be alone, ends where it should, and comes in time."""

import numpy as np
import pytest
from support.small_runs import TEXT

import cuchar
from cuchar import generation
from cuchar.config import ModelConfig
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DivergedError, OptionError, TextError
from cuchar.generation import generate
from cuchar.parameters import initialise
from cuchar.sampling import SampleConfig

NOTHING = np.empty(0, int)


def engine_and_weights(V=12, H=5, L=2):
    engine, parameters = NumpyEngine(ModelConfig(V, H, L)), initialise(ModelConfig(V, H, L), 1)
    parameters.flat *= 3
    return engine, engine.fold(parameters)


def made(engine, weights, streams, prime=NOTHING, stop=NOTHING, seed=3, **options):
    """Each stream's ids."""
    blocks = list(generate(engine, weights, SampleConfig(**options), seed, streams, prime, stop))
    assert all(ids.shape == (len(ids), len(streams)) and (taken <= len(ids)).all() for ids, taken in blocks)
    return [np.concatenate([ids[: taken[s], s] for ids, taken in blocks]).tolist() for s in range(len(streams))]


@pytest.mark.parametrize("prime", [NOTHING, np.array([4]), np.array([1, 2, 3] * 100)], ids=len)
@pytest.mark.parametrize("stop", [NOTHING, np.array([7]), np.array([7, 7])], ids=len)
def test_a_stream_is_the_same_alone_and_beside_others(prime, stop):
    of = engine_and_weights()
    together = made(*of, range(20), prime, stop, length=60)
    assert len(set(map(tuple, together))) > 10
    assert made(*of, range(5, 9), prime, stop, length=60) == together[5:9]
    assert made(*of, range(19, 20), prime, stop, length=60) == together[19:]
    assert made(*of, range(20), prime, stop, length=60, seed=4) != together


@pytest.mark.parametrize("L", [1, 2])
def test_streams_in_the_making_do_not_disturb_each_other(L, monkeypatch):
    monkeypatch.setattr(generation, "BLOCK_SECONDS", 1e9)  # else the clock decides how many characters a block has
    engine, weights = engine_and_weights(L=L)
    config, streams = SampleConfig(length=40), range(2, 3)
    (alone,) = made(engine, weights, streams, length=40)
    several = (generate(engine, weights, config, 3, streams, NOTHING, NOTHING) for _ in range(2))
    for blocks in zip(*several, strict=True):
        assert blocks[0][0].tolist() == blocks[1][0].tolist() == [[i] for i in alone[: len(blocks[0][0])]]
        alone = alone[len(blocks[0][0]) :]
    assert alone == []


@pytest.mark.parametrize("block", [1, 2, 7, 1000])
def test_blocks_of_any_size_make_the_same_text(block, monkeypatch):
    of = engine_and_weights()
    expected = made(*of, range(4), stop=np.array([7]), length=20)
    assert min(map(len, expected)) < 20 == max(map(len, expected))
    monkeypatch.setattr(generation, "GROWTH", block)
    monkeypatch.setattr(generation, "BLOCK_SECONDS", 1e9)
    assert made(*of, range(4), stop=np.array([7]), length=20) == expected


@pytest.mark.parametrize("stop", [[7], [7, 3], [3, 7, 7], [7, 7, 7]])
def test_a_stream_ends_with_the_first_stop_text_that_it_made(stop):
    of = engine_and_weights(V=12)
    whole = made(*of, range(30), np.array(stop), length=2000, temperature=2.0)
    ended = made(*of, range(30), np.array(stop), np.array(stop), length=2000, temperature=2.0)
    places = [next((i for i in range(len(stop), 2001) if stream[i - len(stop) : i] == stop), 2000) for stream in whole]
    assert ended == [stream[:place] for stream, place in zip(whole, places, strict=True)]
    assert len(set(places)) > 5


def test_endless_streams_end_by_their_stop_text():
    streams = made(*engine_and_weights(), range(9), stop=np.array([5]), length=0)
    assert all(stream.count(5) == 1 and stream[-1] == 5 for stream in streams)


def test_blocks_grow_until_they_take_a_moment(monkeypatch):
    times = iter(np.arange(0, 1000) * 0.001)  # each block takes a millisecond
    monkeypatch.setattr(generation, "perf_counter", lambda: next(times))
    blocks = generate(*engine_and_weights(), SampleConfig(length=0), 0, range(2), np.array([1]), NOTHING)
    assert [len(next(blocks)[0]) for _ in range(6)] == [1, 4, 16, 64, 256, 1024]
    monkeypatch.setattr(generation, "BLOCK_IDS", 300)
    assert [len(next(blocks)[0]) for _ in range(2)] == [4096, 150]


def test_impossible_seeds_and_logits():
    engine, weights = engine_and_weights()
    for seed in (-1, 2**63):
        with pytest.raises(OptionError, match=f"seed: expected from 0 to 9223372036854775807, found {seed}"):
            next(generate(engine, weights, SampleConfig(), seed, range(1), NOTHING, NOTHING))
    weights.head_bias[3] = np.inf
    with pytest.raises(DivergedError, match="expected finite logits to draw from"):
        list(generate(engine, weights, SampleConfig(), 0, range(3), NOTHING, NOTHING))


# --- of a trained model


def encoded(model, prime):
    return model.vocabulary.encode(model.reading.codes_of(prime))


def test_samples_are_streams_in_their_order(trained, monkeypatch):
    model, config = cuchar.load(trained), SampleConfig(length=300, stop="e ")
    monkeypatch.setattr("cuchar.continuations.MOST_STREAMS", 3)
    texts = {}
    for number, text in model.continuations(config, 2).samples(8, encoded(model, "the ")):
        assert number >= max(texts, default=0)
        texts[number] = texts.get(number, b"") + text
    assert texts[0] == model.sample(300, stop="e ", prime="the ", seed=2).encode()
    assert len(set(texts.values())) == 8 == len(texts)
    assert all(text.endswith(b"e ") and text.count(b"e ") == 1 for text in texts.values() if len(text) < 300)
    monkeypatch.undo()
    together = list(model.continuations(config, 2).samples(8, encoded(model, "the ")))
    assert {number: b"".join(text for at, text in together if at == number) for number in range(8)} == texts


def test_the_first_sample_comes_before_the_others_are_made(trained):
    model = cuchar.load(trained)
    pieces = model.continuations(SampleConfig(length=0, stop="fox jumps over"), 0).samples(2, NOTHING)
    assert next(pieces)[0] == 0


def test_mistakes_are_told_at_once(trained):
    model = cuchar.load(trained)
    with pytest.raises(TextError, match="'É'"):
        model.stream(prime="É")
    with pytest.raises(OptionError, match="seed: expected"):
        model.stream(seed=2**63)
    with pytest.raises(OptionError, match=r"^temprature: .*is it temperature"):
        model.stream(temprature=0.5)


def test_training_samples_streams_by_their_step(cli, trained, tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT)
    options = "--hidden 7 --layers 1 --window 6 --batch 3 --max-steps 4 --seed 5 --sample-every 4 --sample-length 30"
    result = cli("train", tmp_path / "fox.txt", *options.split(), "--out", tmp_path / "run")
    model = cuchar.load(tmp_path / "run")
    blocks = generate(
        model.engine, model.engine.fold(model.parameters), SampleConfig(length=30), 5, range(4, 5), NOTHING, NOTHING
    )
    text = model.vocabulary.decode(np.concatenate([ids[:, 0] for ids, _ in blocks]))
    assert result.stdout == b"--- step 4 ---\n" + text + b"\n\n"
