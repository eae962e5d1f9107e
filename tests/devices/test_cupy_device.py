"""`CudaDevice` over a stand-in for CuPy: what it asks of CuPy, in which device and stream, and what it refuses.

The stand-in's arrays are NumPy's and its signatures CuPy 14's. It checks what a GPU would: the present device and
stream, types, the order of elements, and that nothing is copied while capturing. Its cuBLAS is called as C calls it, by
the prototypes of NVIDIA's documentation, and computes from the memory that it is given pointers to, with matrices column
by column.
"""

import ctypes
import gc
import inspect
import re
import sys
import weakref
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.process import ROOT
from support.rounding import bits_of, rounded
from support.tensor_library import numbers_of

from cuchar.config import ModelConfig
from cuchar.devices.cublas import GEMM_TYPES, PROTOTYPES, WORKSPACE_BYTES
from cuchar.devices.cupy_device import CudaDevice
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.devices.kernel_sources import join
from cuchar.devices.signatures import signatures
from cuchar.engines.choose import choose_engine
from cuchar.errors import DeviceError, ShapeError
from cuchar.ranks.nccl import nccl_sum

PROPERTIES = {
    "name": b"Stand-in H100", "major": 9, "minor": 0, "multiProcessorCount": 132, "sharedMemPerBlockOptin": 232_448,
    "regsPerMultiprocessor": 65_536,
}  # fmt: skip


DATA_TYPES = {0: ("R_32F", np.float32), 1: ("R_64F", np.float64), 2: ("R_16F", np.uint16), 14: ("R_16BF", np.uint16)}
# By cublasComputeType_t and the types of operands and result that go with it: how operands are read, and scales' type.
PRODUCTS = {
    (71, 1, 1): ("fp64", np.float64), (69, 0, 0): ("fp32", np.float32), (77, 0, 0): ("tf32", np.float32),
    (68, 2, 0): ("fp16", np.float32), (68, 14, 0): ("bf16", np.float32),
}  # fmt: skip


class Array(np.ndarray):
    """cupy.ndarray's pointer and copies. A host's array is read later, and not kept alive until then."""

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)

    def set(self, arr, stream=None):
        FakeCupy.now.expect_copy(stream)
        assert type(arr) is np.ndarray and arr.dtype == self.dtype and arr.shape == self.shape
        assert arr.flags.c_contiguous
        host = weakref.ref(arr)

        def copy():
            assert host() is not None, "the host's array is gone before it has been copied"
            self[...] = host()

        stream.pending.append(copy)

    def get(self, stream=None, order="C", out=None, blocking=True):
        FakeCupy.now.expect_copy(stream)
        return np.array(self)


class RawKernel:
    def __init__(self, cupy, name, cooperative):
        self.cupy, self.name, self.cooperative = cupy, name, cooperative
        self.max_dynamic_shared_size_bytes = 48 << 10

    def __call__(self, grid, block, args, *, shared_mem=0):
        self.cupy.expect_current()
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        assert all(isinstance(size, tuple) for size in (grid, block, args))
        self.cupy.note(("launch", self.name, grid, block, args, shared_mem))


class FakeCublas:
    """The library: functions that are called with C's types, by the prototypes of cuBLAS's documentation."""

    def __init__(self, cupy):
        self.cupy, self.error, self.status, self.handles, self.callbacks = cupy, None, 0, {}, []
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        matrix = pointer, integer, integer
        for name, types in {
            "Create_v2": (ctypes.POINTER(pointer),), "Destroy_v2": (pointer,), "SetStream_v2": (pointer, pointer),
            "SetWorkspace_v2": (pointer, pointer, ctypes.c_size_t),
            "GemmEx": (pointer, *5 * (integer,), pointer, *2 * matrix, pointer, *matrix, integer, integer),
        }.items():  # fmt: skip
            self.callbacks.append(ctypes.CFUNCTYPE(integer, *types)(self._answering(name)))
            address = ctypes.cast(self.callbacks[-1], pointer).value
            setattr(self, f"cublas{name}", ctypes.CFUNCTYPE(integer)(address))  # its types are yet to be declared

    def _answering(self, name):
        def answer(*arguments):
            try:
                if name != "Destroy_v2":  # which comes whenever nobody uses the device any more
                    self.cupy.expect_current()
                getattr(self, name)(*arguments)
            except BaseException as error:  # C cannot raise it
                self.error = error
                return 99
            return self.status

        return answer

    def Create_v2(self, handle):
        handle[0] = 2**40 + len(self.handles)  # larger than an int
        self.handles[handle[0]] = None, None

    def Destroy_v2(self, handle):
        stream, _ = self.handles[handle]
        assert self.cupy.streams[stream].device == self.cupy.device  # the stream is still there
        del self.handles[handle]

    def SetStream_v2(self, handle, stream):
        self.handles[handle] = stream, None  # the workspace is the library's own again

    def SetWorkspace_v2(self, handle, workspace, size):
        assert any(one.ctypes.data == workspace and one.nbytes == size for one in self.cupy.allocated)
        self.handles[handle] = self.handles[handle][0], size

    def GemmEx(self, handle, *arguments):
        assert self.handles[handle] == (self.cupy.stream.ptr, WORKSPACE_BYTES)
        *arguments, algorithm = arguments
        assert algorithm == -1
        self.cupy.note(lambda: self.cupy.multiply(*arguments))


