"""The CUDA engine: `cuchar.engines.base.Engine` with the kernels of kernels/, on a GPU or on the emulator."""

from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np

from cuchar.adam import LossScaling
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices.device import Device
from cuchar.engines.base import (
    Dropout,
    Example,
    Share,
    State,
    Streams,
    TrainingState,
    expect_parameters,
    expect_streams,
    expect_window,
)
from cuchar.engines.cuda.dropout import WeightDropping, mask_of
from cuchar.engines.cuda.learner import DeviceLearner, training_bytes
from cuchar.engines.cuda.regimes import Drawing, Launches, Pass, Plan, expect_tensor_cores, plan_sampling, plan_window
from cuchar.engines.cuda.sampler import DeviceSampler
from cuchar.engines.cuda.tape import STEP, Backward, Tape, Weights
from cuchar.engines.cuda.target import Target, Window
from cuchar.errors import DeviceError
from cuchar.parameters import Parameters
from cuchar.sampling import SampleConfig


class CudaEngine:
    """`cuchar.engines.base.Engine` on a device; its methods take and return NumPy arrays.

    Args:
        dtype: float32, or float64 for gradient checks.
        precision: the number format (fp32, tf32, bf16 or fp16) to which matrix products round their float32 operands;
            everything else is computed in float32.
    Raises:
        DeviceError: the device has no tensor cores for the precision, or `dtype` is neither float32 nor float64.
    """

    def __init__(
        self,
        model: ModelConfig,
        device: Device,
        dtype: np.typing.DTypeLike = np.float32,
        precision: str = "fp32",
    ):
        self.model, self.device, self.dtype = model, device, np.dtype(dtype)
        if self.dtype.char not in "fd":
            raise DeviceError(f"expected float32 or float64, found {self.dtype}")
        self._target = target = Target(device, model, self.dtype, precision)
        expect_tensor_cores(target)
        self.name = f"CUDA kernels on {device.name}" + (f" in {precision}" if precision != "fp32" else "")
        self._tape = lru_cache(maxsize=2)(lambda window: Tape(target, window, self.launches_for(window).flags))
        self._launches: dict[tuple[Plan, bool], Launches] = {}

    def zero_state(self, batch: int) -> State:
        shape = (self.model.layers, batch, self.model.hidden)
        return State(np.zeros(shape, self.dtype), np.zeros(shape, self.dtype))

    def fold(self, parameters: Parameters) -> Weights:
        expect_parameters("parameters", parameters, self.model, self.dtype)
        return Weights.of(self._target, parameters.flat)

    def forward(self, weights: Weights, inputs: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        tape = self._run(weights, inputs, None, state)
        return self.device.read(tape.logits), tape.get_state()

    def losses(
        self, weights: Weights, inputs: np.ndarray, targets: np.ndarray, state: State
    ) -> tuple[np.ndarray, State]:
        tape = self._run(weights, inputs, targets, state)
        return self.device.read(tape.losses), tape.get_state()

    def _run(self, weights: Weights, inputs: np.ndarray, targets: np.ndarray | None, state: State) -> Tape:
        tape = self._begin(inputs, targets, state, None)
        launches = self.launches_for(Window(tape.T, tape.B))
        launches.forward(weights, tape)
        launches.head(weights, tape, with_targets=targets is not None)
        tape.expect_no_wait()
        return tape

    def _begin(self, inputs: np.ndarray, targets: np.ndarray | None, state: State, dropout: Dropout | None) -> Tape:
        expect_window(self.model, self.dtype, inputs, targets, state)
        T, B = inputs.shape
        tape = self._tape(Window(T, B, dropout is not None and dropout.probability > 0))
        order = np.zeros(1, STEP)
        order["number"] = dropout.step if dropout else 0
        tape.order(order)
        tape.put(inputs, targets)
        tape.put_state(state)
        tape.put_scaling(LossScaling())
        return tape

    def loss_and_gradients(
        self, parameters: Parameters, example: Example, gradients: Parameters
    ) -> tuple[float, State]:
        tape = self._learn(parameters, example, gradients)
        return float(self.device.read(tape.results)[0, 0]), tape.get_state()

    def losses_and_gradients(
        self, parameters: Parameters, example: Example, gradients: Parameters
    ) -> tuple[np.ndarray, State]:
        tape = self._learn(parameters, example, gradients)
        return self.device.read(tape.losses), tape.get_state()

    def _learn(self, parameters: Parameters, example: Example, gradients: Parameters) -> Tape:
        expect_parameters("gradients", gradients, self.model, self.dtype)
        dropout = example.dropout
        tape = self._begin(example.inputs, example.targets, example.state, dropout)
        mask = mask_of(dropout, tape.B)
        window = Window(tape.T, tape.B, mask is not None)
        launches = self.launches_for(window)
        backward = Backward(self._target, window, launches.splits)
        dropping = WeightDropping.of(self._target, dropout.weights, dropout.seed) if dropout else None
        Pass(launches, True, mask, dropping)(self.fold(parameters), tape, backward)
        tape.expect_no_wait()
        backward.gradients.get(gradients.flat)
        return tape

    def launches_for(self, window: Window) -> Launches:
        """The compiled kernels for windows of this size; they are compiled once and kept."""
        key = plan_window(self._target, window), window.dropout
        if key not in self._launches:
            self._launches[key] = key[0].launches(self._target, window.dropout)
        return self._launches[key]

    def learner(
        self, config: TrainConfig, training: TrainingState, windows: Windows, share: Share | None = None
    ) -> DeviceLearner:
        rows = share.rows if share else config.batch
        return DeviceLearner(self._target, self._training(config, rows), config, training, windows, share)

    def training_bytes(self, config: TrainConfig, windows: Windows, share: Share | None = None) -> int:
        rows = share.rows if share else config.batch
        return training_bytes(self._target, self._training(config, rows), config, windows, rows, share is not None)

    def _training(self, config: TrainConfig, rows: int) -> Launches:
        return self.launches_for(Window(config.window, rows, config.dropout > 0))

    def sampler(self, weights: Weights, config: SampleConfig, streams: Streams) -> DeviceSampler:
        expect_streams(self.model, self.dtype, streams)
        return DeviceSampler(self._full_precision, self._drawing, weights, config, streams)

    @cached_property
    def _full_precision(self) -> Target:
        return replace(self._target, precision="fp32")

    @cached_property
    def _drawing(self) -> Drawing:
        return plan_sampling(self._full_precision).drawing(self._full_precision)
