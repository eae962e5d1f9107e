"""kernels/tensor_gemm.cu on the emulator, against float64 on operands that are rounded to the precision."""

import numpy as np
import pytest
from rounding import PRECISIONS, rounded

from cuchar.emulator import EmulatedDevice
from cuchar.engines.device import Limits
from cuchar.engines.tensor_gemm import TensorGemm
from cuchar.errors import ShapeError

EPS = float(np.finfo(np.float32).eps)
SIZES = [  # M, N, K
    (1, 1, 1), (7, 33, 16), (16, 7, 33), (33, 130, 7), (130, 16, 130), (64, 64, 64), (1, 257, 40), (65, 1, 68), (50, 72, 96),
]  # fmt: skip
OPERATIONS = [(False, True), (False, False), (True, False), (True, True)]
LARGE, SMALL = Limits(90, 1, 232_448), Limits(90, 132, 232_448)  # tiles: any number of blocks fills one multiprocessor


def product(device, precision, M, N, K, ta, tb, accumulate, expected=None, scale=1.0):
    """What the kernel computes, what float64 does with the `expected` precision, and the bound on their difference."""
    generator = np.random.default_rng([M, N, K, ta, tb])
    a, b, c = (
        (scale * generator.normal(size=shape) * 2.0 ** generator.integers(-4, 4, shape)).astype(np.float32)
        for shape in ((M, K), (K, N), (M, N))
    )
    arrays = []
    for array in (a.T if ta else a, b.T if tb else b, c):
        arrays.append(device.empty(array.shape, np.float32))
        device.write(arrays[-1], array)
    if not accumulate:
        device.write(arrays[2], np.full((M, N), np.nan, np.float32))
    TensorGemm(device, precision)(*arrays, ta=ta, tb=tb, accumulate=accumulate)
    left, right = (rounded(array, expected or precision).astype(float) for array in (a, b))
    exact, size = left @ right, np.abs(left) @ np.abs(right)
    if accumulate:
        exact, size = exact + c, size + np.abs(c)
    # K products, exact in float32, in K additions with one rounding each
    gamma = (K + accumulate) * EPS / (1 - (K + accumulate) * EPS)
    return device.read(arrays[2]), exact, gamma * size


@pytest.mark.parametrize("ta,tb", OPERATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_products_of_rounded_numbers(precision, ta, tb):
    for number, size in enumerate(SIZES):
        device = EmulatedDevice(limits=LARGE if number % 3 == 2 else SMALL)
        found, exact, bound = product(device, precision, *size, ta, tb, bool(number % 2))
        assert (np.abs(found - exact) <= bound).all(), size


@pytest.mark.parametrize("limits", [LARGE, SMALL], ids=["large tiles", "small tiles"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_schedule_gives_the_same_bits(precision, limits):
    forward, reverse, shuffled = (
        product(EmulatedDevice(schedule, 3, limits=limits), precision, 66, 70, 100, False, True, True)[0].tobytes()
        for schedule in ("forward", "reverse", "shuffled")
    )
    assert forward == reverse == shuffled


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("other", ["fp32", *PRECISIONS])
def test_the_bound_tells_precisions_apart(precision, other):
    """A kernel that rounded to another precision, or not at all, would break it. fp16 is subnormal here."""
    found, exact, bound = product(EmulatedDevice(), precision, 33, 65, 70, False, True, False, other, 2.0**-12)
    assert (np.abs(found - exact) <= bound).all() == (other == precision)


def test_matrices_that_are_not_aligned():
    """Beginning anywhere in a buffer, as parameters do: rows of fours, but not at a multiple of 16 bytes."""
    device, buffer = EmulatedDevice(), np.arange(2000, dtype=np.float32) % 64
    a, b, out = (
        buffer[3 : 3 + 33 * 8].reshape(33, 8),
        buffer[1 : 1 + 7 * 8].reshape(7, 8),
        device.empty((33, 7), np.float32),
    )
    TensorGemm(device, "fp16")(a, b, out, tb=True)
    assert np.array_equal(out, a @ b.T)


def test_sizes_that_do_not_go_together():
    device = EmulatedDevice()
    a, b, out = (device.empty(shape, np.float32) for shape in ((2, 3), (3, 4), (2, 4)))
    with pytest.raises(ShapeError, match=r"expected \(2, 3\) and \(4, 3\), found \(2, 3\) and \(3, 4\)"):
        TensorGemm(device, "bf16")(a, b, out, tb=True)