class FakeCupy:
    """The part of the module `cupy` that CudaDevice uses."""

    now: "FakeCupy"
    __spec__ = None

    def __init__(self, count=1, **properties):
        FakeCupy.now = self
        self.log, self.captured, self.device, self.stream, self.allocated = [], None, None, None, []
        self.most_bytes, self.graphs, self.streams = 1 << 40, 0, weakref.WeakValueDictionary()
        self.sources, self.compile_error = [], None
        fake = self

        class CUDARuntimeError(RuntimeError):
            pass

        class OutOfMemoryError(MemoryError):
            pass

        class Stream:
            def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
                assert non_blocking and fake.device is not None
                self.device, self.synchronized, self.pending, self.ptr = fake.device, 0, [], 900 + fake.device
                fake.streams[self.ptr] = self

            def __enter__(self):
                assert fake.device == self.device
                self.before, fake.stream = fake.stream, self

            def __exit__(self, *error):
                fake.stream = self.before

            def synchronize(self):
                self.synchronized += 1
                while self.pending:
                    self.pending.pop(0)()

            def begin_capture(self, mode=None):
                assert fake.captured is None
                fake.captured, fake.graphs = [], fake.graphs + 1

            def end_capture(self):
                launches, fake.captured = fake.captured, None

                def launch(stream=None):
                    assert stream is self and fake.device == self.device
                    fake.log.append(("graph",))
                    for entry in launches:
                        fake.note(entry)

                return SimpleNamespace(launch=launch)

        def get_device_count():
            if isinstance(count, str):
                raise CUDARuntimeError(count)
            return count

        self.cuda = SimpleNamespace(
            Device=self._on_device, Stream=Stream, memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError, getDeviceCount=get_device_count,
                getDeviceProperties=lambda device: PROPERTIES | properties, memGetInfo=lambda: (1000 + WORKSPACE_BYTES, 5 << 30),
                driverGetVersion=lambda: 12_040, runtimeGetVersion=lambda: 12_090,
            ),
        )  # fmt: skip
        self.cuda.compiler = SimpleNamespace(CompileException=type("CompileException", (Exception,), {}))
        self.cuda.Event, self.cuda.get_elapsed_time = self._event, lambda start_event, end_event: 0.25
        self.cuda.nvrtc = SimpleNamespace(
            getVersion=lambda: (12, 9), getSupportedArchs=lambda: (50, 70, 75, 80, 86, 90, 100, 120, 121)
        )
        self.cuda.cublas, self.cublas = SimpleNamespace(), FakeCublas(self)
        self.__version__ = "14.2.0"

    @contextmanager
    def _on_device(self, number):
        before, self.device = self.device, number
        yield
        self.device = before

    def _event(self):
        assert self.device is not None
        return SimpleNamespace(
            record=lambda stream=None: self.note(("event", stream)), synchronize=lambda: self.note("synchronize")
        )

    def note(self, entry):
        """Log what is done, or do it if it is a function, now or when the graph is launched that is being captured."""
        if self.captured is not None:
            self.captured.append(entry)
        elif callable(entry):
            entry()
        else:
            self.log.append(entry)

    def expect_current(self):
        assert self.device is not None and self.stream is not None and self.stream.device == self.device

    def expect_copy(self, stream):
        assert self.captured is None and stream is not None and self.device == stream.device

    def empty(self, shape, dtype=float, order="C"):
        self.expect_current()
        if np.prod(shape, dtype=object) * np.dtype(dtype).itemsize > self.most_bytes:
            raise self.cuda.memory.OutOfMemoryError("Out of memory allocating 1 bytes")
        self.allocated.append(np.empty(shape, dtype, order))
        return self.allocated[-1].view(Array)

    def get_default_memory_pool(self):
        assert self.device is not None
        return SimpleNamespace(free_bytes=lambda: 24, total_bytes=lambda: 4096)

    def RawModule(self, *, code=None, path=None, options=(), backend="nvrtc", enable_cooperative_groups=False):
        assert self.device is not None
        self.sources.append(code)
        if self.compile_error:
            raise self.compile_error
        return SimpleNamespace(get_function=lambda name: RawKernel(self, name, enable_cooperative_groups))

    def multiply(
        self, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, computeType
    ):  # fmt: skip
        """cublasGemmEx of matrices that lie in memory column by column; scalars lie on the host."""
        assert Atype == Btype
        precision, scale = PRODUCTS[computeType, Atype, Ctype]
        left = self._matrix(A, Atype, *((k, m) if transa else (m, k)), lda)
        right = self._matrix(B, Btype, *((n, k) if transb else (k, n)), ldb)
        out = self._matrix(C, Ctype, m, n, ldc)
        left, right = left.T if transa else left, right.T if transb else right
        if precision != "fp64":
            left, right = (
                (one if precision == "fp32" else numbers_of(one, precision)).astype(float) for one in (left, right)
            )
        factor, own = (scale(np.ctypeslib.as_array(_at(pointer, scale, 1))[0]) for pointer in (alpha, beta))
        product = factor * (left @ right)
        out[...] = product + own * out if own else product  # what is there is not read for a factor of 0
        self.log.append(("gemm", precision, (m, n, k)))

    def _matrix(self, pointer, cuda_type, rows, columns, distance):
        """A view of memory that was allocated, all of it of this type."""
        dtype = np.dtype(DATA_TYPES[cuda_type][1])
        assert distance >= max(1, rows)
        count = distance * (columns - 1) + rows
        assert any(
            begin <= pointer and pointer + count * dtype.itemsize <= begin + one.nbytes and one.dtype == dtype
            for one in self.allocated
            for begin in [one.ctypes.data]
        )
        memory = np.ctypeslib.as_array(_at(pointer, dtype, count))
        return np.lib.stride_tricks.as_strided(memory, (rows, columns), (dtype.itemsize, distance * dtype.itemsize))


