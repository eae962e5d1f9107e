"""`CudaDevice` over a stand-in for CuPy: what it asks of CuPy, in which device and stream, and what it refuses.

The stand-in's arrays are NumPy's, its signatures CuPy 14's, and it checks what a GPU would: the
present device and stream, types, order, no GEMM and no copy while capturing.
"""

import inspect
import sys
import weakref
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

from cuchar.config import ModelConfig
from cuchar.engines import choose_engine
from cuchar.engines.device import CudaDevice
from cuchar.engines.kernel_loader import join, kernel_names
from cuchar.errors import DeviceError, ShapeError

PROPERTIES = {
    "name": b"Stand-in H100", "major": 9, "minor": 0, "multiProcessorCount": 132, "sharedMemPerBlockOptin": 232_448,
    "regsPerMultiprocessor": 65_536,
}  # fmt: skip


class Array(np.ndarray):
    """cupy.ndarray's way to and from the host: it keeps no hold of the host's array, which is read later on."""

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


class FakeCupy:
    """The part of the module `cupy` that CudaDevice uses."""

    now: "FakeCupy"
    __spec__ = None

    def __init__(self, count=1, **properties):
        FakeCupy.now = self
        self.log, self.captured, self.device, self.stream, self.allocated = [], None, None, None, 0
        self.most_bytes = 1 << 40
        self.sources, self.compile_error = [], None
        fake = self

        class CUDARuntimeError(RuntimeError):
            pass

        class OutOfMemoryError(MemoryError):
            pass

        class Stream:
            def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
                assert non_blocking and fake.device is not None
                self.device, self.synchronized, self.pending = fake.device, 0, []

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
                fake.captured = []

            def end_capture(self):
                launches, fake.captured = fake.captured, None

                def launch(stream=None):
                    assert stream is self and fake.device == self.device
                    fake.log.extend(launches)

                return SimpleNamespace(launch=launch)

        def get_device_count():
            if isinstance(count, str):
                raise CUDARuntimeError(count)
            return count

        self.cuda = SimpleNamespace(
            Device=self._on_device, Stream=Stream, memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(
                CUDARuntimeError=CUDARuntimeError, getDeviceCount=get_device_count,
                getDeviceProperties=lambda device: PROPERTIES | properties, memGetInfo=lambda: (1000, 5 << 30),
                driverGetVersion=lambda: 12_040, runtimeGetVersion=lambda: 12_090,
            ),
        )  # fmt: skip
        self.cuda.compiler = SimpleNamespace(CompileException=type("CompileException", (Exception,), {}))
        self.cuda.Event, self.cuda.get_elapsed_time = self._event, lambda start_event, end_event: 0.25
        self.cuda.nvrtc = SimpleNamespace(
            getVersion=lambda: (12, 9), getSupportedArchs=lambda: (50, 70, 75, 80, 86, 90, 100, 120, 121)
        )
        self.__version__ = "14.2.0"
        self.cublas = SimpleNamespace(gemm=self._gemm)

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
        (self.log if self.captured is None else self.captured).append(entry)

    def expect_current(self):
        assert self.device is not None and self.stream is not None and self.stream.device == self.device

    def expect_copy(self, stream):
        assert self.captured is None and stream is not None and self.device == stream.device

    def empty(self, shape, dtype=float, order="C"):
        self.expect_current()
        if np.prod(shape, dtype=object) * np.dtype(dtype).itemsize > self.most_bytes:
            raise self.cuda.memory.OutOfMemoryError("Out of memory allocating 1 bytes")
        return np.empty(shape, dtype, order).view(Array)

    def get_default_memory_pool(self):
        assert self.device is not None
        return SimpleNamespace(free_bytes=lambda: 24)

    def RawModule(self, *, code=None, path=None, options=(), backend="nvrtc", enable_cooperative_groups=False):
        assert self.device is not None
        self.sources.append(code)
        if self.compile_error:
            raise self.compile_error
        return SimpleNamespace(get_function=lambda name: RawKernel(self, name, enable_cooperative_groups))

    def _gemm(self, transa, transb, a, b, out=None, alpha=1.0, beta=0.0):
        """With cupy.cublas.gemm's own checks."""
        self.expect_current()
        assert self.captured is None and a.ndim == b.ndim == 2 and a.dtype == b.dtype == out.dtype
        product = (a.T if transa == "T" else a) @ (b.T if transb == "T" else b)
        assert product.shape == out.shape
        out[...] = product + (beta * out if beta else 0)


