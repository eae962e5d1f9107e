"""Training and drawing on the host: an engine gives gradients and logits, NumPy does Adam's update and the draw."""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.base import Dropout, Engine, Example, Share, State, Streams, TrainingState, expect_moments
from cuchar.parameters import Parameters, parameter_count
from cuchar.philox import uniforms
from cuchar.sampling import RECENT, SampleConfig, draw, penalised


def training_bytes(model: ModelConfig, itemsize: int, config: TrainConfig, rows: int) -> int:
    """Bytes that training on so many rows takes on the host: weights, gradients, moments, folded weights, a window's tape.

    The tape is the C++ engine's, without padding. NumPy's is about as large, but for the masks of recurrent weights, which
    NumPy keeps and C++ does not.
    """
    V, H, L, B, N = model.vocabulary_size, model.hidden, model.layers, rows, config.window * rows
    numbers = 5 * parameter_count(model) + N * (6 * L * H + V + 1) + 2 * L * B * H + B * H + 4 * H * min(V, N)
    numbers += 2 * L * N * H if config.dropout else 0  # masks, and what they have been applied to
    numbers += parameter_count(model) if config.weight_dropout else 0  # the parameters with some weights dropped
    return itemsize * numbers + 8 * N


class HostLearner:
    """`cuchar.engines.base.Learner` for any engine. It changes the arrays of the `TrainingState` itself."""

    chunk = 1

    def __init__(
        self, engine: Engine, config: TrainConfig, training: TrainingState, windows: Windows, share: Share | None = None
    ):
        expect_moments(training)
        self.engine, self.config, self.training, self.windows, self.share = engine, config, training, windows, share
        self.state = training.state
        flat = training.parameters.flat
        self._computed = np.zeros(flat.size + 1, flat.dtype)  # the gradients, and the loss: what processes add up
        self.gradients = Parameters(engine.model, flat.dtype, self._computed[:-1])

    def begin_epoch(self, windows: Windows) -> None:
        self.windows, self.state = windows, self._zero_state()

    def go_on_with(self, windows: Windows) -> None:
        self.windows = windows

    def _zero_state(self) -> State:
        return self.engine.zero_state(self.share.rows if self.share else self.config.batch)

    def train(self, window: int, step: int, rates: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        losses: list[float] = []
        norms: list[float] = []
        for done, rate in enumerate(rates):
            loss, norm = self._step(*self.windows[window + done], step + done, rate)
            losses.append(loss)
            norms.append(norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                break
        return np.array(losses), np.array(norms)

    def fetch(self) -> None:
        self.training.state = self.state

    def _step(self, inputs: np.ndarray, targets: np.ndarray, step: int, rate: float) -> tuple[float, float]:
        """Train on one window. Returns the loss and the gradients' norm, which is NaN if the loss is not finite."""
        config, share = self.config, self.share
        state = self.state if config.carry_state else self._zero_state()
        dropout = None
        if config.dropout or config.weight_dropout:
            rows = {"first_row": share.first, "batch": share.batch} if share else {}
            dropout = Dropout(config.dropout, config.seed, step, weights=config.weight_dropout, **rows)
        parameters = self.training.parameters
        loss, after = self.engine.loss_and_gradients(
            parameters, Example(inputs, targets, state, dropout), self.gradients
        )
        if share:
            self._computed[-1] = loss
            self._computed *= share.weight
            share.reducer.sum(self._computed)
            loss = float(self._computed[-1])
        if not math.isfinite(loss):
            return loss, math.nan
        norm = self._update(step, rate)
        if math.isfinite(norm):
            self.state = after
        return loss, norm

    def _update(self, step: int, rate: float) -> float:
        """Update the parameters. Returns the norm before clipping; if it is not finite, nothing was changed."""
        config, training = self.config, self.training
        return training.adam.update(
            training.parameters.flat, self.gradients.flat, step, rate, config.clip, config.weight_decay
        )


class HostSampler:
    """`cuchar.engines.base.Sampler` for any engine, with `config.repeat_penalty`."""

    def __init__(self, engine: Engine, weights: Any, config: SampleConfig, streams: Streams):
        self.engine, self.weights, self.config, self.streams = engine, weights, config, streams
        self.ids, self.state, self.position = streams.ids, streams.state, streams.position
        self.recent = deque([*streams.earlier, streams.ids], maxlen=RECENT)

    def make(self, count: int) -> np.ndarray:
        positions = range(self.position, self.position + count)
        chances = uniforms(self.streams.seed, self.streams.numbers, positions)
        made = np.empty(chances.shape, np.int64)
        for k in range(count):
            logits, self.state = self.engine.forward(self.weights, self.ids[None], self.state)
            logits = penalised(logits[0], self.recent, self.config.repeat_penalty)
            made[k] = draw(logits, self.config, chances[k])
            self.ids = np.maximum(made[k], 0)
            self.recent.append(self.ids)
        self.position += count
        return made