def _at(pointer, dtype, count):
    return (np.ctypeslib.as_ctypes_type(dtype) * count).from_address(pointer)


def launcher(device):
    """A function that launches a kernel with so many blocks."""
    kernel = device.kernels("gemm/round.cu", {})["round_numbers"]
    numbers, words = device.empty((2,), np.float32), device.empty((1,), np.uint32)
    return lambda blocks, **sizes: kernel(blocks, 32, **sizes, numbers=numbers, words=words, count=2)


@pytest.fixture
def install(monkeypatch):
    def make(*arguments, **properties):
        fake = FakeCupy(*arguments, **properties)
        monkeypatch.setitem(sys.modules, "cupy", fake)
        monkeypatch.setitem(sys.modules, "cupy.cuda", fake.cuda)
        libraries = {id(fake.cuda.cublas): fake.cublas}
        monkeypatch.setattr("cuchar.devices.cublas.open_library", lambda module: libraries[id(module)])
        return fake

    return make


def refusal(*arguments):
    with pytest.raises(DeviceError) as error:
        CudaDevice(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_limits_are_the_gpus(install):
    install(2, major=8, minor=6, multiProcessorCount=84, sharedMemPerBlockOptin=101_376)
    device = CudaDevice(1)
    assert (device.name, device.number) == ("Stand-in H100", 1)
    limits = device.limits
    assert limits == Limits(86, 84, 101_376, 65_536) and not limits.has_clusters


def test_what_is_no_gpu_to_work_with(install, monkeypatch):
    install("cudaErrorNoDevice: no CUDA-capable\n device is detected")
    assert refusal().endswith("found: cudaErrorNoDevice: no CUDA-capable device is detected")
    install(2)
    assert refusal(2) == "device='cuda:2': expected a GPU of that number, found 2, counted from 0"
    install(major=6, minor=1)
    assert refusal() == "Stand-in H100: expected compute capability 7.0 or newer, found 6.1"
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert refusal().startswith("expected CuPy for device='cuda'")


@pytest.mark.parametrize(
    "capability,version,known,taken",
    [
        ((7, 0), (13, 0), (75, 80, 90, 100, 120, 121), False), ((7, 0), (12, 9), (50, 70, 75, 90, 121), True),
        ((10, 0), (12, 4), (50, 70, 80, 90), False), ((10, 3), (12, 8), (80, 90, 100, 120), False),
        ((12, 1), (12, 8), (80, 90, 100, 120), True), ((7, 5), (13, 0), (75, 80, 90, 121), True),
    ],
)  # fmt: skip
def test_auto_falls_back_where_nvrtc_does_not_compile_for_the_gpu(
    install, monkeypatch, capability, version, known, taken
):
    fake = install(major=capability[0], minor=capability[1])
    fake.cuda.nvrtc = SimpleNamespace(getVersion=lambda: version, getSupportedArchs=lambda: known)
    monkeypatch.setattr("cuchar.engines.choose._has_driver", lambda: True)
    engine, reason = choose_engine("auto", ModelConfig(5, 3, 1))
    if taken:
        assert engine.name == "CUDA kernels on Stand-in H100" and reason == "the fastest here"
        return
    expected = (
        f"Stand-in H100: expected an NVRTC that compiles for compute capability {capability[0]}.{capability[1]}, found "
        f"{version[0]}.{version[1]}, which does for {known[0] / 10} to {known[-1] / 10}"
    )
    assert "CUDA" not in engine.name and reason.startswith(expected)
    assert refusal() == expected


def test_arrays_come_and_go_on_the_devices_stream(install):
    install(2)
    device = CudaDevice(1)
    array, values = device.empty((2, 3), np.float32), np.arange(6, dtype=np.float32).reshape(3, 2).T
    device.write(array, values)  # from another order
    assert np.array_equal(device.read(array), values) and device._stream.synchronized == 2
    device.write(array[1], np.zeros(3))  # from another type
    assert device.read(array)[1].tolist() == [0, 0, 0]
    assert device.free_bytes() == 1024 and device.held_bytes() == 4096 and device.option == "cuda:1"


def test_too_little_memory_is_one_line(install):
    fake = install()
    device, fake.most_bytes = CudaDevice(), 100
    with pytest.raises(DeviceError, match=r"^Stand-in H100: .* found: Out of memory"):
        device.empty((26,), np.float32)


def test_kernels_are_compiled_from_one_text_and_launched_with_their_arguments(install):
    fake = install()
    device = CudaDevice()
    kernels = device.kernels("stepwise/cell.cu", {"REAL": "double"})
    assert fake.sources == [join("stepwise/cell.cu", {"REAL": "double"})]
    assert list(kernels) == list(signatures(fake.sources[0])) == ["cell_forward", "cell_backward"]
    a, c = device.empty((3,), np.float64), device.empty((2, 1), np.float64)
    cell = {"c": c, "c_next": c, "gates": a, "dh": a, "dc": a, "is_last": True, "B": np.int64(7), "H": 1 << 20}
    kernels["cell_backward"](5, 64, **cell)
    [(*launch, arguments, shared)] = fake.log
    assert launch == ["launch", "cell_backward", (5,), (64,)] and shared == 0
    assert [id(one) for one in arguments[:5]] == [id(one) for one in (a, c, c, a, a)]
    assert arguments[5:] == (1, 7, 1 << 20) and {type(one) for one in arguments[5:]} == {np.int32}


def test_what_the_compiler_rejects_is_one_line(install):
    fake = install()
    fake.compile_error = fake.cuda.compiler.CompileException('head.cuh(80): error: "x" is undefined\n  real x;\n  ^\n')
    with pytest.raises(DeviceError) as error:
        CudaDevice().kernels("head/head.cu", {})
    assert str(error.value).endswith('for Stand-in H100, found: head.cuh(80): error: "x" is undefined')


def test_more_shared_memory_is_asked_for_once(install):
    fake = install()
    launch = launcher(CudaDevice())
    for shared in (100, 80 << 10, 60 << 10, 90 << 10):
        launch(1, shared_bytes=shared)
    assert [entry[-1] for entry in fake.log] == [100, 80 << 10, 60 << 10, 90 << 10]


@pytest.mark.parametrize(
    "wrong", [{"count": 0.5}, {"words": np.zeros((4, 4), np.uint32).view(Array)[:, :2]}, {}], ids=repr
)
def test_arguments_that_a_kernel_would_misread(install, wrong):
    """There is one argument of each kind here; tests/devices/test_signatures.py has them all."""
    fake = install()
    device = CudaDevice()
    kernel = device.kernels("gemm/round.cu", {})["round_numbers"]
    fitting = {"numbers": device.empty((2,), np.float32), "words": device.empty((1,), np.uint32), "count": 2}
    with pytest.raises(ShapeError, match=r"^round_numbers: .*expected .*, found "):
        kernel(1, 32, **(fitting | wrong if wrong else {}))
    assert fake.log == []


def exact_numbers(generator, shape):
    """float32 numbers with more bits than reduced precisions have, and ties; sums of a few products are exact."""
    return (generator.integers(-(2**14), 2**14, shape) * 2.0**-6).astype(np.float32)


def as_operand(numbers, precision):
    """The array that `gemm` takes them in, and what it makes of them, in float64."""
    if precision == "fp64":
        return numbers.astype(float), numbers.astype(float)
    taken = rounded(numbers, precision).astype(float)
    return (bits_of(numbers, precision).astype(np.uint16) if precision in ("bf16", "fp16") else numbers), taken


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
@pytest.mark.parametrize("precision", GEMM_TYPES)
def test_gemm(install, precision, ta, tb, accumulate):
    """Matrices lie in the middle of buffers, on the second of two devices; fp32 and fp64 are the arrays' own types."""
    fake, generator = install(2), np.random.default_rng(0)
    device = CudaDevice(1)
    shapes = (4, 3) if ta else (3, 4), (2, 4) if tb else (4, 2), (3, 2)
    (a, left), (b, right) = (as_operand(exact_numbers(generator, shape), precision) for shape in shapes[:2])
    out = exact_numbers(generator, shapes[2]).astype(float if precision == "fp64" else np.float32)
    expected = (left.T if ta else left) @ (right.T if tb else right) + (out if accumulate else 0)
    arrays = []
    for host in (a, b, out if accumulate else np.full_like(out, np.nan)):
        buffer = device.empty((host.size + 6,), host.dtype)
        device.write(buffer, np.full(buffer.shape, 9, host.dtype))
        arrays.append(buffer[3 : 3 + host.size].reshape(host.shape))
        device.write(arrays[-1], host)
    named = {} if precision in ("fp32", "fp64") else {"precision": precision}
    device.gemm(*arrays, ta=ta, tb=tb, accumulate=accumulate, **named)
    assert np.array_equal(device.read(arrays[2]), expected.astype(out.dtype))
    assert fake.log == [("gemm", precision, (2, 3, 4))]
    assert (np.delete(fake.allocated[2], range(3, 3 + out.size)) == 9).all()
    for array, host in zip(arrays, (a, b), strict=False):
        assert np.array_equal(device.read(array), host)


@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 3), (5, 1, 3), (5, 3, 1)])
def test_gemm_of_single_rows_and_columns(install, size):
    install()
    device, (M, N, K), generator = CudaDevice(), size, np.random.default_rng(1)
    a, b = exact_numbers(generator, (M, K)), exact_numbers(generator, (K, N))
    arrays = [device.empty(host.shape, host.dtype) for host in (a, b)]
    for array, host in zip(arrays, (a, b), strict=True):
        device.write(array, host)
    out = device.empty((M, N), np.float32)
    device.gemm(*arrays, out)
    assert np.array_equal(device.read(out), (a.astype(float) @ b).astype(np.float32))


