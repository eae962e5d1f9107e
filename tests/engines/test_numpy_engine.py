"""The reference engine against a plain loop, and its gradients against central differences, in float64."""

import numpy as np
import pytest
from support.central_differences import expect_gradients_of_central_differences

from cuchar.config import ModelConfig
from cuchar.engines.base import Dropout, Example, State
from cuchar.engines.numpy_engine import NumpyEngine, sum_columns_by_id
from cuchar.errors import ShapeError
from cuchar.parameters import Parameters, initialise
from cuchar.philox import dropout_mask, weight_dropout_mask

SHAPES = [  # V, H, L, B, T
    (5, 3, 1, 2, 4), (5, 4, 2, 3, 3), (4, 3, 3, 2, 3), (2, 1, 1, 1, 1), (3, 1, 2, 1, 2), (3, 33, 1, 1, 2), (7, 5, 2, 1, 1),
]  # fmt: skip
DROPOUTS = [None, Dropout(0.4, 3, 9), Dropout(0.0, 3, 9, weights=0.3), Dropout(0.4, 3, 9, weights=0.3)]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def problem(V, H, L, B, T, carried):
    """A float64 model away from its initial values, with inputs, targets and a state."""
    model = ModelConfig(V, H, L)
    generator = np.random.default_rng([V, H, L, B, T])
    parameters = initialise(model, 1, np.float64)
    parameters.flat += generator.normal(0, 0.3, parameters.flat.size)
    inputs, targets = generator.integers(V, size=(2, T, B))
    state = NumpyEngine(model, np.float64).zero_state(B)
    if carried:
        state = State(generator.normal(0, 0.5, (L, B, H)), generator.normal(0, 1, (L, B, H)))
    return model, parameters, inputs, targets, state


