"""What kernels are compiled for, and the sizes of what they work on."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices.device import Device, Kernel


@dataclass(frozen=True)
class Target:
    """What kernels are compiled for: a device, a model's sizes, its number type, and the precision of products."""

    device: Device
    model: ModelConfig
    dtype: np.dtype
    precision: str = "fp32"

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def is_scaled(self) -> bool:
        """Whether gradients are multiplied by a loss scaling (kernels/common/step.cuh)."""
        return self.precision == "fp16"

    @property
    def sizes(self) -> dict[str, int]:
        """The macros of kernels/common/shape.cuh: a model's sizes."""
        model = self.model
        return {"HIDDEN": model.hidden, "LAYERS": model.layers, "VOCABULARY": model.vocabulary_size}

    @property
    def operand(self) -> dict[str, str]:
        """The macro that names the precision of products, for kernels that have tensor cores."""
        return {} if self.precision == "fp32" else {"PRECISION": self.precision.capitalize()}

    def kernels(
        self, file: str, macros: Mapping[str, int | str] | None = None, cooperative: bool = False
    ) -> Mapping[str, Kernel]:
        """The kernels of a file for this number type (kernels/common/real.cuh), with further macros."""
        real = {"REAL": {"f": "float", "d": "double"}[self.dtype.char]}
        return self.device.kernels(file, {**real, **(macros or {})}, cooperative)


@dataclass(frozen=True)
class Window:
    """The sizes [T, B] of the windows that kernels work on, and whether dropout acts on the layers' outputs."""

    T: int
    B: int
    dropout: bool = False

    @property
    def N(self) -> int:
        return self.T * self.B