@pytest.mark.parametrize(
    "a,b,out,transposed",
    [
        ((3, 4), (5, 2), (3, 2), {}), ((3, 4), (4, 2), (2, 3), {}), ((3, 4), (4, 2), (3, 3), {}), ((3, 4), (4, 2), (4, 2), {}),
        ((3, 4), (4, 2), (3, 2), {"ta": True}), ((3, 4), (4, 2), (3, 2), {"tb": True}), ((3, 4), (2, 4), (3, 2), {}),
        ((4, 3), (4, 2), (3, 2), {}),
    ],
)  # fmt: skip
def test_sizes_that_do_not_go_together(install, a, b, out, transposed):
    fake, ta, tb = install(), "ta" in transposed, "tb" in transposed
    M, N, K = *out, a[0 if ta else 1]
    expected = f"gemm: expected {(K, M) if ta else (M, K)} and {(N, K) if tb else (K, N)}, found {a} and {b}"
    for device in (CudaDevice(), EmulatedDevice()):
        arrays = [device.empty(shape, np.float32) for shape in (a, b, out)]

        def multiply(device=device, arrays=arrays):
            device.gemm(*arrays, **transposed)

        for work in (multiply, lambda device=device, work=multiply: device.capture(work)):  # not when it is replayed
            with pytest.raises(ShapeError) as error:
                work()
            assert str(error.value) == expected
    assert fake.log == []


