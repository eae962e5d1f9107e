"""Streams a text through a model, and keeps of its activations what the page shows.

The NumPy engine computes them from the parameters, whichever engine trained those. What is kept is rounded at once, so
that it is small.
"""

from collections.abc import Iterator

import numpy as np

from cuchar.engines.numpy_engine import Activations, NumpyEngine
from cuchar.evaluation import Chunks, side_by_side
from cuchar.parameters import Parameters

ONE_STREAM = 20_000  # characters up to which a text is read as one stream, and beyond which in chunks side by side
CELL_STEPS = 20  # tanh(c) is kept to a twentieth
GATE_STEPS = 10  # a gate to a tenth
SURPRISE_STEPS = 8  # a surprise to an eighth of a bit
GUESSES = 5  # predictions that are kept of every character


def is_exact(count: int) -> bool:
    """Whether a text of so many characters is read as one stream."""
    return count <= ONE_STREAM


def read(parameters: Parameters, ids: np.ndarray) -> Iterator[tuple[np.ndarray, Activations]]:
    """Read a text, from a zero state, and yield what the model computes.

    A text of more than ONE_STREAM characters is read in chunks that have warmed-up states, as `evaluation.chunk_losses`
    reads it.

    Args:
        ids: [n], the whole text.
    Yields:
        places [T, B] of characters in the text, and the activations after each of them, which the next block
        overwrites. Every place before n comes once; those from n on fill up the last blocks.
    """
    engine = NumpyEngine(parameters.model, parameters.flat.dtype)
    weights, count = engine.fold(parameters), len(ids)
    for chunks in [Chunks(0, count, count)] if is_exact(count) else side_by_side(count):
        state = chunks.warmed_up(engine, weights, ids)
        for places in chunks.places():
            activations, state = engine.activations(weights, ids.take(places, mode="clip"), state)
            yield places, activations


def rows_of(columns: np.ndarray) -> np.ndarray:
    """Activations [L, T, H, B], or [L, T, 4, H, B], as rows [T * B, L * H], or [T * B, 4, L * H]: one a character."""
    moved = np.moveaxis(columns, (1, -1, 0), (0, 1, -2))
    return moved.reshape(-1, *moved.shape[2:-2], moved.shape[-2] * moved.shape[-1])


class Shown:
    """The activations and predictions of a text's first characters, rounded. N characters, K = L * H cells.

    cells: [N, K] int8, CELL_STEPS * tanh(c).
    gates: [N, 4, K] int8, GATE_STEPS times i, f, g and o.
    guesses: [N, GUESSES], the likeliest ids at each place before it was read, from the likeliest on; 0 at place 0.
    chances: [N, GUESSES] uint8, 255 times their probabilities; 0 at place 0, which nothing predicts.
    surprise: [N] uint8, SURPRISE_STEPS times the bits by which each character surprised, at most 255; 0 at place 0.
    bits: [N] float64, the same as it is.
    """

    def __init__(self, ids: np.ndarray, cells: int, vocabulary_size: int):
        count = len(ids)
        self.ids = ids
        self.cells = np.zeros((count, cells), np.int8)
        self.gates = np.zeros((count, 4, cells), np.int8)
        self.guesses = np.zeros((count, min(GUESSES, vocabulary_size)), ids.dtype)
        self.chances = np.zeros(self.guesses.shape, np.uint8)
        self.bits = np.zeros(count)

    @property
    def surprise(self) -> np.ndarray:
        return np.minimum(np.round(self.bits * SURPRISE_STEPS), 255).astype(np.uint8)

    def keep(self, places: np.ndarray, activations: Activations) -> None:
        """Keep what belongs to the page of a block that `read` yielded."""
        at = places.reshape(-1)
        here = np.flatnonzero(at < len(self.ids))
        if not len(here):
            return
        at = at[here]
        self.cells[at] = np.round(rows_of(activations.tanh_c)[here] * CELL_STEPS)
        self.gates[at] = np.round(rows_of(activations.gates)[here] * GATE_STEPS)
        next_at = at + 1
        here, next_at = here[next_at < len(self.ids)], next_at[next_at < len(self.ids)]
        logits = activations.logits.transpose(0, 2, 1).reshape(places.size, -1)[here]
        logits = logits - logits.max(axis=1, keepdims=True)
        chances = np.exp(logits)
        total = chances.sum(axis=1, keepdims=True)
        rows = np.arange(len(here))[:, None]
        best = np.argsort(-chances, axis=1, kind="stable")[:, : self.guesses.shape[1]]
        self.guesses[next_at] = best
        self.chances[next_at] = np.round(255 * chances[rows, best] / total)
        self.bits[next_at] = (np.log(total[:, 0]) - logits[rows[:, 0], self.ids[next_at]]) / np.log(2)
