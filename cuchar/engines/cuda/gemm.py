"""The product of matrices that a precision asks for: by a library, or by kernels/tensor_gemm.cu."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cuchar.devices.device import Device, product_sizes
from cuchar.engines.sizes import ceil_div

TILES = (128, 64)


def gemm_of(device: Device, precision: str) -> Callable[..., None]:
    """The device's own where it knows the precision, since a library's is several times as fast as ours."""
    if precision == "fp32":
        return device.gemm
    return LibraryGemm(device, precision) if device.has_tensor_library else TensorGemm(device, precision)


class LibraryGemm:
    """`Device.gemm` for float32 arrays whose numbers are rounded to `precision` before.

    An operand that was `prepared` is taken as it is.
    """

    def __init__(self, device: Device, precision: str):
        self._device, self._precision, self.copies = device, precision, precision != "tf32"
        self._rounded: dict[tuple[str, int], Any] = {}  # operands in 16 bits, two a word, by their place and size
        if self.copies:
            self._round = device.kernels("gemm/round.cu", {"PRECISION": precision.capitalize()})["round_numbers"]
        else:
            self._own = TensorGemm(device, precision)

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None:
        if not self.copies and any(array.shape[1] % 4 for array in (a, b, out)):
            # the library would not round where rows are not aligned
            return self._own(a, b, out, ta=ta, tb=tb, accumulate=accumulate)
        a, b = self.in_16_bits("a", a), self.in_16_bits("b", b)
        self._device.gemm(a, b, out, ta=ta, tb=tb, accumulate=accumulate, precision=self._precision)

    def in_16_bits(self, place: str, array: Any) -> Any:
        """`array`, where it need not be rounded, or a copy, which lasts until the next one of this place and size."""
        if not self.copies or array.dtype == np.uint16:
            return array
        size, key = array.size, (place, array.size)
        if key not in self._rounded:
            self._rounded[key] = self._device.empty((ceil_div(size, 2),), np.uint32)
        self._round(ceil_div(size, 512), 256, array, self._rounded[key], np.int64(size))
        return self._rounded[key].view(np.uint16)[:size].reshape(array.shape)


def prepared(gemm: Callable[..., None], place: str, array: Any) -> Any:
    """An operand for several products, rounded once; what was prepared for the same place is void."""
    return gemm.in_16_bits(place, array) if isinstance(gemm, LibraryGemm) else array


class TensorGemm:
    """`Device.gemm` for float32 arrays whose numbers are rounded to `precision` as they are read."""

    def __init__(self, device: Device, precision: str):
        self._multiprocessors = device.limits.multiprocessors
        self._kernels = {
            tile: device.kernels("gemm/tensor_gemm.cu", {"PRECISION": precision.capitalize(), "TILE": tile})[
                "tensor_gemm"
            ]
            for tile in TILES
        }

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None:
        M, N, K = product_sizes(a, b, out, ta, tb)
        # The large tile halves what comes from memory, where there are enough of it for the whole device.
        blocks = {tile: ceil_div(M, tile) * ceil_div(N, tile) for tile in TILES}
        tile = 128 if blocks[128] >= self._multiprocessors else 64
        self._kernels[tile](
            blocks[tile], 4 * tile, a, b, out, np.int32(M), np.int32(N), np.int32(K), np.int32(ta), np.int32(tb),
            np.int32(accumulate),
        )  # fmt: skip
