"""float32 rounded to the precisions that tensor cores take, in NumPy: what the kernels are held against."""

import numpy as np

PRECISIONS = ("tf32", "bf16", "fp16")
PER_WORD = {"tf32": 1, "bf16": 2, "fp16": 2}


def bits_of(numbers, precision: str) -> np.ndarray:
    """The bit patterns of the nearest numbers: tf32 in 32 bits with ties away from zero, the others in 16 with ties to even."""
    numbers = np.asarray(numbers, np.float32)
    if precision == "fp16":
        with np.errstate(over="ignore"):
            return np.where(np.isnan(numbers), 0x7FFF, numbers.astype(np.float16).view(np.uint16)).astype(np.uint32)
    sign, size = np.signbit(numbers), np.abs(numbers).view(np.uint32).astype(np.uint64)
    dropped = 13 if precision == "tf32" else 16
    kept, rest, half = size >> dropped, size & ((1 << dropped) - 1), 1 << (dropped - 1)
    kept += (rest > half) | ((rest == half) & ((precision == "tf32") | (kept & 1 == 1)))
    found = (
        (kept << 13) | (sign.astype(np.uint64) << 31) if precision == "tf32" else kept | (sign.astype(np.uint64) << 15)
    )
    return np.where(np.isnan(numbers), 0x7FFFFFFF if precision == "tf32" else 0x7FFF, found).astype(np.uint32)


def rounded(numbers, precision: str) -> np.ndarray:
    """The nearest numbers themselves, float32, of numbers that are not NaN; fp32 leaves them alone."""
    numbers = np.asarray(numbers, np.float32)
    if precision == "fp32":
        return numbers
    bits = numbers.view(np.uint32)
    if precision == "bf16":
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    elif precision == "tf32":
        bits = (bits + 0x1000) & 0xFFFFE000
    else:  # NumPy's float16 is slow
        found = ((bits + 0xFFF + (bits >> 13 & 1)) & 0xFFFFE000).astype(np.uint32).view(np.float32)
        size = np.abs(numbers)
        for where, other in ((size < 2.0**-14, size + np.float32(0.75) - np.float32(0.75)), (size >= 65520, np.inf)):
            np.copyto(found, np.copysign(other, numbers), where=where)  # the first in steps of 2^-24
        return found
    return bits.astype(np.uint32).view(np.float32)
