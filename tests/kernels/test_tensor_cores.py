"""The emulator's tensor cores: rounding against NumPy's, lanes and fragments against the tables of the PTX ISA."""

import numpy as np
import pytest
from support.rounding import PER_WORD, PRECISIONS, bits_of, rounded

from cuchar.devices.emulator import EmulatedDevice
from cuchar.errors import DeviceError

LANES = np.arange(32)
GROUP, MEMBER = LANES // 4, LANES % 4  # groupID and threadID_in_group


def compiled(body: str, parameters: str):
    source = f'#include "hardware.cuh"\nextern "C" __global__ void tried({parameters}) {{\n{body}\n}}\n'
    return EmulatedDevice("shuffled").compile(source)["tried"]


# ---- Rounding ----


def bit_patterns(precision: str) -> np.ndarray:
    """float32 numbers: every exponent and sign with fractions near ties, fp16's edges and subnormals, random bits."""
    generator = np.random.default_rng(0)
    exponents = np.arange(512, dtype=np.uint32) << 23
    dropped = 16 if precision == "bf16" else 13
    ties = (np.arange(8, dtype=np.uint32) << dropped) | (1 << dropped - 1)
    around = (ties[:, None] + np.arange(-2, 3)).reshape(-1).astype(np.uint32)
    others = [0, 1, 0x7FFFFF, 0x7FF000, 0x7FE000, 0x7FDFFF]
    fractions = np.concatenate([around, 0x7FFFFF - around, others]).astype(np.uint32)
    subnormal = (np.arange(-60, 2100) * 0.25 * 2.0**-24).astype(np.float32)  # fp16's, in quarters of their distance
    edges = np.float32(
        [65504, 65519.996, 65520, 65536, 3.4e38, 2**-14, 2**-14 * (1 - 2**-12), 2**-25, 2**-25 * (1 + 2**-20)]
    )
    every, some = (exponents[:, None] | fractions).reshape(-1), generator.integers(2**32, size=50_000, dtype=np.uint32)
    return np.concatenate([np.concatenate([every, some]).view(np.float32), subnormal, edges, -edges])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_words_are_the_nearest_numbers(precision):
    numbers, each = bit_patterns(precision), PER_WORD[precision]
    numbers = np.append(numbers, np.zeros(-len(numbers) % (32 * each), np.float32))
    words = np.empty(len(numbers) // each, np.uint32)
    body = f"const int at = blockIdx.x * 32 + threadIdx.x; out[at] = {precision.capitalize()}::word(numbers + {each} * at);"
    compiled(body, "const float* numbers, unsigned* out")(len(words) // 32, 32, numbers=numbers, out=words)
    expected = bits_of(numbers, precision)
    if each == 2:
        expected = expected[::2] | expected[1::2] << 16  # the first in the low half
    assert np.array_equal(words, expected)


def test_the_roundings_themselves():
    """support/rounding.py, by which kernels are judged, rounds numbers as they are rounded by hand."""
    ulps = {"tf32": 2.0**-10, "bf16": 2.0**-7, "fp16": 2.0**-10}
    for precision, ulp in ulps.items():
        tie = 1 + ulp if precision == "tf32" else 1
        found = rounded([1, 1 + ulp / 2, 1 + ulp * 0.51, 1 + ulp * 1.5, -1 - ulp / 4], precision)
        assert found.tolist() == [1, tie, 1 + ulp, 1 + 2 * ulp, -1], precision
    edges, expected = [65519, 65520, 2.0**-24, 2.0**-25, 2.0**-25 * 1.01], [65504, np.inf, 2.0**-24, 0, 2.0**-24]
    assert rounded(edges, "fp16").tolist() == expected
    for precision in ("tf32", "bf16"):
        assert rounded([3.4028235e38, 1e-38], precision)[0] == np.inf
    for precision in PRECISIONS:
        numbers = bit_patterns(precision)
        numbers = numbers[~np.isnan(numbers)]
        assert np.array_equal(bits_of(rounded(numbers, precision), precision), bits_of(numbers, precision))


# ---- Fragments. Source: PTX ISA, "Matrix Fragments for mma.m16n8k8 / mma.m16n8k16" ----


def places(precision: str):
    """Of A, of B and of D: by register, the (row, column) that each lane's number has, [32] each."""
    if precision == "tf32":  # m16n8k8
        a = [(np.where(i in (0, 2), GROUP, GROUP + 8), np.where(i < 2, MEMBER, MEMBER + 4)) for i in range(4)]
        b = [(np.where(i == 0, MEMBER, MEMBER + 4), GROUP) for i in range(2)]
    else:  # m16n8k16
        a = [
            (np.where(0 <= i < 2 or 4 <= i < 6, GROUP, GROUP + 8), MEMBER * 2 + (i & 1) + np.where(i < 4, 0, 8))
            for i in range(8)
        ]
        b = [(MEMBER * 2 + (i & 1) + np.where(i < 2, 0, 8), GROUP) for i in range(4)]
    d = [(np.where(i < 2, GROUP, GROUP + 8), MEMBER * 2 + (i & 1)) for i in range(4)]
    return a, b, d


def words_of(matrix, where, precision):
    """Every lane's words, [32, words], of a matrix whose numbers the precision has."""
    bits = np.stack([bits_of(matrix, precision)[row, column] for row, column in where], axis=1)
    return np.ascontiguousarray(bits if precision == "tf32" else bits[:, ::2] | bits[:, 1::2] << 16)


def multiplied(precision, a, b, c):
    """A [16, K] times B [K, 8] plus C [16, 8] by the emulated mma."""
    of_a, of_b, of_d = places(precision)
    d = np.ascontiguousarray(np.stack([c[row, column] for row, column in of_d], axis=1).astype(np.float32))
    body = f"""
        float mine[4];
        unsigned left[4], right[2];
        for (int i = 0; i < 4; ++i) mine[i] = d[4 * threadIdx.x + i], left[i] = a[4 * threadIdx.x + i];
        for (int i = 0; i < 2; ++i) right[i] = b[2 * threadIdx.x + i];
        {precision.capitalize()}::mma(mine, left, right);
        for (int i = 0; i < 4; ++i) d[4 * threadIdx.x + i] = mine[i];
    """
    kernel = compiled(body, "const unsigned* a, const unsigned* b, float* d")
    kernel(1, 32, a=words_of(a, of_a, precision), b=words_of(b, of_b, precision), d=d)
    result = np.full((16, 8), np.nan)
    for i, (row, column) in enumerate(of_d):
        result[row, column] = d[:, i]
    return result


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_mma_multiplies_what_the_tables_place(precision):
    """The numbers are distinct and their products and sums exact: one in a wrong place would give another matrix."""
    K = 8 * PER_WORD[precision]
    generator = np.random.default_rng(1)
    a, b = (generator.permutation(16 * K).reshape(16, K) - 100.0), (generator.permutation(8 * K).reshape(K, 8) - 50.0)
    c = generator.permutation(128).reshape(16, 8) + 1000.0
    assert np.array_equal(rounded(a, precision), a) and np.array_equal(rounded(b, precision), b)
    assert np.array_equal(multiplied(precision, a, b, c), a @ b + c)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_mma_is_as_accurate_as_float32(precision):
    K = 8 * PER_WORD[precision]
    generator = np.random.default_rng(2)
    a, b, c = (
        generator.normal(size=shape) * 10.0 ** generator.integers(-3, 3, shape) for shape in ((16, K), (K, 8), (16, 8))
    )
    a, b = rounded(a, precision).astype(float), rounded(b, precision).astype(float)
    c = c.astype(np.float32).astype(float)
    bound = K * np.finfo(np.float32).eps * (np.abs(a) @ np.abs(b) + np.abs(c))
    assert (np.abs(multiplied(precision, a, b, c) - (a @ b + c)) <= bound).all()


def test_infinities_subnormals_and_nan_go_through_an_mma():
    a, b = np.zeros((16, 16)), np.zeros((16, 8))
    a[0, 0], a[1, 1], a[2, 2] = np.inf, 2.0**-24, np.nan
    b[:3] = 2
    found = multiplied("fp16", a, b, np.ones((16, 8)))
    assert (found[0] == np.inf).all() and (found[1] == 1 + 2.0**-23).all() and np.isnan(found[2]).all()
    assert (found[3:] == 1).all()


def test_two_m16n8k8_are_an_m16n8k16():
    """hardware.cuh multiplies so on compute capability 7.5: registers 0 and 1 of A by 0 of B, then 2 and 3 by 1."""
    for half in range(2):
        a = [(np.where(i < 2, GROUP, GROUP + 8), MEMBER * 2 + (i & 1) + 8 * half) for i in range(4)]
        b = [(MEMBER * 2 + (i & 1) + 8 * half, GROUP) for i in range(2)]
        of_a, of_b, _ = places("fp16")
        assert np.array_equal(a, of_a[4 * half : 4 * half + 4]) and np.array_equal(b, of_b[2 * half : 2 * half + 2])


@pytest.mark.parametrize(
    "body,message",
    [
        ("if (threadIdx.x < 31) Fp16::mma(d, a, b);", "deadlock"),
        ("if (threadIdx.x % 2) Fp16::mma(d, a, b);\nelse Fp16::mma(d, a, b);", "divergent warp"),
    ],
)
def test_an_mma_that_lanes_miss_is_found_out(body, message):
    kernel = compiled(
        f"float d[4] = {{}}; unsigned a[4] = {{}}, b[2] = {{}};\n{body}\nout[threadIdx.x] = d[0];", "float* out"
    )
    with pytest.raises(DeviceError, match=message):
        kernel(1, 32, out=np.empty(32, np.float32))
    with pytest.raises(DeviceError, match="whole warps"):
        kernel(1, 33, out=np.empty(33, np.float32))
