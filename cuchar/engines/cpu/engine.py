"""The C++ engine, which does what the NumPy engine does: kernels/cpu/recurrence.cpp does a window in three calls.

`fold` makes one array of the weights, in the panels that kernels/cpu/layout.hpp describes.
"""

import ctypes
import math
from contextlib import nullcontext
from ctypes import byref
from functools import lru_cache, partial

import numpy as np

from cuchar.adam import BETA1, BETA2, EPSILON
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices.host_compiler import Notice
from cuchar.engines.base import (
    Example,
    Share,
    State,
    Streams,
    TrainingState,
    expect_parameters,
    expect_streams,
    expect_window,
)
from cuchar.engines.cpu.library import Law, Task, Update, load, thread_count
from cuchar.engines.host import HostLearner, training_bytes
from cuchar.errors import ShapeError
from cuchar.parameters import Parameters, parameter_count
from cuchar.sampling import SampleConfig
from cuchar.sizes import ceil_div

PRODUCTS_A_THREAD = 500_000  # products for each thread, at least: less is done before another thread has woken up
# Products of the recurrence for each thread at a time step, at least, where threads divide a layer's units.
PRODUCTS_OF_A_STEP = 65_536


def aligned(shape: tuple[int, ...], dtype: np.typing.DTypeLike) -> np.ndarray:
    """An array of zeros that begins at a cache line (64 bytes)."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


class Tape:
    """The arrays of a window [T, B] and the task that points to them. Every window of that size overwrites them."""

    def __init__(
        self,
        model: ModelConfig,
        dtype: np.dtype,
        lanes: int,
        T: int,
        B: int,
        *,
        with_backward: bool = False,
        dropout: bool = False,
    ):
        """
        Args:
            lanes: numbers in a vector register; rows are padded to a multiple of it.
            with_backward: whether it has the arrays that back-propagation needs.
            dropout: whether it has the arrays that dropout needs.
        """
        V, H, L = model.vocabulary_size, model.hidden, model.layers
        columns, characters = ceil_div(H, lanes) * lanes, ceil_div(V, lanes) * lanes
        self._model = model
        self.inputs, self.targets = np.empty((T, B), np.int32), np.empty((T, B), np.int32)
        self.h = aligned((L, T + 1, B, columns), dtype)
        self.c = aligned((L, T + 1, B, columns), dtype)
        self.logits = aligned((T, B, characters), dtype)
        self.losses = np.empty((T, B), dtype)
        threads = min(thread_count(), T * B * parameter_count(model) // PRODUCTS_A_THREAD)
        if not with_backward:  # threads divide the rows, or else, where that pays, the units
            threads = max(min(threads, B), min(thread_count(), 4 * H * H * B // PRODUCTS_OF_A_STEP))
        self.task = Task(V, H, L, T, B, max(1, threads))
        self.task.point(inputs=self.inputs, h=self.h, c=self.c, logits=self.logits, losses=self.losses)
        self._back: dict[str, np.ndarray] = {}
        if with_backward:
            self._back["gates"] = aligned((L, T, B, 4, columns), dtype)
            self._back["dc"] = aligned((B, columns), dtype)
            self._back["token_sums"] = aligned((min(V, T * B), 4, columns), dtype)
        if dropout:
            self._back["masks"] = aligned((L, T, B, columns), dtype)
            self._back["dropped"] = aligned((L, T, B, columns), dtype)
        self.task.point(**self._back)

    def begin(self, inputs: np.ndarray, targets: np.ndarray | None, state: State) -> None:
        """Copy a window's ids and its initial state into the arrays. `expect_window` must have checked them."""
        H = self._model.hidden
        self.h[:, 0, :, :H], self.c[:, 0, :, :H] = state.h, state.c
        self.inputs[...] = inputs
        if targets is not None:
            self.targets[...] = targets
        self.task.point(targets=None if targets is None else self.targets)

    def state(self) -> State:
        """A copy of the state after the window."""
        H = self._model.hidden
        return State(self.h[:, -1, :, :H].copy(), self.c[:, -1, :, :H].copy())


