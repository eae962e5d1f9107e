"""What the CUDA engine asks of a device. cupy_device.py is a GPU, and `cuchar.devices.emulator` stands in for one.

A device hands out C-ordered arrays of its own kind (CuPy's or NumPy's), compiles the
files of kernels/, launches them in order on one stream, and replays captured launches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cuchar.errors import ShapeError
from cuchar.sizes import ceil_div

# Registers are allocated as if a block's threads were a multiple of this: a multiprocessor has four quarters, each with
# a quarter of the registers, and a block's warps are dealt to them in turn.
REGISTER_UNIT = 128
MOST_REGISTERS = 255  # registers that a thread can have
MOST_THREADS = 1024  # threads that a block can have


@dataclass(frozen=True)
class Limits:
    """What a device has to offer: it decides which kernels run, and how they are divided (engines/cuda/regimes.py)."""

    capability: int  # 90 is compute capability 9.0
    multiprocessors: int
    shared_bytes: int  # dynamic shared memory that a block gets if it asks for it
    registers: int = 65_536  # registers of a multiprocessor; a block can have all of them

    @property
    def has_clusters(self) -> bool:
        return self.capability >= 90

    def take(self, threads: int, registers: int, shared_bytes: int) -> bool:
        """Whether a multiprocessor can run a block.

        Args:
            threads: threads of the block.
            registers: registers of each thread.
            shared_bytes: shared memory of the block.
        """
        warps = REGISTER_UNIT * ceil_div(threads, REGISTER_UNIT)
        held = warps * 8 * ceil_div(registers, 8)
        enough = held <= self.registers and shared_bytes <= self.shared_bytes
        return enough and registers <= MOST_REGISTERS and threads <= MOST_THREADS


class Kernel(Protocol):
    """A compiled kernel. Its arguments are passed by the names of its parameters (`Signature.bind`)."""

    def __call__(self, grid: int, block: int, shared_bytes: int = 0, **arguments: Any) -> None:
        """Launch the kernel.

        Args:
            grid: how many blocks are launched.
            block: threads of each block.
            shared_bytes: dynamic shared memory of each block.
            arguments: arrays of the device, numbers, or None for a null pointer.
        Raises:
            ShapeError: an argument is missing, unknown, or not what the parameter takes.
        """


class Device(Protocol):
    name: str
    option: str  # its name as `--device` takes it
    limits: Limits
    has_tensor_library: bool  # whether `gemm` takes a precision other than fp32

    def empty(self, shape: Any, dtype: np.typing.DTypeLike) -> Any: ...

    def write(self, array: Any, host: np.ndarray) -> None:
        """Copy `host` into `array`, which has the same shape and type."""

    def read(self, array: Any) -> np.ndarray:
        """Wait until everything launched before is done, and return a copy of `array` on the host."""

    def kernels(self, file: str, macros: Mapping[str, int | str], cooperative: bool = False) -> Mapping[str, Kernel]:
        """Compile a file of kernels/, and return its kernels by name.

        Args:
            file: the file's path in kernels/, such as "training/adam.cu".
            macros: are defined before the file. The macro CLUSTER is also the number of blocks in a cluster.
            cooperative: whether all blocks of a launch must run at once.
        Raises:
            DeviceError: the file does not compile.
        """

    def gemm(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False,
        precision: str = "fp32",
    ) -> None:  # fmt: skip
        """out [M, N] = op(a) [M, K] times op(b) [K, N].

        Args:
            a, b: the operands, of the type of `out`. In bf16 and fp16, uint16 arrays of the numbers' bits.
            out: receives the product; float32 in any precision but fp32, where it may also be float64.
            ta, tb: whether op transposes `a`, and `b`.
            accumulate: add the product to `out` instead of replacing it.
            precision: fp32, or tf32, which rounds the operands, or bf16 or fp16, which says what they are.
        Raises:
            ShapeError: sizes, types or the order of the arrays do not fit together.
        """

    def put(self, work: Callable[[], None], in_graph: bool) -> None:
        """Do `work` in its turn among the launches; while capturing, record it as one of them.

        Args:
            work: uses the arrays of this device and its stream. It may read and write arrays if it is not in a graph.
            in_graph: whether CUDA can make it a part of a graph. If not, what is captured with it is repeated launch by
                launch.
        """

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the launches, products and `put` work that `work` asks for, and return a call that does them.

        Raises:
            DeviceError: `work` reads or writes an array, or captures by itself.
        """

    def free_bytes(self) -> int:
        """Bytes of memory that can still be allocated."""

    def held_bytes(self) -> int | None:
        """The most bytes of a GPU's memory that this process ever took; None where arrays lie in the host's memory."""

    def elapsed_ms(self, work: Callable[[], Any]) -> float | None:
        """Do `work`, and return how long the GPU took by its own clock; None where there is no such clock."""


def product_sizes(a: Any, b: Any, out: Any, ta: bool, tb: bool) -> tuple[int, int, int]:
    """M, N and K of a product by `Device.gemm`.

    Raises:
        ShapeError: the arrays' sizes do not fit together, or an array is not C-ordered.
    """
    (M, N), K = out.shape, a.shape[0 if ta else 1]
    expected = (K, M) if ta else (M, K), (N, K) if tb else (K, N)
    if (a.shape, b.shape) != expected:
        raise ShapeError(f"gemm: expected {expected[0]} and {expected[1]}, found {a.shape} and {b.shape}")
    for name, array in (("a", a), ("b", b), ("out", out)):
        if not array.flags.c_contiguous:
            raise ShapeError(f"gemm: {name}: expected a C-ordered array, found strides {array.strides}")
    return M, N, K
