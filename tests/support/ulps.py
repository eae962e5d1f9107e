"""Errors of an engine's losses and dlogits in units in the last place (ulp), with mpmath as the judge."""

import mpmath
import numpy as np

from cuchar.config import ModelConfig
from cuchar.engines.base import Example, State
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.cuda.target import Window
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import Parameters


def dlogits_of(engine, T: int, B: int) -> np.ndarray:
    """[T, B, V]: what the last call of `loss_and_gradients` for a window [T, B] has left on the engine's tape."""
    if isinstance(engine, NumpyEngine):
        return engine._tape(T, B).logits.transpose(0, 2, 1)
    if isinstance(engine, CpuEngine):
        tape = engine._tape(T, B, with_backward=True, dropout=False)
        return tape.logits[..., : engine.model.vocabulary_size]
    return engine.device.read(engine._tape(Window(T, B, False)).logits).reshape(T, B, -1)


def of_row(make_engine, row: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An engine's losses [B] and dlogits [B, V] where the logits of all B characters of a window are `row`.

    The head's weights are zeros and its biases the row, so that no logit is rounded.
    """
    model = ModelConfig(len(row), 2, 1)
    engine, parameters = make_engine(model, row.dtype), Parameters(model, row.dtype)
    parameters.flat[:] = 0
    parameters["head.bias"][:] = row
    inputs = np.zeros((1, len(targets)), np.int64)
    zeros = np.zeros((1, len(targets), 2), row.dtype)
    example = Example(inputs, targets[None], State(zeros, zeros))
    losses, _ = engine.losses(engine.fold(parameters), inputs, targets[None], example.state)
    losses = losses[0].copy()
    engine.loss_and_gradients(parameters, example, Parameters(model, row.dtype))
    return losses, dlogits_of(engine, 1, len(targets))[0].copy()


def exact_row(row: np.ndarray, targets: np.ndarray) -> tuple[list, list[list]]:
    """Losses [B] and dlogits [B][V] of the same row, as mpmath's numbers of 200 bits."""
    with mpmath.workprec(200):
        largest = mpmath.mpf(float(row.max()))
        known = {x: mpmath.exp(mpmath.mpf(float(x)) - largest) for x in np.unique(row)}
        count = {x: int(np.sum(row == x)) for x in known}
        total = mpmath.fsum(count[x] * e for x, e in known.items())
        losses, dlogits = [], []
        share = {x: e / (total * len(targets)) for x, e in known.items()}
        for target in targets:
            of_target = row[target]
            others = total - known[of_target]
            losses.append(mpmath.log1p(others / known[of_target]))
            gradients = [share[x] for x in row]
            gradients[target] = -others / (total * len(targets))
            dlogits.append(gradients)
    return losses, dlogits


def ulps(found: np.ndarray, exact: list) -> np.ndarray:
    """|found - exact| in ulp of the exact number; below the smallest normal number, whose ulp counts there, 0 may be found."""
    smallest = float(np.finfo(found.dtype).tiny)
    rounded = np.array([float(x) for x in exact])
    spacing = np.spacing(np.maximum(np.abs(rounded), smallest).astype(found.dtype)).astype(float)
    with mpmath.workprec(200):
        off = np.array([float(abs(mpmath.mpf(float(a)) - b)) for a, b in zip(found, exact, strict=True)])
    return np.where((found == 0) & (np.abs(rounded) < smallest), 0, off / spacing)
