"""Dropout on a device: the arguments that describe a mask to kernels, and the kernel that applies it to an array."""

from dataclasses import asdict, dataclass
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
    first_row: int
    batch: int
    scale: float

    @classmethod
    def of(cls, probability: float, seed: int, batch: int, first_row: int = 0) -> "Mask":
        """The mask of rows first_row, first_row + 1, ... of a batch of `batch` rows."""
        return cls(seed, int(probability * 2**32), first_row, batch, 1 / (1 - probability))

    @property
    def arguments(self) -> dict[str, Any]:
        """The mask as arguments of a kernel, by the names of the kernel's parameters."""
        return asdict(self)


NO_MASK = Mask.of(0, 0, 0)  # is passed to kernels that are compiled without dropout, which ignore it


def mask_of(dropout: Dropout | None, rows: int) -> Mask | None:
    """The mask of a window of so many rows."""
    if dropout is None:
        return None
    return Mask.of(dropout.probability, dropout.seed, dropout.batch or rows, dropout.first_row)


class Dropping:
    """The kernel that multiplies an array [T, B, H], a layer's output or its gradient, by the layer's mask."""

    def __init__(self, target: Target):
        self._apply_dropout = target.kernels("stepwise/dropout.cu")["apply_dropout"]

    def __call__(self, source: Any, out: Any, layer: int, mask: Mask, tape: Tape) -> None:
        T, B, H = out.shape
        self._apply_dropout(
            T * ceil_div(B * H, 256), 256, source=source, out=out, BH=B * H, H=H, layer=layer, **mask.arguments,
            steps=tape.steps, progress=tape.progress,
        )  # fmt: skip
