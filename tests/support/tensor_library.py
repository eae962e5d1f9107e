"""An emulated device that has a library of matrix products in tensor cores' precisions, as a GPU has."""

import numpy as np
from support.rounding import rounded

from cuchar.devices.emulator import EmulatedDevice


def numbers_of(words, precision: str) -> np.ndarray:
    """What a library makes of an operand, in float32: it takes the bits of bf16 and fp16, and rounds to tf32 itself."""
    if precision == "tf32":
        assert words.dtype == np.float32
        return rounded(words, precision)
    assert words.dtype == np.uint16
    if precision == "fp16":
        return words.view(np.float16).astype(np.float32)
    return (words.astype(np.uint32) << 16).view(np.float32)


class TensorLibrary(EmulatedDevice):
    """NumPy computes its products in float64; `products` has each one's precision, a and b, as they were then."""

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

        self.put(multiply, in_graph=False)
