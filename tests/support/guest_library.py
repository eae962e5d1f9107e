"""The C++ engine on a processor that this machine does not have: each call runs in a program for it, under QEMU.

A cross compiler builds the engine's library as the machine's own compiler would. guest.cpp loads it and tells how calls
and answers are written.
"""

import ctypes
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cuchar.devices import host_compiler
from cuchar.engines.cpu import engine as cpu_engine
from cuchar.engines.cpu import library as cpu_library

QEMU, COMPILER = "qemu-aarch64", "aarch64-linux-gnu-g++"  # of Debian's qemu-user and g++-aarch64-linux-gnu
PROCESSOR = "-march=armv8-a"  # what every 64-bit processor by Arm can do
KINDS = {ctypes.c_int: 0, ctypes.c_long: 0, ctypes.c_double: 1, ctypes.c_char_p: 2}  # what guest.cpp calls them
SECONDS = "300"  # after which a guest is ended, for instance because its threads wait for ever


class GuestFunction:
    """A function of a library that a guest has loaded. It is called like a ctypes function."""

    restype: Any = ctypes.c_int

    def __init__(self, guest: subprocess.Popen, name: str):
        self._guest, self._name = guest, name

    def __call__(self, *arguments: Any) -> Any:
        """Arguments are byref(structure), C integers, and c_void_p of arrays that one of the structures points to.

        `sample` has one array more, its last argument, which takes its draws, [count, B].
        """
        structures = [argument._obj for argument in arguments if hasattr(argument, "_obj")]
        words = (ctypes.c_int64 * 8)(*map(_word, arguments))
        given = [array for structure in structures for array in getattr(structure, "arrays", {}).values()]
        arrays = {array.ctypes.data: array.nbytes for array in given if array is not None}
        if self._name == "sample":
            arrays[arguments[-1].value] = 4 * arguments[5].value * structures[0].B
        holders = [words, *structures]  # the blocks in which a word that is the address of a block is a pointer
        addresses = [*map(ctypes.addressof, holders), *arrays]
        blocks = [*map(bytes, holders), *(ctypes.string_at(at, size) for at, size in arrays.items())]
        pointers = [
            (block, 8 * place, addresses.index(word))
            for block, holder in enumerate(holders)
            for place, word in enumerate(np.frombuffer(holder, np.int64))
            if word in addresses
        ]
        call = [struct.pack("32s3q", self._name.encode(), KINDS[self.restype], len(blocks), len(pointers))]
        call += [struct.pack("q", len(block)) + block for block in blocks]
        call += [struct.pack("3q", *pointer) for pointer in pointers]
        self._guest.stdin.write(b"".join(call))
        self._guest.stdin.flush()
        result, *after = (self._guest.stdout.read(size) for size in (8, *map(len, blocks)))
        assert len(after[-1]) == len(blocks[-1]), f"{self._name}: the guest has ended"
        for at, block in zip(arrays, after[len(holders) :], strict=True):
            ctypes.memmove(at, block, len(block))
        return result.rstrip(b"\0") if self.restype is ctypes.c_char_p else self.restype.from_buffer_copy(result).value


def _word(argument: Any) -> int:
    return ctypes.addressof(argument._obj) if hasattr(argument, "_obj") else argument.value


class GuestLibrary:
    """What `host_compiler.load` returns, a ctypes.CDLL, but the library is loaded in a guest."""

    def __init__(self, guest: subprocess.Popen):
        self._guest = guest

    def __getattr__(self, name: str) -> GuestFunction:
        setattr(self, name, GuestFunction(self._guest, name))
        return getattr(self, name)


def _point(structure: Any, **arrays: np.ndarray | None) -> None:
    """`point` of a structure, which here keeps the arrays too: the structure itself has no array's size."""
    structure.arrays = {**getattr(structure, "arrays", {}), **arrays}
    for name, array in arrays.items():
        setattr(structure, name, None if array is None else array.ctypes.data)


@contextmanager
def neon(folder: Path, threads: int) -> Iterator[None]:
    """Every CpuEngine that is made in this context computes with NEON, on `threads` threads.

    Args:
        folder: for the guest's program.
    """
    program = folder / "guest"
    subprocess.run([COMPILER, "-std=c++20", Path(__file__).with_name("guest.cpp"), "-o", program], check=True)
    found = subprocess.run([COMPILER, "-print-file-name=libc.so.6"], check=True, capture_output=True, text=True).stdout
    system = Path(found.strip()).resolve().parent.parent  # the folder in whose lib/ that processor's C library is

    with ExitStack() as guests, pytest.MonkeyPatch.context() as patch:

        def load(library: Path) -> GuestLibrary:
            command = ["timeout", SECONDS, QEMU, "-L", system, program, library]
            guest = guests.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            return GuestLibrary(guest)

        patch.setenv("CXX", COMPILER)
        patch.setattr(host_compiler, "NATIVE", PROCESSOR)
        patch.setattr(host_compiler, "load", load)
        patch.setattr(cpu_library, "FLAGS", [PROCESSOR, *cpu_library.FLAGS[1:]])
        patch.setattr(cpu_library, "loaded", {})
        patch.setattr(cpu_library._Structure, "point", _point)
        patch.setattr(cpu_engine, "thread_count", lambda: threads)
        patch.setattr(cpu_engine, "PRODUCTS_A_THREAD", 1)
        patch.setattr(cpu_engine, "PRODUCTS_OF_A_STEP", 1)
        yield
