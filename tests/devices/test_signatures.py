"""A kernel's arguments are held against the parameter list of its own source."""

import numpy as np
import pytest

from cuchar.devices.kernel_sources import join, kernel_folder
from cuchar.devices.signatures import NULL, signatures
from cuchar.errors import DeviceError, ShapeError

SOURCE = """
#define REAL double
#line 1 "somewhere.cu"
#ifndef REAL
#define REAL float
#endif
using real = REAL;  // the first definition is the one that counts
extern "C" __global__ void __launch_bounds__(32 * 4, 1) CLUSTER_DIMS tried(
    real* out, const unsigned char* bytes, const Step* steps, int n, unsigned long long
    large, real factor) {
}
extern "C" __global__ void other(float* out) {
}
"""
FITTING = {
    "out": np.zeros(3), "bytes": np.zeros((2, 2), np.uint8), "steps": np.zeros((5, 7), np.int16), "n": 3, "large": 1 << 63,
    "factor": 2,
}  # fmt: skip


def test_arguments_come_in_the_parameters_order_with_their_widths():
    found = signatures(SOURCE)
    assert list(found) == ["tried", "other"]
    bound = found["tried"].bind(dict(reversed(FITTING.items())))
    assert all(one is FITTING[name] for one, name in zip(bound, ("out", "bytes", "steps"), strict=False))
    assert bound[3:] == (3, 1 << 63, 2.0)
    assert [type(one) for one in bound[3:]] == [np.int32, np.uint64, np.float64]


@pytest.mark.parametrize(
    "value,bound", [(True, 1), (np.uint8(200), 200), (np.int64(-3), -3), (np.array(5), 5)], ids=repr
)
def test_any_integer_that_fits_is_one(value, bound):
    found = signatures(SOURCE)["tried"].bind(FITTING | {"n": value})[3]
    assert found == bound and type(found) is np.int32


def test_none_is_a_null_pointer():
    out, _, steps, *_ = signatures(SOURCE)["tried"].bind(FITTING | {"out": None, "steps": None})
    assert out is steps is NULL and NULL.tobytes() == bytes(8)


NAMES = "out, bytes, steps, n, large, factor"


@pytest.mark.parametrize(
    "wrong,message",
    [
        ({"n": 2.5}, "n: expected int32, found 2.5"),
        ({"n": np.float32(2)}, "n: expected int32, found np.float32(2.0)"),
        ({"n": 1 << 31}, "n: expected int32, found 2147483648"),
        ({"n": None}, "n: expected int32, found None"),
        ({"n": np.zeros(2, np.int32)}, "n: expected int32, found an array of int32"),
        ({"large": -1}, "large: expected uint64, found -1"),
        ({"factor": "much"}, "factor: expected float64, found 'much'"),
        ({"factor": np.zeros(2)}, "factor: expected float64, found an array of float64"),
        ({"out": np.zeros(3, np.float32)}, "out: expected an array of float64, found an array of float32"),
        ({"out": np.float64(1)}, "out: expected an array of float64, found np.float64(1.0)"),
        ({"bytes": 7}, "bytes: expected an array of uint8, found 7"),
        ({"bytes": np.zeros((2, 3), np.uint8).T}, "bytes: expected a C-ordered array, found strides (1, 3)"),
        ({"steps": 7}, "steps: expected an array, found 7"),
        ({"steps": np.zeros((4, 4))[:, 1:]}, "steps: expected a C-ordered array, found strides (32, 8)"),
        ({"more": 1}, f"expected arguments {NAMES}, found {NAMES}, more"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_kernel_would_misread_is_named(wrong, message):
    with pytest.raises(ShapeError) as caught:
        signatures(SOURCE)["tried"].bind(FITTING | wrong)
    assert str(caught.value) == f"tried: {message}"


@pytest.mark.parametrize("left", [(), ("out", "factor"), ("n",)], ids=str)
def test_a_missing_name_is_an_error_that_lists_what_was_given(left):
    with pytest.raises(ShapeError) as caught:
        signatures(SOURCE)["tried"].bind({name: FITTING[name] for name in left})
    assert str(caught.value) == f"tried: expected arguments {NAMES}, found {', '.join(left) or 'none'}"


def test_an_argument_by_a_wrong_name_is_refused():
    given = {"m" if name == "n" else name: value for name, value in FITTING.items()}
    with pytest.raises(ShapeError, match=r"found out, bytes, steps, m, large, factor$"):
        signatures(SOURCE)["tried"].bind(given)


@pytest.mark.parametrize("declaration", ["Step step", "int (*pointer)[3]", "half* x, __half y", "float& x", ""])
def test_parameters_of_other_kinds_are_refused_when_they_are_compiled(declaration):
    with pytest.raises(DeviceError, match=r"^odd: expected parameters that are pointers or numbers, found "):
        signatures(f'extern "C" __global__ void odd({declaration}) {{')


def test_every_kernel_has_a_signature():
    """No kernel is overlooked, whatever stands between `void` and its name."""
    for path in kernel_folder().rglob("*.cu"):
        file = path.relative_to(kernel_folder()).as_posix()
        assert len(signatures(join(file, {}))) == path.read_text().count('extern "C" __global__') > 0, file
