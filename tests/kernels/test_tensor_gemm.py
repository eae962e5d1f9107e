"""kernels/gemm/tensor_gemm.cu on the emulator, and a library's products of what kernels/gemm/round.cu has rounded.

Products are compared with float64's of operands that are rounded to the precision, the rounding itself bit by bit.
"""

import subprocess
import sys

import numpy as np
import pytest
from support.mutants import KERNELS, mutant, sites
from support.process import ROOT, environment
from support.products import EPS, OPERATIONS, product, products_of
from support.round_kernel import HALVES, round_is_right
from support.rounding import PRECISIONS, bits_of, rounded
from support.tensor_library import TensorLibrary

from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.cuda.gemm import LibraryGemm, PlainGemm, TensorGemm, gemm_of
from cuchar.errors import ShapeError

SIZES = [  # M, N, K
    (1, 1, 1), (7, 33, 16), (16, 7, 33), (33, 130, 7), (130, 16, 130), (64, 64, 64), (1, 257, 40), (65, 1, 68), (50, 72, 96),
]  # fmt: skip
# Devices that get large and small tiles: any number of blocks keeps one multiprocessor busy.
LARGE, SMALL = Limits(90, 1, 232_448), Limits(90, 132, 232_448)


@pytest.mark.parametrize("ta,tb", OPERATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("gemm", [TensorGemm, LibraryGemm])
def test_products_of_rounded_numbers(gemm, precision, ta, tb):
    for number, size in enumerate(SIZES):
        device = TensorLibrary(limits=LARGE if number % 3 == 2 else SMALL)
        found, exact, bound = product(device, precision, *size, ta, tb, bool(number % 2), gemm=gemm)
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
    """A kernel that rounded to another precision, or not at all, would break it. The numbers are subnormal in fp16."""
    found, exact, bound = product(EmulatedDevice(), precision, 33, 65, 70, False, True, False, other, 2.0**-12)
    assert (np.abs(found - exact) <= bound).all() == (other == precision)


def test_matrices_that_are_not_aligned():
    """They begin anywhere in a buffer, as parameters do: rows have multiples of 16 bytes, but begin at no multiple."""
    device, buffer = EmulatedDevice(), np.arange(2000, dtype=np.float32) % 64
    a, b = buffer[3 : 3 + 33 * 8].reshape(33, 8), buffer[1 : 1 + 7 * 8].reshape(7, 8)
    out = device.empty((33, 7), np.float32)
    TensorGemm(products_of(device, "fp16"))(a, b, out, tb=True)
    assert np.array_equal(out, a @ b.T)


def test_sizes_that_do_not_go_together():
    device = EmulatedDevice()
    a, b, out = (device.empty(shape, np.float32) for shape in ((2, 3), (3, 4), (2, 4)))
    with pytest.raises(ShapeError, match=r"expected \(2, 3\) and \(4, 3\), found \(2, 3\) and \(3, 4\)"):
        TensorGemm(products_of(device, "bf16"))(a, b, out, tb=True)


# ---- By a library ----


@pytest.mark.parametrize("count", [1, 2, 29, 511, 512, 513, 1025, 1537])
@pytest.mark.parametrize("precision", HALVES)
def test_words_are_the_nearest_numbers_bit_by_bit(precision, count):
    assert round_is_right(precision, count)


@pytest.mark.parametrize("site", [None, *sites(KERNELS / "gemm/round.cu")], ids=str)
def test_no_changed_sign_of_the_rounding_goes_unnoticed(site, tmp_path):
    """Each runs in a process of its own, which may crash where the kernel writes memory that is not its own."""
    folder = mutant("gemm/round.cu", site, tmp_path / "kernels") if site else KERNELS
    command = [sys.executable, ROOT / "tests/support/round_kernel.py", folder]
    run = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert (run.returncode == 0 and run.stdout == "True\n") == (site is None), run.stderr


@pytest.mark.parametrize("precision", HALVES)
def test_a_library_is_given_the_words_of_both_operands(precision):
    """Operands have any size, or the same, and lie anywhere in a buffer; words of earlier products are not taken."""
    device = TensorLibrary()
    gemm, generator = LibraryGemm(products_of(device, precision)), np.random.default_rng(1)
    for M, N, K in ((3, 3, 5), (5, 5, 3), (1, 1, 1), (7, 33, 15), (3, 3, 5)):
        buffer = generator.normal(size=M * K + K * N + 9).astype(np.float32)
        a, b = buffer[3 : 3 + M * K].reshape(M, K), buffer[M * K + 8 : M * K + 8 + K * N].reshape(K, N)
        gemm(a, b, device.empty((M, N), np.float32))
        name, *given = device.products[-1]
        assert name == precision
        for words, numbers in zip(given, (a, b), strict=True):
            assert words.dtype == np.uint16 and np.array_equal(words, bits_of(numbers, precision))


def test_a_matrix_times_itself_and_products_that_are_infinite():
    device = TensorLibrary()
    a, out = np.array([[1, 2.0**-9], [2.0**-9, 7e4]], np.float32), device.empty((2, 2), np.float32)
    LibraryGemm(products_of(device, "bf16"))(a, a, out)
    large = 70_144.0  # 7e4 in bf16
    expected = [[1 + 2.0**-18, 2.0**-9 + 2.0**-9 * large], [2.0**-9 + large * 2.0**-9, 2.0**-18 + large * large]]
    assert np.array_equal(out, np.array(expected, np.float32))
    LibraryGemm(products_of(device, "fp16"))(a, np.ones((2, 1), np.float32), out[:, :1].copy())
    assert device.products[-1][1][1, 1] == 0x7C00  # beyond fp16


@pytest.mark.parametrize(
    "sizes,by_library", [((8, 12, 4), True), ((8, 12, 5), False), ((8, 11, 4), False), ((7, 12, 4), True)]
)
def test_tf32_is_a_librarys_where_it_would_round(sizes, by_library):
    """Where rows are multiples of four numbers, a library gets them as they are; else our kernel multiplies."""
    device = TensorLibrary()
    (M, N, K), generator = sizes, np.random.default_rng(2)
    a, b = (generator.normal(size=shape).astype(np.float32) for shape in ((M, K), (K, N)))
    out = device.empty((M, N), np.float32)
    LibraryGemm(products_of(device, "tf32"))(a, b, out)
    exact = rounded(a, "tf32").astype(float) @ rounded(b, "tf32").astype(float)
    assert (np.abs(out - exact) <= K * EPS * (np.abs(a) @ np.abs(b))).all()
    assert len(device.products) == by_library
    for _, left, right in device.products:
        assert np.array_equal(left, a) and np.array_equal(right, b)


@pytest.mark.parametrize("precision", HALVES)
def test_what_is_prepared_is_rounded_once(precision, monkeypatch):
    device, rounds = TensorLibrary(), []
    gemm, generator = LibraryGemm(products_of(device, precision)), np.random.default_rng(3)
    kernel = gemm._round
    monkeypatch.setattr(gemm, "_round", lambda *sizes, **of: (rounds.append(of["numbers"]), kernel(*sizes, **of)))
    a, b, c = (generator.normal(size=shape).astype(np.float32) for shape in ((6, 4), (6, 5), (6, 3)))
    ready = gemm.prepared("here", a)
    for other in (b, c, b):
        out = device.empty((4, other.shape[1]), np.float32)
        gemm(ready, other, out, ta=True)
        exact = rounded(a, precision).astype(float).T @ rounded(other, precision).astype(float)
        assert np.array_equal(out, exact.astype(np.float32))
    assert [id(array) for array in rounds] == [id(array) for array in (a, b, c, b)]


def test_nothing_is_prepared_where_nothing_is_copied():
    device, array = TensorLibrary(), np.ones((4, 4), np.float32)
    for kind, precision in ((PlainGemm, "fp32"), (TensorGemm, "bf16"), (LibraryGemm, "tf32")):
        assert kind(products_of(device, precision)).prepared("here", array) is array


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_captured_product_rounds_what_is_there_when_it_is_replayed(precision):
    device = TensorLibrary()
    gemm, out = LibraryGemm(products_of(device, precision)), device.empty((4, 4), np.float32)
    a, b = np.zeros((4, 4), np.float32), np.eye(4, dtype=np.float32)
    replay = device.capture(lambda: gemm(a, b, out))
    assert np.isnan(out).all() and not device.products
    for seed in range(2):
        a[...] = np.random.default_rng(seed).normal(size=(4, 4))
        replay()
        assert np.array_equal(out, rounded(a, precision))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_device_without_a_library_has_our_kernel(precision):
    assert isinstance(gemm_of(products_of(EmulatedDevice(), precision)), TensorGemm)
    assert isinstance(gemm_of(products_of(TensorLibrary(), precision)), LibraryGemm)
    for device in (EmulatedDevice(), TensorLibrary()):
        assert isinstance(gemm_of(products_of(device, "fp32")), PlainGemm)
