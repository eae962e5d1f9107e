"""What the CUDA engine asks of a device: cupy_device.py is a GPU, `cuchar.devices.emulator` stands in for one.

A device hands out C-ordered arrays of its own kind (CuPy's or NumPy's), compiles the
files of kernels/, launches them in order on one stream, and replays captured launches.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cuchar.errors import ShapeError


@dataclass(frozen=True)
class Limits:
    """What plan.py has to know of a device."""

    capability: int  # 90 is compute capability 9.0
    multiprocessors: int
    shared_bytes: int  # of one block, dynamic, opted in to
    registers: int = 65_536  # of one multiprocessor, and of one block

    @property
    def has_clusters(self) -> bool:
        return self.capability >= 90


class Kernel(Protocol):
    """`kernel(grid, block, *arguments)`; arguments are arrays of the device or NumPy scalars, which carry their width."""

    def __call__(self, grid: int, block: int, *arguments: Any, shared_bytes: int = 0) -> None: ...


class Device(Protocol):
    name: str
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


def check_arguments(name: str, arguments: tuple[Any, ...]) -> None:
    """Kernels ignore strides and know no Python numbers.

    Raises:
        ShapeError: an array that is not C-ordered, or a scalar without a width.
    """
    for number, argument in enumerate(arguments):
        if hasattr(argument, "flags") and hasattr(argument, "shape") and argument.shape != ():
            if not argument.flags.c_contiguous:
                raise ShapeError(
                    f"{name}: argument {number}: expected a C-ordered array, found strides {argument.strides}"
                )
        elif not isinstance(argument, np.generic):
            raise ShapeError(f"{name}: argument {number}: expected an array or a NumPy scalar, found {argument!r}")


def product_sizes(a: Any, b: Any, out: Any, ta: bool, tb: bool) -> tuple[int, int, int]:
    """M, N and K of `Device.gemm`.

    Raises:
        ShapeError: sizes that do not go together.
    """
    (M, N), K = out.shape, a.shape[0 if ta else 1]
    expected = (K, M) if ta else (M, K), (N, K) if tb else (K, N)
    if (a.shape, b.shape) != expected:
        raise ShapeError(f"gemm: expected {expected[0]} and {expected[1]}, found {a.shape} and {b.shape}")
    return M, N, K
