"""Products of matrices by cuBLAS, called so that CUDA can capture them in a graph: CuPy's own calls refuse to be."""

import ctypes
import weakref
from typing import Any

import numpy as np

# For each precision the arguments of cublasGemmEx: cudaDataType of the operands, cudaDataType of the result,
# cublasComputeType, and an array of 0 and 1 in the type of alpha and beta. 69 and 71 are the pedantic compute types of
# fp32 and fp64: with them cuBLAS does not round fp32 to tf32, even if an environment variable allows that.
_SCALARS, _DOUBLE_SCALARS = np.array([0, 1], np.float32), np.array([0, 1], np.float64)
GEMM_TYPES: dict[str, tuple[int, int, int, np.ndarray]] = {
    "fp64": (1, 1, 71, _DOUBLE_SCALARS), "fp32": (0, 0, 69, _SCALARS), "tf32": (0, 0, 77, _SCALARS),
    "fp16": (2, 0, 68, _SCALARS), "bf16": (14, 0, 68, _SCALARS),
}  # fmt: skip
WORKSPACE_BYTES = 32 << 20  # NVIDIA's advice for its latest GPUs: "cublasSetWorkspace()" in cuBLAS's documentation
DEFAULT_ALGORITHM = -1
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cublasCreate_v2": (_POINTER,),
    "cublasDestroy_v2": (_POINTER,),
    "cublasSetStream_v2": (_POINTER, _POINTER),
    "cublasSetWorkspace_v2": (_POINTER, _POINTER, ctypes.c_size_t),
    # handle, two operations, M, N, K, alpha, A with its type and row length, B with these, beta, C with these, compute
    # type, algorithm
    "cublasGemmEx": (
        _POINTER, _INT, _INT, _INT, _INT, _INT, _POINTER, _POINTER, _INT, _INT, _POINTER, _INT, _INT, _POINTER,
        _POINTER, _INT, _INT, _INT, _INT,
    ),
}  # fmt: skip


class Cublas:
    """cuBLAS on one stream, with a workspace of its own, since a captured call may not take memory.

    Args:
        library: CuPy's module that is linked to cuBLAS; its functions are called past it.
        device: a context in which CuPy works on the stream's device.
        stream: CuPy's.
        workspace: an array of WORKSPACE_BYTES on the device.
    Raises:
        RuntimeError: cuBLAS does not start, or (`gemm`) does not multiply.
    """

    def __init__(self, library: Any, device: Any, stream: Any, workspace: Any):
        linked = open_library(library)
        self._functions = {name: getattr(linked, name) for name in PROTOTYPES}
        for name, types in PROTOTYPES.items():
            self._functions[name].argtypes, self._functions[name].restype = types, _INT
        handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(handle))
        self._handle = handle.value
        destroy = self._functions["cublasDestroy_v2"]
        weakref.finalize(self, _end, destroy, self._handle, device, stream, workspace).atexit = False
        self._call("cublasSetStream_v2", self._handle, stream.ptr)  # cuBLAS then has its own workspace again
        self._call("cublasSetWorkspace_v2", self._handle, workspace.data.ptr, workspace.nbytes)

    def gemm(
        self,
        a: Any,
        b: Any,
        out: Any,
        sizes: tuple[int, int, int],
        ta: bool,
        tb: bool,
        accumulate: bool,
        precision: str,
    ) -> None:
        """`Device.gemm` of arrays that go together, with fp64 as the name of float64's precision.

        cuBLAS's matrices are column-major: it sees these arrays as their transposes. So it is asked for
        out^T = op(b)^T op(a)^T, with the operands in the other order.
        """
        (M, N, K), (operands, result, compute, zero_and_one) = sizes, GEMM_TYPES[precision]
        zero = zero_and_one.ctypes.data
        one = zero + zero_and_one.itemsize
        self._call(
            "cublasGemmEx", self._handle, int(tb), int(ta), N, M, K, one, b.data.ptr, operands, b.shape[1], a.data.ptr,
            operands, a.shape[1], one if accumulate else zero, out.data.ptr, result, N, compute, DEFAULT_ALGORITHM,
        )  # fmt: skip

    def _call(self, name: str, *arguments: Any) -> None:
        status = self._functions[name](*arguments)
        if status:
            raise RuntimeError(f"cuBLAS: {name} returned status {status}")


def _end(destroy: Any, handle: int | None, device: Any, stream: Any, workspace: Any) -> None:
    """End cuBLAS on its own device, while `stream` and `workspace`, which the handle refers to, are still there."""
    with device:
        destroy(handle)


def open_library(module: Any) -> ctypes.CDLL:
    """The module's file as a C library, in which the functions of the libraries that it is linked to are found too."""
    return ctypes.CDLL(module.__file__)
