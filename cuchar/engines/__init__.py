"""Engines: the same few whole-sequence operations, on different machines."""

import re

import numpy as np

from cuchar.config import ModelConfig
from cuchar.engines.base import Engine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError, OptionError


def choose_engine(device: str, model: ModelConfig, dtype: np.typing.DTypeLike = np.float32) -> tuple[Engine, str]:
    """The engine for `--device` (auto, cpu, cuda or cuda:N) and, in words, why it is that one.

    Raises:
        OptionError: no such device name.
        DeviceError: a device that this machine or this version does not have.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise OptionError(f"--device: expected auto | cpu | cuda | cuda:N, found {device}")
    if device.startswith("cuda"):
        raise DeviceError(
            f"--device {device}: expected a version of cuchar with the CUDA engine, found one without it; "
            "--device cpu runs on NumPy"
        )
    reason = "asked for" if device == "cpu" else "this version of cuchar has no CUDA engine yet"
    return NumpyEngine(model, dtype), reason
