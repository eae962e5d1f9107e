"""What tests plan kernels for: a model on a device of which only the limits matter."""

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.cuda.target import Target

H100, A100, V100 = Limits(90, 132, 232_448), Limits(80, 108, 166_912), Limits(70, 80, 98_304)
T4 = Limits(75, 40, 65_536)


def target_of(model: ModelConfig, limits: Limits = H100, dtype="f4", precision: str = "fp32") -> Target:
    return Target(EmulatedDevice(limits=limits), model, np.dtype(dtype), precision)
