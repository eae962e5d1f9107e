"""Models, windows of text and states for engines to compute with, in many sizes."""

import itertools

import numpy as np

from cuchar.config import ModelConfig
from cuchar.engines.base import State
from cuchar.parameters import Parameters, initialise

SIZES = {
    "V": (2, 68, 84, 5000),
    "H": (1, 16, 33, 64, 100, 128, 257),
    "L": (1, 2, 3, 4),
    "B": (1, 13, 50),
    "T": (1, 2, 33),
}
SHAPES = [  # V, H, L, B, T: every pair of two sizes is somewhere among the first 28
    (2, 1, 1, 1, 2), (68, 1, 3, 13, 1), (84, 64, 2, 1, 1), (84, 33, 4, 13, 2), (84, 16, 1, 50, 33), (2, 100, 2, 13, 33),
    (2, 128, 4, 50, 1), (68, 257, 2, 50, 2), (5000, 128, 3, 1, 33), (5000, 64, 1, 13, 1), (68, 16, 4, 1, 33),
    (84, 100, 3, 50, 2), (2, 257, 3, 13, 1), (5000, 100, 4, 1, 2), (5000, 33, 2, 1, 1), (2, 16, 3, 13, 2),
    (68, 128, 1, 13, 2), (5000, 1, 4, 50, 1), (2, 64, 4, 50, 2), (2, 33, 3, 50, 33), (84, 1, 2, 50, 33),
    (84, 257, 1, 1, 33), (68, 100, 1, 50, 1), (5000, 16, 2, 1, 1), (68, 64, 3, 1, 33), (68, 33, 1, 1, 1),
    (84, 128, 2, 1, 33), (5000, 257, 4, 1, 1), (84, 64, 2, 13, 33),
]  # fmt: skip


def problem(V, H, L, B, T, *seed):
    """A float64 model away from its initial values, of numbers that float32 has, with inputs, targets and a state."""
    model, generator = ModelConfig(V, H, L), np.random.default_rng([V, H, L, B, T, *seed])
    parameters = initialise(model, 1, np.float64)
    parameters.flat += generator.normal(0, 0.1, parameters.flat.size)
    parameters.flat[:] = parameters.flat.astype(np.float32)
    inputs, targets = generator.integers(V, size=(2, T, B))
    h, c = generator.normal(0, 0.5, (2, L, B, H)).astype(np.float32).astype(float)
    return model, parameters, inputs, targets, State(h, c)


def as_type(parameters, state, dtype):
    """Copies of parameters and state in another type."""
    copy = Parameters(parameters.model, dtype)
    copy.flat[:] = parameters.flat
    return copy, State(state.h.astype(dtype), state.c.astype(dtype))


def expect_pairs(shapes, sizes):
    """Check that any two values of two different sizes are together in some shape."""
    pairs = list(itertools.combinations(range(len(sizes)), 2))
    covered = {(i, shape[i], j, shape[j]) for shape in shapes for i, j in pairs}
    assert {(i, a, j, b) for i, j in pairs for a in sizes[i] for b in sizes[j]} <= covered