@pytest.mark.parametrize("number", range(3))
def test_matrices_whose_rows_are_apart(install, number):
    fake = install()
    device = CudaDevice()
    arrays = [device.empty((4, 4), np.float32) for _ in range(3)]
    arrays[number] = device.empty((4, 8), np.float32)[:, :4]
    with pytest.raises(ShapeError, match=f"gemm: {('a', 'b', 'out')[number]}: expected a C-ordered array"):
        device.gemm(*arrays)
    assert fake.log == []


def test_without_cublas_products_say_what_brings_it(install):
    del install().cuda.cublas
    device = CudaDevice()
    array = device.empty((2, 2), np.float32)
    with pytest.raises(
        DeviceError, match=r"^Stand-in H100: .*; pip install 'cuchar\[cuda-libs\]' brings CUDA's libraries$"
    ):
        device.gemm(array, array, array)


def test_captured_launches_are_made_by_the_replay_alone(install):
    fake = install(2)
    device = CudaDevice(1)
    launch = launcher(device)
    replay = device.capture(lambda: [launch(n, shared_bytes=n << 16) for n in (1, 2)])
    assert fake.log == [] and fake.graphs == 1
    replay()
    replay()
    assert [entry[0] for entry in fake.log] == ["graph", "launch", "launch"] * 2
    assert [entry[2] for entry in fake.log if entry[0] == "launch"] == [(1,), (2,), (1,), (2,)]


