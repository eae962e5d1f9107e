"""A GPU through CuPy. No other module of the CUDA engine talks to CUDA."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from threading import Timer
from typing import Any

import numpy as np

from cuchar.devices.cublas import WORKSPACE_BYTES, Cublas
from cuchar.devices.device import Kernel, Limits, product_sizes
from cuchar.devices.kernel_sources import join
from cuchar.devices.signatures import Signature, signatures
from cuchar.errors import DeviceError, ShapeError
from cuchar.wording import option

NOTICE_AFTER_S = 0.5  # seconds of compilation after which `notice` is called
OLDEST = 70  # compute capability 7.0: independent thread scheduling, which __syncwarp and the flags need


class CudaDevice:
    """A GPU through CuPy.

    Args:
        number: the GPU's number, as CUDA counts from 0.
        notice: called when kernels take a while to compile, as they do the first time.
    Raises:
        DeviceError: there is no such GPU, no driver or no CuPy, the GPU is older than compute capability 7.0, or NVRTC
            does not compile for it. Later, every method turns CUDA's errors into a DeviceError.
    """

    has_tensor_library = True

    def __init__(self, number: int = 0, notice: Callable[[], None] = lambda: None):
        try:
            import cupy
        except ImportError:
            raise DeviceError(
                f"expected CuPy for {option('device', 'cuda')}, found none; pip install cupy-cuda12x"
            ) from None
        self._cupy, self._notice, self.number = cupy, notice, number
        self.name, self.option = f"GPU {number}", f"cuda:{number}"
        with _cuda_errors(option("device", "cuda")):
            count = cupy.cuda.runtime.getDeviceCount()
        if number >= count:
            raise DeviceError(
                f"{option('device', f'cuda:{number}')}: expected a GPU of that number, found {count}, counted from 0"
            )
        with _cuda_errors(self.name):
            properties = cupy.cuda.runtime.getDeviceProperties(number)
        capability = properties["major"] * 10 + properties["minor"]
        self.name = properties["name"].decode()
        if capability < OLDEST:
            raise DeviceError(
                f"{self.name}: expected compute capability 7.0 or newer, found {capability // 10}.{capability % 10}"
            )
        self._expect_compiler(capability)
        self.limits = Limits(
            capability, properties["multiProcessorCount"], properties["sharedMemPerBlockOptin"],
            properties["regsPerMultiprocessor"],
        )  # fmt: skip
        with _cuda_errors(self.name), cupy.cuda.Device(number):
            self._stream = cupy.cuda.Stream(non_blocking=True)
        self._captured: list[Callable[[], None]] | None = None
        self._fits_graph = True  # whether all that is captured can be a part of a CUDA graph

    def _expect_compiler(self, capability: int) -> None:
        """Check that NVRTC compiles for this GPU.

        CuPy compiles for the GPU's compute capability, or for the newest one that NVRTC knows. Code for the latter runs
        on the GPU if both have the same major number.

        Raises:
            DeviceError: NVRTC is too old or too new for this GPU.
        """
        nvrtc = self._cupy.cuda.nvrtc
        with _cuda_errors(self.name):
            known, version = nvrtc.getSupportedArchs(), nvrtc.getVersion()
        target = min(capability, max(known))
        if target not in known or target // 10 != capability // 10:
            raise DeviceError(
                f"{self.name}: expected an NVRTC that compiles for compute capability {capability / 10}, "
                f"found {version[0]}.{version[1]}, which does for {min(known) / 10} to {max(known) / 10}"
            )

    @contextmanager
    def current(self) -> Iterator[None]:
        """What is done within this context is done on this device and its stream."""
        with _cuda_errors(self.name), self._cupy.cuda.Device(self.number), self._stream:
            yield

    def empty(self, shape: Any, dtype: np.typing.DTypeLike) -> Any:
        with self.current():
            return self._cupy.empty(shape, dtype)

    def write(self, array: Any, host: np.ndarray) -> None:
        self._expect_not_capturing("write")
        with self.current():
            source = np.ascontiguousarray(host, array.dtype)  # it may be a copy, which must live until it has been read
            array.set(source, stream=self._stream)
            self._stream.synchronize()  # the host array may change once this returns

    def read(self, array: Any) -> np.ndarray:
        self._expect_not_capturing("read")
        with self.current():
            host: np.ndarray = array.get(stream=self._stream)
            self._stream.synchronize()
            return host

    def kernels(self, file: str, macros: Mapping[str, int | str], cooperative: bool = False) -> Mapping[str, Kernel]:
        source = join(file, macros)
        slow = Timer(NOTICE_AFTER_S, self._notice)
        slow.start()
        try:
            with self.current():
                module = self._cupy.RawModule(code=source, enable_cooperative_groups=cooperative)
                return {
                    name: self._kernel(signature, module.get_function(name))
                    for name, signature in signatures(source).items()
                }
        except self._cupy.cuda.compiler.CompileException as error:
            raise DeviceError(f"{file}: expected it to compile for {self.name}, found: {first_error(error)}") from None
        finally:
            slow.cancel()

    def _kernel(self, signature: Signature, function: Any) -> Kernel:
        allowed = function.max_dynamic_shared_size_bytes  # kept, since asking for it takes longer than a launch

        def launch(grid: int, block: int, shared_bytes: int = 0, **arguments: Any) -> None:
            nonlocal allowed
            bound = signature.bind(arguments)
            if shared_bytes > allowed:
                with self.current():
                    function.max_dynamic_shared_size_bytes = allowed = shared_bytes
            self.put(lambda: function((grid,), (block,), bound, shared_mem=shared_bytes), in_graph=True)

        return launch

    def put(self, work: Callable[[], None], in_graph: bool) -> None:
        if self._captured is not None:
            self._fits_graph &= in_graph
            return self._captured.append(work)
        with self.current():
            work()

    def gemm(
        self, a: Any, b: Any, out: Any, *, ta: bool = False, tb: bool = False, accumulate: bool = False,
        precision: str = "fp32",
    ) -> None:  # fmt: skip
        sizes = product_sizes(a, b, out, ta, tb)
        precision = "fp64" if out.dtype == np.float64 else precision
        own = np.dtype(np.float64 if precision == "fp64" else np.float32)
        expected = np.dtype(np.uint16) if precision in ("bf16", "fp16") else own
        if (a.dtype, b.dtype, out.dtype) != (expected, expected, own):
            raise ShapeError(f"gemm in {precision}: expected {expected}, found {a.dtype}, {b.dtype} and {out.dtype}")
        cublas = self._cublas
        self.put(lambda: cublas.gemm(a, b, out, sizes, ta, tb, accumulate, precision), in_graph=True)

    @cached_property
    def _cublas(self) -> Cublas:
        workspace = self.empty((WORKSPACE_BYTES,), np.uint8)
        with self.current():
            from cupy.cuda import cublas

            return Cublas(cublas, self._cupy.cuda.Device(self.number), self._stream, workspace)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """A CUDA graph of the launches that `work` makes, whose arguments are checked now and not again.

        If something does not fit in a graph, such as a sum over ranks by way of the host, all launches are repeated one
        by one.
        """
        self._expect_not_capturing("capture")
        captured = self._captured = []
        self._fits_graph = True
        try:
            work()
        finally:
            self._captured = None

        def make_all() -> None:
            for one in captured:
                one()

        if not self._fits_graph:
            return lambda: self.put(make_all, in_graph=False)
        with self.current():
            self._stream.begin_capture()
            try:
                make_all()
            except BaseException:
                with suppress(RuntimeError):  # to end a capture that failed raises another error
                    self._stream.end_capture()
                raise
            graph = self._stream.end_capture()

        def replay() -> None:
            if captured:  # naming `captured` here keeps alive the arrays that the graph points to; the graph does not
                graph.launch(self._stream)

        return lambda: self.put(replay, in_graph=False)

    def _expect_not_capturing(self, what: str) -> None:
        if self._captured is not None:
            raise DeviceError(f"{what}: expected only launches while capturing")

    def free_bytes(self) -> int:
        with self.current():
            free, _ = self._cupy.cuda.runtime.memGetInfo()
            free += self._cupy.get_default_memory_pool().free_bytes()
        yet_to_come = 0 if "_cublas" in self.__dict__ else WORKSPACE_BYTES  # the first product takes it
        return max(0, int(free) - yet_to_come)

    def held_bytes(self) -> int:
        with self.current():  # CuPy's pool gives no memory back, so what it holds now is the most that it ever held
            return int(self._cupy.get_default_memory_pool().total_bytes())

    def elapsed_ms(self, work: Callable[[], Any]) -> float:
        with self.current():
            began, ended = self._cupy.cuda.Event(), self._cupy.cuda.Event()
            began.record(self._stream)
            work()
            ended.record(self._stream)
            ended.synchronize()
            return float(self._cupy.cuda.get_elapsed_time(began, ended))


def first_error(message: object) -> str:
    """The first line of a compiler's output that names an error, or all of it; at most 300 characters."""
    lines = str(message).splitlines()
    return next((line for line in lines if "error" in line), " ".join(lines))[:300]


@contextmanager
def _cuda_errors(where: str) -> Iterator[None]:
    """Turn CUDA's errors, and CuPy's errors about missing libraries, into a DeviceError of one line."""
    try:
        yield
    except (RuntimeError, ImportError, MemoryError) as error:  # CuPy's errors are derived from these
        found = " ".join(str(error).split()) or type(error).__name__
        hint = "; pip install 'cuchar[cuda-libs]' brings CUDA's libraries" if isinstance(error, ImportError) else ""
        raise DeviceError(f"{where}: expected no error from CUDA, found: {found[:300]}{hint}") from None
