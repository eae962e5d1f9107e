"""The device that kernels run on where there is no GPU. Its arrays are NumPy's."""

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from cuchar.devices.device import Kernel, Limits, check_arguments, product_sizes
from cuchar.devices.emulator import compiler
from cuchar.devices.kernel_sources import join, kernel_names
from cuchar.errors import DeviceError

SCHEDULES = ("forward", "reverse", "shuffled")
H100 = Limits(capability=90, multiprocessors=132, shared_bytes=232_448)
MOST_THREADS = 1024  # of a block
MOST_RESIDENT = 2048  # threads of a multiprocessor
MOST_FIBERS = 8000  # that ThreadSanitizer takes at once


class _Launch(ctypes.Structure):
    """`Launch` in runtime.hpp."""

    _fields_ = [
        *(
            (name, ctypes.c_uint)
            for name in "grid block cluster cooperative shared_bytes schedule seed workers".split()
        ),
        ("arguments", ctypes.c_char_p),
        ("message", ctypes.c_char_p),
        ("message_bytes", ctypes.c_uint),
    ]


class EmulatedDevice:
    """A device of host threads.

    Args:
        schedule: the order in which threads run between barriers.
        seed: of the shuffled order, which is the same for the same seed.
        sanitize: "address" (with undefined behaviour) or "thread", in a process with `sanitizer_environment`.
        limits: of the GPU that it stands for.
        memory_bytes: what `free_bytes` says; by default what the machine has.
        notice: called before something is compiled, with what becomes of it.
    """

    name = "emulator"
    has_tensor_library = False

    def __init__(
        self,
        schedule: Literal["forward", "reverse", "shuffled"] = "forward",
        seed: int = 0,
        sanitize: compiler.Sanitize | None = None,
        limits: Limits = H100,
        memory_bytes: int | None = None,
        notice: Callable[[str], None] = lambda kept: None,
    ):
        self.limits = limits
        self._schedule, self._seed, self._sanitize = SCHEDULES.index(schedule), seed, sanitize
        self._memory_bytes, self._notice = memory_bytes, notice
        self._captured: list[Callable[[], None]] | None = None

    def empty(self, shape: Any, dtype: np.typing.DTypeLike) -> np.ndarray:
        """Full of 0xff bytes: NaN, or -1."""
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(0xFF)
        return array

    def write(self, array: np.ndarray, host: np.ndarray) -> None:
        self._not_while_capturing("write")
        array[...] = host

    def read(self, array: np.ndarray) -> np.ndarray:
        self._not_while_capturing("read")
        return array.copy()

    def kernels(self, file: str, macros: Mapping[str, int | str], cooperative: bool = False) -> Mapping[str, Kernel]:
        source = join(file, macros, overlay=compiler.HERE)
        return self._compile(source, file, int(macros.get("CLUSTER", 1)), cooperative)

    def compile(
        self, source: str, file: str = "source.cu", cluster: int = 1, cooperative: bool = False
    ) -> Mapping[str, Kernel]:
        """Every kernel of a source text, which messages call `file`; it may include hardware.cuh."""
        return self._compile(f'#line 1 "{file}"\n{source}\n', file, cluster, cooperative)

    def gemm(
        self,
        a: np.ndarray,
        b: np.ndarray,
        out: np.ndarray,
        *,
        ta: bool = False,
        tb: bool = False,
        accumulate: bool = False,
        precision: str = "fp32",
    ) -> None:
        if precision != "fp32":
            raise DeviceError(f"expected a product in fp32 from NumPy, found {precision}")
        product_sizes(a, b, out, ta, tb)
        a, b = a.T if ta else a, b.T if tb else b

        def multiply() -> None:
            if accumulate:
                out[...] += a @ b
            else:
                np.matmul(a, b, out=out)

        self._put(multiply)

    def _put(self, work: Callable[[], None]) -> None:
        """Done now, or put to what is being captured."""
        if self._captured is None:
            work()
        else:
            self._captured.append(work)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._not_while_capturing("capture")
        launches: list[Callable[[], None]] = []
        self._captured = launches
        try:
            work()
        finally:
            self._captured = None

        def replay() -> None:
            for launch in launches:
                launch()

        return replay

    def free_bytes(self) -> int:
        if self._memory_bytes is not None:
            return self._memory_bytes
        pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")

    def _not_while_capturing(self, what: str) -> None:
        if self._captured is not None:
            raise DeviceError(f"{what}: expected only launches while capturing")

    def _compile(self, source: str, file: str, cluster: int, cooperative: bool) -> Mapping[str, Kernel]:
        names = kernel_names(source)
        whole = source + "".join(f"EMULATE({name}, {_parameter_list(source, name)})\n" for name in names)
        library = compiler.load(whole, self._sanitize, self._notice)
        return {name: self._kernel(library, name, cluster, cooperative) for name in names}

    def _kernel(self, library: ctypes.CDLL, name: str, cluster: int, cooperative: bool) -> Kernel:
        signature = library[f"signature_{name}"]
        signature.restype = ctypes.c_char_p
        parameters = _parameters(signature().decode())
        function = library[f"launch_{name}"]
        function.restype, function.argtypes = ctypes.c_bool, [ctypes.POINTER(_Launch)]

        def kernel(grid: int, block: int, *arguments: Any, shared_bytes: int = 0) -> None:
            check_arguments(name, arguments)
            _check_types(name, parameters, arguments)
            self._check_sizes(name, grid, block, shared_bytes, cluster, cooperative)

            def launch() -> None:
                message = ctypes.create_string_buffer(4096)
                fields = _Launch(
                    grid, block, cluster, cooperative, shared_bytes, self._schedule, self._seed, os.cpu_count() or 1,
                    b"".join(map(_slot, arguments)), ctypes.cast(message, ctypes.c_char_p), len(message),
                )  # fmt: skip
                if function(fields):
                    raise DeviceError(f"{name}: {message.value.decode()}")

            self._put(launch)

        return kernel

    def _check_sizes(
        self, name: str, grid: int, block: int, shared_bytes: int, cluster: int, cooperative: bool
    ) -> None:
        if grid < 1 or grid % cluster:
            raise DeviceError(f"{name}: expected a positive multiple of {cluster} blocks, found {grid}")
        if not 1 <= block <= MOST_THREADS:
            raise DeviceError(f"{name}: expected 1 to {MOST_THREADS} threads a block, found {block}")
        if not 0 <= shared_bytes <= self.limits.shared_bytes:
            raise DeviceError(f"{name}: expected at most {self.limits.shared_bytes} bytes shared, found {shared_bytes}")
        most = self.limits.multiprocessors * (MOST_RESIDENT // block)
        if cooperative and grid > most:
            raise DeviceError(f"{name}: expected at most {most} blocks at once, found {grid}")
        if self._sanitize == "thread" and grid * block > MOST_FIBERS:
            raise DeviceError(
                f"{name}: expected at most {MOST_FIBERS} threads with ThreadSanitizer, found {grid * block}"
            )


def _parameter_list(source: str, kernel: str) -> str:
    found = re.search(rf'extern "C" __global__ [^;{{]*\b{kernel}\(([^()]*)\)\s*{{', source)
    if not found:
        raise DeviceError(f"{kernel}: expected a kernel's parameters, without parentheses")
    return found[1]


def _slot(argument: Any) -> bytes:
    """An argument as the eight bytes that the kernel's side reads it from."""
    value = argument.ctypes.data.to_bytes(8, "little") if isinstance(argument, np.ndarray) else argument.tobytes()
    return value.ljust(8, b"\0")


def _parameters(signature: str) -> list[tuple[bool, str, int]]:
    """Of each parameter: is it a pointer; float, integer or neither; bytes. See `signature` in runtime.hpp."""
    count = len(signature) // 3
    columns = (signature[i * count : (i + 1) * count] for i in range(3))
    return [(mark == "*", kind, int(width)) for mark, kind, width in zip(*columns, strict=True)]


def _check_types(name: str, parameters: list[tuple[bool, str, int]], arguments: tuple[Any, ...]) -> None:
    if len(arguments) != len(parameters):
        raise DeviceError(f"{name}: expected {len(parameters)} arguments, found {len(arguments)}")
    for number, ((pointer, kind, width), argument) in enumerate(zip(parameters, arguments, strict=True)):
        array, dtype = isinstance(argument, np.ndarray), argument.dtype
        if pointer and dtype == np.uint64 and not array and argument == 0:
            continue  # a null pointer
        found = ("f" if dtype.kind == "f" else "i", dtype.itemsize)
        # A pointer to what is no number takes any array; 16-bit floats travel as integers.
        if array != pointer or (kind != "?" and found != (kind, width) and not width == found[1] == 2):
            expected = f"{'float' if kind == 'f' else 'int'}{8 * width}" if kind != "?" else "any"
            raise DeviceError(
                f"{name}: argument {number}: expected {expected} {'array' if pointer else 'scalar'}, "
                f"found {dtype} {'array' if array else 'scalar'}"
            )