def test_products_are_captured(install):
    """They are a part of the graph: a replay does them anew, with what is in the arrays then."""
    fake = install(2)
    device = CudaDevice(1)
    launch = launcher(device)
    a, b, out = (device.empty((2, 2), np.float32) for _ in range(3))

    def work():
        launch(1, shared_bytes=80 << 10)
        device.gemm(a, b, out)
        launch(2)
        device.gemm(out, b, a, accumulate=True, precision="tf32")

    device.gemm(a, b, out)  # before the capture, and so no part of it
    host = np.array([[1, 2], [3, 4]], np.float32)
    device.write(a, host), device.write(b, host + 1), device.write(out, host)
    fake.log.clear()
    replay = device.capture(work)
    assert fake.log == [] and fake.graphs == 1 and np.array_equal(device.read(out), host)
    expected = host
    for _ in range(2):
        replay()
        product = expected @ (host + 1)
        expected = product @ (host + 1) + expected
        assert np.array_equal(device.read(out), product) and np.array_equal(device.read(a), expected)
    kinds = [entry[1] if entry[0] == "gemm" else entry[2] for entry in fake.log if entry[0] != "graph"]
    assert kinds == [(1,), "fp32", (2,), "tf32"] * 2 and fake.graphs == 1


def test_what_does_not_fit_a_graph_is_repeated_in_order(install):
    fake = install()
    device, order = CudaDevice(), []
    launch, a = launcher(device), device.empty((2, 2), np.float32)
    device.write(a, np.eye(2, dtype=np.float32))

    def work():
        device.gemm(a, a, a)
        device.put(lambda: order.append(len(fake.log)), in_graph=False)
        launch(2)

    replay = device.capture(work)
    assert fake.graphs == 0 and fake.log == order == []
    replay(), replay()
    assert [entry[0] for entry in fake.log] == ["gemm", "launch"] * 2 and order == [1, 3]
    device.capture(lambda: launch(3))  # and the next one is a graph again
    assert fake.graphs == 1


def test_cublas_is_started_once_and_ended_with_its_device(install):
    fake = install(2)
    device = CudaDevice(1)
    a = device.empty((2, 2), np.float32)
    assert not fake.cublas.handles
    device.gemm(a, a, a), device.gemm(a, a, a)
    assert list(fake.cublas.handles.values()) == [(device._stream.ptr, WORKSPACE_BYTES)]
    assert device.free_bytes() == WORKSPACE_BYTES + 1024  # the stand-in goes on saying what it said before
    del device
    gc.collect()
    assert not fake.cublas.handles