@pytest.fixture
def install(monkeypatch):
    def make(*arguments, **properties):
        fake = FakeCupy(*arguments, **properties)
        monkeypatch.setitem(sys.modules, "cupy", fake)
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
    assert (limits.capability, limits.multiprocessors, limits.shared_bytes, limits.registers) == (
        86,
        84,
        101_376,
        65_536,
    )
    assert not limits.has_clusters


def test_what_is_no_gpu_to_work_with(install, monkeypatch):
    install("cudaErrorNoDevice: no CUDA-capable\n device is detected")
    assert refusal().endswith("found: cudaErrorNoDevice: no CUDA-capable device is detected")
    install(2)
    assert refusal(2) == "--device cuda:2: expected a GPU of that number, found 2, counted from 0"
    install(major=6, minor=1)
    assert refusal() == "Stand-in H100: expected compute capability 7.0 or newer, found 6.1"
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert refusal().startswith("expected CuPy for --device cuda")


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
    monkeypatch.setattr("cuchar.engines._has_driver", lambda: True)
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
    assert device.free_bytes() == 1024


def test_too_little_memory_is_one_line(install):
    fake = install()
    device, fake.most_bytes = CudaDevice(), 100
    with pytest.raises(DeviceError, match=r"^Stand-in H100: .* found: Out of memory"):
        device.empty((26,), np.float32)


def test_kernels_are_compiled_from_one_text_and_launched_with_their_arguments(install):
    fake = install()
    device = CudaDevice()
    kernels = device.kernels("cell.cu", {"REAL": "double"})
    assert fake.sources == [join("cell.cu", {"REAL": "double"})]
    assert list(kernels) == kernel_names(fake.sources[0]) == ["cell_forward", "cell_backward"]
    array = device.empty((3,), np.float32)
    kernels["cell_forward"](5, 64, array, np.int32(1))
    assert fake.log == [("launch", "cell_forward", (5,), (64,), (array, np.int32(1)), 0)]


def test_what_the_compiler_rejects_is_one_line(install):
    fake = install()
    fake.compile_error = fake.cuda.compiler.CompileException('head.cuh(80): error: "x" is undefined\n  real x;\n  ^\n')
    with pytest.raises(DeviceError) as error:
        CudaDevice().kernels("head.cu", {})
    assert str(error.value).endswith('for Stand-in H100, found: head.cuh(80): error: "x" is undefined')


def test_more_shared_memory_is_asked_for_once(install):
    fake = install()
    kernel = CudaDevice().kernels("adam.cu", {})["adam"]
    for shared in (100, 80 << 10, 60 << 10, 90 << 10):
        kernel(1, 32, np.int32(1), shared_bytes=shared)
    assert [entry[-1] for entry in fake.log] == [100, 80 << 10, 60 << 10, 90 << 10]


@pytest.mark.parametrize("argument", [1, 0.5, np.zeros((4, 4)).view(Array)[:, :2], None], ids=repr)
def test_arguments_that_a_kernel_would_misread(install, argument):
    install()
    kernel = CudaDevice().kernels("adam.cu", {})["adam"]
    with pytest.raises(ShapeError, match="adam: argument 1: expected"):
        kernel(1, 32, np.int32(0), argument)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("ta", [False, True])
