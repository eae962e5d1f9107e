"""Adam over the flat buffer, with global-norm clipping and decoupled weight decay."""

import math
from dataclasses import dataclass

import numpy as np

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
FLUSH_STEPS = 64  # steps after which moments that are next to nothing are set to 0
NEXT_TO_NOTHING = (
    1 / BETA1**FLUSH_STEPS
)  # times the smallest normal number: less decays below that before the next time


@dataclass
class LossScaling:
    """The factor by which fp16's gradients are multiplied in backward, so that small ones are not rounded to 0.

    It is halved when gradients overflow, and doubled after 2000 steps in which they did not (kernels/training/adam.cu).
    Source: Micikevicius et al. 2018, section 3.2.
    """

    scale: float = 65_536.0
    good_steps: int = 0  # steps since the scale was last changed


class Adam:
    """Moments `m` and `v`, laid out as the parameters are, and the loss scaling, which only fp16 uses.

    Source: Kingma and Ba 2015, algorithm 1, with ε outside the bias-corrected root, as in
    PyTorch; Loshchilov and Hutter 2019 for the decay; Pascanu et al. 2013 for clipping.
    """

    def __init__(self, size: int, dtype: np.typing.DTypeLike = np.float32):
        self.m = np.zeros(size, dtype)
        self.v = np.zeros(size, dtype)
        self.scaling = LossScaling()
        self._scratch = np.empty(size, dtype)

    def update(
        self,
        parameters: np.ndarray,
        gradients: np.ndarray,
        step: int,
        lr: float,
        clip: float = 0.0,
        weight_decay: float = 0.0,
    ) -> float:
        """Do one training step's update of the parameters and moments, in place.

        Args:
            parameters: [P], the flat buffer.
            gradients: [P]; they are multiplied in place where clipping acts.
            step: number of the training step, counted from 1, for the bias correction.
            lr: learning rate.
            clip: largest global norm of the gradients; 0 is off.
            weight_decay: parameters shrink by the factor 1 - lr * weight_decay before the update.
        Returns:
            the gradients' global norm before clipping. If it is not finite, nothing was changed.
        """
        with np.errstate(over="ignore"):  # a norm that overflows is infinite
            norm = math.sqrt(float(np.dot(gradients, gradients)))
        if not math.isfinite(norm):
            return norm
        if clip and norm > clip:
            gradients *= clip / norm
        scratch = self._scratch
        self.m *= BETA1
        self.m += np.multiply(gradients, 1 - BETA1, out=scratch)
        self.v *= BETA2
        np.multiply(gradients, gradients, out=scratch)
        scratch *= 1 - BETA2
        self.v += scratch
        if weight_decay:
            parameters *= 1 - lr * weight_decay
        np.sqrt(self.v, out=scratch)
        scratch /= math.sqrt(1 - BETA2**step)
        scratch += EPSILON
        np.divide(self.m, scratch, out=scratch)
        scratch *= lr / (1 - BETA1**step)
        parameters -= scratch
        if step % FLUSH_STEPS == 0:
            self._flush()
        return norm

    def _flush(self) -> None:
        """Set moments to 0 which would decay to subnormal numbers, that are slow to compute with, and never out of them.

        The C++ engine (kernels/cpu/subnormals.hpp) and float32 kernels have no subnormal numbers at all.
        """
        least = NEXT_TO_NOTHING * np.finfo(self.m.dtype).tiny
        for moments in (self.m, self.v):
            moments[np.abs(moments) < least] = 0
