"""Loss, gradients and state of a window on the device, against the float64 NumPy engine."""

import numpy as np
import pytest

from benchmarks.gpu_stages.device import dry_run
from benchmarks.gpu_stages.reference import accuracy, outcome
from cuchar.config import ModelConfig
from cuchar.engines.base import Dropout
from cuchar.engines.cuda_engine import CudaEngine
from cuchar.engines.persistent_plan import Persistent
from cuchar.engines.plan import Resident, Stepwise, make_plan

RESIDENT = [  # V, H, L, B, T
    (84, 64, 2, 32, 32),  # the notebook's; clusters of two from compute capability 9.0 on
    (84, 64, 2, 200, 9),  # more rows than multiprocessors
    (2, 1, 1, 1, 1), (68, 100, 1, 5, 33), (84, 33, 4, 13, 7), (7, 5, 3, 2, 40), (84, 16, 8, 4, 8),
]  # fmt: skip
PERSISTENT = [
    (68, 512, 2, 50, 20), (68, 257, 3, 13, 5), (1000, 33, 2, 3, 9), (2000, 130, 1, 2, 3), (84, 136, 2, 1, 1),
    (68, 256, 2, 50, 50), (68, 100, 4, 300, 7),
]  # fmt: skip
STEPWISE = [(84, 1100, 2, 13, 3), (600, 2048, 1, 5, 4)]
DOUBLE = [(20, 32, 2, 5, 40), (84, 64, 2, 3, 20), (68, 200, 2, 4, 9), (700, 20, 3, 2, 5), (9, 800, 2, 3, 2)]
if dry_run():
    RESIDENT, PERSISTENT, STEPWISE = [(5, 4, 2, 3, 3), (4, 3, 1, 2, 4)], [(4, 81, 2, 2, 3)], [(4, 260, 2, 2, 2)]
    DOUBLE = [(5, 4, 2, 3, 3)]


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
    assert isinstance(make_plan(ModelConfig(V, H, L), T, B, np.float32, device.limits), regime)


@pytest.mark.parametrize("shape", [RESIDENT[0], PERSISTENT[0], STEPWISE[0]], ids=str)
def test_same_inputs_same_bits(shape, device):
    engine = CudaEngine(ModelConfig(*shape[:3]), device)
    first, second = (outcome(engine, shape, Dropout(0.3, 1, 2)) for _ in range(2))
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)
