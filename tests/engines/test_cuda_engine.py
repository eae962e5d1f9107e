"""The CUDA kernels, run by the emulator, against the float64 NumPy engine and against central differences."""

import itertools

import numpy as np
import pytest
from support.central_differences import expect_gradients_of_central_differences

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Dropout, State
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.regimes import Resident, Stepwise, make_plan
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import ShapeError
from cuchar.parameters import Parameters, initialise

EPS = float(np.finfo(np.float32).eps)
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
CLUSTERS, ONE_BLOCK, NO_REGISTERS = (
    Limits(90, 132, 232_448), Limits(80, 108, 166_912), Limits(80, 108, 166_912, registers=0),
)  # fmt: skip


def problem(V, H, L, B, T, *seed):
    """A float64 model off its initial point whose numbers are float32's, with inputs, targets and a state."""
    model, generator = ModelConfig(V, H, L), np.random.default_rng([V, H, L, B, T, *seed])
    parameters = initialise(model, 1, np.float64)
    parameters.flat += generator.normal(0, 0.1, parameters.flat.size)
    parameters.flat[:] = parameters.flat.astype(np.float32)
    inputs, targets = generator.integers(V, size=(2, T, B))
    h, c = generator.normal(0, 0.5, (2, L, B, H)).astype(np.float32).astype(float)
    return model, parameters, inputs, targets, State(h, c)


def as_type(parameters, state, dtype):
    copy = Parameters(parameters.model, dtype)
    copy.flat[:] = parameters.flat
    return copy, State(state.h.astype(dtype), state.c.astype(dtype))


class Recording(NumpyEngine):
    """Keeps every layer's gradients of the pre-activations, [T, 4, H, B]."""

    def _backward_layer(self, recurrent, tape, layer):
        super()._backward_layer(recurrent, tape, layer)
        self.das = {**getattr(self, "das", {}), layer: tape.dgates.copy()}


def magnitudes(engine, inputs, dropout):
    """The sums that gradients are, with every term's absolute value: what their rounding errors are measured by."""
    T, B = inputs.shape
    tape, found = engine._tape(T, B), {}
    outputs = tape.outputs(dropout is not None)

    def product(left, right):
        return np.einsum("tmb,tkb->mk", np.abs(left), np.abs(right))

    for layer, da in engine.das.items():
        da = da.reshape(T, -1, B)
        found[f"lstm.bias_l{layer}"] = np.abs(da).sum(axis=(0, 2))
        found[f"lstm.weight_hh_l{layer}"] = product(da, tape.h[layer, :-1])
        below = outputs[layer - 1] if layer else np.eye(engine.model.vocabulary_size)[inputs].transpose(0, 2, 1)
        found[f"lstm.weight_ih_l{layer}"] = product(da, below)
    found |= {"head.bias": np.abs(tape.logits).sum(axis=(0, 2)), "head.weight": product(tape.logits, outputs[-1])}
    return found


def everything(engine, parameters, state, inputs, targets, dropout):
    """All that an engine computes, by name."""
    gradients = Parameters(engine.model, engine.dtype)
    gradients.flat[:] = np.nan  # every one must be written
    loss, after = engine.loss_and_gradients(parameters, inputs, targets, state, gradients, dropout)
    found = {"loss": np.array([loss]), "h": after.h, "c": after.c, **dict(gradients.items())}
    weights = engine.fold(parameters)
    losses, end = engine.losses(weights, inputs, targets, state)
    found |= {"losses": losses, "end.h": end.h, "end.c": end.c}
    logits, _ = engine.forward(weights, inputs, state)
    return found | {"logits": logits.copy()}


def expect_accuracy(shape, limits, dropout):
    """Every result's error within the bound of the arithmetic, and the same bits in every schedule."""
    model, parameters, inputs, targets, state = problem(*shape)
    reference = Recording(model, np.float64)
    reference.loss_and_gradients(parameters, inputs, targets, state, Parameters(model, np.float64), dropout)
    terms = magnitudes(reference, inputs, dropout)
    exact = everything(reference, parameters, state, inputs, targets, dropout)
    single = (*as_type(parameters, state, np.float32), inputs, targets, dropout)
    numpys = everything(NumpyEngine(model), *single)
    runs = [
        everything(CudaEngine(model, EmulatedDevice(schedule, limits=limits)), *single)
        for schedule in ("forward", "reverse", "shuffled")
    ]
    for name, ours in runs[0].items():
        assert all(np.array_equal(ours, run[name]) for run in runs), f"{name} depends on the schedule"
        error, numpys_error = (np.linalg.norm(found - exact[name]) for found in (ours, numpys[name]))
        assert error <= 2 * numpys_error + 4 * EPS * np.linalg.norm(terms.get(name, exact[name])), name


@pytest.mark.parametrize("shape", SHAPES)
def test_every_result_is_as_accurate_as_numpys_in_every_schedule(shape, monkeypatch):
    monkeypatch.setattr(
        "cuchar.engines.cuda.regimes.persistent_plan", lambda *_: None
    )  # test_persistent.py is about it
    V, H, L, B, T = shape
    dropout = Dropout(0.4, (3 << 32) | 5, (7 << 32) | 9) if (V + H + L + B + T) % 2 else None
    expect_accuracy(shape, CLUSTERS, dropout)


def test_shapes_cover_every_pair_of_sizes():
    expect_pairs(SHAPES, list(SIZES.values()))


def expect_pairs(shapes, sizes):
    pairs = list(itertools.combinations(range(len(sizes)), 2))
    covered = {(i, shape[i], j, shape[j]) for shape in shapes for i, j in pairs}
    assert {(i, a, j, b) for i, j in pairs for a in sizes[i] for b in sizes[j]} <= covered


@pytest.mark.parametrize("limits", [CLUSTERS, ONE_BLOCK, NO_REGISTERS], ids=["cluster", "block", "stepwise"])
@pytest.mark.parametrize("dropout", [None, Dropout(0.4, 3, 9)])
@pytest.mark.parametrize("shape", [(5, 4, 2, 3, 3), (5, 3, 1, 2, 4), (4, 3, 3, 2, 3), (2, 1, 2, 1, 34)])
def test_gradients_are_those_of_central_differences(shape, dropout, limits):
    model, parameters, inputs, targets, state = problem(*shape)
    engine = CudaEngine(model, EmulatedDevice(limits=limits), np.float64)
    plan = make_plan(model, *inputs.shape, np.float64, limits)
    assert isinstance(plan, Stepwise if limits is NO_REGISTERS else Resident)
    expect_gradients_of_central_differences(engine, parameters, inputs, targets, state, dropout)


@pytest.mark.parametrize("limits", [CLUSTERS, ONE_BLOCK, NO_REGISTERS], ids=["cluster", "block", "stepwise"])
def test_float64_is_numpys_to_its_last_digits(limits):
    model, parameters, inputs, targets, state = problem(20, 33, 2, 5, 40)
    dropout = Dropout(0.3, 1, 2)
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
