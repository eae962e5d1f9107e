"""Which engine a machine gets, and why."""

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np

from cuchar.config import PRECISIONS, ModelConfig
from cuchar.engines.base import Engine
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError, OptionError
from cuchar.files import say
from cuchar.wording import option

DEVICES = "auto | cpu | cuda | cuda:N | emulate"
DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def choose_engine(
    device: str, model: ModelConfig, dtype: np.typing.DTypeLike = np.float32, precision: str = "fp32"
) -> tuple[Engine, str]:
    """The engine for `--device` (auto, cpu, cuda, cuda:N or emulate), and in words, why it is that one.

    Raises:
        OptionError: there is no device or no precision of that name.
        DeviceError: this machine does not have the device, or the device does not have the precision.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"{option('precision')}: expected {' | '.join(PRECISIONS)}, found {precision}")

    def on_processors(reason: str) -> tuple[Engine, str]:
        if precision != "fp32":
            raise DeviceError(
                f"{option('precision', precision)}: expected a GPU's tensor cores, found none ({reason}); "
                f"{option('precision', 'fp32')} runs here, {option('device', 'emulate')} runs the tensor cores' kernels"
            )
        try:
            return CpuEngine(model, dtype, _compiling), reason
        except DeviceError as error:
            return NumpyEngine(model, dtype), f"{reason}; for C++ {error}"

    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?|emulate", device):
        raise OptionError(f"{option('device')}: expected {DEVICES}, found {device}")
    if device == "cpu":
        return on_processors("asked for")
    if device != "emulate" and not _has_driver():
        if device == "auto":
            return on_processors("no NVIDIA driver found")
        raise DeviceError(
            f"{option('device', device)}: expected an NVIDIA GPU and its driver, found none; "
            f"{option('device', 'cpu')} needs none"
        )
    from cuchar.devices.cupy_device import CudaDevice
    from cuchar.engines.cuda.engine import CudaEngine  # CuPy and the emulator are slow to import

    if device == "emulate":
        from cuchar.devices.emulator import EmulatedDevice

        return CudaEngine(model, EmulatedDevice(notice=_compiling), dtype, precision), "asked for"
    try:
        chosen = CudaDevice(int(device.partition(":")[2] or 0), _say_compiling)
    except DeviceError as error:
        if device != "auto":
            raise
        return on_processors(str(error))
    return CudaEngine(model, chosen, dtype, precision), "the fastest here" if device == "auto" else "asked for"


def numbered_device(device: str, number: int) -> str:
    """The device that the process of this number on a machine uses for `--device`, so that each has a GPU of its own.

    It is `device` itself, unless that is auto or cuda, and the machine has several GPUs.
    """
    if device not in ("auto", "cuda") or not _has_driver():
        return device
    from cupy.cuda import runtime

    try:
        count = runtime.getDeviceCount()
    except RuntimeError:  # to use the device raises a better error
        return device
    return f"cuda:{number % count}" if count > 1 else device


def _has_driver() -> bool:
    """Whether CUDA's driver library is there. To look for it is much quicker than to import CuPy."""
    for library in DRIVERS:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


@contextmanager
def _compiling(kept: str) -> Iterator[None]:
    """A context in which kernels are compiled: a line says so, and a terminal shows that something goes on."""
    from cuchar.bars import bar  # rich is slow to import

    _say_compiling(kept)
    with bar("compiling", None):
        yield


@lru_cache(maxsize=1)  # so that it is said once in a process
def _say_compiling(kept: str = "the next run finds them compiled") -> None:
    say(f"compiling the kernels; {kept}")
