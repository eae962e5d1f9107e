"""Dropout on a device: the arguments that describe a mask to kernels, and the kernels that apply masks to arrays."""

from dataclasses import asdict, dataclass
from typing import Any

from cuchar.engines.base import Dropout
from cuchar.engines.cuda.tape import Backward, Tape, Weights
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
    if dropout is None or not dropout.probability:
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


class WeightDropping:
    """Dropout of the recurrent weights: a window is computed with a copy of the weights, of which some are 0."""

    FILE = "training/weight_dropout.cu"

    def __init__(self, target: Target, probability: float, seed: int):
        self._kernel, self._model = target.kernels(self.FILE)["drop_weights"], target.model
        mask = Mask.of(probability, seed, batch=0)
        self._mask: dict[str, Any] = {"seed": seed, "threshold": mask.threshold, "scale": mask.scale}
        self._dropped = Weights(target)

    @classmethod
    def of(cls, target: Target, probability: float, seed: int) -> "WeightDropping | None":
        """None if no weight is to be dropped."""
        return cls(target, probability, seed) if probability else None

    def weights(self, weights: Weights, tape: Tape) -> Weights:
        """The weights that the next training step computes with; this comes before its first kernel."""
        self._drop(weights.flat, self._dropped.flat, tape, tape.progress[2:])
        return self._dropped

    def gradients(self, backward: Backward, tape: Tape) -> None:
        """Make the gradients of those weights the gradients of the parameters."""
        self._drop(backward.partials, backward.partials, tape, tape.progress[:2])

    def _drop(self, source: Any, out: Any, tape: Tape, position: Any) -> None:
        model = self._model
        self._kernel(
            ceil_div(source.size, 256), 256, source=source, out=out, count=source.size, P=self._dropped.flat.size,
            V=model.vocabulary_size, H=model.hidden, L=model.layers, **self._mask, steps=tape.steps, position=position,
        )  # fmt: skip
