"""Engines: the same few whole-sequence operations, on different machines."""

import ctypes
import re
import sys
from functools import lru_cache

import numpy as np

from cuchar.config import ModelConfig
from cuchar.engines.base import Engine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError, OptionError

DEVICES = "auto | cpu | cuda | cuda:N | emulate"
DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def choose_engine(device: str, model: ModelConfig, dtype: np.typing.DTypeLike = np.float32) -> tuple[Engine, str]:
    """The engine for `--device` (auto, cpu, cuda, cuda:N or emulate) and, in words, why it is that one.

    Raises:
        OptionError: no such device name.
        DeviceError: a device that this machine does not have.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|emulate", device):
        raise OptionError(f"--device: expected {DEVICES}, found {device}")
    if device == "cpu":
        return NumpyEngine(model, dtype), "asked for"
    if device != "emulate" and not _has_driver():
        if device == "auto":
            return NumpyEngine(model, dtype), "no NVIDIA driver found"
        raise DeviceError(
            f"--device {device}: expected an NVIDIA GPU and its driver, found none; --device cpu runs on NumPy"
        )
    from cuchar.engines.cuda_engine import CudaEngine  # CuPy and the emulator are slow to import
    from cuchar.engines.device import CudaDevice

    if device == "emulate":
        from cuchar.emulator import EmulatedDevice

        return CudaEngine(model, EmulatedDevice(notice=_say_compiling), dtype), "asked for"
    try:
        chosen = CudaDevice(int(device.partition(":")[2] or 0), _say_compiling)
    except DeviceError as error:
        if device != "auto":
            raise
        return NumpyEngine(model, dtype), str(error)
    return CudaEngine(model, chosen, dtype), "the fastest here" if device == "auto" else "asked for"


def _has_driver() -> bool:
    """Whether CUDA's driver library is there: a look that does not cost the import of CuPy."""
    for library in DRIVERS:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


@lru_cache(maxsize=1)  # once a process
def _say_compiling() -> None:
    print("compiling the kernels for a model of this shape; the next run finds them compiled", file=sys.stderr)
