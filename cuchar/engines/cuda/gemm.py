"""The product of matrices that a precision asks for: by a library, or by kernels/gemm/tensor_gemm.cu."""

from typing import Any, Protocol

import numpy as np

from cuchar.devices.device import product_sizes
from cuchar.engines.cuda.target import Target
from cuchar.sizes import ceil_div

TILES = (128, 64)


class Gemm(Protocol):
    """`Device.gemm` for arrays of the target's type, whose numbers count as rounded to its precision."""

    copies: bool  # whether it keeps 16-bit copies of its operands

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None: ...

    def prepared(self, place: str, array: Any) -> Any:
        """An operand for several products, rounded once; what was prepared for the same place before is void."""


def gemm_of(target: Target) -> Gemm:
    """The device's own where it knows the precision, since a library's is several times as fast as ours."""
    if target.precision == "fp32":
        return PlainGemm(target)
    return LibraryGemm(target) if target.device.has_tensor_library else TensorGemm(target)


class PlainGemm:
    """Numbers as they are."""

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
    """A library's tensor cores: in bf16 and fp16 from 16-bit copies, in tf32 from the numbers themselves."""

    def __init__(self, target: Target):
        self._device, self._precision, self.copies = target.device, target.precision, target.precision != "tf32"
        self._rounded: dict[tuple[str, int], Any] = {}  # operands in 16 bits, two a word, by their place and size
        if self.copies:
            self._round = target.device.kernels("gemm/round.cu", target.operand)["round_numbers"]
        else:
            self._own = TensorGemm(target)

    def __call__(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False
    ) -> None:
        if not self.copies and any(array.shape[1] % 4 for array in (a, b, out)):
            # the library would not round where rows are not aligned
            return self._own(a, b, out, ta=ta, tb=tb, accumulate=accumulate)
        a, b = self.prepared("a", a), self.prepared("b", b)
        self._device.gemm(a, b, out, ta=ta, tb=tb, accumulate=accumulate, precision=self._precision)

    def prepared(self, place: str, array: Any) -> Any:
        """`array`, where it need not be rounded, or a copy, which lasts until the next one of this place and size."""
        if not self.copies or array.dtype == np.uint16:
            return array
        size, key = array.size, (place, array.size)
        if key not in self._rounded:
            self._rounded[key] = self._device.empty((ceil_div(size, 2),), np.uint32)
        self._round(ceil_div(size, 512), 256, numbers=array, words=self._rounded[key], count=size)
        return self._rounded[key].view(np.uint16)[:size].reshape(array.shape)


class TensorGemm:
    """kernels/gemm/tensor_gemm.cu, which rounds numbers as it reads them."""

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
        # The large tile halves what comes from memory, where there are enough of it for the whole device.
        blocks = {tile: ceil_div(M, tile) * ceil_div(N, tile) for tile in TILES}
        tile = 128 if blocks[128] >= self._multiprocessors else 64
        self._kernels[tile](
            blocks[tile], 4 * tile, a=a, b=b, out=out, M=M, N=N, K=K, ta=ta, tb=tb, accumulate=accumulate
        )

    def prepared(self, place: str, array: Any) -> Any:
        return array
