"""Dropout on a device: the arguments that describe a mask to kernels, and the kernel that applies it to an array."""

from dataclasses import dataclass
from typing import Any

from cuchar.engines.base import Dropout
from cuchar.engines.cuda.tape import Tape
from cuchar.engines.cuda.target import Target
from cuchar.sizes import ceil_div


@dataclass(frozen=True)
class Mask:
    """A dropout mask, as kernels compute it (kernels/common/dropout.cuh).

    The mask also depends on the number of the training step, which kernels read from the tape (`Tape.steps`).
    """

    seed: int
    threshold: int
    scale: float

    @classmethod
    def of(cls, probability: float, seed: int) -> "Mask":
        return cls(seed, int(probability * 2**32), 1 / (1 - probability))

    @property
    def arguments(self) -> dict[str, Any]:
        """The mask as arguments of a kernel, by the names of the kernel's parameters."""
        return {"seed": self.seed, "threshold": self.threshold, "scale": self.scale}


NO_MASK = Mask.of(0, 0)  # is passed to kernels that are compiled without dropout, which ignore it


def mask_of(dropout: Dropout | None) -> Mask | None:
    return Mask.of(dropout.probability, dropout.seed) if dropout else None


class Dropping:
    """The kernel that multiplies an array [T, B, H], a layer's output or its gradient, by the layer's mask."""

    def __init__(self, target: Target):
        self._apply_dropout = target.kernels("stepwise/dropout.cu")["apply_dropout"]

    def __call__(self, source: Any, out: Any, layer: int, mask: Mask, tape: Tape) -> None:
        self._apply_dropout(
            ceil_div(out.size, 256), 256, source=source, out=out, size=out.size, layer=layer, **mask.arguments,
            steps=tape.steps, progress=tape.progress,
        )  # fmt: skip
