"""A product of matrices in a precision beside float64's, for tests on the emulator and on a GPU."""

import numpy as np
from support.rounding import rounded

from cuchar.config import ModelConfig
from cuchar.engines.cuda.gemm import TensorGemm
from cuchar.engines.cuda.target import Target

EPS = float(np.finfo(np.float32).eps)
OPERATIONS = [(False, True), (False, False), (True, False), (True, True)]


def products_of(device, precision):
    """The target for which products on a device are made; the sizes of its model do not matter to them."""
    return Target(device, ModelConfig(2, 1, 1), np.dtype("f4"), precision)


def product(device, precision, M, N, K, ta, tb, accumulate, expected=None, scale=1.0, gemm=TensorGemm):
    """What `gemm` computes, what float64 does with the `expected` precision, and the bound on their difference."""
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
    gemm(products_of(device, precision))(*arrays, ta=ta, tb=tb, accumulate=accumulate)
    left, right = (rounded(array, expected or precision).astype(float) for array in (a, b))
    exact, size = left @ right, np.abs(left) @ np.abs(right)
    if accumulate:
        exact, size = exact + c, size + np.abs(c)
    # The K products are exact in float32, and each of the K additions rounds once.
    gamma = (K + accumulate) * EPS / (1 - (K + accumulate) * EPS)
    return device.read(arrays[2]), exact, gamma * size
