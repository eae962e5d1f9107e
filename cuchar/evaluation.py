"""How well a model predicts a text."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from cuchar.batches import LargeRows
from cuchar.config import check_option
from cuchar.dynamic import DynamicConfig
from cuchar.engines.base import Engine, State
from cuchar.errors import TextError
from cuchar.kinds import integer
from cuchar.sizes import ceil_div

BLOCK_STEPS = 256  # characters of a stream that one call of the engine scores
BLOCK_WINDOWS = 64  # windows that one call of the engine scores, at most
BLOCK_CHARS = 64 * 4096  # characters of windows that one call of the engine scores, at most
LONG_TEXT = 100_000  # characters from which on `cuchar eval` scores in chunks
CHUNKS = 64  # chunks side by side
CHUNK = 4096  # characters of a chunk, at most
WARM_UP = 256  # characters before a chunk that warm up its state
CHUNK_STEPS = 64  # characters of each chunk in one call: the activations of all chunks stay in a processor's cache
# Rows of different lengths are scored in windows of two sizes alone, since a window of another size costs an engine memory,
# and a GPU a compilation. Rows and time steps that are not needed are filled up.
ROW_STEPS = 32  # time steps of such a window
FEW_ROWS, MANY_ROWS = 8, 64
ADDED = 8192  # losses that are added up by themselves first


# As `Engine.losses`: of weights, inputs, targets and a state. The losses may have further axes, [T, B, ...].
Losses = Callable[[Any, np.ndarray, np.ndarray, State], tuple[np.ndarray, State]]


class Ids(Protocol):
    """The ids of a text, of which slices are taken, each of which begins where the one before begins or later.

    An array is one, also one that is mapped from a file; `id_stream.IdStream` is one that reads a text on the way.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, places: slice, /) -> np.ndarray: ...


class LossSum:
    """Adds up the losses of a text as they come, with the same bits however they come in blocks.

    In their order, ADDED at a time are added up in float64, and then to the sum. (It is what NumPy does, in float64, with
    an array of float32.)
    """

    def __init__(self) -> None:
        self.count = 0
        self._sum, self._rest = 0.0, np.empty(0, np.float32)

    def add(self, losses: np.ndarray) -> None:
        """Add losses, in nats, which follow those before; an array of any shape."""
        self.count += losses.size
        rest = np.concatenate([self._rest, losses.reshape(-1)])
        while len(rest) >= ADDED:
            self._sum, rest = self._sum + float(rest[:ADDED].sum(dtype=np.float64)), rest[ADDED:]
        self._rest = rest

    @property
    def mean(self) -> float:
        """The mean loss, or NaN if there is none."""
        return (self._sum + float(self._rest.sum(dtype=np.float64))) / self.count if self.count else math.nan


