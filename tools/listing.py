"""A device that compiles nothing and takes down what engines ask it to."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.gemm import LibraryGemm, TensorGemm

Source = tuple[str, tuple[tuple[str, int | str], ...], bool]  # a file, its macros, whether its launches are cooperative


class Listing:
    gemm = None

    def __init__(self, name: str, limits: Limits, has_tensor_library: bool = False):
        self.name, self.limits, self.has_tensor_library = name, limits, has_tensor_library
        self.asked: dict[Source, None] = {}

    def kernels(self, file: str, macros: Mapping[str, int | str], cooperative: bool = False) -> Mapping[str, None]:
        self.asked[file, tuple(macros.items()), cooperative] = None
        return defaultdict(lambda: None)

    def ask_for_training(
        self,
        model: ModelConfig,
        T: int,
        B: int,
        dropout: bool = False,
        precision: str = "fp32",
        dtype: np.typing.DTypeLike = np.float32,
    ) -> None:
        """What trains on windows [T, B] and scores them, but for what cuts them out of a text."""
        launches = CudaEngine(model, self, dtype, precision).launches_for(T, B, dropout)
        self.kernels("training/adam.cu", launches.head.macros)

    def ask_for_drawing(self, model: ModelConfig, dtype: np.typing.DTypeLike = np.float32) -> None:
        _ = CudaEngine(model, self, dtype)._sample_steps

    def ask_for_both_products(self, precision: str) -> None:
        """Our own kernel for a product on tensor cores, and what rounds operands for a library's."""
        TensorGemm(self, precision)
        LibraryGemm(self, precision)

    def ask_for_windows(self) -> None:
        """What cuts windows out of a text with characters of one byte, or of two."""
        for identifier in ("unsigned char", "unsigned short"):
            self.kernels("training/windows.cu", {"ID": identifier})
