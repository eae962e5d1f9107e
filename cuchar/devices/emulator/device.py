"""The device that kernels run on where there is no GPU. Its arrays are NumPy arrays."""

import ctypes
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np

from cuchar.devices.device import MOST_THREADS, Kernel, Limits, product_sizes
from cuchar.devices.emulator.compiler import HERE, Sanitize, load
from cuchar.devices.host_compiler import Notice
from cuchar.devices.kernel_sources import join
from cuchar.devices.signatures import Signature, signatures
from cuchar.errors import DeviceError

SCHEDULES = ("forward", "reverse", "shuffled")
H100 = Limits(capability=90, multiprocessors=132, shared_bytes=232_448)
MOST_RESIDENT = 2048  # threads that a multiprocessor runs at once
MOST_FIBERS = 8000  # fibers that ThreadSanitizer can follow at once


class _Launch(ctypes.Structure):
    """struct Launch of runtime.hpp."""

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
        seed: decides the shuffled order.
        sanitize: "address" (which also finds undefined behaviour) or "thread". The process must have been started with
            `sanitizer_environment`.
        limits: those of the GPU that is emulated.
        memory_bytes: what `free_bytes` returns; by default the machine's available memory.
        notice: makes the context in which something is compiled, from a text that says whether the next run will find it.
    """

    name, option = "emulator", "emulate"
    has_tensor_library = False

    def __init__(
        self,
        schedule: Literal["forward", "reverse", "shuffled"] = "forward",
        seed: int = 0,
        sanitize: Sanitize | None = None,
        limits: Limits = H100,
        memory_bytes: int | None = None,
        notice: Notice = nullcontext,
    ):
        self.limits = limits
        self._schedule, self._seed, self._sanitize = SCHEDULES.index(schedule), seed, sanitize
        self._memory_bytes, self._notice = memory_bytes, notice
        self._captured: list[Callable[[], None]] | None = None

    def empty(self, shape: Any, dtype: np.typing.DTypeLike) -> np.ndarray:
        """An array full of 0xff bytes, which are NaN as floating-point numbers and -1 as integers."""
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
        source = join(file, macros, overlay=HERE)
        return self._compile(source, file, int(macros.get("CLUSTER", 1)), cooperative)

    def compile(
        self, source: str, file: str = "source.cu", cluster: int = 1, cooperative: bool = False
    ) -> Mapping[str, Kernel]:
        """Compile a source text and return its kernels by name.

        Args:
            source: CUDA C++; it may include hardware.cuh.
            file: the source's name in error messages.
            cluster: blocks of a cluster.
            cooperative: whether all blocks of a launch must run at once.
        """
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

        self.put(multiply, in_graph=False)

    def put(self, work: Callable[[], None], in_graph: bool) -> None:
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

    def held_bytes(self) -> None:
        return None

    def elapsed_ms(self, work: Callable[[], Any]) -> None:
        work()

    def _not_while_capturing(self, what: str) -> None:
        if self._captured is not None:
            raise DeviceError(f"{what}: expected only launches while capturing")

    def _compile(self, source: str, file: str, cluster: int, cooperative: bool) -> Mapping[str, Kernel]:
        found = signatures(source)
        exported = "".join(f"EMULATE({name}, {signature.declarations})\n" for name, signature in found.items())
        library = load(source + exported, self._sanitize, self._notice)
        return {name: self._kernel(library, signature, cluster, cooperative) for name, signature in found.items()}

    def _kernel(self, library: ctypes.CDLL, signature: Signature, cluster: int, cooperative: bool) -> Kernel:
        name = signature.kernel
        function = library[f"launch_{name}"]
        function.restype, function.argtypes = ctypes.c_bool, [ctypes.POINTER(_Launch)]

        def launch(grid: int, block: int, shared_bytes: int = 0, **arguments: Any) -> None:
            bound = signature.bind(arguments)
            self._check_sizes(name, grid, block, shared_bytes, cluster, cooperative)

            def work() -> None:
                message = ctypes.create_string_buffer(4096)
                fields = _Launch(
                    grid, block, cluster, cooperative, shared_bytes, self._schedule, self._seed, os.cpu_count() or 1,
                    b"".join(map(_slot, bound)), ctypes.cast(message, ctypes.c_char_p), len(message),
                )  # fmt: skip
                if function(fields):
                    raise DeviceError(f"{name}: {message.value.decode()}")

            self.put(work, in_graph=True)

        return launch

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


def _slot(argument: Any) -> bytes:
    """An argument as the eight bytes from which the library reads it."""
    value = argument.ctypes.data.to_bytes(8, "little") if isinstance(argument, np.ndarray) else argument.tobytes()
    return value.ljust(8, b"\0")
