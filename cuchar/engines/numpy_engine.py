"""The reference: LSTM, loss and back-propagation through time in NumPy.

It works in any floating-point type: float32 for training, float64 to check other engines.
The layout is feature-major, [T, H, B] and [T, 4, H, B], so that every gate of every time step
is contiguous and no time step copies an array. One tanh serves all four gates, since
sigmoid(x) = tanh(x/2)/2 + 1/2; the halving of x is folded into the weights (`fold`).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
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
from cuchar.engines.host import HostLearner, HostSampler, training_bytes
from cuchar.errors import DeviceError, ShapeError
from cuchar.parameters import Parameters
from cuchar.philox import dropout_mask, weight_dropout_mask
from cuchar.sampling import SampleConfig

I, F, G, O = range(4)  # noqa: E741  the order of the gates
# In which type softmax and loss are computed, so that what is lost by rounding is lost at the end, and once.
WIDER = {"e": np.float32, "f": np.float64, "d": np.longdouble, "g": np.longdouble}
NUMBERS_AT_ONCE = 1 << 17  # of a softmax, so that the numbers of the wider type stay in the cache


@dataclass(frozen=True)
class FoldedLayer:
    """A layer's weights and bias with the rows of the gates i, f and o halved."""

    inputs: np.ndarray  # in layer 0 [V, 4H], a row for each character, with the bias added; in others [4H, H]
    recurrent: np.ndarray  # [4H, H]
    bias: np.ndarray  # [4H, 1]


@dataclass(frozen=True)
class FoldedWeights:
    layers: tuple[FoldedLayer, ...]
    head: np.ndarray  # [V, H]
    head_bias: np.ndarray  # [V, 1]


class Tape:
    """The arrays of a window [T, B] that forward leaves for backward. Every window of that size overwrites them."""

    def __init__(self, model: ModelConfig, T: int, B: int, dtype: np.dtype):
        L, H, V = model.layers, model.hidden, model.vocabulary_size
        self.gates = np.empty((L, T, 4, H, B), dtype)  # i, f, g, o after sigmoid and tanh
        self.h = np.empty((L, T + 1, H, B), dtype)  # h[l, t] enters time step t
        self.c = np.empty((L, T + 1, H, B), dtype)
        self.tanh_c = np.empty((L, T, H, B), dtype)
        self.dropped = np.empty((L, T, H, B), dtype)  # h after each time step, times the dropout mask
        self.logits = np.empty((T, V, B), dtype)
        self.dgates = np.empty((T, 4, H, B), dtype)
        self.dh = np.empty((T, H, B), dtype)
        self.through_cell = np.empty((T, H, B), dtype)
        self.recurrent = np.empty((4 * H, B), dtype)
        self.scratch = np.empty((4, H, B), dtype)
        self.rows = np.empty((max(4 * H, V), T, B), dtype)  # [rows, N] copies for the weight gradients
        self.columns = np.empty((H, T, B), dtype)

    def outputs(self, dropped: bool) -> np.ndarray:
        """Each layer's output [L, T, H, B], which the next layer or the head reads; if `dropped`, times the mask."""
        return self.dropped if dropped else self.h[:, 1:]


@dataclass(frozen=True)
class Activations:
    """What forward computes on its way, for whoever looks inside; the next window overwrites these arrays.

    gates: [L, T, 4, H, B], i, f, g, o of each time step.
    tanh_c: [L, T, H, B], tanh of the cell state after each time step.
    logits: [T, V, B].
    """

    gates: np.ndarray
    tanh_c: np.ndarray
    logits: np.ndarray


