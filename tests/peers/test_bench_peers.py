"""Whoever takes turns with cuchar computes what the NumPy engine computes: losses, gradients, and the law of what is drawn.

The weights are twice the initial ones, with biases that all differ: no two gates could change places unnoticed, and
what is drawn depends on the state.
"""

from contextlib import ExitStack
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.bench import jax_contender, onnx_contender, torch_contender
from cuchar.bench.configurations import SCORED_WINDOWS, Configuration
from cuchar.bench.contender import PEERS, TASKS, Choice
from cuchar.bench.cuchar_contender import RATE, CucharContender
from cuchar.bench.lineup import Lineup
from cuchar.engines.base import Example
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import Parameters, initialise

SIZES = Configuration("small", 9, 16, 2, 3, 5)
MODULES = {module.__name__.rpartition(".")[2]: module for module in (torch_contender, jax_contender, onnx_contender)}
SCORING = [name for name, peer in PEERS.items() if "score" in peer.tasks]
DRAWING = [name for name, peer in PEERS.items() if "draw" in peer.tasks and "cpu" in peer.devices]


def distinct_parameters(sizes, dtype=np.float32):
    parameters, random = initialise(sizes.model, 0, dtype), np.random.default_rng(1)
    parameters.flat *= 2
    for name, view in parameters.items():
        if "bias" in name:
            view += random.normal(size=view.shape) / 2
    return parameters


@pytest.fixture(autouse=True)
def _the_same_weights(monkeypatch):
    monkeypatch.setattr(Configuration, "parameters", distinct_parameters)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced, but no code is made


def made(name, sizes):
    return MODULES[PEERS[name].module].maker(name, "cpu", 2)[1](sizes)


@pytest.mark.parametrize("name", SCORING)
def test_windows_are_scored_with_the_state_carried(name):
    """The windows begin again after the last. What is found is off by 3e-7 at most, the rounding of float32's sums."""
    ours, peer = CucharContender(NumpyEngine(SIZES.model), SIZES), made(name, SIZES)
    exact = [ours.score(1).loss for _ in range(SCORED_WINDOWS + 3)]
    assert [peer.score(1).loss for _ in exact] == pytest.approx(exact, rel=1e-6)
    assert len(set(exact)) == len(exact) and min(exact) > np.log(9)
    again = made(name, SIZES)
    assert again.score(3).loss == pytest.approx(exact[2], rel=1e-6)
    assert again.score(2).loss == pytest.approx(exact[4], rel=1e-6)


def test_jax_has_the_gradients():
    """In float64, to the rounding of its sums."""
    parameters = distinct_parameters(SIZES, np.float64)
    engine, gradients = NumpyEngine(SIZES.model, np.float64), Parameters(SIZES.model, np.float64)
    windows = Windows(SIZES.ids(), SIZES.B, SIZES.T, 1)
    inputs, targets = windows[0]
    loss, _ = engine.loss_and_gradients(parameters, Example(inputs, targets, engine.zero_state(SIZES.B)), gradients)
    with jax.enable_x64(True):
        weights = {name: jnp.array(values) for name, values in parameters.items()}
        found, theirs = jax.value_and_grad(jax_contender.training_loss)(weights, windows.rows[:, : SIZES.T + 1].T)
        theirs = {name: np.asarray(values) for name, values in theirs.items()}
    assert float(found) == pytest.approx(loss, rel=1e-12)
    for name, ours in gradients.items():
        assert np.linalg.norm(ours - theirs[name]) <= 1e-12 * np.linalg.norm(ours), name


def test_jax_trains_by_adam():
    """The losses of 20 steps, and each weight after them, all below 4: an update rounds it by 2^-23 at most."""
    peer, ours = made("jax", SIZES), CucharContender(NumpyEngine(SIZES.model), SIZES)
    exact = [ours.train(1).loss for _ in range(20)]
    assert [peer.train(1).loss for _ in range(18)] + [peer.train(2).loss] == pytest.approx(
        exact[:18] + exact[19:], rel=1e-6
    )
    engine, parameters = NumpyEngine(SIZES.model, np.float64), distinct_parameters(SIZES, np.float64)
    gradients, adam = Parameters(SIZES.model, np.float64), Adam(parameters.flat.size, np.float64)
    windows = Windows(SIZES.ids(), SIZES.B, SIZES.T, 1)
    for step in range(20):
        engine.loss_and_gradients(parameters, Example(*windows[step], engine.zero_state(SIZES.B)), gradients)
        adam.update(parameters.flat, gradients.flat, step + 1, RATE)
    weights, _, _ = peer._learnt
    for name, exact_values in parameters.items():
        assert np.abs(exact_values).max() < 4 and np.abs(exact_values - weights[name]).max() <= 20 * 2**-23, name


@pytest.mark.parametrize("name", DRAWING)
def test_what_is_drawn_has_the_models_law(name):
    """Four characters of 20,000 streams, in two calls: how often each of the 81 texts came, by a chi-squared test."""
    sizes, streams = Configuration("tiny", 3, 4, 2, 1, 1), 20_000
    texts = np.array(list(product(range(3), repeat=4))).T
    engine = NumpyEngine(sizes.model, np.float64)
    weights = engine.fold(distinct_parameters(sizes, np.float64))
    losses, _ = engine.losses(weights, np.vstack([0 * texts[:1], texts[:-1]]), texts, engine.zero_state(81))
    expected = streams * np.exp(-losses.sum(axis=0))
    assert expected.sum() == pytest.approx(streams)
    torch.manual_seed(0)
    make = made(name, sizes).drawing(streams)
    drawn = np.vstack([make(1), make(3)])
    found = np.bincount(27 * drawn[0] + 9 * drawn[1] + 3 * drawn[2] + drawn[3], minlength=81)
    chi_squared = np.sum((found - expected) ** 2 / expected)
    assert len(found) == 81 and chi_squared < 80 + 4 * np.sqrt(2 * 80)  # four standard deviations above its mean


def test_they_take_part_in_processes_of_their_own():
    """With the first losses that cuchar's process has, from the command line's words on."""
    with ExitStack() as stack:
        lineup = Lineup(stack, SIZES, "cpu", Choice.of(["jax", "onnxruntime", "openvino"]), TASKS)
        assert list(lineup.doing("train")) == ["cuchar", "jax"]
        assert list(lineup.doing("draw")) == list(lineup.doing("score")) == ["cuchar", "jax", "onnxruntime", "openvino"]
        assert all(worker.draw(64, 3).seconds > 0 for worker in lineup.workers.values())
        assert {"jax", "onnxruntime", "openvino"} <= set(lineup.facts) and lineup.absent == {}
