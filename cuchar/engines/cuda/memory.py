"""How much device memory training takes, counted before anything is allocated."""

from collections.abc import Callable

from cuchar.engines.cuda.regimes import Launches
from cuchar.engines.cuda.tape import NORM_BLOCKS, SCALING
from cuchar.engines.cuda.target import Target, Window
from cuchar.errors import DeviceError
from cuchar.parameters import parameter_count
from cuchar.wording import option


def bytes_needed(target: Target, window: Window, launches: Launches, windows: int, corpus: int) -> int:
    """Bytes of device memory that training takes: weights, gradients, moments, the tape, the chunk's ids and the text.

    In bf16 and fp16 the library's products also keep 16-bit copies of their operands. What is counted for these is the
    most that any regime keeps: the stepwise one's.

    Args:
        windows: windows of a chunk, whose ids lie on the device.
        corpus: bytes of the text's ids.
    """
    model, splits, T, B, N = target.model, launches.splits, window.T, window.B, window.N
    H, L, V, P = model.hidden, model.layers, model.vocabulary_size, parameter_count(model)
    numbers = 4 * P + 1 + 2 * L * (T + 1) * B * H + 4 * L * N * H + N * H + N * V + N + B * H
    numbers += L * N * H * window.dropout + (splits * P if splits > 1 else 0)
    copied = 10 * N * H + N * V + V * H + 8 * H * H + 5 * B * H if launches.copies else 0
    held = 2 * copied + numbers * target.itemsize + windows * (8 * N + 56)
    return held + corpus + 8 * NORM_BLOCKS + 4 * launches.flags + 16 + SCALING.itemsize * target.is_scaled


def expect_memory(needed: Callable[[int], int], free: int, batch: int) -> None:
    """Check that the device has enough free memory for training.

    Args:
        needed: bytes that training takes with so many rows.
        free: bytes that are free.
        batch: rows that were asked for.
    Raises:
        DeviceError: less than is needed is free; the message says which batch would fit.
    """
    if needed(batch) <= free:
        return
    fits, fails = 0, batch  # the batch that would fit is searched for, since fewer rows may have more windows a chunk
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if needed(middle) <= free else (fits, middle)
    hint = f"{option('batch', fits)} would fit" if fits else f"not even {option('batch', 1)} fits"
    raise DeviceError(
        f"{option('batch', batch)}: expected {needed(batch) / 2**20:,.0f} MiB of device memory, found {free / 2**20:,.0f} free; {hint}"
    )