class CpuEngine:
    """`cuchar.engines.base.Engine` on all processors, in float32 or float64.

    Args:
        notice: makes the context in which the C++ is compiled, from a text that says whether the next run will find it.
    Raises:
        DeviceError: there is no C++ compiler, it cannot compile the engine, or `dtype` is another type.
    """

    name = "C++"

    def __init__(
        self,
        model: ModelConfig,
        dtype: np.typing.DTypeLike = np.float32,
        notice: Notice = nullcontext,
    ):
        self.model, self.dtype = model, np.dtype(dtype)
        self.library = load(self.dtype, notice)
        self._lanes = self.library.lanes()
        self._weights_shape = (self.library.weights_size(byref(self._sizes())),)
        self._tape = lru_cache(maxsize=2)(partial(Tape, model, self.dtype, self._lanes))
        self._own: np.ndarray | None = None  # folded weights of training, made when they are first needed
        self._dropped: np.ndarray | None = None  # parameters with some recurrent weights dropped; made likewise

    def zero_state(self, batch: int) -> State:
        shape = (self.model.layers, batch, self.model.hidden)
        return State(np.zeros(shape, self.dtype), np.zeros(shape, self.dtype))

    def fold(self, parameters: Parameters) -> np.ndarray:
        expect_parameters("parameters", parameters, self.model, self.dtype)
        weights, task = self._empty_weights(), self._sizes()
        task.point(parameters=parameters.flat, weights=weights)
        self.library.fold_weights(byref(task), ctypes.c_bool(False))
        return weights

    def forward(self, weights: np.ndarray, inputs: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        tape = self._forward(weights, inputs, None, state)
        return tape.logits[..., : self.model.vocabulary_size], tape.state()

    def losses(
        self, weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray, state: State
    ) -> tuple[np.ndarray, State]:
        tape = self._forward(weights, inputs, targets, state)
        return tape.losses.copy(), tape.state()

    def loss_and_gradients(
        self, parameters: Parameters, example: Example, gradients: Parameters
    ) -> tuple[float, State]:
        losses, state = self.losses_and_gradients(parameters, example, gradients)
        return float(np.mean(losses, dtype=np.float64)), state

    def losses_and_gradients(
        self, parameters: Parameters, example: Example, gradients: Parameters
    ) -> tuple[np.ndarray, State]:
        expect_parameters("parameters", parameters, self.model, self.dtype)
        expect_parameters("gradients", gradients, self.model, self.dtype)
        expect_window(self.model, self.dtype, example.inputs, example.targets, example.state)
        if self._own is None:
            self._own = self._empty_weights()
        dropout = example.dropout
        tape = self._tape(*example.inputs.shape, with_backward=True, dropout=bool(dropout and dropout.probability))
        tape.begin(example.inputs, example.targets, example.state)
        task = tape.task
        task.point(parameters=parameters.flat, weights=self._own, gradients=gradients.flat)
        if dropout:
            task.dropout, task.weight_dropout = dropout.probability, dropout.weights
            task.seed, task.step = dropout.seed, dropout.step
            task.first_row, task.batch = dropout.first_row, dropout.batch or task.B
        drops_weights = bool(dropout and dropout.weights)
        if drops_weights:
            if self._dropped is None:
                self._dropped = np.empty_like(parameters.flat)
            np.copyto(self._dropped, parameters.flat)
            task.point(parameters=self._dropped)
            self.library.drop_weights(byref(task), ctypes.c_void_p(task.parameters))
        self.library.fold_weights(byref(task), ctypes.c_bool(True))
        self.library.run_both_ways(byref(task))
        self.library.sum_gradients(byref(task))
        if drops_weights:
            self.library.drop_weights(byref(task), ctypes.c_void_p(task.gradients))
        return tape.losses.copy(), tape.state()

    def learner(
        self, config: TrainConfig, training: TrainingState, windows: Windows, share: Share | None = None
    ) -> "CpuLearner":
        return CpuLearner(self, config, training, windows, share)

    def training_bytes(self, config: TrainConfig, windows: Windows, share: Share | None = None) -> int:
        return training_bytes(self.model, self.dtype.itemsize, config, share.rows if share else config.batch)

    def sampler(self, weights: np.ndarray, config: SampleConfig, streams: Streams) -> "CpuSampler":
        self._expect_weights(weights)
        expect_streams(self.model, self.dtype, streams)
        tape = Tape(self.model, self.dtype, self._lanes, 1, len(streams.numbers))
        tape.begin(streams.ids[None], None, streams.state)
        tape.task.point(weights=weights)
        return CpuSampler(self.library, tape, weights, config, streams)

    def _forward(self, weights: np.ndarray, inputs: np.ndarray, targets: np.ndarray | None, state: State) -> Tape:
        self._expect_weights(weights)
        expect_window(self.model, self.dtype, inputs, targets, state)
        tape = self._tape(*inputs.shape)
        tape.begin(inputs, targets, state)
        tape.task.point(weights=weights)
        self.library.run_forward(byref(tape.task))
        return tape

    def _expect_weights(self, weights: np.ndarray) -> None:
        if (weights.shape, weights.dtype) != (self._weights_shape, self.dtype):
            raise ShapeError(
                f"weights: expected {self._weights_shape} {self.dtype}, found {weights.shape} {weights.dtype}"
            )

    def _sizes(self) -> Task:
        model = self.model
        return Task(model.vocabulary_size, model.hidden, model.layers, 1, 1, thread_count())

    def _empty_weights(self) -> np.ndarray:
        return aligned(self._weights_shape, self.dtype)


class CpuLearner(HostLearner):
    """A learner whose Adam is in C++ too."""

    engine: CpuEngine

    def _update(self, step: int, rate: float) -> float:
        config, adam = self.config, self.training.adam
        size = adam.m.size
        update = Update(
            size=size, threads=max(1, min(thread_count(), size // PRODUCTS_A_THREAD)), beta1=BETA1, beta2=BETA2,
            epsilon=EPSILON, step_size=rate / (1 - BETA1**step), root=math.sqrt(1 - BETA2**step),
            decay=1 - rate * config.weight_decay, clip=config.clip,
        )  # fmt: skip
        update.point(parameters=self.training.parameters.flat, gradients=self.gradients.flat, m=adam.m, v=adam.v)
        norm: float = self.engine.library.update(byref(update))
        return norm


class CpuSampler:
    """`cuchar.engines.base.Sampler`: one call of the library draws all characters of a `make`."""

    def __init__(self, library: ctypes.CDLL, tape: Tape, weights: np.ndarray, config: SampleConfig, streams: Streams):
        self._library, self._tape, self._weights, self._streams = library, tape, weights, streams
        top_k = min(config.top_k, tape.task.V)  # the option may be any number, C++ takes a long
        self._law = Law(config.law == "exp", config.argmax, top_k, config.coldness, config.top_p, config.min_p)
        self._position = streams.position

    def make(self, count: int) -> np.ndarray:
        streams = self._streams
        made = np.empty((count, len(streams.numbers)), np.int32)
        # Addresses are passed as numbers, not as arrays: ctypes would turn a Ctrl-C that comes while it asks an array
        # for its pointer into an ArgumentError.
        inputs, out = self._tape.task.inputs, made.ctypes.data
        self._library.sample(
            byref(self._tape.task), byref(self._law), ctypes.c_uint64(streams.seed),
            ctypes.c_uint64(streams.numbers.start), ctypes.c_uint64(self._position), ctypes.c_long(count),
            ctypes.c_void_p(inputs), ctypes.c_void_p(out),
        )  # fmt: skip
        self._position += count
        return made
