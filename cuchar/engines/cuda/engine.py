"""`Engine` by the kernels of kernels/, on a GPU or on the emulator."""

from functools import cached_property, lru_cache

import numpy as np

from cuchar.adam import Adam, LossScaling
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices.device import Device
from cuchar.engines.base import Dropout, State, expect_parameters, expect_streams, expect_window
from cuchar.engines.cuda.dropout import mask_of
from cuchar.engines.cuda.gradients import Launches, launches
from cuchar.engines.cuda.learner import DeviceLearner
from cuchar.engines.cuda.regimes import OneBlock, expect_tensor_cores, make_plan, sample_plan
from cuchar.engines.cuda.sampler import DeviceSampler, ResidentSteps, StepwiseSteps
from cuchar.engines.cuda.tape import STEP, Backward, Tape, Weights
from cuchar.errors import DeviceError
from cuchar.parameters import Parameters
from cuchar.sampling import SampleConfig


class CudaEngine:
    """`cuchar.engines.base.Engine` on a device; arrays come and go as NumPy's.

    Args:
        dtype: float32, or float64 for gradient checks.
        precision: that matrix products round their operands to, of float32; all else stays float32.
    Raises:
        DeviceError: the device has no such precision, or the kernels no such type.
    """

    def __init__(
        self,
        model: ModelConfig,
        device: Device,
        dtype: np.typing.DTypeLike = np.float32,
        precision: str = "fp32",
    ):
        self.model, self.device, self.dtype, self.precision = model, device, np.dtype(dtype), precision
        if self.dtype.char not in "fd":
            raise DeviceError(f"expected float32 or float64, found {self.dtype}")
        expect_tensor_cores(precision, self.dtype, device.name, device.limits)
        self.name = f"CUDA kernels on {device.name}" + (f" in {precision}" if precision != "fp32" else "")
        self._tape = lru_cache(maxsize=2)(
            lambda T, B, dropout: Tape(device, model, T, B, self.dtype, dropout, self.launches_for(T, B, dropout).flags)
        )
        self._launches = lru_cache(maxsize=None)(
            lambda plan, dropout: launches(device, model, self.dtype, plan, dropout, precision)
        )

    def zero_state(self, batch: int) -> State:
        shape = (self.model.layers, batch, self.model.hidden)
        return State(np.zeros(shape, self.dtype), np.zeros(shape, self.dtype))

    def fold(self, parameters: Parameters) -> Weights:
        expect_parameters("parameters", parameters, self.model, self.dtype)
        return Weights.of(self.device, self.model, parameters.flat, self.dtype)

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
        kernels = self.launches_for(tape.T, tape.B, dropout=False)
        kernels.forward(weights, tape)
        kernels.head(weights, tape, with_targets=targets is not None)
        tape.expect_no_wait()
        return tape

    def _begin(self, inputs: np.ndarray, targets: np.ndarray | None, state: State, dropout: Dropout | None) -> Tape:
        expect_window(self.model, self.dtype, inputs, targets, state)
        T, B = inputs.shape
        tape = self._tape(T, B, dropout is not None)
        order = np.zeros(1, STEP)
        order["number"] = dropout.step if dropout else 0
        tape.order(order)
        tape.put(inputs, targets)
        tape.put_state(state)
        if self.precision == "fp16":
            tape.put_scaling(LossScaling())
        return tape

    def loss_and_gradients(
        self,
        parameters: Parameters,
        inputs: np.ndarray,
        targets: np.ndarray,
        state: State,
        gradients: Parameters,
        dropout: Dropout | None = None,
    ) -> tuple[float, State]:
        expect_parameters("gradients", gradients, self.model, self.dtype)
        tape = self._begin(inputs, targets, state, dropout)
        kernels = self.launches_for(tape.T, tape.B, dropout is not None)
        backward = Backward(self.device, self.model, tape.T, tape.B, self.dtype, kernels.splits)
        kernels.gradients(self.fold(parameters), tape, backward, True, mask_of(dropout, self.dtype))
        tape.expect_no_wait()
        backward.gradients.get(gradients.flat)
        return float(self.device.read(tape.results)[0, 0]), tape.get_state()

    def launches_for(self, T: int, B: int, dropout: bool) -> Launches:
        """Compiled kernels for windows [T, B]."""
        return self._launches(make_plan(self.model, T, B, self.dtype, self.device.limits, self.precision), dropout)

    def learner(
        self, config: TrainConfig, parameters: Parameters, adam: Adam, state: State, windows: Windows
    ) -> DeviceLearner:
        kernels = self.launches_for(config.window, config.batch, config.dropout > 0)
        return DeviceLearner(self.device, kernels, config, parameters, adam, state, windows)

    def sampler(
        self,
        weights: Weights,
        config: SampleConfig,
        seed: int,
        streams: range,
        ids: np.ndarray,
        state: State,
        position: int,
    ) -> DeviceSampler:
        expect_streams(self.model, self.dtype, streams, ids, state)
        return DeviceSampler(self.device, self._sample_steps, weights, config, seed, streams, ids, state, position)

    @cached_property
    def _sample_steps(self) -> ResidentSteps | StepwiseSteps:
        plan = sample_plan(self.model, self.dtype, self.device.limits)
        if isinstance(plan, OneBlock):
            return ResidentSteps(self.device, self.model, self.dtype, plan)
        return StepwiseSteps(self.device, self.model, self.dtype)
