"""A device that compiles nothing: it lists what engines ask it to compile."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.engines.cuda.dropout import WeightDropping
from cuchar.engines.cuda.gemm import LibraryGemm, TensorGemm
from cuchar.engines.cuda.head import scaled
from cuchar.engines.cuda.regimes import expect_tensor_cores, plan_sampling, plan_window
from cuchar.engines.cuda.target import Target, Window

Source = tuple[str, tuple[tuple[str, int | str], ...], bool]  # a file, its macros, whether its launches are cooperative


class Listing:
    gemm = None

    def __init__(self, name: str, limits: Limits, has_tensor_library: bool = False):
        self.name, self.limits, self.has_tensor_library = name, limits, has_tensor_library
        self.asked: dict[Source, None] = {}

    def kernels(self, file: str, macros: Mapping[str, int | str], cooperative: bool = False) -> Mapping[str, None]:
        self.asked[file, tuple(macros.items()), cooperative] = None
        return defaultdict(lambda: None)

    def target(self, model: ModelConfig, precision: str = "fp32", dtype: np.typing.DTypeLike = np.float32) -> Target:
        return Target(self, model, np.dtype(dtype), precision)

    def ask_for_training(self, target: Target, window: Window) -> None:
        """Ask for the kernels that train on windows of this size and score them, but not for those that cut windows."""
        expect_tensor_cores(target)
        plan_window(target, window).launches(target, window.dropout)
        target.kernels(WeightDropping.FILE)
        target.kernels("training/weigh.cu")  # which several processes launch before they add up their gradients
        target.kernels("training/adam.cu", scaled(target))

    def ask_for_drawing(self, target: Target) -> None:
        plan_sampling(target).drawing(target)

    def ask_for_both_products(self, precision: str) -> None:
        """Ask for our own kernel for products on tensor cores, and for the kernel that rounds a library's operands."""
        for kind in (TensorGemm, LibraryGemm):
            kind(self.target(ModelConfig(2, 1, 1), precision))

    def ask_for_windows(self) -> None:
        """Ask for the kernels that cut windows out of a text whose ids have one byte, or two."""
        for identifier in ("unsigned char", "unsigned short"):
            self.kernels("training/windows.cu", {"ID": identifier})
