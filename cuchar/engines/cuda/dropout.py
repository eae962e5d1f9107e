"""What launches tell kernels: macros, scalars with their width, pointers that are not there, dropout masks."""

from dataclasses import dataclass

import numpy as np

from cuchar.config import ModelConfig
from cuchar.engines.base import Dropout

NULL = np.uint64(0)  # a pointer that is not there
i32, i64, u32, u64 = np.int32, np.int64, np.uint32, np.uint64


@dataclass(frozen=True)
class Mask:
    """Which cells to drop, as the kernels are told; the step's number is on the device."""

    seed: np.uint64
    threshold: np.uint32
    scale: np.floating

    @classmethod
    def of(cls, probability: float, seed: int, dtype: np.dtype) -> "Mask":
        return cls(u64(seed), u32(probability * 2**32), dtype.type(1 / (1 - probability)))


def mask_of(dropout: Dropout | None, dtype: np.dtype) -> Mask | None:
    return Mask.of(dropout.probability, dropout.seed, dtype) if dropout else None


def real_macro(dtype: np.dtype) -> dict[str, int | str]:
    """kernels/real.cuh's number type."""
    return {"REAL": {"f": "float", "d": "double"}[dtype.char]}


def shape_macros(model: ModelConfig) -> dict[str, int | str]:
    """kernels/shape.cuh's sizes."""
    return {"HIDDEN": model.hidden, "LAYERS": model.layers, "VOCABULARY": model.vocabulary_size}
