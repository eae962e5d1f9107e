"""JAX's training steps, draws and scores on the processor: the work of cuchar_contender.py, each in one jitted call.

The first layer's inputs are columns of its weights, which `take` picks. `lax.scan` goes over the time steps: in training of
a layer after the other, whose inputs are multiplied by its weights for all time steps at once, and in scoring of all layers
together. Each way was the quicker one there, and to unroll the scans made both slower. Gradients are value_and_grad's.
Drawing is one call for many characters, by a cumulative sum that is a product of matrices: jax.random.categorical takes
longer.

XLA takes the threads that the process may use.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cuchar.bench.configurations import SCORED_WINDOWS, WINDOWS, Configuration
from cuchar.bench.contender import Burst, timed
from cuchar.bench.cuchar_contender import RATE

DRAWN_AT_ONCE = 256  # characters that one call draws, at most
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8

Weights = dict[str, jax.Array]
State = list[tuple[jax.Array, jax.Array]]  # h and c, [B, H], of each layer


def maker(contender: str, device: str, threads: int) -> tuple[dict[str, Any], Callable[[Configuration], "JaxPeer"]]:
    """Facts about JAX, and what makes a contender of a configuration."""
    jax.config.update("jax_platforms", device)
    return {"jax": jax.__version__}, JaxPeer


class JaxPeer:
    """A contender that works on a configuration. Its turns are contender.TASKS."""

    def __init__(self, sizes: Configuration):
        self.sizes, self._trained, self._scored = sizes, 0, 0
        self._rows = jnp.array(sizes.ids().reshape(sizes.B, -1).T, jnp.int32)  # [T + WINDOWS, B]
        self._weights = weights_of(sizes)
        zeros = jax.tree.map(jnp.zeros_like, self._weights)
        self._learnt = jax.tree.map(
            jnp.array, (self._weights, zeros, zeros)
        )  # copies, since a training step reuses them
        self._scoring = lru_cache(maxsize=1)(self._make_scoring)
        self.drawing = lru_cache(maxsize=1)(self._make_drawing)

    def train(self, steps: int) -> Burst:
        def work() -> float:
            loss: Any = 0.0
            for _ in range(steps):
                start, self._trained = self._trained % WINDOWS, self._trained + 1
                unbiased = 1 / (1 - BETA1**self._trained), 1 / (1 - BETA2**self._trained)
                self._learnt, loss = training_step(self.sizes.T, self._learnt, unbiased, self._rows, start)
            return float(loss)

        return timed(work)

    def draw(self, streams: int, characters: int) -> Burst:
        """Draw `characters` more characters of each of `streams` streams, by softmax at temperature 1."""
        make = self.drawing(streams)

        def work() -> None:
            make(characters)

        return timed(work)

    def score(self, windows: int) -> Burst:
        """Score so many more windows; the state is carried from each to the next."""
        score_next = self._scoring()
        return timed(lambda: [score_next() for _ in range(windows)][-1])

    def _make_drawing(self, streams: int) -> Callable[[int], np.ndarray]:
        """A call that draws so many more characters of each stream, and returns their ids [characters, streams]."""
        going_on = jax.random.key(0), jnp.zeros(streams, jnp.int32), zero_state(self._weights, streams)

        def make(characters: int) -> np.ndarray:
            nonlocal going_on
            drawn = []
            for done in range(0, characters, DRAWN_AT_ONCE):
                count = min(DRAWN_AT_ONCE, characters - done)
                going_on, ids = draw_characters(self._weights, going_on, count)
                drawn.append(np.asarray(ids)[:count])
            return np.concatenate(drawn)

        return make

    def _make_scoring(self) -> Callable[[], float]:
        """A call that scores the next window, and returns its mean loss."""
        text = self.sizes.scored()
        windows = [[jnp.array(ids, jnp.int32) for ids in text[k]] for k in range(SCORED_WINDOWS)]
        state = zero_state(self._weights, len(text.rows))

        def score_next() -> float:
            nonlocal state
            inputs, targets = windows[self._scored % SCORED_WINDOWS]
            self._scored += 1
            loss, state = score_window(self._weights, state, inputs, targets)
            return float(loss)

        return score_next

    def device_bytes(self) -> None:
        return None

    def notes(self) -> str:
        return ""


def weights_of(sizes: Configuration) -> Weights:
    """The weights that all contenders begin with, as JAX's arrays."""
    return {name: jnp.array(values) for name, values in sizes.parameters().items()}


def zero_state(weights: Weights, rows: int) -> State:
    shape = rows, weights["head.weight"].shape[1]
    return [(jnp.zeros(shape), jnp.zeros(shape)) for name in weights if "weight_hh" in name]


