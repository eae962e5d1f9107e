"""An emulated device with what a GPU's library of matrix products has: tensor cores' precisions."""

import numpy as np
from support.rounding import rounded

from cuchar.devices.emulator import EmulatedDevice


def numbers_of(words, precision: str) -> np.ndarray:
    """float32 of what a library's product takes: 16 bits of bf16 and fp16, numbers to be rounded for tf32."""
    if precision == "tf32":
        assert words.dtype == np.float32
        return rounded(words, precision)
    assert words.dtype == np.uint16
    if precision == "fp16":
        return words.view(np.float16).astype(np.float32)
    return (words.astype(np.uint32) << 16).view(np.float32)


class TensorLibrary(EmulatedDevice):
    """Its products are NumPy's in float64; `products` are precision, a and b of each that was asked for, as it was done."""

    has_tensor_library = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.products = []

    def gemm(self, a, b, out, *, ta=False, tb=False, accumulate=False, precision="fp32"):
        if precision == "fp32":
            return super().gemm(a, b, out, ta=ta, tb=tb, accumulate=accumulate)
        assert out.dtype == np.float32 and all(array.flags.c_contiguous for array in (a, b, out))
        rows = [array.shape[1] for array in (a, b, out)]
        assert precision != "tf32" or not any(row % 4 for row in rows), "cuBLAS would not take tensor cores"

        def multiply():
            self.products.append((precision, a.copy(), b.copy()))
            left, right = (numbers_of(array, precision).astype(float) for array in (a, b))
            product = (left.T if ta else left) @ (right.T if tb else right)
            assert product.shape == out.shape
            out[...] = product + out if accumulate else product

        self._put(multiply)