class NumpyEngine:
    """`cuchar.engines.base.Engine` on NumPy arrays of `dtype`.

    Raises:
        DeviceError: `dtype` is not a floating-point type.
    """

    name = "NumPy"

    def __init__(self, model: ModelConfig, dtype: np.typing.DTypeLike = np.float32):
        self.model, self.dtype = model, np.dtype(dtype)
        if self.dtype.kind != "f":
            raise DeviceError(f"expected a floating-point type, found {self.dtype}")
        self._scale = np.array([0.5, 0.5, 1, 0.5], self.dtype).reshape(4, 1, 1)
        self._shift = np.array([0.5, 0.5, 0, 0.5], self.dtype).reshape(4, 1, 1)
        self._tape = lru_cache(maxsize=2)(lambda T, B: Tape(model, T, B, self.dtype))

    def zero_state(self, batch: int) -> State:
        shape = (self.model.layers, batch, self.model.hidden)
        return State(np.zeros(shape, self.dtype), np.zeros(shape, self.dtype))

    def fold(self, parameters: Parameters) -> FoldedWeights:
        halve = np.repeat(self._scale.reshape(4, 1), self.model.hidden, axis=0)  # [4H, 1]
        layers = []
        for layer in range(self.model.layers):
            inputs = parameters[f"lstm.weight_ih_l{layer}"] * halve
            bias = parameters[f"lstm.bias_l{layer}"][:, None] * halve
            if layer == 0:
                inputs = np.ascontiguousarray((inputs + bias).T)
            layers.append(FoldedLayer(inputs, parameters[f"lstm.weight_hh_l{layer}"] * halve, bias))
        return FoldedWeights(tuple(layers), parameters["head.weight"], parameters["head.bias"][:, None])

    def forward(self, weights: FoldedWeights, inputs: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        expect_window(self.model, self.dtype, inputs, None, state)
        tape = self._forward(weights, inputs, state, None)
        return tape.logits.transpose(0, 2, 1), self._state_after(tape)

    def activations(self, weights: FoldedWeights, inputs: np.ndarray, state: State) -> tuple[Activations, State]:
        """Every gate, cell and logit of a window, inputs [T, B], and the state after it."""
        expect_window(self.model, self.dtype, inputs, None, state)
        tape = self._forward(weights, inputs, state, None)
        return Activations(tape.gates, tape.tanh_c, tape.logits), self._state_after(tape)

    def losses(
        self, weights: FoldedWeights, inputs: np.ndarray, targets: np.ndarray, state: State
    ) -> tuple[np.ndarray, State]:
        expect_window(self.model, self.dtype, inputs, targets, state)
        tape = self._forward(weights, inputs, state, None)
        return cross_entropy(tape.logits, targets), self._state_after(tape)

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
        inputs = example.inputs
        expect_window(self.model, self.dtype, inputs, example.targets, example.state)
        dropout = example.dropout
        masks = self._masks(dropout, *inputs.shape) if dropout and dropout.probability else None
        weight_masks = self._weight_masks(dropout) if dropout and dropout.weights else {}
        used = Parameters(self.model, flat=parameters.flat.copy()) if weight_masks else parameters
        for name, mask in weight_masks.items():
            used[name][...] *= mask
        tape = self._forward(self.fold(used), inputs, example.state, masks)
        losses = cross_entropy(tape.logits, example.targets)
        self._backward(used, inputs, masks, tape, gradients)
        for name, mask in weight_masks.items():
            gradients[name][...] *= mask
        return losses, self._state_after(tape)

    def learner(
        self, config: TrainConfig, training: TrainingState, windows: Windows, share: Share | None = None
    ) -> HostLearner:
        return HostLearner(self, config, training, windows, share)

    def training_bytes(self, config: TrainConfig, windows: Windows, share: Share | None = None) -> int:
        return training_bytes(self.model, self.dtype.itemsize, config, share.rows if share else config.batch)

    def sampler(self, weights: FoldedWeights, config: SampleConfig, streams: Streams) -> HostSampler:
        expect_streams(self.model, self.dtype, streams)
        return HostSampler(self, weights, config, streams)

    def _masks(self, dropout: Dropout, T: int, B: int) -> list[np.ndarray]:
        """Every layer's dropout mask, [T, H, B]."""
        p, seed, step, rows = dropout.probability, dropout.seed, dropout.step, (dropout.first_row, dropout.batch)
        shape = (T, B, self.model.hidden)
        return [
            np.ascontiguousarray(dropout_mask(shape, p, seed, step, layer, self.dtype, *rows).transpose(0, 2, 1))
            for layer in range(self.model.layers)
        ]

    def _weight_masks(self, dropout: Dropout) -> dict[str, np.ndarray]:
        """The dropout masks of the recurrent weights, by the tensors' names."""
        p, seed, step, H = dropout.weights, dropout.seed, dropout.step, self.model.hidden
        return {
            f"lstm.weight_hh_l{layer}": weight_dropout_mask(H, p, seed, step, layer, self.dtype)
            for layer in range(self.model.layers)
        }

    def _forward(
        self, weights: FoldedWeights, inputs: np.ndarray, state: State, masks: list[np.ndarray] | None
    ) -> Tape:
        (T, B), H = inputs.shape, self.model.hidden
        tape = self._tape(T, B)
        tape.h[:, 0], tape.c[:, 0] = state.h.transpose(0, 2, 1), state.c.transpose(0, 2, 1)
        outputs = tape.outputs(masks is not None)
        for layer, folded in enumerate(weights.layers):
            gates = tape.gates[layer].reshape(T, 4 * H, B)
            if layer == 0:
                np.copyto(gates, folded.inputs[inputs].transpose(0, 2, 1))
            else:
                np.matmul(folded.inputs, outputs[layer - 1], out=gates)
                gates += folded.bias
            self._forward_layer(folded.recurrent, tape, layer)
            if masks:
                np.multiply(tape.h[layer, 1:], masks[layer], out=tape.dropped[layer])
        np.matmul(weights.head, outputs[-1], out=tape.logits)
        tape.logits += weights.head_bias
        return tape

    def _forward_layer(self, recurrent: np.ndarray, tape: Tape, layer: int) -> None:
        """The recurrence of one layer over T. `tape.gates` holds W_ih x + b before, and the gates after."""
        gates, h, c, tanh_c = tape.gates[layer], tape.h[layer], tape.c[layer], tape.tanh_c[layer]
        scratch = tape.scratch[0]
        for t in range(len(gates)):
            a = gates[t]
            a += np.matmul(recurrent, h[t], out=tape.recurrent).reshape(a.shape)
            np.tanh(a, out=a)
            a *= self._scale
            a += self._shift
            np.multiply(a[F], c[t], out=c[t + 1])
            c[t + 1] += np.multiply(a[I], a[G], out=scratch)
            np.tanh(c[t + 1], out=tanh_c[t])
            np.multiply(a[O], tanh_c[t], out=h[t + 1])

    def _backward(
        self,
        parameters: Parameters,
        inputs: np.ndarray,
        masks: list[np.ndarray] | None,
        tape: Tape,
        gradients: Parameters,
    ) -> None:
        """Compute all gradients from dlogits, which `cross_entropy` has left in `tape.logits`."""
        dlogits, dh = tape.logits, tape.dh
        outputs = tape.outputs(masks is not None)
        np.sum(dlogits, axis=(0, 2), out=gradients["head.bias"])
        self._weight_gradient(dlogits, outputs[-1], tape, gradients["head.weight"])
        np.matmul(parameters["head.weight"].T, dlogits, out=dh)
        for layer in reversed(range(self.model.layers)):
            if masks:
                dh *= masks[layer]
            self._backward_layer(parameters[f"lstm.weight_hh_l{layer}"], tape, layer)
            T, _, H, B = tape.dgates.shape
            da = tape.dgates.reshape(T, 4 * H, B)
            np.sum(da, axis=(0, 2), out=gradients[f"lstm.bias_l{layer}"])
            self._weight_gradient(da, tape.h[layer, :-1], tape, gradients[f"lstm.weight_hh_l{layer}"])
            into = gradients[f"lstm.weight_ih_l{layer}"]
            if layer == 0:
                sum_columns_by_id(tape.rows[: 4 * H].reshape(4 * H, -1), inputs, into)
            else:
                self._weight_gradient(da, outputs[layer - 1], tape, into)
                np.matmul(parameters[f"lstm.weight_ih_l{layer}"].T, da, out=dh)

    def _backward_layer(self, recurrent: np.ndarray, tape: Tape, layer: int) -> None:
        """Compute `tape.dgates` [T, 4, H, B], the gradients da of the pre-activations, from `tape.dh` [T, H, B].

            dc   = dh*o*(1 - tanh(c')^2) + f_next*dc_next      (next: of the time step after)
            da_i = dc*g*i*(1-i)     da_f = dc*c*f*(1-f)     da_g = dc*i*(1-g^2)
            da_o = dh*tanh(c')*o*(1-o)                dh of the time step before += W_hh^T da

        The factors of dc and dh are computed before the loop, for all T at once.
        """
        gates, tanh_c, dgates = tape.gates[layer], tape.tanh_c[layer], tape.dgates
        i, f, g, o = (gates[:, gate] for gate in range(4))
        np.subtract(1, gates, out=dgates)
        dgates *= gates  # s*(1-s) of every gate s; g's is replaced below
        dgates[:, I] *= g
        dgates[:, F] *= tape.c[layer, :-1]
        dgates[:, O] *= tanh_c
        np.multiply(g, g, out=dgates[:, G])
        np.subtract(1, dgates[:, G], out=dgates[:, G])
        dgates[:, G] *= i
        through_cell = np.multiply(tanh_c, tanh_c, out=tape.through_cell)
        np.subtract(1, through_cell, out=through_cell)
        through_cell *= o

        dh_next, dc_next, dc = tape.scratch[0], tape.scratch[1], tape.scratch[2]
        dh_next[...] = dc_next[...] = 0
        for t in reversed(range(len(gates))):
            dh, da = tape.dh[t], dgates[t]
            dh += dh_next
            np.multiply(dh, through_cell[t], out=dc)
            dc += dc_next
            da[:O] *= dc
            da[O] *= dh
            np.multiply(dc, f[t], out=dc_next)
            np.matmul(recurrent.T, da.reshape(-1, da.shape[-1]), out=dh_next)

    def _weight_gradient(self, left: np.ndarray, right: np.ndarray, tape: Tape, out: np.ndarray) -> None:
        """out [M, K] = sum over t and b of left [T, M, B] times right [T, K, B], as one product over N.

        This leaves a copy of `left`, as [M, N], in `tape.rows`.
        """
        rows, columns = tape.rows[: left.shape[1]], tape.columns[: right.shape[1]]
        np.copyto(rows, left.transpose(1, 0, 2))
        np.copyto(columns, right.transpose(1, 0, 2))
        np.matmul(rows.reshape(len(rows), -1), columns.reshape(len(columns), -1).T, out=out)

    def _state_after(self, tape: Tape) -> State:
        h, c = (array[:, -1].transpose(0, 2, 1).copy() for array in (tape.h, tape.c))
        return State(h, c)


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Each character's loss; `logits` is overwritten by its gradient.

    Args:
        logits: [T, V, B], unnormalised; on return d(mean loss)/d(logits).
        targets: [T, B], each in [0, V).
    Returns:
        [T, B], -log softmax(logits)[target], in nats.
    Raises:
        ShapeError: T or B differ.
    Source: softmax minus one-hot; Bishop 2006, section 4.3.4.
    """
    T, V, B = logits.shape
    if targets.shape != (T, B):
        raise ShapeError(f"targets: expected {(T, B)}, found {targets.shape}")
    losses, wider = np.empty((T, B), logits.dtype), WIDER[logits.dtype.char]
    at_once = max(1, NUMBERS_AT_ONCE // (V * B))
    for t in range(0, T, at_once):
        part = logits[t : t + at_once].transpose(0, 2, 1)
        some = part.astype(wider, order="C")
        losses[t : t + at_once] = _cross_entropy(some, targets[t : t + at_once], T * B)
        part[...] = some
    return losses


def _cross_entropy(x: np.ndarray, targets: np.ndarray, N: int) -> np.ndarray:
    """The losses of some time steps' logits x, [T, B, V], which are overwritten by their gradients.

        e[v] = exp(x[v] - max x)    others = sum of e[v] over v != target    total = others + e[target]
        loss = log1p(others + (e[target] - 1)) + (max x - x[target])
        dlogits[v] = e[v] / (total*N)     dlogits[target] = -others / (total*N)

    Written so, neither a loss near 0 nor softmax - 1 is a difference of numbers that are nearly equal. The sums are over
    numbers that lie side by side, which NumPy adds in pairs.
    """
    target = targets[:, :, None]
    x -= x.max(axis=2, keepdims=True)
    behind = -np.take_along_axis(x, target, axis=2)
    np.exp(x, out=x)
    of_target = np.take_along_axis(x, target, axis=2)
    np.put_along_axis(x, target, 0, axis=2)
    others = x.sum(axis=2, keepdims=True)
    total = (others + of_target) * N
    x /= total
    np.put_along_axis(x, target, -others / total, axis=2)
    losses: np.ndarray = np.log1p(others + (of_target - 1)) + behind
    return losses[:, :, 0]


def sum_columns_by_id(columns: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
    """out[:, v] = sum of the columns n with ids[n] == v, added in the order of n; 0 where there is no such column.

    Args:
        columns: [M, N].
        ids: N ids in an array of any shape, each in [0, V).
        out: [M, V], receives the sums.
    """
    order = np.argsort(ids, axis=None, kind="stable")
    found, first = np.unique(ids.reshape(-1)[order], return_index=True)
    out[...] = 0
    out[:, found] = np.add.reduceat(columns.take(order, axis=1), first, axis=1)
