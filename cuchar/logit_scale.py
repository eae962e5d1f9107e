"""The factor by which a model's logits suit a text best, and the model that has it in its head's weights.

A model that has read its text many times is too sure of itself on another text. There, logits that are all a little
smaller make the loss lower. Which characters are likelier than which stays as it was.
Source: Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks", section 4.2, "temperature scaling";
the factor is one over their temperature.
"""

from typing import Any

import numpy as np

from cuchar.engines.base import Engine, State
from cuchar.parameters import Parameters

FACTORS = np.arange(50, 152, 2) / 100  # those that are tried: 0.5, 0.52, ... 1.5


class ScaledLosses:
    """The losses of a text at every factor at once, from one pass over the text.

    Args:
        engine: scores the text; `losses` takes the place of its method of that name.
    """

    def __init__(self, engine: Engine):
        self.count = 0
        self._engine, self._sums = engine, np.zeros(len(FACTORS))

    def losses(self, weights: Any, inputs: np.ndarray, targets: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Each character's losses in nats, with the logits times each of FACTORS, [T, B, factors], and the state after."""
        logits, state = self._engine.forward(weights, inputs, state)
        return losses_at_factors(logits, targets), state

    def add(self, losses: np.ndarray) -> None:
        """Add losses [..., factors] of characters that follow those before."""
        of_characters = losses.reshape(-1, len(FACTORS))
        self.count += len(of_characters)
        self._sums += of_characters.sum(axis=0, dtype=np.float64)

    @property
    def factor(self) -> float:
        """The factor at which the mean loss is least."""
        return float(FACTORS[np.argmin(self._sums)])

    @property
    def mean(self) -> float:
        """The mean loss at that factor; NaN if a loss is."""
        return float(self._sums.min()) / self.count

    @property
    def mean_as_trained(self) -> float:
        """The mean loss with the logits as they are."""
        return float(self._sums[np.flatnonzero(FACTORS == 1)[0]]) / self.count


def losses_at_factors(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The losses in nats with the logits times each of FACTORS, [..., factors].

    Args:
        logits: [..., V].
        targets: [...] ids.
    """
    below = logits - logits.max(axis=-1, keepdims=True)
    target = np.take_along_axis(below, targets.astype(np.intp)[..., None], -1)[..., 0]
    found = np.empty((*targets.shape, len(FACTORS)), logits.dtype)
    # The exponential at a factor is that at the factor before, times that at the difference: no further exp is needed.
    first, difference = logits.dtype.type(FACTORS[0]), logits.dtype.type(FACTORS[1] - FACTORS[0])
    powers, step = np.exp(first * below), np.exp(difference * below)
    for k, factor in enumerate(FACTORS.astype(logits.dtype)):
        found[..., k] = np.log(powers.sum(axis=-1)) - factor * target
        powers *= step
    return found


def scaled(parameters: Parameters, factor: float) -> Parameters:
    """The parameters of the model whose logits are `factor` times as large: the head's are."""
    flat = parameters.flat.copy()
    copy = Parameters(parameters.model, flat.dtype, flat)
    for name in ("head.weight", "head.bias"):
        copy[name][...] *= flat.dtype.type(factor)
    return copy
