"""How far an engine's results may be from exact ones: bounds that follow from the arithmetic."""

import numpy as np
from support.problems import as_type, problem

from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Dropout, Example
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import Parameters
from cuchar.philox import weight_dropout_mask

EPS = float(np.finfo(np.float32).eps)


class Recording(NumpyEngine):
    """A NumPy engine that keeps each layer's da, the gradients of its pre-activations, [T, 4, H, B]."""

    def _backward_layer(self, recurrent, tape, layer):
        super()._backward_layer(recurrent, tape, layer)
        self.das = {**getattr(self, "das", {}), layer: tape.dgates.copy()}


def magnitudes(engine, inputs, dropout):
    """Every gradient is a sum: by name, the sum of its terms' absolute values, with which its rounding error grows."""
    T, B = inputs.shape
    tape, found = engine._tape(T, B), {}
    outputs = tape.outputs(dropout is not None)

    def product(left, right):
        return np.einsum("tmb,tkb->mk", np.abs(left), np.abs(right))

    for layer, da in engine.das.items():
        da = da.reshape(T, -1, B)
        found[f"lstm.bias_l{layer}"] = np.abs(da).sum(axis=(0, 2))
        found[f"lstm.weight_hh_l{layer}"] = product(da, tape.h[layer, :-1])
        if dropout:
            key = dropout.weights, dropout.seed, dropout.step, layer
            found[f"lstm.weight_hh_l{layer}"] *= weight_dropout_mask(engine.model.hidden, *key, np.float64)
        below = outputs[layer - 1] if layer else np.eye(engine.model.vocabulary_size)[inputs].transpose(0, 2, 1)
        found[f"lstm.weight_ih_l{layer}"] = product(da, below)
    found |= {"head.bias": np.abs(tape.logits).sum(axis=(0, 2)), "head.weight": product(tape.logits, outputs[-1])}
    return found


def everything(engine, parameters, state, inputs, targets, dropout):
    """All that an engine computes, by name."""
    gradients = Parameters(engine.model, engine.dtype)
    gradients.flat[:] = np.nan  # so that one that the engine does not write is seen
    loss, after = engine.loss_and_gradients(parameters, Example(inputs, targets, state, dropout), gradients)
    found = {"loss": np.array([loss]), "h": after.h, "c": after.c, **dict(gradients.items())}
    weights = engine.fold(parameters)
    losses, end = engine.losses(weights, inputs, targets, state)
    found |= {"losses": losses, "end.h": end.h, "end.c": end.c}
    logits, _ = engine.forward(weights, inputs, state)
    return found | {"logits": logits.copy()}


def expect_accuracy(shape, limits, dropout):
    """Check that the kernels' results are as accurate as NumPy's, and have the same bits in every schedule.

    A result may be off by twice the error that NumPy has in float32, and by 4 ulp of the terms that it is the sum of.
    """
    model, parameters, inputs, targets, state = problem(*shape)
    reference = Recording(model, np.float64)
    reference.loss_and_gradients(parameters, Example(inputs, targets, state, dropout), Parameters(model, np.float64))
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


def expect_accuracy_of_cpu_engine(shape):
    """Check that every result's error is within the bound of the arithmetic, which `expect_accuracy` has too.

    Where H is 1, a tensor has so few numbers that NumPy's error may happen to be 0: 16 problems then count as one.
    """
    V, H, L, B, T = shape
    dropout = Dropout(0.4, (3 << 32) | 5, (7 << 32) | 9, weights=0.2) if (V + H + L + B + T) % 2 else None
    squares: dict[str, np.ndarray] = {}
    for seed in range(16 if H == 1 else 1):
        model, parameters, inputs, targets, state = problem(*shape, seed)
        reference = Recording(model, np.float64)
        reference.loss_and_gradients(
            parameters, Example(inputs, targets, state, dropout), Parameters(model, np.float64)
        )
        terms = magnitudes(reference, inputs, dropout)
        exact = everything(reference, parameters, state, inputs, targets, dropout)
        single = (*as_type(parameters, state, np.float32), inputs, targets, dropout)
        ours, numpys = (everything(engine, *single) for engine in (CpuEngine(model), NumpyEngine(model)))
        for name in ours:
            found = (ours[name] - exact[name], numpys[name] - exact[name], terms.get(name, exact[name]))
            squares[name] = squares.get(name, 0) + np.array([np.sum(values**2) for values in found])
    for name, (error, numpys_error, size) in {name: np.sqrt(values) for name, values in squares.items()}.items():
        assert error <= 2 * numpys_error + 4 * EPS * size, name
