"""Drawing on a device: the host asks for many characters at once and reads all of them at the end."""

import numpy as np

from cuchar.engines.base import Streams
from cuchar.engines.cuda.regimes import Drawing
from cuchar.engines.cuda.tape import STEP, Tape, Weights
from cuchar.engines.cuda.target import Target, Window
from cuchar.sampling import SampleConfig


class DeviceSampler:
    """`cuchar.engines.base.Sampler` for the CUDA engine. It computes in fp32, whatever the engine's precision."""

    def __init__(self, target: Target, drawing: Drawing, weights: Weights, config: SampleConfig, streams: Streams):
        self._device, self._drawing, self._weights = target.device, drawing, weights
        self._position = streams.position
        self._tape = Tape(target, Window(1, len(streams.numbers)))
        self._tape.order(np.zeros(1, STEP))
        self._tape.put(streams.ids[None])
        self._tape.put_state(streams.state)
        self._law = {
            "is_exp": config.law == "exp",
            "top_k": 1 if config.argmax else min(config.top_k, target.model.vocabulary_size),
            "coldness": config.coldness, "top_p": config.top_p, "min_p": config.min_p,
            "seed": streams.seed, "first_stream": streams.numbers.start,
        }  # fmt: skip

    def make(self, count: int) -> np.ndarray:
        made = self._device.empty((count, self._tape.B), np.int32)
        self._drawing(self._weights, self._tape, made, self._law, self._position)
        self._position += count
        return self._device.read(made)