def test_an_error_of_cublas_is_one_line(install):
    fake = install()
    device = CudaDevice()
    a = device.empty((2, 2), np.float32)
    fake.cublas.status = 1
    with pytest.raises(DeviceError, match=r"^Stand-in H100: .* found: cuBLAS: cublasCreate_v2 returned status 1$"):
        device.gemm(a, a, a)
    fake.cublas.status = 0
    device.gemm(a, a, a)
    fake.cublas.status = 13
    with pytest.raises(DeviceError, match=r"found: cuBLAS: cublasGemmEx returned status 13$"):
        device.gemm(a, a, a)
    with pytest.raises(DeviceError, match=r"found: cuBLAS: cublasGemmEx returned status 13$"):
        device.capture(lambda: device.gemm(a, a, a))
    assert fake.captured is None


@pytest.mark.parametrize("what", ["read", "write", "capture"])
def test_only_launches_and_products_are_captured(install, what):
    fake = install()
    device = CudaDevice()
    array = device.empty((2,), np.float32)
    work = {
        "read": lambda: device.read(array), "write": lambda: device.write(array, np.zeros(2)),
        "capture": lambda: device.capture(list),
    }  # fmt: skip
    with pytest.raises(DeviceError) as error:
        device.capture(work[what])
    assert str(error.value) == f"{what}: expected only launches while capturing"
    assert fake.graphs == 0
    work[what]()  # a failed capture is over