def layer_inputs(weights: Weights, layer: int, x: jax.Array) -> jax.Array:
    """What layer `layer` adds to its recurrence: of ids [...] in the first layer, else of the h' [..., H] below."""
    matrix = weights[f"lstm.weight_ih_l{layer}"].T
    return (x @ matrix if layer else jnp.take(matrix, x, axis=0)) + weights[f"lstm.bias_l{layer}"]


def cell(recurrent: jax.Array, state: tuple[jax.Array, jax.Array], inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """h' and c', [B, H], of a state and of the inputs [B, 4H] of one time step; see engines/base.py."""
    h, c = state
    i, f, g, o = jnp.split(inputs + h @ recurrent.T, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def time_step(weights: Weights, state: State, ids: jax.Array) -> tuple[State, jax.Array]:
    """The state after one time step's ids [B], and the last layer's h', [B, H]."""
    x, after = ids, []
    for layer, before in enumerate(state):
        after.append(cell(weights[f"lstm.weight_hh_l{layer}"], before, layer_inputs(weights, layer, x)))
        x = after[-1][0]
    return after, x


def logits_of(weights: Weights, h: jax.Array) -> jax.Array:
    return h @ weights["head.weight"].T + weights["head.bias"]


def mean_loss(weights: Weights, h: jax.Array, targets: jax.Array) -> jax.Array:
    """The mean loss, in nats, of targets [T, B] after the last layer's h', [T, B, H]."""
    likelihoods = jax.nn.log_softmax(logits_of(weights, h))
    return -jnp.mean(jnp.take_along_axis(likelihoods, targets[..., None], axis=-1))


@partial(jax.jit, donate_argnums=1)
def score_window(weights: Weights, state: State, inputs: jax.Array, targets: jax.Array) -> tuple[jax.Array, State]:
    """The mean loss of a window's ids [T, B], and the state after it."""
    state, h = lax.scan(partial(time_step, weights), state, inputs)
    return mean_loss(weights, h, targets), state


def training_loss(weights: Weights, ids: jax.Array) -> jax.Array:
    """The mean loss of a window's characters, [T + 1, B], from a zero state."""
    x = ids[:-1]
    for layer, before in enumerate(zero_state(weights, ids.shape[1])):
        recurrent = weights[f"lstm.weight_hh_l{layer}"]

        def step(state: Any, inputs: jax.Array, recurrent: jax.Array = recurrent) -> Any:
            state = cell(recurrent, state, inputs)
            return state, state[0]

        _, x = lax.scan(step, before, layer_inputs(weights, layer, x))
    return mean_loss(weights, x, ids[1:])


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def training_step(
    window: int, learnt: Any, unbiased: tuple[Any, Any], rows: jax.Array, start: Any
) -> tuple[Any, jax.Array]:
    """A training step on the window that begins at `start`.

    Args:
        learnt: the weights, and Adam's first and second moments.
        unbiased: what the moments are multiplied by, since they began with zero.
        rows: the text, [characters, B].
    Returns:
        what was learnt, and the mean loss.
    """
    weights, first, second = learnt
    ids = lax.dynamic_slice_in_dim(rows, start, window + 1)
    loss, gradients = jax.value_and_grad(training_loss)(weights, ids)
    first = jax.tree.map(lambda m, g: BETA1 * m + (1 - BETA1) * g, first, gradients)
    second = jax.tree.map(lambda v, g: BETA2 * v + (1 - BETA2) * g * g, second, gradients)
    weights = jax.tree.map(
        lambda w, m, v: w - RATE * (m * unbiased[0]) / (jnp.sqrt(v * unbiased[1]) + EPSILON), weights, first, second
    )
    return (weights, first, second), loss


@partial(jax.jit, donate_argnums=1)
def draw_characters(weights: Weights, going_on: Any, count: Any) -> tuple[Any, jax.Array]:
    """Draw the next `count` characters of every stream, at most DRAWN_AT_ONCE.

    Args:
        going_on: the random numbers' key, the last ids [S], and the state.
    Returns:
        the same after the last character, and ids [DRAWN_AT_ONCE, S], of which the first `count` are drawn.
    """
    V = weights["head.bias"].size
    so_far = jnp.triu(jnp.ones((V, V)))

    def draw_next(k: Any, loop: Any) -> Any:
        (key, ids, state), drawn = loop
        state, h = time_step(weights, state, ids)
        reached = jax.nn.softmax(logits_of(weights, h)) @ so_far
        key, own = jax.random.split(key)
        uniform = jax.random.uniform(own, (len(ids), 1))
        ids = jnp.sum(reached < uniform * reached[:, -1:], axis=-1, dtype=jnp.int32)
        return (key, ids, state), drawn.at[k].set(ids)

    drawn = jnp.zeros((DRAWN_AT_ONCE, len(going_on[1])), jnp.int32)
    found: tuple[Any, jax.Array] = lax.fori_loop(0, count, draw_next, (going_on, drawn))
    return found
