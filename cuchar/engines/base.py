"""What every engine does: a handful of whole-sequence operations.

Letters: V vocabulary, H hidden, L layers, B batch, T time steps, N = T * B.
The model, for each layer, with gates in the order i, f, g, o:

    a = W_ih x_t + W_hh h + b      i, f, o = sigmoid(a_i, a_f, a_o)      g = tanh(a_g)
    c' = f*c + i*g                 h' = o*tanh(c')

The first layer's x_t is one-hot, so W_ih x_t is a column of W_ih. Between layers h' is
multiplied by the dropout mask; the last layer's goes to the head, logits = W h' + b.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cuchar.config import ModelConfig
from cuchar.parameters import Parameters


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


class Engine(Protocol):
    """Whole-sequence operations; `weights` is what `fold` made of the parameters."""

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
