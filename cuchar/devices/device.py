"""What the CUDA engine asks of a device: cupy_device.py is a GPU, `cuchar.devices.emulator` stands in for one.

A device hands out C-ordered arrays of its own kind (CuPy's or NumPy's), compiles the
files of kernels/, launches them in order on one stream, and replays captured launches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cuchar.errors import ShapeError
from cuchar.sizes import ceil_div

REGISTER_UNIT = 128  # threads: four parts of a multiprocessor have a quarter of its registers and of a block's warps
MOST_REGISTERS, MOST_THREADS = 255, 1024  # of a thread; of a block


@dataclass(frozen=True)
class Limits:
    """What decides which kernels run on a device, and how they are divided (engines/cuda/regimes.py)."""

    capability: int  # 90 is compute capability 9.0
    multiprocessors: int
    shared_bytes: int  # of one block, dynamic, opted in to
    registers: int = 65_536  # of one multiprocessor, and of one block

    @property
    def has_clusters(self) -> bool:
        return self.capability >= 90

    def take(self, threads: int, registers: int, shared_bytes: int) -> bool:
        """Whether a multiprocessor takes a block of so many threads, registers of each thread, and bytes."""
        warps = REGISTER_UNIT * ceil_div(threads, REGISTER_UNIT)
        held = warps * 8 * ceil_div(registers, 8)
        enough = held <= self.registers and shared_bytes <= self.shared_bytes
        return enough and registers <= MOST_REGISTERS and threads <= MOST_THREADS


class Kernel(Protocol):
    """A compiled kernel. What it is launched with goes by the names of its parameters: `Signature.bind`."""

    def __call__(self, grid: int, block: int, shared_bytes: int = 0, **arguments: Any) -> None:
        """
        Args:
            grid, block: blocks, and threads of each.
            shared_bytes: of dynamic shared memory, for each block.
            arguments: arrays of the device, numbers, or None for a pointer to nothing.
        """


class Device(Protocol):
    name: str
    option: str  # what it is called after --device
    limits: Limits
    has_tensor_library: bool  # whether `gemm` takes a precision other than fp32

    def empty(self, shape: Any, dtype: np.typing.DTypeLike) -> Any: ...

    def write(self, array: Any, host: np.ndarray) -> None:
        """Copy `host` into `array`, of the same shape and type."""

    def read(self, array: Any) -> np.ndarray:
        """A copy of `array` on the host, once everything before it is done."""

    def kernels(self, file: str, macros: Mapping[str, int | str], cooperative: bool = False) -> Mapping[str, Kernel]:
        """Every kernel of a file in kernels/, compiled with `macros`; CLUSTER is also the blocks of a cluster."""

    def gemm(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False,
        precision: str = "fp32",
    ) -> None:  # fmt: skip
        """out [M, N] = op(a) [M, K] times op(b) [K, N], op transposing where asked; plus `out` itself if `accumulate`.

        Args:
            a, b: of the type of `out`; for bf16 and fp16 uint16 arrays of their bits, with a float32 `out`.
            precision: tf32 rounds the operands to it.
        """

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """The launches and products that `work` makes, unmade, as one call that makes them."""

    def free_bytes(self) -> int:
        """Memory that can still be had."""

    def held_bytes(self) -> int | None:
        """The most of a GPU's memory that was ever taken; None where memory is the host's."""

    def elapsed_ms(self, work: Callable[[], Any]) -> float | None:
        """Do `work`, and say by the GPU's clock how long the GPU took; None where there is no such clock."""


def product_sizes(a: Any, b: Any, out: Any, ta: bool, tb: bool) -> tuple[int, int, int]:
    """M, N and K of `Device.gemm`.

    Raises:
        ShapeError: sizes that do not go together, or an array that is not C-ordered.
    """
    (M, N), K = out.shape, a.shape[0 if ta else 1]
    expected = (K, M) if ta else (M, K), (N, K) if tb else (K, N)
    if (a.shape, b.shape) != expected:
        raise ShapeError(f"gemm: expected {expected[0]} and {expected[1]}, found {a.shape} and {b.shape}")
    for name, array in (("a", a), ("b", b), ("out", out)):
        if not array.flags.c_contiguous:
            raise ShapeError(f"gemm: {name}: expected a C-ordered array, found strides {array.strides}")
    return M, N, K
