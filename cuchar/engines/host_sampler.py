"""Drawing on the host: an engine's logits, then NumPy's draw, character after character."""

from typing import Any

import numpy as np

from cuchar.engines.base import Engine, State
from cuchar.philox import uniforms
from cuchar.sampling import SampleConfig, draw


class HostSampler:
    """`cuchar.engines.base.Sampler` for any engine."""

    def __init__(
        self,
        engine: Engine,
        weights: Any,
        config: SampleConfig,
        seed: int,
        streams: range,
        ids: np.ndarray,
        state: State,
        position: int,
    ):
        self.engine, self.weights, self.config = engine, weights, config
        self.seed, self.streams, self.ids, self.state, self.position = seed, streams, ids, state, position

    def make(self, count: int) -> np.ndarray:
        chances = uniforms(self.seed, self.streams, range(self.position, self.position + count))
        made = np.empty(chances.shape, np.int64)
        for k in range(count):
            logits, self.state = self.engine.forward(self.weights, self.ids[None], self.state)
            made[k] = draw(logits[0], self.config, chances[k])
            self.ids = np.maximum(made[k], 0)
        self.position += count
        return made
