"""The product of matrices that a precision asks for: the device's own, or kernels/tensor_gemm.cu."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cuchar.engines.device import Device
from cuchar.engines.fitting import ceil_div
from cuchar.errors import ShapeError

TILES = (128, 64)


def gemm_of(device: Device, precision: str) -> Callable[..., None]:
    return device.gemm if precision == "fp32" else TensorGemm(device, precision)


class TensorGemm:
    """`Device.gemm` for float32 arrays whose numbers are rounded to `precision` as they are read; can be captured."""

    def __init__(self, device: Device, precision: str):
        self._multiprocessors = device.limits.multiprocessors
        self._kernels = {
            tile: device.kernels("tensor_gemm.cu", {"PRECISION": precision.capitalize(), "TILE": tile})["tensor_gemm"]
            for tile in TILES
        }

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None:
        """
        Raises:
            ShapeError: sizes that do not go together.
        """
        (M, N), K = out.shape, a.shape[0 if ta else 1]
        expected = (K, M) if ta else (M, K), (N, K) if tb else (K, N)
        if (a.shape, b.shape) != expected:
            raise ShapeError(f"gemm: expected {expected[0]} and {expected[1]}, found {a.shape} and {b.shape}")
        # The large tile halves what comes from memory, where there are enough of it for the whole device.
        blocks = {tile: ceil_div(M, tile) * ceil_div(N, tile) for tile in TILES}
        tile = 128 if blocks[128] >= self._multiprocessors else 64
        self._kernels[tile](
            blocks[tile], 4 * tile, a, b, out, np.int32(M), np.int32(N), np.int32(K), np.int32(ta), np.int32(tb),
            np.int32(accumulate),
        )  # fmt: skip
