"""Products of matrices in the precision that was asked for: by cuBLAS, or by kernels/gemm/tensor_gemm.cu."""

from typing import Any, Protocol

import numpy as np

from cuchar.devices.device import product_sizes
from cuchar.engines.cuda.target import Target
from cuchar.sizes import ceil_div

TILES = (128, 64)  # rows and columns of the output that a block of tensor_gemm.cu computes


class Gemm(Protocol):
    """`Device.gemm` for arrays of the target's number type, with operands rounded to the target's precision."""

    copies: bool  # whether it keeps 16-bit copies of its operands on the device

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None: ...

    def prepared(self, place: str, array: Any) -> Any:
        """`array` as an operand that is rounded once and can then be used in several products.

        Args:
            place: names the buffer of the rounded copy. The next call with the same place and size overwrites it.
        """


def gemm_of(target: Target) -> Gemm:
    """The device's own product if it supports the precision, since cuBLAS is several times as fast as our kernel."""
    if target.precision == "fp32":
        return PlainGemm(target)
    return LibraryGemm(target) if target.device.has_tensor_library else TensorGemm(target)


class PlainGemm:
    """Products that do not round their operands."""

    copies = False

    def __init__(self, target: Target):
        self._device = target.device

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None:
        self._device.gemm(a, b, out, ta=ta, tb=tb, accumulate=accumulate)

    def prepared(self, place: str, array: Any) -> Any:
        return array


class LibraryGemm:
    """Tensor cores through cuBLAS, which reads 16-bit copies of the operands in bf16 and fp16, the operands in tf32."""

    def __init__(self, target: Target):
        self._device, self._precision, self.copies = target.device, target.precision, target.precision != "tf32"
        self._rounded: dict[tuple[str, int], Any] = {}  # by place and size: a 16-bit copy, two numbers in each word
        if self.copies:
            self._round = target.device.kernels("gemm/round.cu", target.operand)["round_numbers"]
        else:
            self._own = TensorGemm(target)

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None:
        if not self.copies and any(array.shape[1] % 4 for array in (a, b, out)):
            # Where rows are not aligned to 16 bytes, cuBLAS would multiply without rounding to tf32.
            return self._own(a, b, out, ta=ta, tb=tb, accumulate=accumulate)
        a, b = self.prepared("a", a), self.prepared("b", b)
        self._device.gemm(a, b, out, ta=ta, tb=tb, accumulate=accumulate, precision=self._precision)

    def prepared(self, place: str, array: Any) -> Any:
        """`array` itself if cuBLAS rounds it or it is a 16-bit copy already, else a 16-bit copy."""
        if not self.copies or array.dtype == np.uint16:
            return array
        size, key = array.size, (place, array.size)
        if key not in self._rounded:
            self._rounded[key] = self._device.empty((ceil_div(size, 2),), np.uint32)
        self._round(ceil_div(size, 512), 256, numbers=array, words=self._rounded[key], count=size)
        return self._rounded[key].view(np.uint16)[:size].reshape(array.shape)


class TensorGemm:
    """Tensor cores through kernels/gemm/tensor_gemm.cu, which rounds numbers as it reads them."""

    copies = False

    def __init__(self, target: Target):
        self._multiprocessors = target.device.limits.multiprocessors
        self._kernels = {
            tile: target.device.kernels("gemm/tensor_gemm.cu", {**target.operand, "TILE": tile})["tensor_gemm"]
            for tile in TILES
        }

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None:
        M, N, K = product_sizes(a, b, out, ta, tb)
        # The large tile reads half as much from memory, but it pays only if every multiprocessor gets one.
        blocks = {tile: ceil_div(M, tile) * ceil_div(N, tile) for tile in TILES}
        tile = 128 if blocks[128] >= self._multiprocessors else 64
        self._kernels[tile](
            blocks[tile], 4 * tile, a=a, b=b, out=out, M=M, N=N, K=K, ta=ta, tb=tb, accumulate=accumulate
        )

    def prepared(self, place: str, array: Any) -> Any:
        return array
