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
from cuchar.parameters import Parameters
from cuchar.sampling import SampleConfig


@dataclass(frozen=True)
class State:
    """Hidden and cell state, [L, B, H] each."""

    h: np.ndarray
    c: np.ndarray


@dataclass(frozen=True)
class Dropout:
    """Which cells to drop: a function of these and of the cell's place (philox.dropout_mask)."""

    probability: float
    seed: int
    step: int


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

    def fetch(self) -> State:
        """Bring parameters and moments home, into the host arrays that it was made from.

        Returns:
            the state after the last step, whether the configuration carries it or not; zero
            after `begin_epoch`.
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
        self,
        parameters: Parameters,
        inputs: np.ndarray,
        targets: np.ndarray,
        state: State,
        gradients: Parameters,
        dropout: Dropout | None = None,
    ) -> tuple[float, State]:
        """Mean loss over N in nats, the state after the window; `gradients` is overwritten.

        Back-propagation is truncated at the window's beginning: no gradient reaches `state`.
        """

    def learner(
        self, config: TrainConfig, parameters: Parameters, adam: Adam, state: State, windows: Windows
    ) -> Learner:
        """Training that begins with these, or goes on with them: `windows` are the present epoch's.

        `config` gives batch, carry_state, dropout, seed, clip and weight_decay.
        """

    def sampler(
        self,
        weights: Any,
        config: SampleConfig,
        seed: int,
        streams: range,
        ids: np.ndarray,
        state: State,
        position: int,
    ) -> Sampler:
        """Streams that go on after characters `ids` [S], which `state` has not seen yet.

        Args:
            config: its length and stop are not looked at.
            streams: the S streams' numbers; position: of the first character to come, in its stream.
                Draws depend on these and on the seed (philox.uniforms).
        """