@pytest.mark.parametrize("tb", [False, True])
def test_gemm(install, ta, tb, accumulate):
    install()
    device, generator = CudaDevice(), np.random.default_rng(0)
    a, b, out = (generator.normal(size=shape) for shape in ((4, 3) if ta else (3, 4), (2, 4) if tb else (4, 2), (3, 2)))
    expected = (a.T if ta else a) @ (b.T if tb else b) + (out if accumulate else 0)
    arrays = [device.empty(host.shape, host.dtype) for host in (a, b, out)]
    for array, host in zip(arrays, (a, b, out), strict=True):
        device.write(array, host)
    device.gemm(*arrays, ta=ta, tb=tb, accumulate=accumulate)
    np.testing.assert_allclose(device.read(arrays[2]), expected, rtol=1e-14)


def test_captured_launches_are_made_by_the_replay_alone(install):
    fake = install()
    device = CudaDevice()
    kernel = device.kernels("adam.cu", {})["adam"]
    replay = device.capture(lambda: [kernel(n, 32, np.int32(n)) for n in (1, 2)])
    assert fake.log == []
    replay()
    replay()
    assert [entry[2] for entry in fake.log] == [(1,), (2,), (1,), (2,)]


def test_an_error_while_capturing_ends_the_capture(install):
    fake = install()
    device = CudaDevice()
    with pytest.raises(ZeroDivisionError):
        device.capture(lambda: 1 // 0)
    assert fake.captured is None


def test_engine_names_the_gpu(install, monkeypatch):
    install()
    monkeypatch.setattr("cuchar.engines._has_driver", lambda: True)
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
    monkeypatch.setattr("cuchar.engines._has_driver", lambda: True)
    if taken:
        engine, _ = choose_engine("auto", ModelConfig(5, 3, 1), precision=precision)
        assert precision == "fp32" or engine.name == f"CUDA kernels on Stand-in H100 in {precision}"
        return
    with pytest.raises(DeviceError) as error:
        choose_engine("auto", ModelConfig(5, 3, 1), precision=precision)
    least = "7.5" if precision == "fp16" else "8.0"
    assert str(error.value) == (
        f"--precision {precision}: expected compute capability {least} or newer, found {major}.{minor} "
        "(Stand-in H100); --precision fp32 runs on it"
    )


def test_reduced_precision_is_of_float32_and_of_a_gpu(install, monkeypatch):
    install()
    monkeypatch.setattr("cuchar.engines._has_driver", lambda: True)
    with pytest.raises(DeviceError, match="--precision bf16: expected float32 parameters, found float64"):
        choose_engine("cuda", ModelConfig(5, 3, 1), np.float64, "bf16")
    monkeypatch.setattr("cuchar.engines._has_driver", lambda: False)
    with pytest.raises(DeviceError, match=r"found none \(no NVIDIA driver found\); --precision fp32 runs here"):
        choose_engine("auto", ModelConfig(5, 3, 1), precision="bf16")


def test_make_gpu_describes_the_gpu_and_times_by_events(install, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delenv("CUCHAR_GPU_DRY_RUN", raising=False)
    from benchmarks.gpu_stages.device import describe
    from cuchar.bench.device_clock import elapsed_ms

    fake = install()
    found, expected = describe(), {"device": "Stand-in H100", "compute_capability": "9.0", "multiprocessors": "132"}
    expected |= {"driver_cuda": "12.4", "cuda_runtime": "12.9", "nvrtc": "12.9", "cupy": "14.2.0", "memory_mib": "5120"}
    assert expected.items() <= found.items() and {"driver", "numpy", "python"} <= set(found)
    device = CudaDevice()
    assert elapsed_ms(device, lambda: fake.note("work")) == 0.25
    assert fake.log == [("event", device._stream), "work", ("event", device._stream), "synchronize"]


@pytest.mark.skipif(sys.platform == "darwin", reason="there is no CuPy for macOS")
def test_the_stand_in_has_cupys_signatures():
    FakeCupy()
    import cupy

    cublas = Path(cupy.__file__).with_name("cublas.py").read_text("utf-8")  # to import it takes cuBLAS
    assert f"def gemm{inspect.signature(FakeCupy.now._gemm)}:" in cublas
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
    for (
        name
    ) in "getDeviceCount getDeviceProperties memGetInfo driverGetVersion runtimeGetVersion CUDARuntimeError".split():
        assert hasattr(cupy.cuda.runtime, name)
