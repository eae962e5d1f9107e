"""How well a model predicts a text."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from cuchar.batches import LargeRows
from cuchar.config import check_option
from cuchar.engines.base import Engine, State
from cuchar.errors import TextError
from cuchar.kinds import integer

BLOCK_STEPS = 256  # characters of a stream that one call of the engine scores
BLOCK_WINDOWS = 64  # windows that one call of the engine scores
LONG_TEXT = 100_000  # characters from which on `cuchar eval` scores in chunks
CHUNKS = 64  # chunks side by side
CHUNK = 4096  # characters of a chunk, at most
WARM_UP = 256  # characters before a chunk that warm up its state
CHUNK_STEPS = 64  # characters of each chunk in one call: the activations of all chunks stay in a processor's cache


@dataclass(frozen=True, repr=False)
class Score:
    """Mean loss of `chars` predicted characters, in nats and in bits (nats / ln 2), and the perplexity e^nats.

    All three are NaN if nothing was predicted. `skipped` characters that the model does not know were left out.
    """

    nats_per_char: float
    bits_per_char: float
    perplexity: float
    chars: int
    skipped: int = 0

    @classmethod
    def of(cls, losses: np.ndarray, skipped: int = 0) -> "Score":
        """The score of characters with these losses, in nats, in an array of any shape."""
        nats = float(losses.mean(dtype=np.float64)) if losses.size else math.nan
        with np.errstate(over="ignore"):  # the perplexity of a model that diverged is infinite
            perplexity = float(np.exp(nats))
        return cls(nats, nats / math.log(2), perplexity, losses.size, skipped)

    def __repr__(self) -> str:
        skipped = f", {self.skipped:,} skipped" if self.skipped else ""
        return (
            f"<cuchar.Score {self.nats_per_char:.4f} nats ({self.bits_per_char:.4f} bits) per character, "
            f"perplexity {self.perplexity:.4f}; {self.chars:,} characters scored{skipped}>"
        )


@dataclass(frozen=True, repr=False, kw_only=True)
class TextScore(Score):
    """The score of a text that also has the loss of each of its characters. Equal scores may be of different texts.

    Args:
        text: n characters; in a model of bytes, the character of the same number (Latin-1) for each byte.
        per_char: [n] float64, the loss in nats of the character at the same index of `text`. It is NaN for the first
            character that the model knows, which nothing predicts, and for characters that were skipped.
    """

    text: str = field(compare=False)
    per_char: np.ndarray = field(compare=False)

    @classmethod
    def of_text(cls, codes: np.ndarray, known: np.ndarray, losses: np.ndarray) -> "TextScore":
        """The score of a text.

        Args:
            codes: [n], as `Vocabulary.codes_of` returns them.
            known: [n] of bool; the others were skipped.
            losses: nats of each known character but the first.
        """
        per_char = np.full(len(codes), np.nan)
        per_char[np.flatnonzero(known)[1:]] = losses
        summary = Score.of(losses, int(np.count_nonzero(~known)))
        return cls(**asdict(summary), text="".join(map(chr, codes.tolist())), per_char=per_char)

    def surprise(self) -> list[tuple[str, float]]:
        """Each character of the text with the bits by which it surprised the model: its loss / ln 2, or NaN."""
        return list(zip(self.text, (self.per_char / math.log(2)).tolist(), strict=True))


def stream_losses(engine: Engine, weights: Any, rows: np.ndarray | LargeRows) -> Iterator[np.ndarray]:
    """Score B streams of text, each from a zero state, which is carried from its first character to its last.

    Args:
        rows: ids [B, n], n >= 2.
    Yields:
        losses in nats, in blocks [B, at most 256], which joined are [B, n - 1].
    """
    state, last = engine.zero_state(len(rows)), rows.shape[1] - 1
    for start in range(0, last, BLOCK_STEPS):
        end = min(start + BLOCK_STEPS, last)
        losses, state = engine.losses(weights, rows[:, start:end].T, rows[:, start + 1 : end + 1].T, state)
        yield losses.T


@dataclass(frozen=True)
class Chunks:
    """A part of a text, from character `first` to before `end`, in chunks of `size` characters that are read side by side.

    The text's last chunk may be short: it is filled up with places from `end` on, and what those give is to be left out.
    """

    first: int
    end: int
    size: int

    @property
    def starts(self) -> np.ndarray:
        """[B], where each chunk begins."""
        return np.arange(self.first, self.end, self.size)

    def warmed_up(self, engine: Engine, weights: Any, ids: np.ndarray) -> State:
        """The state that each chunk begins with.

        It is what the WARM_UP characters before the chunk make of a zero state, and zero where the text begins.
        """
        starts = self.starts
        state = engine.zero_state(len(starts))
        if starts[-1] >= WARM_UP:
            before = ids[np.maximum(starts - WARM_UP, 0) + np.arange(WARM_UP)[:, None]]
            for start in range(0, WARM_UP, CHUNK_STEPS):
                _, state = engine.forward(weights, before[start : start + CHUNK_STEPS], state)
        if self.first == 0:
            state.h[:, 0] = state.c[:, 0] = 0
        return state

    def places(self) -> Iterator[np.ndarray]:
        """Yield which characters are read next, in blocks [at most CHUNK_STEPS, B] of their places in the text.

        With places beyond the text, `ids.take(places, mode="clip")` fills up with its last character.
        """
        for start in range(0, self.size, CHUNK_STEPS):
            yield self.starts + np.arange(start, min(start + CHUNK_STEPS, self.size))[:, None]


def side_by_side(count: int) -> Iterator[Chunks]:
    """Cut the first `count` characters of a text into chunks of WARM_UP to CHUNK characters, CHUNKS of them at once."""
    for first in range(0, count, CHUNKS * CHUNK):
        end = min(first + CHUNKS * CHUNK, count)
        yield Chunks(first, end, max(WARM_UP, -(-(end - first) // CHUNKS)))


def chunk_losses(engine: Engine, weights: Any, ids: np.ndarray) -> Iterator[np.ndarray]:
    """Score one stream of text approximately, in a fraction of the time: chunks of it are scored side by side.

    A chunk begins with the state that the WARM_UP characters before it make of a zero state, not with the state after
    all characters before it. The losses of the first chunk are exact.

    Args:
        ids: [n], n >= 2.
    Yields:
        losses in nats, in blocks in the text's order, which joined are [n - 1].
    """
    for chunks in side_by_side(len(ids) - 1):
        state, blocks = chunks.warmed_up(engine, weights, ids), []
        for places in chunks.places():
            inputs, targets = ids.take(places, mode="clip"), ids.take(places + 1, mode="clip")
            losses, state = engine.losses(weights, inputs, targets, state)
            blocks.append(losses)
        yield np.concatenate(blocks).T.reshape(-1)[: chunks.end - chunks.first]


def window_losses(engine: Engine, weights: Any, ids: np.ndarray, window: int) -> Iterator[np.ndarray]:
    """Score a text in windows that each begin with a zero state, as the notebook trains; the last one may be short.

    Args:
        ids: [n], n >= 2.
        window: characters of a window.
    Yields:
        losses in nats, in blocks in the text's order, which joined are [n - 1].
    """
    window = check_option("window", integer(1), window)
    scores = len(ids) - 1
    whole = scores // window * window
    for start in range(0, whole, window * BLOCK_WINDOWS):
        end = min(start + window * BLOCK_WINDOWS, whole)
        inputs, targets = ids[start:end].reshape(-1, window).T, ids[start + 1 : end + 1].reshape(-1, window).T
        losses, _ = engine.losses(weights, inputs, targets, engine.zero_state(inputs.shape[1]))
        yield losses.T.reshape(-1)
    if whole < scores:
        inputs, targets = ids[whole:-1, None], ids[whole + 1 :, None]
        losses, _ = engine.losses(weights, inputs, targets, engine.zero_state(1))
        yield losses[:, 0]


def expect_scorable(ids: np.ndarray) -> None:
    """Check that there is something to score: N characters give N - 1 losses.

    Raises:
        TextError: there are fewer than two ids.
    """
    if len(ids) < 2:
        raise TextError(f"expected at least 2 known characters to score, found {len(ids)}")
