"""Philox4x32-10: random numbers that are a function of a counter, not of a state.

A dropout mask is a function of (seed, step, layer, element). So any engine can make the
same mask, in forward and again in backward, in any order and without storing it. A draw
is a function of (seed, stream, position). So a stream is the same on every engine,
whatever other streams are drawn beside it.
Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

import numpy as np

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)
_DRAW = np.uint64(1 << 31)  # marks a draw's counter: set in the word where a dropout mask's counter has the layer
_WEIGHTS = 1 << 30  # marks, in the same word, the counter of a mask of recurrent weights


def philox4x32(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Ten rounds of Philox.

    Args:
        counter: four arrays (or scalars that broadcast) of 32-bit words held as uint64.
        key: two 32-bit words.
    Returns:
        four arrays of 32-bit words held as uint64.
    """
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (p1 >> _SHIFT) ^ c1 ^ np.uint64(k0), p1 & _LOW,
            (p0 >> _SHIFT) ^ c3 ^ np.uint64(k1), p0 & _LOW,
        )  # fmt: skip
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def dropout_mask(
    shape: tuple[int, int, int],
    probability: float,
    seed: int,
    step: int,
    layer: int,
    dtype: np.typing.DTypeLike,
    first_row: int = 0,
    batch: int | None = None,
) -> np.ndarray:
    """Inverted-dropout factors: 0 with `probability`, else 1 / (1 - probability).

    Element e of the whole batch's C-ordered mask takes word e % 4 of counter (e // 4, layer,
    step), and is dropped if that word is below probability * 2^32.

    Args:
        shape: [T, B, H] of the layer's output.
        step: number of the training step, counted from 1.
        layer: the layer whose output is dropped.
        first_row: which row of the whole batch the first of the B rows is.
        batch: rows of the whole batch; None where the B rows are all of them.
    """
    T, B, H = shape
    first = (np.arange(T, dtype=np.uint64) * (batch or B) + first_row)[:, None] * H  # [T, 1]: elements
    blocks = first // 4 + np.arange((B * H + 6) // 4, dtype=np.uint64)  # the first element may be its block's last
    counter = (blocks, layer, step & 0xFFFFFFFF, step >> 32)
    words = np.stack(philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32)), axis=-1)  # type: ignore[arg-type]
    places = (first % 4 + np.arange(B * H, dtype=np.uint64)).astype(np.intp)
    kept = np.take_along_axis(words.reshape(T, -1), places, axis=1) >= np.uint64(probability * 2**32)
    return (kept / (1 - probability)).astype(dtype).reshape(shape)


def weight_dropout_mask(
    hidden: int, probability: float, seed: int, step: int, layer: int, dtype: np.typing.DTypeLike
) -> np.ndarray:
    """What a layer's recurrent weights are multiplied by in a training step: 0 with `probability`, else 1 / (1 - probability).

    Source: Merity, Keskar and Socher 2018, "Regularizing and optimizing LSTM language models", section 2, after DropConnect
    (Wan et al. 2013); the rest is scaled up, as for `dropout_mask`.

    Returns:
        [4H, H]; element e of it takes word e % 4 of counter (e // 4, 2^30 + layer, step).
    """
    shape = (1, 4 * hidden, hidden)
    return dropout_mask(shape, probability, seed, step, _WEIGHTS + layer, dtype).reshape(shape[1:])


def uniforms(seed: int, streams: range, positions: range) -> np.ndarray:
    """Uniform numbers for draws, float64 [positions, streams]: odd multiples of 2^-53, so never 0 or 1.

    The number of character `position` of stream `stream` is made of 52 bits of the first two
    words of counter (position, 2^31 + (position >> 32), stream, stream >> 32), of each of which
    the low 32 bits count.
    """
    position = np.array(positions, np.uint64)[:, None]
    stream = np.array(streams, np.uint64)
    counter = (position & _LOW, position >> _SHIFT | _DRAW, stream & _LOW, stream >> _SHIFT)
    high, low, _, _ = philox4x32(counter, (seed & 0xFFFFFFFF, seed >> 32))
    return (high << np.uint64(21) | low >> np.uint64(11) | np.uint64(1)) / 2.0**53
