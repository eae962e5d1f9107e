"""Loss, gradients and state of a window on the device, against the float64 NumPy engine."""

import numpy as np
import pytest
from support.targets import target_of

from cuchar.config import ModelConfig
from cuchar.engines.base import Dropout
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.resident import Resident
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.target import Window
from tools.gpu_stages.reference import accuracy, outcome
from tools.gpu_stages.shapes import DOUBLE, PERSISTENT, RESIDENT, STEPWISE


@pytest.mark.parametrize("dropped", [False, True], ids=["", "dropout"])
@pytest.mark.parametrize("shape", [*RESIDENT, *PERSISTENT, *STEPWISE], ids=str)
def test_gradients_are_as_accurate_as_numpys(shape, dropped, device):
    for name, error, bound in accuracy(device, shape, Dropout(0.3, 5, (7 << 32) | 9) if dropped else None, np.float32):
        assert error <= bound, name


@pytest.mark.parametrize("shape", DOUBLE, ids=str)
def test_float64_gradients_are_numpys(shape, device):
    for name, error, bound in accuracy(device, shape, Dropout(0.3, 1, 2), np.float64):
        assert error <= bound, name


@pytest.mark.parametrize(
    "shape,regime", [(RESIDENT[0], Resident), (PERSISTENT[0], Persistent), (STEPWISE[0], Stepwise)]
)
def test_shapes_are_of_the_regime_that_they_stand_for(shape, regime, device):
    V, H, L, B, T = shape
    assert isinstance(plan_window(target_of(ModelConfig(V, H, L), device.limits), Window(T, B)), regime)


@pytest.mark.parametrize("shape", [RESIDENT[0], PERSISTENT[0], STEPWISE[0]], ids=str)
def test_same_inputs_same_bits(shape, device):
    engine = CudaEngine(ModelConfig(*shape[:3]), device)
    first, second = (outcome(engine, shape, Dropout(0.3, 1, 2)) for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
