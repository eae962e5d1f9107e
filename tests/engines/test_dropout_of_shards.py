"""Rows of a batch that an engine trains on by themselves get the dropout masks that they have in the whole batch."""

from dataclasses import replace

import numpy as np
import pytest
from support.problems import problem
from support.targets import A100, H100, target_of

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Dropout, Example, State
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.resident import Resident
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.target import Window
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import Parameters

B, T = 7, 4
SHARDS = [slice(0, 3), slice(3, B)]  # of the batch's rows
# V, H, L, which other tests compile kernels for, too. Since H and B * H are odd, a row may begin with any of the four
# words of a call of philox.
WIDE, DEEP = ModelConfig(20, 33, 2), ModelConfig(4, 3, 3)
REGIMES = {  # a model, a device on which the regime is planned for it, and what the plan is
    "cluster": (WIDE, H100, Resident),
    "block": (DEEP, A100, Resident),
    "stepwise": (DEEP, replace(A100, registers=0), Stepwise),
    "persistent": (DEEP, Limits(90, 10, 2_000), Persistent),
}
LIBRARY = ("numpy", "stepwise")  # on the emulator the stepwise regime's products are NumPy's


@pytest.fixture
def engine(name, monkeypatch):
    if name == "numpy":
        return NumpyEngine(WIDE, np.float64)
    if name == "cpp":
        return CpuEngine(WIDE, np.float64)
    model, limits, kind = REGIMES[name]
    if name == "persistent":
        monkeypatch.setattr("cuchar.engines.cuda.resident.plan_window", lambda *_: None)
    for rows in (B, *(shard.stop - shard.start for shard in SHARDS)):
        plan = plan_window(target_of(model, limits, np.float64), Window(T, rows))
        assert isinstance(plan, kind) and getattr(plan, "cluster", 1) == (2 if name == "cluster" else 1)
        if name == "persistent" and rows == B:
            assert min(plan.forward.groups, plan.forward.parts, plan.backward.groups, plan.backward.parts) > 1
    return CudaEngine(model, EmulatedDevice(limits=limits), np.float64)


@pytest.mark.parametrize("name", ["numpy", "cpp", *REGIMES])
def test_shards_of_a_batch_give_its_state_its_loss_and_its_gradients(name, engine):
    """The state has the bits of the whole batch's, but where a library adds in an order that depends on how many rows.

    Loss and gradients, of which the whole batch's are weighted sums, are held against NumPy's for the whole batch.
    """
    model, dropout, eps = engine.model, Dropout(0.4, 3, 9, weights=0.3), np.finfo(float).eps
    _, parameters, inputs, targets, state = problem(model.vocabulary_size, model.hidden, model.layers, B, T)

    def trained(engine, rows, dropout):
        gradients = Parameters(model, np.float64)
        before = State(np.ascontiguousarray(state.h[:, rows]), np.ascontiguousarray(state.c[:, rows]))
        example = Example(inputs[:, rows], targets[:, rows], before, dropout)
        loss, after = engine.loss_and_gradients(parameters, example, gradients)
        return loss, after, gradients.flat

    expected_loss, _, expected_gradients = trained(NumpyEngine(model, np.float64), slice(0, B), dropout)
    _, whole, _ = trained(engine, slice(0, B), dropout)
    total, sums = 0.0, np.zeros(expected_gradients.size)
    for rows in SHARDS:
        loss, after, gradients = trained(engine, rows, replace(dropout, first_row=rows.start, batch=B))
        for found, expected in ((after.h, whole.h[:, rows]), (after.c, whole.c[:, rows])):
            np.testing.assert_allclose(found, expected, rtol=0, atol=20 * eps if name in LIBRARY else 0)
        share = (rows.stop - rows.start) / B
        total += share * loss
        sums += share * gradients
    assert total == pytest.approx(expected_loss, rel=20 * eps)
    assert np.linalg.norm(sums - expected_gradients) <= 20 * eps * np.linalg.norm(expected_gradients)
