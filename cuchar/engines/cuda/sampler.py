"""Drawing on a device: a block of characters is told at once, made without coming back, and read at the end."""

from typing import Any

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices.device import Device
from cuchar.engines.base import State
from cuchar.engines.cuda.dropout import real_macro, shape_macros
from cuchar.engines.cuda.gradients import GemmLaunches
from cuchar.engines.cuda.regimes import OneBlock, Stepwise, draw_warps
from cuchar.engines.cuda.tape import STEP, Tape, Weights
from cuchar.sampling import SampleConfig


class ResidentSteps:
    """All characters of a block in one launch."""

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype, plan: OneBlock):
        self._plan = plan
        macros = {**real_macro(dtype), **shape_macros(model), "SHARED_BYTES": plan.shared_bytes}
        self._kernel = device.kernels("sampling/lstm_sample.cu", macros)["lstm_sample"]

    def __call__(self, weights: Weights, tape: Tape, made: Any, law: tuple[Any, ...], position: int) -> None:
        """From tape.inputs and the state in its last slot to made [K, S], and so that it can go on."""
        count, streams = made.shape
        self._kernel(
            streams, self._plan.threads, weights.flat, tape.inputs, tape.h, tape.c, made, np.int32(count),
            np.int32(streams), *law, np.uint64(position), shared_bytes=self._plan.shared_bytes,
        )  # fmt: skip


class StepwiseSteps:
    """A window of one step and a draw for each character."""

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype):
        self._device, self._V = device, model.vocabulary_size
        self._launches = GemmLaunches(device, model, dtype, Stepwise(), dropout=False, precision="fp32")
        self._warps = draw_warps(model)
        self._draw = device.kernels("sampling/draw.cu", {**real_macro(dtype), "WARPS": self._warps})["draw_ids"]

    def __call__(self, weights: Weights, tape: Tape, made: Any, law: tuple[Any, ...], position: int) -> None:
        """As ResidentSteps."""
        count, streams = made.shape
        p = self._device.empty((streams, self._V), np.float64)

        def run() -> None:
            self._launches.forward(weights, tape)
            self._launches.head(weights, tape, with_targets=False)

        window = self._device.capture(run)
        for k in range(count):
            window()
            self._draw(
                streams, 32 * self._warps, tape.logits, p, tape.inputs, made[k], np.int32(self._V), *law,
                np.uint64(position + k),
            )  # fmt: skip


class DeviceSampler:
    """`cuchar.engines.base.Sampler` for the CUDA engine, in full precision whatever the engine's is."""

    def __init__(
        self,
        device: Device,
        steps: ResidentSteps | StepwiseSteps,
        weights: Weights,
        config: SampleConfig,
        seed: int,
        streams: range,
        ids: np.ndarray,
        state: State,
        position: int,
    ):
        self._device, self._steps, self._weights, self._position = device, steps, weights, position
        self._tape = Tape(device, weights.model, 1, len(streams), weights.flat.dtype, dropout=False, flags=0)
        self._tape.order(np.zeros(1, STEP))
        self._tape.put(ids[None])
        self._tape.put_state(state)
        self._law = (
            np.int32(config.law == "exp"),
            np.int32(1 if config.argmax else min(config.top_k, weights.model.vocabulary_size)),
            np.float64(config.coldness), np.float64(config.top_p), np.uint64(seed), np.uint64(streams.start),
        )  # fmt: skip

    def make(self, count: int) -> np.ndarray:
        made = self._device.empty((count, self._tape.B), np.int32)
        self._steps(self._weights, self._tape, made, self._law, self._position)
        self._position += count
        return self._device.read(made)
