"""Reduced precisions on the emulator, against a NumPy engine that rounds the same operands."""

import numpy as np
import pytest
from support.problems import problem
from support.rounding import PRECISIONS
from support.rounding_engine import PRODUCTS, RoundingEngine
from support.rounding_errors import ratios, results
from support.targets import target_of
from support.tensor_library import TensorLibrary

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Dropout, Example
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.target import Window
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import Parameters

SHAPES = [  # V, H, L, B, T
    (20, 33, 2, 5, 6), (600, 16, 1, 3, 4), (84, 64, 2, 13, 3), (7, 1, 3, 1, 2), (40, 33, 3, 9, 7), (5, 200, 2, 13, 2),
    (5, 256, 1, 50, 2),
]  # fmt: skip
FORTY = Limits(90, 40, 232_448)
SCHEDULES = ("forward", "reverse", "shuffled")


def test_the_reference_without_rounding_is_the_numpy_engine():
    model, parameters, inputs, targets, state = problem(20, 33, 3, 5, 6)
    dropout = Dropout(0.5, 3, 9)  # whose factor, 2, is exact in any type
    plain = results(RoundingEngine(model, "fp16", plain=PRODUCTS), parameters, state, inputs, targets, dropout)
    gradients = Parameters(model, np.float64)
    loss, after = NumpyEngine(model, np.float64).loss_and_gradients(
        parameters, Example(inputs, targets, state, dropout), gradients
    )
    for name, expected in {"loss": loss, "c": after.c, **dict(gradients.items())}.items():
        np.testing.assert_allclose(plain[name], expected, rtol=1e-9, atol=1e-14, err_msg=name)


@pytest.fixture(params=["persistent", "stepwise"])
def regime(request, monkeypatch):
    """The regime of the test's kernels; they are never resident in a reduced precision."""
    if request.param == "stepwise":
        monkeypatch.setattr("cuchar.engines.cuda.persistent.plan_window", lambda *_: None)
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_losses_and_gradients_are_those_of_rounded_operands(precision, shape, regime):
    V, H, L, B, T = shape
    assert isinstance(
        plan_window(target_of(ModelConfig(V, H, L), FORTY, np.float32, precision), Window(T, B)),
        Persistent if regime == "persistent" else Stepwise,
    )
    for name, ratio in ratios(precision, shape, [EmulatedDevice(of, limits=FORTY) for of in SCHEDULES]):
        assert ratio <= 1, name


@pytest.mark.parametrize("shape", [(20, 36, 2, 5, 6), (40, 33, 3, 9, 7)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_librarys_products_are_as_accurate(precision, shape, regime):
    """Operands are rounded before, some once for several products; the second shape's rows are not aligned."""
    devices = [TensorLibrary(of, limits=FORTY) for of in SCHEDULES]
    for name, ratio in ratios(precision, shape, devices):
        assert ratio <= 1, name
    assert {name for device in devices for name, *_ in device.products} == (
        set() if precision == "tf32" and shape[1] % 4 else {precision}
    )


@pytest.mark.parametrize("planted", [*PRODUCTS, "fp32", *PRECISIONS])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_bound_sees_operands_unrounded_or_rounded_otherwise(precision, planted, regime):
    devices = [EmulatedDevice()]
    if planted in PRODUCTS:
        assert max(ratio for _, ratio in ratios(precision, SHAPES[0], devices, plain=(planted,))) > 10
    elif not {planted, precision} <= {"tf32", "fp16"}:  # both have 11 bits and differ in ties and subnormals alone
        found = max(ratio for _, ratio in ratios(precision, SHAPES[0], devices, reference_precision=planted))
        assert found > 10 if planted != precision else found <= 1
