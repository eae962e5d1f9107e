"""How far the kernels' results in a reduced precision are from those of NumPy with the same operands rounded."""

import numpy as np
from support.accuracy import EPS
from support.problems import as_type, problem
from support.rounding_engine import RoundingEngine

from cuchar.adam import LossScaling
from cuchar.engines.base import Dropout, Example
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.target import Window
from cuchar.parameters import Parameters


def results(engine, parameters, state, inputs, targets, dropout):
    """Loss, state, gradients and what the products took, by name."""
    gradients = Parameters(engine.model, engine.dtype)
    gradients.flat[:] = np.nan  # so that one that the engine does not write is seen
    loss, after = engine.loss_and_gradients(parameters, Example(inputs, targets, state, dropout), gradients)
    found = {"loss": np.array([loss]), "c": after.c, **dict(gradients.items())}
    if isinstance(engine, RoundingEngine):
        return found | engine.tape
    tape, read = engine._tape(Window(*inputs.shape, dropout is not None)), engine.device.read
    return found | {"h": read(tape.h), "dlogits": read(tape.logits).reshape(inputs.size, -1), "das": read(tape.gates)}


def ratios(precision, shape, devices, reference_precision=None, plain=(), ulps=4):
    """Give the name of each result of the kernels and its error divided by its bound, both as norms.

    The bound is twice the error that the same arithmetic has in NumPy's float32, and a few ulp of the sums' terms. All
    devices must give the same bits.
    """
    model, parameters, inputs, targets, state = problem(*shape)
    dropout = Dropout(0.4, 3, 9)
    single = (*as_type(parameters, state, np.float32), inputs, targets, dropout)
    ours, *others = (results(CudaEngine(model, device, precision=precision), *single) for device in devices)
    options = {"plain": plain, "followed": {name: ours[name] for name in ("h", "dlogits", "das")}}
    scale = LossScaling().scale if precision == "fp16" else 1.0
    exact, numpys = (
        results(RoundingEngine(model, reference_precision or precision, dtype, scale, **options), *single)
        for dtype in (np.float64, np.float32)
    )
    das, dlogits = (np.abs(ours[name]).astype(float) for name in ("das", "dlogits"))
    terms = {f"lstm.bias_l{layer}": da.sum(axis=(0, 1)) / scale for layer, da in enumerate(das)}
    terms["head.bias"] = dlogits.sum(axis=0) / scale
    for name, expected in exact.items():
        assert all(np.array_equal(ours[name], other[name]) for other in others), f"{name} depends on the schedule"
        error, numpys_error = (np.linalg.norm(found[name] - expected) for found in (ours, numpys))
        bound = 2 * numpys_error + ulps * EPS * np.linalg.norm(terms.get(name, expected))
        yield name, error / bound if bound else float(error > 0)
