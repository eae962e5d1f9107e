"""Cuts a text's ids into windows of inputs and targets, [T, B].

The text from `offset` on is cut into B contiguous rows of R = (characters - offset) // B
characters. Windows start at 0, stride, 2*stride, ... while start < R - T. In each row a
window's inputs are row[start : start+T], its targets row[start+1 : start+T+1].

As in the notebook, each epoch has a new random offset in [0, T), and each window begins with
a zero state. With carried state the offset is 0, the windows of a row follow each other, and
each begins with the state after the one before.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cuchar.config import TrainConfig
from cuchar.errors import TextError
from cuchar.mapped import drop_pages
from cuchar.wording import option

LARGE = 1 << 26  # characters from which on a text is not copied, and not read from where it lies window by window
READ_AHEAD = 1 << 22  # characters of a large text that are copied at once
ROWS_AT_ONCE = 16  # rows of which parts are copied before the pages that they have come in are dropped


class RowBeginnings:
    """The beginnings of a large text's rows, joined to one text of which only the pieces that are asked for are copied.

    Args:
        rows: ids [B, n], a view of the text.
    """

    def __init__(self, rows: np.ndarray):
        self.base, self.dtype, self.itemsize, self.nbytes = rows, rows.dtype, rows.itemsize, rows.nbytes

    def __len__(self) -> int:
        return self.base.size

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.base.reshape(-1), dtype)

    def __getitem__(self, piece: slice) -> np.ndarray:
        begin, end, _ = piece.indices(len(self))
        length = self.base.shape[1]
        parts = [
            self.base[row, max(0, begin - row * length) : min(length, end - row * length)]
            for row in range(begin // length, -(-end // length))
        ]
        return np.concatenate(parts)


class LargeRows:
    """Rows [B, R] of a large text, of which `rows[some, begin:end]` are copied, with what comes after them.

    Windows follow each other, so most of them are found in the copy. A text that is mapped from a file comes into memory in
    pages of up to 2 MiB, one for each row that is touched: these are dropped again at once.

    Args:
        starts: where each row begins in the text.
    """

    def __init__(self, text: np.ndarray | RowBeginnings, starts: Sequence[int], length: int):
        self.shape, self.size = (len(starts), length), len(starts) * length
        self._text, self._starts = text, starts
        self._copy, self._begin = np.empty((len(starts), 0), text.dtype), 0

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator["LargeRow"]:
        return (LargeRow(self, row) for row in range(len(self)))

    def __getitem__(self, asked: tuple[slice, slice]) -> np.ndarray:
        some, columns = asked
        begin, end, _ = columns.indices(self.shape[1])
        if not self._begin <= begin <= end <= self._begin + self._copy.shape[1]:
            self._copy_from(begin, min(self.shape[1], max(end, begin + READ_AHEAD // len(self))))
        return self._copy[some, begin - self._begin : end - self._begin]

    def _copy_from(self, begin: int, end: int) -> None:
        self._copy, self._begin = np.empty((len(self), end - begin), self._text.dtype), begin
        for row, start in enumerate(self._starts):
            self._copy[row] = self._text[start + begin : start + end]
            if row % ROWS_AT_ONCE == ROWS_AT_ONCE - 1:
                drop_pages(self._text)
        drop_pages(self._text)


class LargeRow:
    """One of a large text's rows, of which pieces are copied."""

    def __init__(self, rows: LargeRows, row: int):
        self._rows, self._row = rows, row

    def __len__(self) -> int:
        return self._rows.shape[1]

    def __getitem__(self, piece: slice) -> np.ndarray:
        return self._rows[self._row : self._row + 1, piece].reshape(-1)


