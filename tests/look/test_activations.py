"""Activations are those of a direct recurrence, in one stream and in chunks; what the page keeps is their rounding."""

import numpy as np
import pytest

from cuchar import evaluation
from cuchar.config import ModelConfig
from cuchar.look import activations
from cuchar.look.activations import CELL_STEPS, GATE_STEPS, SURPRISE_STEPS, Shown, read, rows_of
from cuchar.parameters import initialise

MODEL = ModelConfig(9, 5, 2)
CLOSE = 1e-12  # float64: some hundred roundings of numbers below 1, which the recurrence does not enlarge


@pytest.fixture
def parameters():
    made, generator = initialise(MODEL, 0, np.float64), np.random.default_rng(1)
    made.flat += generator.normal(scale=0.3, size=made.flat.size)
    return made


def direct(parameters, ids):
    """tanh(c) [n, L * H], gates [n, 4, L * H] and probabilities [n, V], by the formulas, one character at a time."""
    L, H = MODEL.layers, MODEL.hidden
    h, c, found = np.zeros((L, H)), np.zeros((L, H)), []
    for character in ids:
        x, gates = np.eye(MODEL.vocabulary_size)[character], []
        for layer in range(L):
            weights = [parameters[f"lstm.{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias")]
            a = weights[0] @ x + weights[1] @ h[layer] + weights[2]
            i, f, o = (1 / (1 + np.exp(-a[k * H : (k + 1) * H])) for k in (0, 1, 3))
            g = np.tanh(a[2 * H : 3 * H])
            c[layer] = f * c[layer] + i * g
            x = h[layer] = o * np.tanh(c[layer])
            gates.append([i, f, g, o])
        logits = parameters["head.weight"] @ x + parameters["head.bias"]
        chances = np.exp(logits) / np.exp(logits).sum()
        found.append((np.tanh(c).reshape(-1), np.concatenate(gates, axis=1), chances))
    return [np.array(each) for each in zip(*found, strict=True)]


def collected(parameters, ids):
    """tanh(c) and gates of the whole text, and how often each place came."""
    cells, gates, seen = np.zeros((len(ids), 10)), np.zeros((len(ids), 4, 10)), np.zeros(len(ids), int)
    for places, block in read(parameters, ids):
        at = places.reshape(-1)
        inside = at < len(ids)
        cells[at[inside]], gates[at[inside]] = rows_of(block.tanh_c)[inside], rows_of(block.gates)[inside]
        np.add.at(seen, at[inside], 1)
    return cells, gates, seen


@pytest.mark.parametrize("length", [1, 2, 64, 65, 300])
def test_a_short_text_is_one_stream(parameters, length):
    ids = np.random.default_rng(2).integers(0, 9, length, np.uint8)
    cells, gates, seen = collected(parameters, ids)
    expected = direct(parameters, ids)
    assert seen.tolist() == [1] * length
    assert np.abs(cells - expected[0]).max() < CLOSE and np.abs(gates - expected[1]).max() < CLOSE


@pytest.mark.parametrize("length", [61, 90, 91, 215])
def test_a_long_text_is_read_in_chunks_each_after_the_characters_before_it(parameters, length, monkeypatch):
    """A chunk is, exactly, what a stream gives that begins with zeros 20 characters before the chunk."""
    monkeypatch.setattr(activations, "ONE_STREAM", 60)
    for name, value in (("CHUNKS", 3), ("CHUNK", 30), ("WARM_UP", 20), ("CHUNK_STEPS", 7)):
        monkeypatch.setattr(evaluation, name, value)
    ids = np.random.default_rng(2).integers(0, 9, length, np.uint8)
    cells, gates, seen = collected(parameters, ids)
    assert seen.tolist() == [1] * length
    for chunks in evaluation.side_by_side(length):
        for start in chunks.starts.tolist():
            begin, end = max(0, start - 20), min(start + chunks.size, chunks.end)
            expected = direct(parameters, ids[begin:end])
            assert np.abs(cells[start:end] - expected[0][start - begin :]).max() < CLOSE
            assert np.abs(gates[start:end] - expected[1][start - begin :]).max() < CLOSE


@pytest.mark.parametrize("blocks", [60, 1000])  # in chunks, whose places are not in order, and in one stream
def test_what_is_shown_is_the_text_s_beginning_rounded(parameters, blocks, monkeypatch):
    monkeypatch.setattr(activations, "ONE_STREAM", blocks)
    monkeypatch.setattr(evaluation, "WARM_UP", 64)
    monkeypatch.setattr(evaluation, "CHUNKS", 4)
    ids = np.random.default_rng(2).integers(0, 9, 200, np.uint8)
    shown = Shown(ids[:150], 10, 9)
    blocks = [(places.copy(), rows_of(block.tanh_c), rows_of(block.gates)) for places, block in read(parameters, ids)]
    for places, block in read(parameters, ids):
        shown.keep(places, block)
    for places, cells, gates in blocks:
        rows = np.flatnonzero(places.reshape(-1) < 150)
        at = places.reshape(-1)[rows]
        assert np.array_equal(shown.cells[at], np.round(cells[rows] * CELL_STEPS))
        assert np.array_equal(shown.gates[at], np.round(gates[rows] * GATE_STEPS))
    if len(blocks) == 4:  # one stream
        chances = direct(parameters, ids)[2]
        best = np.argsort(-chances, axis=1)[:149, :5]
        assert np.array_equal(shown.guesses[1:], best)
        assert np.array_equal(shown.chances[1:], np.round(255 * np.take_along_axis(chances[:149], best, 1)))
        bits = -np.log2(chances[np.arange(149), ids[1:150]])
        assert np.abs(shown.bits[1:] - bits).max() < CLOSE * 100
        assert np.array_equal(shown.surprise[1:], np.round(shown.bits[1:] * SURPRISE_STEPS))
    assert (shown.bits[0], shown.chances[0].max()) == (0, 0)


def test_a_surprise_beyond_what_is_kept_is_the_largest():
    shown = Shown(np.zeros(3, np.uint8), 1, 2)
    shown.bits[:] = [0, 31.8, 4000]
    assert shown.surprise.tolist() == [0, 254, 255]
