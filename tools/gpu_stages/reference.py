"""Computes what the device's results are compared with: the NumPy engine's results on the same numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig, learning_rate
from cuchar.engines.base import Dropout, Engine, Example, State, TrainingState
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import Parameters, initialise

Shape = tuple[int, int, int, int, int]  # V, H, L, B, T
ULPS = 4


def outcome(engine: Any, shape: Shape, dropout: Dropout | None) -> dict[str, np.ndarray]:
    """The loss, gradients and final state of a window, by name.

    Parameters, inputs and state depend on `shape` alone, so they are the same for every engine and number type.
    """
    V, H, L, B, T = shape
    generator = np.random.default_rng(shape)
    parameters, gradients = Parameters(engine.model, engine.dtype), Parameters(engine.model, engine.dtype)
    start = initialise(engine.model, 1)
    start.flat += generator.normal(0, 0.1, start.flat.size).astype(np.float32)
    parameters.flat[:] = start.flat
    gradients.flat[:] = np.nan  # so that a gradient which the engine does not write is noticed
    inputs, targets = generator.integers(V, size=(2, T, B))
    h, c = generator.normal(0, 0.5, (2, L, B, H)).astype(np.float32).astype(engine.dtype)
    loss, after = engine.loss_and_gradients(parameters, Example(inputs, targets, State(h, c), dropout), gradients)
    return {"loss": np.array([loss]), "h": after.h, "c": after.c, **dict(gradients.items())}


def accuracy(device: Any, shape: Shape, dropout: Dropout | None, dtype: Any) -> Iterator[tuple[str, float, float]]:
    """How accurate the device is on a window, against the NumPy engine in float64.

    In float32 the bound is twice the NumPy engine's own error, and ULPS units in the last place of the tensor's norm.
    In float64 it is a unit in the last place for every addition along the longest path.

    Yields:
        for every tensor its name, the norm of its error, and the bound on that norm.
    """
    V, H, L, _, T = shape
    model = ModelConfig(V, H, L)
    exact = outcome(NumpyEngine(model, np.float64), shape, dropout)
    ours = outcome(CudaEngine(model, device, dtype), shape, dropout)
    numpys = outcome(NumpyEngine(model, dtype), shape, dropout)
    ulps = ULPS if dtype == np.float32 else T * L * (2 * H + V)
    for name, expected in exact.items():
        error, numpys_error = (float(np.linalg.norm(found[name] - expected)) for found in (ours, numpys))
        yield name, error, 2 * numpys_error + ulps * float(np.finfo(dtype).eps * np.linalg.norm(expected))


def train(engine: Engine, config: TrainConfig, ids: np.ndarray, steps: int) -> tuple[np.ndarray, Parameters]:
    """Train for `steps` steps from the configuration's seed on, with the end of an epoch in the middle.

    Returns:
        the losses [steps done], and the parameters.
    """
    parameters, half = initialise(engine.model, config.seed), steps // 2
    rates = [learning_rate(config, step, 0, steps) for step in range(1, steps + 1)]
    first, second = (
        Windows(ids, config.batch, config.window, config.window_stride, offset)
        for offset in (0, 0 if config.carry_state else 3)
    )
    adam, state = Adam(parameters.flat.size), engine.zero_state(config.batch)
    learner = engine.learner(config, TrainingState(parameters, adam, state), first)
    losses, _ = learner.train(0, 1, rates[:half])
    learner.begin_epoch(second)
    more, _ = learner.train(0, half + 1, rates[half:])
    learner.fetch()
    return np.concatenate([losses, more]), parameters
