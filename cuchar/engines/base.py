"""What every engine does: a handful of operations on whole windows.

Letters: V vocabulary, H hidden, L layers, B batch, T time steps, N = T * B.
The model, for each layer, with gates in the order i, f, g, o:

    a = W_ih x_t + W_hh h + b      i, f, o = sigmoid(a_i, a_f, a_o)      g = tanh(a_g)
    c' = f*c + i*g                 h' = o*tanh(c')

The first layer's x_t is one-hot, so W_ih x_t is a column of W_ih. Every other layer's x_t is
the h' of the layer below, in training times the dropout mask. The head computes
logits = W x + b from the last layer's h', in training times the mask too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.errors import ShapeError
from cuchar.parameters import Parameters
from cuchar.sampling import SampleConfig


@dataclass(frozen=True)
class State:
    """Hidden and cell state, [L, B, H] each."""

    h: np.ndarray
    c: np.ndarray


@dataclass
class TrainingState:
    """All that training changes. A learner begins with it, and brings it up to date in `Learner.fetch`."""

    parameters: Parameters
    adam: Adam
    state: State


@dataclass(frozen=True)
class Streams:
    """S streams of characters that are to be drawn.

    A draw depends on the seed, the stream's number and the character's position in it (philox.uniforms).

    Args:
        numbers: the streams' numbers.
        ids: [S], the last character of each stream so far.
        state: the state before that character, [L, S, H].
        position: the position in its stream of the next character to draw.
        earlier: the ids that came before `ids`, the oldest first, [S] each: what `SampleConfig.repeat_penalty` looks back
            at, and so at most RECENT - 1. An id that stands there twice counts as once.
    """

    seed: int
    numbers: range
    ids: np.ndarray
    state: State
    position: int
    earlier: Sequence[np.ndarray] = ()


class Reducer(Protocol):
    """Adds up arrays of several processes."""

    def sum(self, array: np.ndarray) -> None:
        """Replace `array`, which has the same shape and type in every process, by the sum over all of them.

        The order of summation is the same in every run, and so are the sum's bits, which all processes receive.
        """

    def sum_on(self, device: Any) -> Callable[[Any], None]:
        """A function that does what `sum` does with arrays of a device, among the launches on its stream.

        Args:
            device: a `cuchar.devices.device.Device`.
        """


@dataclass(frozen=True)
class Share:
    """What one of several processes does of every training step.

    Args:
        first: the first of its rows of the batch.
        rows: how many rows it has.
        batch: how many rows all processes have together.
        reducer: adds up what the processes have computed.
    """

    first: int
    rows: int
    batch: int
    reducer: Reducer

    @property
    def weight(self) -> float:
        """What a mean over this process's rows counts in the mean over the batch."""
        return self.rows / self.batch


@dataclass(frozen=True)
class Dropout:
    """What dropout masks are a function of, besides layer and element (philox.dropout_mask); `step` counts from 1.

    `probability` is that of the layers' outputs, `weights` that of their recurrent weights (philox.weight_dropout_mask).
    The window's rows are rows `first_row`, `first_row` + 1, ... of a batch of `batch` rows, and their mask is what the
    whole batch's mask has for them. `batch` is None where the window is the whole batch.
    """

    probability: float
    seed: int
    step: int
    first_row: int = 0
    batch: int | None = None
    weights: float = 0.0


@dataclass(frozen=True)
class Example:
    """What a training step reads: a window's ids, inputs and targets [T, B], and the state before them."""

    inputs: np.ndarray
    targets: np.ndarray
    state: State
    dropout: Dropout | None = None


def expect_window(
    model: ModelConfig, dtype: np.dtype, inputs: np.ndarray, targets: np.ndarray | None, state: State
) -> None:
    """Check a window before an engine computes with it, since C++ and kernels check nothing themselves.

    Raises:
        ShapeError: the inputs are not [T, B] or hold no character, targets or state do not fit them, an id is not in
            the vocabulary, or the state has not the type `dtype`.
    """
    if inputs.ndim != 2 or not inputs.size:
        raise ShapeError(f"inputs: expected [T, B], found {inputs.shape}")
    for name, ids in (("inputs", inputs), ("targets", targets)):
        if ids is not None:
            if ids.shape != inputs.shape:
                raise ShapeError(f"{name}: expected {inputs.shape}, found {ids.shape}")
            expect_ids(name, ids, model)
    shape = (model.layers, inputs.shape[1], model.hidden)
    for values in (state.h, state.c):
        if values.shape != shape:
            raise ShapeError(f"state: expected {shape}, found {values.shape}")
        if values.dtype != dtype:
            raise ShapeError(f"state: expected {dtype}, found {values.dtype}")


def expect_streams(model: ModelConfig, dtype: np.dtype, streams: Streams) -> None:
    """Check what a sampler begins with, as `expect_window` does for a window.

    Raises:
        ShapeError: there is not one id for each stream, or ids or state are not what the model takes.
    """
    expected, found = (len(streams.numbers),), streams.ids.shape
    if found != expected:
        raise ShapeError(f"ids: expected {expected}, one for each stream, found {found}")
    expect_window(model, dtype, streams.ids[None], None, streams.state)