@dataclass(frozen=True, repr=False)
class Score:
    """Mean loss of `chars` predicted characters, in nats and in bits (nats / ln 2), and the perplexity e^nats.

    All three are NaN if nothing was predicted. `skipped` characters that the model does not know were left out.
    `replaced` characters are outside the vocabulary of a model that has an unknown symbol: they were read as that symbol,
    and each one's loss is that of the symbol, whichever character it was. It is None for other models. `dynamic` says
    with which settings the model learnt from the text while it was scored; it is None if it did not learn.
    """

    nats_per_char: float
    bits_per_char: float
    perplexity: float
    chars: int
    skipped: int = 0
    replaced: int | None = None
    dynamic: DynamicConfig | None = None

    @classmethod
    def of(
        cls,
        losses: np.ndarray,
        skipped: int = 0,
        replaced: int | None = None,
        dynamic: DynamicConfig | None = None,
    ) -> "Score":
        """The score of characters with these losses, in nats, in an array of any shape."""
        added = LossSum()
        added.add(losses)
        return cls.of_sum(added, skipped, replaced, dynamic)

    @classmethod
    def of_sum(
        cls,
        added: LossSum,
        skipped: int = 0,
        replaced: int | None = None,
        dynamic: DynamicConfig | None = None,
    ) -> "Score":
        """The score of characters whose losses were added up."""
        nats = added.mean
        with np.errstate(over="ignore"):  # the perplexity of a model that diverged is infinite
            perplexity = float(np.exp(nats))
        return cls(nats, nats / math.log(2), perplexity, added.count, skipped, replaced, dynamic)

    def __repr__(self) -> str:
        skipped = f", {self.skipped:,} skipped" if self.skipped else ""
        replaced = f", {self.replaced:,} scored as the unknown symbol" if self.replaced else ""
        dynamic = " by dynamic evaluation" if self.dynamic else ""
        return (
            f"<cuchar.Score{dynamic} {self.nats_per_char:.4f} nats ({self.bits_per_char:.4f} bits) per character, "
            f"perplexity {self.perplexity:.4f}; {self.chars:,} characters scored{skipped}{replaced}>"
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
    def of_text(
        cls,
        codes: np.ndarray,
        known: np.ndarray,
        losses: np.ndarray,
        replaced: int | None = None,
        dynamic: DynamicConfig | None = None,
    ) -> "TextScore":
        """The score of a text.

        Args:
            codes: [n], as `Reading.codes_of` returns them.
            known: [n] of bool; the others were skipped.
            losses: nats of each known character but the first.
            replaced: how many of the known ones were read as the unknown symbol, or None if there is no such symbol.
            dynamic: the settings of dynamic evaluation, or None if the model did not learn from the text.
        """
        per_char = np.full(len(codes), np.nan)
        per_char[np.flatnonzero(known)[1:]] = losses
        summary = Score.of(losses, int(np.count_nonzero(~known)), replaced, dynamic)
        return cls(**vars(summary), text="".join(map(chr, codes.tolist())), per_char=per_char)

    def surprise(self) -> list[tuple[str, float]]:
        """Each character of the text with the bits by which it surprised the model: its loss / ln 2, or NaN."""
        return list(zip(self.text, (self.per_char / math.log(2)).tolist(), strict=True))


def stream_losses(
    engine: Engine, weights: Any, rows: np.ndarray | Sequence[Ids] | LargeRows, losses_of: Losses | None = None
) -> Iterator[np.ndarray]:
    """Score B streams of text, each from a zero state, which is carried from its first character to its last.

    Args:
        rows: the ids of B texts of n characters, n >= 2: an array [B, n], or a list of them.
        losses_of: is called in place of the engine's own `losses`.
    Yields:
        losses in nats, in blocks [B, at most 256], which joined are [B, n - 1]; further axes are those of `losses_of`.
    """
    losses_of = losses_of or engine.losses
    state, last = engine.zero_state(len(rows)), len(next(iter(rows))) - 1
    for start in range(0, last, BLOCK_STEPS):
        block = np.stack([ids[start : min(start + BLOCK_STEPS, last) + 1] for ids in rows], axis=1)
        losses, state = losses_of(weights, block[:-1], block[1:], state)
        yield losses.swapaxes(0, 1)


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


def chunk_losses(engine: Engine, weights: Any, ids: Ids, losses_of: Losses | None = None) -> Iterator[np.ndarray]:
    """Score one stream of text approximately, in a fraction of the time: chunks of it are scored side by side.

    A chunk begins with the state that the WARM_UP characters before it make of a zero state, not with the state after
    all characters before it. The losses of the first chunk are exact.

    Args:
        ids: n ids, n >= 2.
        losses_of: is called in place of the engine's own `losses`.
    Yields:
        losses in nats, in blocks in the text's order, which joined are [n - 1]; further axes are those of `losses_of`.
    """
    losses_of = losses_of or engine.losses
    for of_text in side_by_side(len(ids) - 1):
        before = max(0, of_text.first - WARM_UP)
        piece = ids[before : of_text.end + 1]
        chunks = replace(of_text, first=of_text.first - before, end=of_text.end - before)
        state, of_chunks, done = chunks.warmed_up(engine, weights, piece), np.empty(0), 0
        for places in chunks.places():
            inputs, targets = piece.take(places, mode="clip"), piece.take(places + 1, mode="clip")
            losses, state = losses_of(weights, inputs, targets, state)
            if not done:
                of_chunks = np.empty((len(chunks.starts), chunks.size, *losses.shape[2:]), losses.dtype)
            of_chunks[:, done : done + len(places)] = losses.swapaxes(0, 1)
            done += len(places)
        yield of_chunks.reshape(-1, *of_chunks.shape[2:])[: chunks.end - chunks.first]


def window_losses(engine: Engine, weights: Any, ids: Ids, window: int) -> Iterator[np.ndarray]:
    """Score a text in windows that each begin with a zero state, as the notebook trains; the last one may be short.

    Args:
        ids: n ids, n >= 2.
        window: characters of a window.
    Yields:
        losses in nats, in blocks in the text's order, which joined are [n - 1].
    """
    window = check_option("window", integer(1), window)
    scores = len(ids) - 1
    whole = scores // window * window
    at_once = window * max(1, min(BLOCK_WINDOWS, BLOCK_CHARS // window))
    for start in range(0, whole, at_once):
        end = min(start + at_once, whole)
        yield from _losses_of_windows(engine, weights, ids, start, end, (end - start) // window)
    if whole < scores:
        yield from _losses_of_windows(engine, weights, ids, whole, scores, 1)


def _losses_of_windows(
    engine: Engine, weights: Any, ids: Ids, start: int, end: int, count: int
) -> Iterator[np.ndarray]:
    """Score `count` windows of equal length, from character `start` to before `end`; only a single one may be long."""
    state = engine.zero_state(count)
    for first in range(start, end, BLOCK_CHARS):
        piece = ids[first : min(first + BLOCK_CHARS, end) + 1]
        losses, state = engine.losses(weights, piece[:-1].reshape(count, -1).T, piece[1:].reshape(count, -1).T, state)
        yield losses.T.reshape(-1)


def row_losses(engine: Engine, weights: Any, rows: Sequence[np.ndarray], state: State) -> list[np.ndarray]:
    """Score rows of different lengths. Those of similar length are side by side; where one has ended, the others go on.

    Args:
        rows: for each of R rows [n] ids, n >= 1.
        state: with which each row begins, [L, R, H].
    Returns:
        for each row the losses, in nats, of its characters but the first, [n - 1] float64.
    """
    found = [np.empty(0)] * len(rows)
    longest_first = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    for first in range(0, len(rows), MANY_ROWS):
        group = longest_first[first : first + MANY_ROWS]
        lengths = np.array([len(rows[number]) - 1 for number in group])
        T = ceil_div(int(lengths[0]), ROW_STEPS) * ROW_STEPS
        ids = np.zeros((T + 1, MANY_ROWS), rows[group[0]].dtype)
        losses, after = np.empty((T, len(group))), engine.zero_state(MANY_ROWS)
        after.h[:, : len(group)], after.c[:, : len(group)] = state.h[:, group], state.c[:, group]
        for column, number in enumerate(group):
            ids[: len(rows[number]), column] = rows[number]
        for start in range(0, T, ROW_STEPS):
            end = start + ROW_STEPS
            B = FEW_ROWS if np.count_nonzero(lengths > start) <= FEW_ROWS else MANY_ROWS
            after = State(np.ascontiguousarray(after.h[:, :B]), np.ascontiguousarray(after.c[:, :B]))
            part, after = engine.losses(weights, ids[start:end, :B], ids[start + 1 : end + 1, :B], after)
            losses[start:end, :B] = part[:, : len(group)]
        for column, number in enumerate(group):
            found[number] = losses[: lengths[column], column]
    return found


def expect_scorable(ids: Ids, name: str = "") -> None:
    """Check that there is something to score: N characters give N - 1 losses.

    Args:
        name: says where the ids come from, if a user may not know.
    Raises:
        TextError: there are fewer than two ids.
    """
    if len(ids) < 2:
        beginning = f"{name}: " if name else ""
        raise TextError(f"{beginning}expected at least 2 known characters to score, found {len(ids)}")
