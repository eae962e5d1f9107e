"""Dynamic evaluation: the model goes on learning from the text that it has just been scored on.

A text is taken in segments. A segment is scored with the weights as they are, and only then learnt from, so that the
score of a character depends on nothing but the characters before it. With the segment's gradient g, each weight w, which
was w0 after training, becomes

    w - rate * g / (r + DAMPING) + min(1, decay * r) * (w0 - w)

where r is the root mean square of the weight's gradients in training, over the mean of all weights' roots. So weights
that had large gradients take small steps, and are drawn back to their trained values the faster.
Source: Krause, Kahembwe, Murray and Renals 2018, "Dynamic evaluation of neural sequence models", section 4. The paper
gathers the mean squares in a pass over the training text; Adam's second moments, which every checkpoint has, are used here.
"""

from collections.abc import Iterator

import numpy as np

from cuchar.dynamic import DynamicConfig
from cuchar.engines.base import Engine, Example
from cuchar.errors import DivergedError
from cuchar.evaluation import Ids
from cuchar.parameters import Parameters

DAMPING = 0.1  # keeps the steps of weights finite that had next to no gradients
WEIGHTS_AT_ONCE = 1 << 15  # that are updated, so that all arrays' parts stay in a processor's cache


class DynamicScorer:
    """Scores texts one after the other, and learns from all of them.

    Args:
        trained: the weights to begin with; they are not changed.
        squares: [P], Adam's second moments. If all are 0, as in a model that was imported, all weights count as having
            had gradients of the same size.
    """

    def __init__(self, engine: Engine, trained: Parameters, squares: np.ndarray, config: DynamicConfig):
        self._engine, self._trained, self._segment = engine, trained.flat, config.segment
        dtype = trained.flat.dtype
        self._weights = Parameters(trained.model, dtype, trained.flat.copy())
        self._gradients = Parameters(trained.model, dtype)
        roots = np.sqrt(squares, dtype=np.float64)
        relative = roots / roots.mean() if roots.any() else np.ones_like(roots)
        with np.errstate(over="ignore"):  # a step that is not finite makes losses that are not, which are noticed
            self._steps = (config.rate / (relative + DAMPING)).astype(dtype)
        self._pulls = np.minimum(1, config.decay * relative).astype(dtype)

    def losses(self, ids: Ids) -> Iterator[np.ndarray]:
        """Score a text from a zero state, and learn from it.

        Args:
            ids: n ids, n >= 2.
        Yields:
            losses in nats, in blocks in the text's order, which joined are [n - 1].
        Raises:
            DivergedError: a loss is not finite.
        """
        state, last = self._engine.zero_state(1), len(ids) - 1
        for start in range(0, last, self._segment):
            block = ids[start : min(start + self._segment, last) + 1][:, None]
            example = Example(block[:-1], block[1:], state)
            losses, state = self._engine.losses_and_gradients(self._weights, example, self._gradients)
            if not np.isfinite(losses).all():
                reason = "the rate is too large" if start else "the model's weights are too large"
                raise DivergedError(
                    f"dynamic evaluation: expected finite losses, found others after {start:,} characters: {reason}"
                )
            yield losses[:, 0]
            with np.errstate(over="ignore", invalid="ignore"):  # as above
                self._learn()

    def _learn(self) -> None:
        """Update the weights by the last segment's gradients, which are overwritten."""
        for start in range(0, len(self._trained), WEIGHTS_AT_ONCE):
            part = slice(start, start + WEIGHTS_AT_ONCE)
            weights, gradients = self._weights.flat[part], self._gradients.flat[part]
            gradients *= self._steps[part]
            change = self._trained[part] - weights
            change *= self._pulls[part]
            change -= gradients
            weights += change
