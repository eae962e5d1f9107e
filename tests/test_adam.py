"""Adam against the paper's formulas, number by number; clipping, gradients that are not finite, learning rates."""

import math

import numpy as np
import pytest

from cuchar.adam import Adam
from cuchar.config import TrainConfig, learning_rate


def reference(p, gradients, lr, weight_decay):
    m = v = 0.0
    for step, g in enumerate(gradients, 1):
        p -= lr * weight_decay * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        p -= lr * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return p


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_steps_are_those_of_the_paper(weight_decay):
    gradients = np.random.default_rng(0).normal(size=(5, 3))
    parameters, adam = np.array([1.0, -2.0, 0.5]), Adam(3, np.float64)
    expected = [reference(p, g, 0.01, weight_decay) for p, g in zip(parameters, gradients.T, strict=True)]
    for step, gradient in enumerate(gradients, 1):
        norm = adam.update(parameters, gradient.copy(), step, 0.01, weight_decay=weight_decay)
        assert norm == pytest.approx(np.linalg.norm(gradient), rel=1e-14)
    np.testing.assert_allclose(parameters, expected, rtol=1e-13)


def test_clipping_scales_to_the_norm_and_leaves_smaller_gradients():
    for gradient, scale in (([3.0, 4.0], 0.4), ([0.3, 0.4], 1.0)):
        adam, clipped, whole = Adam(2, np.float64), np.array(gradient), np.array(gradient)
        norm = adam.update(np.zeros(2), clipped, 1, 0.1, clip=2.0)
        assert norm == pytest.approx(np.linalg.norm(gradient))
        np.testing.assert_allclose(clipped, whole * scale, rtol=1e-14)
        np.testing.assert_allclose(adam.m, 0.1 * whole * scale, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_moments_decay_to_zero_and_are_never_subnormal(dtype):
    """Left to rounding, a float32 m would end at 4 times the smallest number, and v at 500 times that."""
    tiny = np.finfo(dtype).tiny
    adam, parameters, nothing = Adam(2, dtype), np.zeros(2, dtype), np.zeros(2, dtype)
    adam.m[:], adam.v[:] = [1e25 * tiny, -(2.0**20) * tiny], 2000 * tiny
    for step in range(100_001, 101_501):
        adam.update(parameters, nothing, step, 0.01)
        for moments in (adam.m, adam.v):
            assert not ((moments != 0) & (np.abs(moments) < tiny)).any()
    assert not adam.m.any() and not adam.v.any()


def test_moments_that_matter_are_not_set_to_zero():
    adam = Adam(2, np.float32)
    adam.m[:], adam.v[:] = [1e-30, -1e-30], 1e-30
    adam.update(np.zeros(2, np.float32), np.zeros(2, np.float32), 64, 0.01)
    np.testing.assert_allclose(adam.m, [0.9e-30, -0.9e-30], rtol=1e-6)
    np.testing.assert_allclose(adam.v, 0.999e-30, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_not_finite_change_nothing(bad):
    parameters, adam = np.ones(2), Adam(2, np.float64)
    assert not math.isfinite(adam.update(parameters, np.array([1.0, bad]), 1, 0.1, clip=1, weight_decay=1))
    assert parameters.tolist() == [1, 1] and not adam.m.any() and not adam.v.any()


def test_schedules():
    def rates(steps, **options):
        config = TrainConfig(lr=1.0, **options)
        return [learning_rate(config, step, step // 10, 100) for step in steps]

    assert rates([1, 50, 100]) == [1, 1, 1]
    assert rates([9, 10, 25, 30], schedule="step") == [1, 0.5, 0.25, 0.125]
    assert rates([9, 10, 25], schedule="step", decay=0.1) == pytest.approx([1, 0.1, 0.01])
    assert rates([50, 100, 200], schedule="cosine") == pytest.approx([0.55, 0.1, 0.1])
    assert rates([25], schedule="cosine", decay=0.2) == pytest.approx([0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2])
    assert rates([1, 5, 10, 11], warmup=10) == [0.1, 0.5, 1, 1]
    assert rates([5], warmup=10, schedule="cosine", decay=1.0) == [0.5]