def test_an_error_while_capturing_ends_the_capture(install, monkeypatch):
    fake = install()
    device = CudaDevice()
    launch = launcher(device)
    with pytest.raises(ZeroDivisionError):
        device.capture(lambda: (launch(1), 1 // 0))
    assert fake.captured is None and fake.graphs == 0
    launch(1)
    assert len(fake.log) == 1  # it is made, not captured

    def refuse(*_, **__):
        assert fake.captured is not None
        raise fake.cuda.runtime.CUDARuntimeError("cudaErrorInvalidValue: invalid argument")

    with monkeypatch.context() as patch, pytest.raises(DeviceError, match="found: cudaErrorInvalidValue"):
        patch.setattr(RawKernel, "__call__", refuse)
        device.capture(lambda: launch(2))
    assert fake.captured is None
    device.capture(lambda: launch(3))()
    assert [entry[2] for entry in fake.log if entry[0] == "launch"] == [(1,), (3,)]


def test_engine_names_the_gpu(install, monkeypatch):
    install()
    monkeypatch.setattr("cuchar.engines.choose._has_driver", lambda: True)
    engine, reason = choose_engine("cuda:0", ModelConfig(5, 3, 1))
    assert engine.name == "CUDA kernels on Stand-in H100" and reason == "asked for"


@pytest.mark.parametrize(
    "precision,major,minor,taken",
    [
        ("fp16", 7, 0, False), ("fp16", 7, 5, True), ("bf16", 7, 5, False), ("tf32", 7, 5, False), ("tf32", 8, 0, True),
        ("bf16", 8, 6, True), ("fp32", 7, 0, True),
    ],
)  # fmt: skip
def test_a_precision_needs_its_tensor_cores(install, monkeypatch, precision, major, minor, taken):
    install(major=major, minor=minor)
    monkeypatch.setattr("cuchar.engines.choose._has_driver", lambda: True)
    if taken:
        engine, _ = choose_engine("auto", ModelConfig(5, 3, 1), precision=precision)
        assert precision == "fp32" or engine.name == f"CUDA kernels on Stand-in H100 in {precision}"
        return
    with pytest.raises(DeviceError) as error:
        choose_engine("auto", ModelConfig(5, 3, 1), precision=precision)
    least = "7.5" if precision == "fp16" else "8.0"
    assert str(error.value) == (
        f"precision={precision!r}: expected compute capability {least} or newer, found {major}.{minor} "
        "(Stand-in H100); precision='fp32' runs on it"
    )


def test_reduced_precision_is_of_float32_and_of_a_gpu(install, monkeypatch):
    install()
    monkeypatch.setattr("cuchar.engines.choose._has_driver", lambda: True)
    with pytest.raises(DeviceError, match="precision='bf16': expected float32 parameters, found float64"):
        choose_engine("cuda", ModelConfig(5, 3, 1), np.float64, "bf16")
    monkeypatch.setattr("cuchar.engines.choose._has_driver", lambda: False)
    with pytest.raises(DeviceError, match=r"found none \(no NVIDIA driver found\); precision='fp32' runs here"):
        choose_engine("auto", ModelConfig(5, 3, 1), precision="bf16")


def test_make_gpu_describes_the_gpu_and_times_by_events(install, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delenv("CUCHAR_GPU_DRY_RUN", raising=False)
    from tools.gpu_stages.device import describe

    fake = install()
    found, expected = describe(), {"device": "Stand-in H100", "compute_capability": "9.0", "multiprocessors": "132"}
    expected |= {"driver_cuda": "12.4", "cuda_runtime": "12.9", "nvrtc": "12.9", "cupy": "14.2.0", "memory_mib": "5120"}
    assert expected.items() <= found.items() and {"driver", "numpy", "python"} <= set(found)
    device = CudaDevice()
    assert device.elapsed_ms(lambda: fake.note("work")) == 0.25
    assert fake.log == [("event", device._stream), "work", ("event", device._stream), "synchronize"]


@pytest.mark.skipif(sys.platform == "darwin", reason="there is no CuPy for macOS")
def test_the_stand_in_has_cupys_signatures():
    FakeCupy()
    import cupy

    library = Path(find_spec("cupy_backends.cuda.libs.cublas").origin).read_bytes()  # to import it takes cuBLAS
    linked = set(re.findall(rb"cublas\w+_v2|cublasGemmEx", library))  # CuPy sets no workspace
    assert {name.encode() for name in PROTOTYPES} - linked == {b"cublasSetWorkspace_v2"}
    assert list(inspect.signature(cupy.empty).parameters) == ["shape", "dtype", "order"]
    for function, signature in (
        (cupy.ndarray.set, "set(self, arr, stream=None)"),
        (cupy.ndarray.get, "get(self, stream=None, order='C', out=None, blocking=True)"),
        (cupy.cuda.Graph.launch, "launch(self, stream=None)"),
        (cupy.cuda.Stream.begin_capture, "begin_capture(self, mode=None)"),
        (cupy.cuda.get_elapsed_time, "get_elapsed_time(start_event, end_event)"),
        (cupy.cuda.Event.record, "record(self, stream=None)"),
    ):
        assert signature in (function.__doc__ or "").partition("\n")[0]
    assert issubclass(cupy.cuda.memory.OutOfMemoryError, MemoryError)
    known = cupy.cuda.nvrtc.getSupportedArchs()
    assert {75, 80, 90} <= set(known) and all(type(one) is int for one in known)
    names = "getDeviceCount getDeviceProperties memGetInfo driverGetVersion runtimeGetVersion CUDARuntimeError"
    assert all(hasattr(cupy.cuda.runtime, name) for name in names.split())


def test_types_of_products_are_cudas():
    """Their combinations are those of cuBLAS's documentation; the numbers of data types are those of CUDA's header."""
    if sys.platform != "darwin":  # for which there is no such package
        (header,) = Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cuda_runtime/include/library_types.h")
        known = dict(re.findall(r"CUDA_(R_\w+)\s*=\s*(\d+)", header.read_text()))
        assert {name: known[name] for name, _ in DATA_TYPES.values()} == {
            name: str(number) for number, (name, _) in DATA_TYPES.items()
        }
    for precision, (operands, result, compute, scalars) in GEMM_TYPES.items():
        assert PRODUCTS[compute, operands, result] == (precision, scalars.dtype)
        assert scalars.tolist() == [0, 1]


def test_ranks_are_connected_once_and_their_sum_is_in_the_graph(install):
    fake, connected = install(2), []

    class NcclCommunicator:
        def __init__(self, count, identifier, rank):
            assert fake.captured is None and fake.device == 1
            connected.append((count, identifier, rank))

        def allReduce(self, source, target, count, datatype, operation, stream):
            fake.expect_current()
            assert source == target and stream == fake.stream.ptr
            fake.note(("sum", count, datatype, operation))

    fake.cuda.get_current_stream = lambda: fake.stream
    fake.cuda.nccl = SimpleNamespace(
        available=True, get_unique_id=lambda: "identifier", NcclCommunicator=NcclCommunicator,
        NCCL_FLOAT32="f4", NCCL_FLOAT64="f8", NCCL_SUM="+",
    )  # fmt: skip
    device = CudaDevice(1)
    device._stream.ptr = 99
    others = iter([[("a machine", "cuda:1"), ("another", "cuda:1")], ["identifier", None]])
    array, chosen = device.empty((3,), np.float32), []

    def work():
        if not chosen:
            chosen.append(nccl_sum(0, 2, lambda value: next(others), device))
        chosen[0](array)

    replay = device.capture(work)
    for _ in range(3):
        replay()
    assert connected == [(2, "identifier", 0)]
    assert fake.log == [("graph",), ("sum", 3, "f4", "+")] * 3
