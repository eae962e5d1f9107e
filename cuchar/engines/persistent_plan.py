"""How the persistent regime divides batch and units: the formulas of kernels/persistent.cuh and kernels/tile.cuh."""

from dataclasses import dataclass

from cuchar.config import ModelConfig
from cuchar.engines.device import Limits
from cuchar.engines.fitting import REGISTER_UNIT, ceil_div, fits_a_block, padded

BESIDE_WEIGHTS = 40  # registers of a thread
# Clocks, estimates: of a pair of rows for each weight of a thread, of a fragment, of a part beside its products, of
# results on their way to other blocks, of a first row on its way to shared memory; and bytes of rows a clock.
PAIR_CLOCKS, FRAGMENT_CLOCKS, PART_CLOCKS, TRAVEL_CLOCKS, FETCH_CLOCKS, FETCH_BYTES = 2.4, 32, 800, 1500, 600, 64
FLAG_WORDS, MOST_PARTS = 32, 64


@dataclass(frozen=True)
class Tile:
    """kernels/tile.cuh: a warp's part of a matrix. `warps` share its outputs, a `row` of inputs takes so many numbers.

    clocks: that a warp's product with `at_once` rows takes of its quarter of a multiprocessor, an estimate.
    """

    warps: int
    outputs: int
    row: int
    at_once: int
    registers: int
    clocks: float


def ffma_tile(inputs: int, lanes: int, itemsize: int) -> Tile:
    """struct Tile."""
    warps = ceil_div(inputs, lanes * (128 // itemsize))
    slice_ = 4 * ceil_div(ceil_div(inputs, lanes * warps), 4)
    return Tile(warps, 128 // lanes, warps * lanes * padded(slice_), 2, itemsize * slice_, 4 * slice_ * PAIR_CLOCKS)


def tensor_tile(inputs: int, precision: str) -> Tile:
    """struct TensorTile."""
    per_word = 1 if precision == "tf32" else 2
    warps = ceil_div(inputs, 256 * per_word)
    each = ceil_div(inputs, warps * 8 * per_word)
    row = 32 * ceil_div(warps * each * 8 * per_word, 32) + 4 * per_word
    return Tile(warps, 16, row, 8, 4 * each, each * FRAGMENT_CLOCKS)


@dataclass(frozen=True)
class Launch:
    """Of a block."""

    threads: int
    shared_bytes: int


@dataclass(frozen=True)
class Persistent:
    """`groups` of batch rows, each on `stages` times `ceil(H / units)` blocks, `parts` of at most `rows` rows in turns."""

    groups: int
    units: int
    parts: int
    rows: int
    blocks: int
    flags: int
    forward: Launch
    backward: Launch

    @property
    def macros(self) -> dict[str, int]:
        """kernels/persistent.cuh's."""
        sizes = {"GROUPS": self.groups, "UNITS": self.units, "PARTS": self.parts, "ROWS": self.rows}
        return sizes | {"SHARED_FORWARD": self.forward.shared_bytes, "SHARED_BACKWARD": self.backward.shared_bytes}


def persistent_plan(
    model: ModelConfig, B: int, itemsize: int, limits: Limits, precision: str = "fp32"
) -> Persistent | None:
    """The division of batch and units that takes the fewest clocks; no more blocks than multiprocessors."""
    H, stages = model.hidden, 2 * model.layers - 1
    if precision == "fp32":
        forward, backward = ffma_tile(H, 8, itemsize), ffma_tile(4 * H, 16, itemsize)
    else:
        forward, backward = tensor_tile(H, precision), tensor_tile(4 * H, precision)
    dropout = 2 + 16 // itemsize  # struct Dropout
    best: tuple[float, Persistent] | None = None
    for groups in range(1, min(B, limits.multiprocessors // stages) + 1):
        each = limits.multiprocessors // (groups * stages)  # blocks of a stage, at most
        units = backward.outputs * ceil_div(ceil_div(H, each), backward.outputs)
        blocks = groups * stages * ceil_div(H, units)
        threads = 32 * forward.warps * 4 * units // forward.outputs, 32 * backward.warps * units // backward.outputs
        if not (_held(forward, H, threads[0], limits) and _held(backward, H, threads[1], limits)):
            continue
        for parts in range(1, min(ceil_div(B, groups), MOST_PARTS) + 1):
            rows = ceil_div(B, groups * parts)
            ahead, products = parts > 2, ceil_div(rows, forward.at_once)
            room, shared, clocks = products * forward.at_once, [], 0.0
            for tile, count, outputs, inputs, numbers, more in (
                (forward, threads[0], 4 * units, H, 5, 4 * units + 16 // itemsize + dropout),
                (backward, threads[1], units, 4 * H, 7, parts * rows * units + dropout),
            ):
                held = (1 + ahead) * (room * tile.row + numbers * rows * units) + tile.warps * room * outputs + more
                shared.append(16 * ceil_div(itemsize * held, 16))
                of_part = PART_CLOCKS + products * ceil_div(count, REGISTER_UNIT) * tile.clocks
                if not ahead:
                    of_part += FETCH_CLOCKS + rows * inputs * itemsize / FETCH_BYTES
                clocks += parts * of_part + (TRAVEL_CLOCKS if parts == 1 else 0)
            if max(shared) <= limits.shared_bytes and (best is None or clocks < best[0]):
                launches = (Launch(count, bytes) for count, bytes in zip(threads, shared, strict=True))
                flags = 2 * stages * groups * parts * FLAG_WORDS
                best = clocks, Persistent(groups, units, parts, rows, blocks, flags, *launches)
    return best[1] if best else None


def _held(tile: Tile, H: int, threads: int, limits: Limits) -> bool:
    """Whether a multiprocessor's registers hold the weights of a block, and what else its threads need.

    That is what compiles without a spill on every architecture (benchmarks/registers.py): rows that are not aligned, long
    ones, copies through registers and the few registers of a large block each take more.
    """
    beside = BESIDE_WEIGHTS + 8 * (H % 4 > 0 or H > 512) + 24 * (threads > 384)
    beside += 16 if limits.capability < 80 else 8 * (limits.capability == 80)
    return fits_a_block(limits, threads, tile.registers + beside, 0)
