"""Compiles and loads kernels/cpu/recurrence.cpp, and declares the structures that its functions take."""

import ctypes
import os
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np

from cuchar.devices import host_compiler
from cuchar.devices.kernel_sources import join
from cuchar.errors import DeviceError

FLAGS = [
    host_compiler.NATIVE,
    *"-std=c++20 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wno-unknown-pragmas".split(),
]
REAL = {"f": "float", "d": "double"}
loaded: dict[np.dtype, ctypes.CDLL] = {}  # the libraries that this process has loaded


class _Structure(ctypes.Structure):
    """A C structure of sizes, numbers and pointers to NumPy arrays. Its user must keep the arrays alive."""

    def point(self, **arrays: np.ndarray | None) -> None:
        for name, array in arrays.items():
            setattr(self, name, None if array is None else array.ctypes.data)


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Task(_Structure):
    """struct Task of kernels/cpu/layout.hpp, where its fields are described."""

    _fields_: ClassVar = [
        *_fields(ctypes.c_long, "V H L T B threads"),
        *_fields(ctypes.c_void_p, "parameters weights inputs targets h c gates masks dropped logits losses"),
        *_fields(ctypes.c_void_p, "dc token_sums gradients"),
        *_fields(ctypes.c_uint64, "seed step"),
        *_fields(ctypes.c_double, "dropout weight_dropout"),
        *_fields(ctypes.c_long, "first_row batch"),
    ]


class Update(_Structure):
    """struct Update of kernels/cpu/adam.hpp, where its fields are described."""

    _fields_: ClassVar = [
        *_fields(ctypes.c_long, "size threads"),
        *_fields(ctypes.c_void_p, "parameters gradients m v"),
        *_fields(ctypes.c_double, "beta1 beta2 epsilon step_size root decay clip"),
    ]


class Law(_Structure):
    """struct Law of kernels/cpu/draw.hpp, where its fields are described."""

    _fields_: ClassVar = [
        *_fields(ctypes.c_long, "is_exp argmax top_k"),
        *_fields(ctypes.c_double, "coldness top_p min_p"),
    ]


def load(dtype: np.dtype, notice: host_compiler.Notice = nullcontext) -> ctypes.CDLL:
    """The library of functions for float32 or float64, which is loaded once in a process.

    Args:
        notice: makes the context in which it is compiled, from a text that says whether the next run will find it.
    Raises:
        DeviceError: there is no compiler, it cannot compile the library, or `dtype` is another type.
    """
    if dtype not in loaded:
        if dtype.char not in REAL:
            raise DeviceError(f"expected float32 or float64, found {dtype}")
        source = join("cpu/recurrence.cpp", {"REAL": REAL[dtype.char]})
        library = host_compiler.load(host_compiler.build(source, FLAGS, "cpu", notice=notice))
        library.weights_size.restype, library.update.restype = ctypes.c_long, ctypes.c_double
        library.instructions.restype, library.multiply_add.restype = ctypes.c_char_p, ctypes.c_double
        loaded[dtype] = library
    return loaded[dtype]


def thread_count() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
