"""The CUDA kernels, run by the emulator, against the float64 NumPy engine and against central differences."""

import numpy as np
import pytest
from support.accuracy import everything, expect_accuracy
from support.central_differences import expect_gradients_of_central_differences
from support.problems import SHAPES, SIZES, as_type, expect_pairs, problem
from support.targets import target_of

from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Dropout
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.resident import Resident
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.target import Window
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import ShapeError

CLUSTERS, ONE_BLOCK, NO_REGISTERS = (
    Limits(90, 132, 232_448), Limits(80, 108, 166_912), Limits(80, 108, 166_912, registers=0),
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_result_is_as_accurate_as_numpys_in_every_schedule(shape, monkeypatch):
    monkeypatch.setattr("cuchar.engines.cuda.persistent.plan_window", lambda *_: None)  # which test_persistent.py tests
    V, H, L, B, T = shape
    dropout = Dropout(0.4, (3 << 32) | 5, (7 << 32) | 9, weights=0.2) if (V + H + L + B + T) % 2 else None
    expect_accuracy(shape, CLUSTERS, dropout)


def test_shapes_cover_every_pair_of_sizes():
    expect_pairs(SHAPES, list(SIZES.values()))


@pytest.mark.parametrize("limits", [CLUSTERS, ONE_BLOCK, NO_REGISTERS], ids=["cluster", "block", "stepwise"])
@pytest.mark.parametrize("dropout", [None, Dropout(0.4, 3, 9), Dropout(0.0, 3, 9, weights=0.3)])
@pytest.mark.parametrize("shape", [(5, 4, 2, 3, 3), (5, 3, 1, 2, 4), (4, 3, 3, 2, 3), (2, 1, 2, 1, 34)])
def test_gradients_are_those_of_central_differences(shape, dropout, limits):
    model, parameters, inputs, targets, state = problem(*shape)
    engine = CudaEngine(model, EmulatedDevice(limits=limits), np.float64)
    plan = plan_window(target_of(model, limits, np.float64), Window(*inputs.shape))
    assert isinstance(plan, Stepwise if limits is NO_REGISTERS else Resident)
    expect_gradients_of_central_differences(engine, parameters, inputs, targets, state, dropout)


@pytest.mark.parametrize("limits", [CLUSTERS, ONE_BLOCK, NO_REGISTERS], ids=["cluster", "block", "stepwise"])
@pytest.mark.parametrize("dropout", [Dropout(0.3, 1, 2, weights=0.2), Dropout(0.0, 1, 2, weights=0.2)])
def test_float64_is_numpys_to_its_last_digits(limits, dropout):
    model, parameters, inputs, targets, state = problem(20, 33, 2, 5, 40)
    exact = everything(NumpyEngine(model, np.float64), parameters, state, inputs, targets, dropout)
    engine = CudaEngine(model, EmulatedDevice(limits=limits), np.float64)
    ours = everything(engine, parameters, state, inputs, targets, dropout)
    for name, expected in exact.items():
        assert np.linalg.norm(ours[name] - expected) <= 20 * np.finfo(float).eps * np.linalg.norm(expected), name


def test_same_inputs_same_bits():
    model, parameters, inputs, targets, state = problem(84, 64, 2, 3, 33)
    single, state = as_type(parameters, state, np.float32)
    engine = CudaEngine(model, EmulatedDevice())
    first, second = (everything(engine, single, state, inputs, targets, None) for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_wrong_shapes_are_named():
    model, parameters, inputs, targets, state = problem(5, 3, 1, 2, 4)
    engine = CudaEngine(model, EmulatedDevice(), np.float64)
    weights = engine.fold(parameters)
    with pytest.raises(ShapeError, match=r"state: expected \(1, 1, 3\), found \(1, 2, 3\)"):
        engine.forward(weights, inputs[:, :1], state)
    with pytest.raises(ShapeError, match=r"targets: expected \(4, 2\), found \(4, 1\)"):
        engine.losses(weights, inputs, targets[:, :1], state)
