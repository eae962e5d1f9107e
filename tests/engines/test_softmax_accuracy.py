"""Losses and dlogits of every engine are within 2 ulp of mpmath's, on random rows of logits and on the worst ones."""

import numpy as np
import pytest
from support.ulps import exact_row, of_row, ulps

from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.numpy_engine import NumpyEngine

ENGINES = {
    "numpy": NumpyEngine,
    "cpp": CpuEngine,
    "emulator": lambda model, dtype: CudaEngine(model, EmulatedDevice(), dtype),
}
MOST = 2  # ulp


def rows(V):
    """Rows of V logits, by what is hard about them, with the targets to try."""
    generator = np.random.default_rng(V)

    def row(*logits, rest):
        return np.concatenate([np.array(logits, float), np.full(V - len(logits), rest, float)])

    for spread in (0.1, 1, 4, 20):
        logits = generator.normal(0, spread, V)
        yield f"normal, {spread}", logits, (logits.argmax(), logits.argmin(), 0)
    for gap in (2, 8, 15, 16.5, 17, 20, 30, 80):  # log(1 + x) of a small x, and softmax - 1
        logits = generator.normal(0, 0.3, V)
        logits[7] = gap
        yield f"certain by {gap}", logits, (7, 0)
    yield "terms below half an ulp of the largest", row(0, rest=-17), (0, 1)
    yield "all alike", row(rest=0), (0, 1)
    yield "two largest", row(3, 3, -2, rest=-9.3), (0, 1, 2)
    yield "differences that are rounded", row(0.3, -60.1, -70.7, 1.2, -33.33, -86, rest=-50.123), (0, 1, 2, 3, 4, 5)
    yield "below the smallest number", row(1, -88, -95, -110, -700, -760, rest=-1e4), (0, 1, 2, 4)
    yield "a large offset", row(1e6, 1e6 - 1, 1e6 - 3, 1e6 - 0.0625, rest=1e6 - 9), (0, 1, 2, 3)
    yield "1e30", row(1e30, -1e30, 1, 2, 1e30, rest=0), (0, 1, 2)


def worst_errors(engine, row, targets):
    """The largest error of a loss and of a dlogit, in ulp. Of equal logits, one is compared."""
    targets = np.array(targets)
    losses, dlogits = of_row(ENGINES[engine], row, targets)
    exact_losses, exact_dlogits = exact_row(row, targets)
    _, different = np.unique(row, return_index=True)
    off = []
    for found, exact, target in zip(dlogits, exact_dlogits, targets, strict=True):
        places = [target, *(v for v in different if v != target)]
        off.append(ulps(found[places], [exact[v] for v in places]).max())
    return ulps(losses, exact_losses).max(), max(off)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("V", [65, 513])  # on a GPU, one pass in registers and three passes over memory
@pytest.mark.parametrize("engine", ENGINES)
def test_losses_and_dlogits_are_exact_to_2_ulp(engine, V, dtype):
    off = {name: worst_errors(engine, row.astype(dtype), targets) for name, row, targets in rows(V)}
    assert {name: errors for name, errors in off.items() if max(errors) > MOST} == {}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("engine", ["numpy", "cpp"])
def test_errors_do_not_grow_with_the_vocabulary(engine, dtype):
    V = 65_536
    random = np.round(np.random.default_rng(0).normal(0, 2, V), 1)
    terms_below_half_an_ulp, alike = np.full(V, -17.0), np.zeros(V)
    terms_below_half_an_ulp[5] = 0
    for row in (random, terms_below_half_an_ulp, alike):
        assert max(worst_errors(engine, row.astype(dtype), (row.argmax(), 4))) <= MOST


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_make_a_loss_that_is_not(engine, bad):
    for place in (0, 3, 64):
        row = np.zeros(65, np.float32)
        row[place] = bad
        with np.errstate(invalid="ignore"):
            losses, _ = of_row(ENGINES[engine], row, np.array([3, 5]))
        assert not np.isfinite(losses).any()
