"""What every engine does: a handful of whole-sequence operations.

Letters: V vocabulary, H hidden, L layers, B batch, T time steps, N = T * B.
The model, for each layer, with gates in the order i, f, g, o:

    a = W_ih x_t + W_hh h + b      i, f, o = sigmoid(a_i, a_f, a_o)      g = tanh(a_g)
    c' = f*c + i*g                 h' = o*tanh(c')

The first layer's x_t is one-hot, so W_ih x_t is a column of W_ih. The next layer's
x_t is h', in training times the dropout mask; so is what the head reads, logits = W x + b.
"""

from collections.abc import Sequence
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
    """What training changes. A learner begins with it and brings it up to date when it is asked to (`Learner.fetch`)."""

    parameters: Parameters
    adam: Adam
    state: State


@dataclass(frozen=True)
class Streams:
    """S streams of characters that go on after characters `ids` [S], which `state` has not seen yet.

    Draws depend on the seed, on a stream's number and on the character's position in it (philox.uniforms).

    Args:
        numbers: the streams' numbers.
        position: of the first character to come, in its stream.
    """

    seed: int
    numbers: range
    ids: np.ndarray
    state: State
    position: int


@dataclass(frozen=True)
class Dropout:
    """Which cells to drop: a function of these and of the cell's place (philox.dropout_mask)."""

    probability: float
    seed: int
    step: int


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
    """What every engine asks of a window before it computes, since C++ and kernels look at nothing themselves.

    Raises:
        ShapeError: inputs that are no [T, B] or hold no character, targets or a state that do not fit them, ids that
            are not the vocabulary's, numbers of another type.
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
    """As `expect_window`, of what a sampler begins with.

    Raises:
        ShapeError: not one id for each stream, or a state that does not fit them.
    """
    expected, found = (len(streams.numbers),), streams.ids.shape
    if found != expected:
        raise ShapeError(f"ids: expected {expected}, one for each stream, found {found}")
    expect_window(model, dtype, streams.ids[None], None, streams.state)


def expect_ids(name: str, ids: np.ndarray, model: ModelConfig) -> None:
    """
    Raises:
        ShapeError: an id that is not the vocabulary's.
    """
    if ids.dtype.kind not in "iu":
        raise ShapeError(f"{name}: expected integers, found {ids.dtype}")
    if ids.min() < 0 or ids.max() >= model.vocabulary_size:
        expected = f"ids from 0 to {model.vocabulary_size - 1}"
        raise ShapeError(f"{name}: expected {expected}, found {ids.min()} to {ids.max()}")


def expect_parameters(name: str, given: Parameters, model: ModelConfig, dtype: np.dtype) -> None:
    """
    Raises:
        ShapeError: another model's, or of another type.
    """
    if (given.model, given.flat.dtype) != (model, dtype):
        raise ShapeError(f"{name}: expected {model}, {dtype}, found {given.model}, {given.flat.dtype}")


def expect_moments(training: TrainingState) -> None:
    """
    Raises:
        ShapeError: moments that are not laid out as the parameters are.
    """
    flat = training.parameters.flat
    for values in (training.adam.m, training.adam.v):
        if (values.shape, values.dtype) != (flat.shape, flat.dtype):
            raise ShapeError(f"Adam: expected {flat.shape} {flat.dtype}, found {values.shape} {values.dtype}")


class Learner(Protocol):
    """Training on an engine's device: parameters, moments and state live there between calls."""

    @property
    def chunk(self) -> int:
        """Steps it wants a call, so that a call takes a moment (a tenth of a second, say) and no more."""

    def begin_epoch(self, windows: Windows) -> None:
        """The windows of a new epoch; the state becomes zero."""

    def train(self, window: int, step: int, rates: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Train on windows `window`, `window` + 1, ...: one step a learning rate.

        Args:
            step: the first step's number, counted from 1; dropout and Adam depend on it.
        Returns:
            losses (nats, mean over N) and global gradient norms before clipping, float64
            [steps done]. Where one is not finite it is the last: that step changed nothing,
            and no further step was done. A norm is NaN where its loss is not finite, and 0 of
            a step that fp16's loss scaling passed over: it changed the state alone.
        """

    def fetch(self) -> None:
        """Bring the `TrainingState` that it was made from up to date: parameters and moments in their arrays.

        Its `state` becomes the one after the last step, whether the configuration carries it or not; zero after
        `begin_epoch`.
        """


class Sampler(Protocol):
    """Streams of characters in the making; their state lives on the engine's device between calls."""

    def make(self, count: int) -> np.ndarray:
        """The next `count` characters of all S streams, ids [count, S]; -1 where logits were not finite.

        The same whether they are made in one call or in several.
        """


class Engine(Protocol):
    """Whole-sequence operations; `weights` is what `fold` made of the parameters. One thread at a time may call them."""

    name: str
    model: ModelConfig

    def zero_state(self, batch: int) -> State: ...

    def fold(self, parameters: Parameters) -> Any:
        """Weights in the form `forward` and `losses` want; stale once the parameters change."""

    def forward(self, weights: Any, inputs: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """Logits [T, B, V] of inputs [T, B], and the state after them."""

    def losses(self, weights: Any, inputs: np.ndarray, targets: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """-log p(target), in nats, [T, B], and the state after them."""

    def loss_and_gradients(
        self, parameters: Parameters, example: Example, gradients: Parameters
    ) -> tuple[float, State]:
        """Mean loss over N in nats, the state after the window; `gradients` is overwritten.

        Back-propagation is truncated at the window's beginning: no gradient reaches `state`.
        """

    def learner(self, config: TrainConfig, training: TrainingState, windows: Windows) -> Learner:
        """Training that goes on from `training`: `windows` are the present epoch's.

        `config` gives batch, carry_state, dropout, seed, clip and weight_decay.
        """

    def sampler(self, weights: Any, config: SampleConfig, streams: Streams) -> Sampler:
        """The streams, drawn by `config`, whose length and stop are not looked at."""