class Windows:
    """The windows of one epoch.

    Args:
        ids: [characters], of any unsigned type.
        batch: B, the rows of a window.
        window: T, the characters of a row in a window.
        stride: characters from one window's start to the next one's.
        offset: characters skipped at the beginning of the text.
    """

    rows: np.ndarray | LargeRows

    def __init__(self, ids: np.ndarray | RowBeginnings, batch: int, window: int, stride: int, offset: int = 0):
        self.ids, self.offset = ids, offset
        row_length = (len(ids) - offset) // batch
        if isinstance(ids, RowBeginnings) or len(ids) >= LARGE:
            self.rows = LargeRows(ids, [offset + row * row_length for row in range(batch)], row_length)
        else:
            self.rows = ids[offset : offset + batch * row_length].reshape(batch, row_length)
        self.window, self.stride = window, stride
        self.starts = range(0, max(0, row_length - window), stride)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [T, B] and targets [T, B] of window `index`."""
        start = self.starts[index]
        characters = self.rows[:, start : start + self.window + 1].T
        return characters[:-1], characters[1:]

    def __reduce__(self) -> tuple[Any, ...]:
        """How windows are sent to another process: without `rows`, which are a view of `ids`."""
        return Windows, (self.ids, len(self.rows), self.window, self.stride, self.offset)

    def part(self, first: int, count: int, rows: slice = slice(None)) -> "Windows":
        """`count` windows from window `first` on, of these rows of the batch, over a copy of the characters they have.

        It is how windows reach another process, or a device on which the text has no room.
        """
        begin = self.starts[first]
        end = self.starts[first + count - 1] + self.window + 1
        characters = np.ascontiguousarray(self.rows[rows, begin:end])
        return Windows(characters.reshape(-1), len(characters), self.window, self.stride)


def offset_generator(config: TrainConfig) -> np.random.Generator:
    """What a run draws the offsets of its epochs from."""
    return np.random.default_rng([config.seed, 1])


def draw_offset(config: TrainConfig, generator: np.random.Generator) -> int:
    """How many characters the next epoch skips at the text's beginning."""
    return 0 if config.carry_state else int(generator.integers(config.window))


def check_length(characters: int, config: TrainConfig) -> None:
    """Check that every epoch has a window, whatever its offset.

    Raises:
        TextError: the text is too short; the message says how long it must be, and which sizes would fit it.
    """

    def needed(batch: int, window: int) -> int:
        return batch * (window + 1) + (0 if config.carry_state else window - 1)

    if characters >= needed(config.batch, config.window):
        return
    spare = 0 if config.carry_state else config.window - 1
    batch = (characters - spare) // (config.window + 1)
    widest = config.batch if config.carry_state else config.batch + 1
    window = (characters - config.batch + (not config.carry_state)) // widest
    fits = [option("batch", batch)] if batch >= 1 else []
    fits += [option("window", window)] if window >= 1 else []
    if not fits and characters >= 2:
        fits = [f"{option('batch', 1)} {option('window', 1)}"]
    beside = (
        f" beside those that {option('val_fraction', config.val_fraction)} sets aside" if config.val_fraction else ""
    )
    would_fit = f"; {' or '.join(fits)} would fit" if fits else ""
    raise TextError(
        f"the text is too short: expected at least {needed(config.batch, config.window):,} characters for "
        f"{option('batch', config.batch)} {option('window', config.window)}, found {characters:,}"
        f"{beside}{would_fit}"
    )


def split_validation(ids: np.ndarray, config: TrainConfig) -> tuple[np.ndarray | RowBeginnings, np.ndarray | LargeRows]:
    """Split a text into training ids [n] and validation ids [streams, m].

    With `val_split` "tail", the last `val_fraction` of the text is validated on, as one stream. With "streams", the
    text is cut into B rows, and the last `val_fraction` of each is validated on, as char-rnn does; what remains of the
    rows is joined again for training, without a copy if the text is large.

    Raises:
        TextError: the validation text is too short to be scored.
    """
    training: np.ndarray | RowBeginnings
    validation: np.ndarray | LargeRows
    if config.val_split == "tail":
        cut = len(ids) - round(len(ids) * config.val_fraction)
        training, validation = ids[:cut], ids[None, cut:]
    else:
        row_length = len(ids) // config.batch
        rows = ids[: config.batch * row_length].reshape(config.batch, row_length)
        cut = row_length - round(row_length * config.val_fraction)
        if len(ids) >= LARGE:
            training = RowBeginnings(rows[:, :cut])
            validation = LargeRows(ids, range(cut, rows.size, row_length), row_length - cut)
        else:
            training, validation = rows[:, :cut].reshape(-1), rows[:, cut:]
    if validation.shape[1] < 2:
        raise TextError(
            f"{option('val_fraction', config.val_fraction)}: expected at least 2 characters of validation text "
            f"a stream, found {validation.shape[1]}"
        )
    return training, validation