def plain_loss(parameters, inputs, targets, state, masks=None):
    """The formulas of engines/base.py, one character of one row at a time."""
    model, (T, B) = parameters.model, inputs.shape
    H, total = model.hidden, 0.0
    end = State(state.h.copy(), state.c.copy())
    for b in range(B):
        for t in range(T):
            x = np.eye(model.vocabulary_size)[inputs[t, b]]
            for layer in range(model.layers):
                a = (
                    parameters[f"lstm.weight_ih_l{layer}"] @ x
                    + parameters[f"lstm.weight_hh_l{layer}"] @ end.h[layer, b]
                    + parameters[f"lstm.bias_l{layer}"]
                )
                i, f, g, o = sigmoid(a[:H]), sigmoid(a[H : 2 * H]), np.tanh(a[2 * H : 3 * H]), sigmoid(a[3 * H :])
                end.c[layer, b] = f * end.c[layer, b] + i * g
                end.h[layer, b] = x = o * np.tanh(end.c[layer, b])
                if masks is not None:
                    x = x * masks[layer][t, b]
            logits = parameters["head.weight"] @ x + parameters["head.bias"]
            total += np.log(np.sum(np.exp(logits))) - logits[targets[t, b]]
    return total / (T * B), end


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("dropout", DROPOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_state_are_those_of_the_plain_loop(shape, dropout, carried):
    model, parameters, inputs, targets, state = problem(*shape, carried)
    masks, used = None, Parameters(model, flat=parameters.flat.copy())
    if dropout:
        _, H, L, B, T = shape
        masks = [dropout_mask((T, B, H), dropout.probability, 3, 9, layer, np.float64) for layer in range(L)]
        for layer in range(L):
            used[f"lstm.weight_hh_l{layer}"][...] *= weight_dropout_mask(H, dropout.weights, 3, 9, layer, np.float64)
    expected, end = plain_loss(used, inputs, targets, state, masks)
    engine = NumpyEngine(model, np.float64)
    loss, after = engine.loss_and_gradients(
        parameters, Example(inputs, targets, state, dropout), Parameters(model, np.float64)
    )
    assert loss == pytest.approx(expected, rel=1e-13)
    np.testing.assert_allclose(after.h, end.h, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(after.c, end.c, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("dropout", DROPOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_central_differences(shape, dropout, carried):
    model, parameters, inputs, targets, state = problem(*shape, carried)
    engine = NumpyEngine(model, np.float64)
    expect_gradients_of_central_differences(engine, parameters, inputs, targets, state, dropout)


@pytest.mark.parametrize("dropout", DROPOUTS)
def test_float32_is_float64_rounded(dropout):
    model, parameters, inputs, targets, state = problem(20, 33, 2, 5, 7, True)
    exact, rounded = Parameters(model, np.float64), Parameters(model)
    loss, _ = NumpyEngine(model, np.float64).loss_and_gradients(
        parameters, Example(inputs, targets, state, dropout), exact
    )
    narrow = Parameters(model)
    narrow.flat[:] = parameters.flat
    state32 = State(state.h.astype(np.float32), state.c.astype(np.float32))
    loss32, _ = NumpyEngine(model).loss_and_gradients(narrow, Example(inputs, targets, state32, dropout), rounded)
    depth = 7 * 2 * (33 + 33 + 20)  # additions along the longest path: T * L dot products and the head
    eps = float(np.finfo(np.float32).eps)
    assert loss32 == pytest.approx(loss, rel=depth * eps)
    for name, gradient in rounded.items():
        assert np.linalg.norm(gradient - exact[name]) <= depth * eps * np.linalg.norm(exact[name]), name


def test_forward_and_losses_agree_with_training():
    model, parameters, inputs, targets, state = problem(6, 5, 2, 3, 4, True)
    engine = NumpyEngine(model, np.float64)
    loss, after = engine.loss_and_gradients(parameters, Example(inputs, targets, state), Parameters(model, np.float64))
    weights = engine.fold(parameters)
    losses, after_losses = engine.losses(weights, inputs, targets, state)
    logits, after_forward = engine.forward(weights, inputs, state)
    assert losses.shape == (4, 3) and losses.mean() == pytest.approx(loss, rel=1e-14)
    chosen = np.take_along_axis(logits, targets[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(np.log(np.exp(logits).sum(axis=2)) - chosen, losses, rtol=1e-12)
    for other in (after_losses, after_forward):
        assert np.array_equal(other.h, after.h) and np.array_equal(other.c, after.c)


def test_carried_state_joins_two_windows_into_one():
    model, parameters, inputs, _, state = problem(6, 5, 2, 3, 8, False)
    engine = NumpyEngine(model, np.float64)
    weights = engine.fold(parameters)
    whole, end = engine.forward(weights, inputs, state)
    whole = whole.copy()
    first, middle = engine.forward(weights, inputs[:3], state)
    first = first.copy()
    second, joined = engine.forward(weights, inputs[3:], middle)
    np.testing.assert_allclose(np.concatenate([first, second]), whole, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(joined.c, end.c, rtol=1e-13, atol=1e-14)


def test_same_inputs_same_bits():
    model, _, inputs, targets, _ = problem(20, 33, 2, 5, 7, False)
    parameters, engine = initialise(model, 0), NumpyEngine(model)
    runs = []
    for _ in range(2):
        gradients = Parameters(model)
        engine.loss_and_gradients(parameters, Example(inputs, targets, engine.zero_state(5)), gradients)
        runs.append(gradients.flat.tobytes())
    assert runs[0] == runs[1]


def test_columns_are_summed_by_id():
    generator = np.random.default_rng(0)
    ids, columns = generator.integers(7, size=(4, 5)), generator.normal(size=(3, 20))
    ids[ids == 2] = 3  # one id that is not there
    expected = np.zeros((3, 7))
    np.add.at(expected.T, ids.reshape(-1), columns.T)
    out = np.full((3, 7), np.nan)
    sum_columns_by_id(columns, ids, out)
    np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-15)


def test_wrong_shapes_are_named():
    model, parameters, inputs, targets, state = problem(5, 3, 1, 2, 4, False)
    engine = NumpyEngine(model, np.float64)
    with pytest.raises(ShapeError, match=r"state: expected \(1, 1, 3\), found \(1, 2, 3\)"):
        engine.forward(engine.fold(parameters), inputs[:, :1], state)
    with pytest.raises(ShapeError, match=r"targets: expected \(4, 2\), found \(4, 1\)"):
        engine.losses(engine.fold(parameters), inputs, targets[:, :1], state)


def test_initial_values():
    parameters = initialise(ModelConfig(50, 64, 2), 0)
    for name, inputs in (("l0", 50), ("l1", 64)):
        limit = np.sqrt(6 / (inputs + 5 * 64))
        for kind in ("ih", "hh"):
            weights = parameters[f"lstm.weight_{kind}_{name}"]
            assert np.abs(weights).max() <= np.float32(limit) and np.abs(weights).max() > 0.98 * limit
            assert weights.std() == pytest.approx(limit / np.sqrt(3), rel=0.03)
        assert parameters[f"lstm.bias_{name}"].tolist() == [0] * 64 + [1] * 64 + [0] * 128
    assert not parameters["head.bias"].any()
    assert np.abs(parameters["head.weight"]).max() == pytest.approx(np.sqrt(6 / 114), rel=0.01)
    assert not np.array_equal(parameters.flat, initialise(ModelConfig(50, 64, 2), 1).flat)