def expect_ids(name: str, ids: np.ndarray, model: ModelConfig) -> None:
    """Check ids, which errors call `name`.

    Raises:
        ShapeError: the ids are not integers, or one of them is not in the vocabulary.
    """
    if ids.dtype.kind not in "iu":
        raise ShapeError(f"{name}: expected integers, found {ids.dtype}")
    if ids.min() < 0 or ids.max() >= model.vocabulary_size:
        expected = f"ids from 0 to {model.vocabulary_size - 1}"
        raise ShapeError(f"{name}: expected {expected}, found {ids.min()} to {ids.max()}")


def expect_parameters(name: str, given: Parameters, model: ModelConfig, dtype: np.dtype) -> None:
    """Check parameters or gradients, which errors call `name`.

    Raises:
        ShapeError: they are another model's, or not of the type `dtype`.
    """
    if (given.model, given.flat.dtype) != (model, dtype):
        raise ShapeError(f"{name}: expected {model}, {dtype}, found {given.model}, {given.flat.dtype}")


def expect_moments(training: TrainingState) -> None:
    """Check Adam's moments.

    Raises:
        ShapeError: their size or type is not that of the parameters.
    """
    flat = training.parameters.flat
    for values in (training.adam.m, training.adam.v):
        if (values.shape, values.dtype) != (flat.shape, flat.dtype):
            raise ShapeError(f"Adam: expected {flat.shape} {flat.dtype}, found {values.shape} {values.dtype}")


class Learner(Protocol):
    """Training on an engine's device: parameters, moments and state live there between calls."""

    @property
    def chunk(self) -> int:
        """How many steps a call of `train` should do to take a moment (some tenth of a second) and no more."""

    def begin_epoch(self, windows: Windows) -> None:
        """Go on with the windows of a new epoch, from a state of zero."""

    def go_on_with(self, windows: Windows) -> None:
        """Go on with other windows of the same sizes, from the state that there is."""

    def train(self, window: int, step: int, rates: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Train on windows `window`, `window` + 1, ..., one step for each learning rate in `rates`.

        Args:
            window: index of the first step's window in the epoch.
            step: number of the first step, counted from 1; dropout and Adam depend on it.
            rates: learning rates.
        Returns:
            losses (mean over N, in nats) and global norms of the gradients before clipping,
            float64 [steps done]. If a loss or norm is not finite, its step is the last one: it
            changed nothing, and no further step was done. A norm is NaN if its loss is not
            finite. It is 0 for a step whose gradients overflowed in fp16: such a step changed
            the state and halved the loss scaling, and nothing else.
        """

    def fetch(self) -> None:
        """Bring the `TrainingState` that this learner was made from up to date.

        Parameters and moments are written to its arrays. Its `state` becomes the state after the last step, whether the
        configuration carries it or not; right after `begin_epoch` it is zero.
        """


class Sampler(Protocol):
    """Draws the characters of some streams; their state lives on the engine's device between calls."""

    def make(self, count: int) -> np.ndarray:
        """Draw the next `count` characters of all S streams.

        Several calls draw the same characters as one call would.

        Returns:
            ids [count, S]; -1 where logits were not finite.
        """


class Engine(Protocol):
    """Operations on whole windows. `weights` is what `fold` has made; one thread at a time may call an engine."""

    name: str
    model: ModelConfig

    def zero_state(self, batch: int) -> State: ...

    def fold(self, parameters: Parameters) -> Any:
        """The parameters in the form that `forward`, `losses` and `sampler` take; it is stale once they change."""

    def forward(self, weights: Any, inputs: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Logits [T, B, V] of inputs [T, B], and the state after them."""

    def losses(self, weights: Any, inputs: np.ndarray, targets: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Each character's loss, -log p(target) in nats, [T, B], and the state after the window."""

    def loss_and_gradients(
        self, parameters: Parameters, example: Example, gradients: Parameters
    ) -> tuple[float, State]:
        """The mean loss over N, in nats, and the state after the window; the gradients are written to `gradients`.

        Back-propagation is truncated at the window's beginning: no gradient reaches the state before it.
        """

    def losses_and_gradients(
        self, parameters: Parameters, example: Example, gradients: Parameters
    ) -> tuple[np.ndarray, State]:
        """What `loss_and_gradients` does, with each character's loss, [T, B] in nats, instead of their mean."""

    def learner(
        self, config: TrainConfig, training: TrainingState, windows: Windows, share: Share | None = None
    ) -> Learner:
        """A learner that goes on from `training` with the present epoch's `windows`.

        Of `config` it uses batch, window, carry_state, dropout, weight_dropout, seed, clip and weight_decay.

        Args:
            share: the rows of the batch that this process trains on; `training.state` and `windows` then have these rows
                alone, and losses and norms are still those of the whole batch. None is all rows.
        """

    def training_bytes(self, config: TrainConfig, windows: Windows, share: Share | None = None) -> int:
        """About how many bytes of its device's memory a learner takes.

        Args:
            windows: of all rows.
            share: as for `learner`.
        """

    def sampler(self, weights: Any, config: SampleConfig, streams: Streams) -> Sampler:
        """A sampler that draws the streams as `config` says.

        It ignores the configuration's `length` and `stop`, and may ignore `repeat_penalty`, for which
        `cuchar.generation.go_on` takes `cuchar.engines.host.HostSampler`.
        """
