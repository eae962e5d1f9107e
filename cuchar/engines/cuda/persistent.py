"""The persistent regime: every recurrent weight in the registers of the whole chip.

One launch computes forward and one backward, each for all layers and time steps of a window, with blocks that all run
at once. This file plans how each launch divides the batch rows and the hidden units among its blocks; its formulas for
threads, shared memory and flags are those of kernels/persistent/persistent.cuh and tile.cuh.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

from cuchar.devices.device import REGISTER_UNIT, Kernel, Limits
from cuchar.engines.cuda.dropout import NO_MASK, Dropping, Mask
from cuchar.engines.cuda.gemm import gemm_of
from cuchar.engines.cuda.gradients import GemmLaunches
from cuchar.engines.cuda.tape import Backward, Tape, Weights
from cuchar.engines.cuda.target import Target, Window
from cuchar.sizes import ceil_div, padded

BESIDE_WEIGHTS = 40  # registers of a thread for everything but its weights
# What an item (one part at one time step) costs: figures rounded from a fit to 297 launches on an H200
# (benchmarks/divisions.py), which is off by a tenth (root mean square).
PART_CLOCKS = 3200  # clocks for everything but products and the fetching of rows
FFMA_CLOCKS = 440  # clocks of one product (`Tile.at_once` rows times a block's weights) by FFMA, but for its registers
MMA_CLOCKS = 990  # the same by tensor cores
REGISTER_CLOCKS = 2.8  # clocks that a register of weights adds to a product, for every 128 threads of the block
BYTES_A_CLOCK = 72  # bytes of the rows' vectors that a block fetches in a clock
FLAG_WORDS = 32  # 32-bit words from one flag to the next, so that each has a cache line
MOST_PARTS = 64  # parts of a group, at most


@dataclass(frozen=True)
class Tile:
    """The tile of a stage's matrix that one warp holds in its registers; see kernels/persistent/tile.cuh."""

    warps: int  # warps that share the same outputs, each with some of the inputs
    outputs: int  # outputs (rows of the matrix) of a tile
    row: int  # numbers that the vector of one batch row takes in shared memory
    at_once: int  # batch rows that one product multiplies
    registers: int  # registers of a thread that hold weights
    clocks: int  # clocks of one product, but for what REGISTER_CLOCKS counts


def ffma_tile(inputs: int, lanes: int, itemsize: int) -> Tile:
    """The tile that multiplies by FFMA: struct Tile of tile.cuh.

    Args:
        inputs: columns of a stage's matrix.
        lanes: lanes of a warp that share an output.
    """
    warps = ceil_div(inputs, lanes * (128 // itemsize))
    slice_ = 4 * ceil_div(ceil_div(inputs, lanes * warps), 4)
    row = warps * lanes * padded(slice_)
    return Tile(warps, 128 // lanes, row, 2, itemsize * slice_, FFMA_CLOCKS)


def tensor_tile(inputs: int, precision: str) -> Tile:
    """The tile that multiplies by tensor cores: struct TensorTile of tile.cuh, with operands of that precision."""
    per_word = 1 if precision == "tf32" else 2
    warps = ceil_div(inputs, 256 * per_word)
    each = ceil_div(inputs, warps * 8 * per_word)
    row = 32 * ceil_div(warps * each * 8 * per_word, 32) + 4 * per_word
    return Tile(warps, 16, row, 8, 4 * each, MMA_CLOCKS)


@dataclass(frozen=True)
class Division:
    """How one launch divides batch rows and hidden units among its blocks.

    Each group works with blocks of its own: ceil(H / units) of them for each of the 2L-1 stages.
    """

    groups: int  # groups of batch rows
    units: int  # hidden units of a block
    parts: int  # parts of a group, which take turns
    rows: int  # batch rows of a part, at most
    blocks: int  # blocks of the launch, all groups and stages together
    threads: int  # threads of a block
    shared_bytes: int  # bytes of shared memory of a block
    flags: int  # 32-bit words of the launch's flags

    @property
    def macros(self) -> dict[str, int]:
        """The macros with which kernels/persistent/persistent.cuh is compiled for this division."""
        sizes = {"GROUPS": self.groups, "UNITS": self.units, "PARTS": self.parts, "ROWS": self.rows}
        return sizes | {"SHARED_BYTES": self.shared_bytes}


@dataclass(frozen=True)
class Persistent:
    """The plan of the persistent regime: the division of the launch forward and that of the launch backward."""

    forward: Division
    backward: Division

    @property
    def flags(self) -> int:
        """32-bit words for the flags of both launches; each launch gets half of them."""
        return 2 * max(self.forward.flags, self.backward.flags)

    def launches(self, target: Target, dropout: bool) -> GemmLaunches:
        return GemmLaunches(target, gemm_of(target), PersistentRecurrence(target, self, dropout))


def plan_window(target: Target, window: Window) -> Persistent | None:
    """The divisions that are estimated to take the fewest clocks; None where the chip cannot hold the weights."""
    forward, backward = (
        min(divisions(direction, target, window.B), key=itemgetter(0), default=None)
        for direction in ("forward", "backward")
    )
    return Persistent(forward[1], backward[1]) if forward and backward else None


def divisions(direction: str, target: Target, B: int) -> Iterator[tuple[float, Division]]:
    """Every division that fits the device, with an estimate of the clocks that a time step takes.

    A division fits if it has no more blocks than the device has multiprocessors, and if the registers and the shared
    memory of a multiprocessor hold what a block needs.

    Args:
        direction: "forward" or "backward".
        B: batch rows.
    Yields:
        clocks of a time step, division.
    """
    H, stages, forward = target.model.hidden, 2 * target.model.layers - 1, direction == "forward"
    limits, itemsize = target.device.limits, target.itemsize
    inputs, lanes = (H, 8) if forward else (4 * H, 16)
    is_fp32 = target.precision == "fp32"
    tile = ffma_tile(inputs, lanes, itemsize) if is_fp32 else tensor_tile(inputs, target.precision)
    # A unit has so many of the matrix's outputs, and for each batch row so many numbers in `Shared::fetched`.
    outputs, fetched = (4, 5) if forward else (1, 7)
    pointers = 16 // itemsize if forward else 0  # struct Shared's two pointers, in numbers of the kernel's type
    dropout = 2 + 24 // itemsize  # struct Dropout, in numbers of the kernel's type
    whole = ceil_div(tile.outputs, outputs)  # units whose outputs a warp has; a block's units are a multiple of it
    for groups in range(1, min(B, limits.multiprocessors // stages) + 1):
        each = limits.multiprocessors // (groups * stages)  # blocks of a stage and group, at most
        units = whole * ceil_div(ceil_div(H, each), whole)
        threads = 32 * tile.warps * outputs * units // tile.outputs
        if not _held(tile, H, threads, limits, forward):
            continue
        for parts in range(1, min(ceil_div(B, groups), MOST_PARTS) + 1):
            rows = ceil_div(B, groups * parts)
            products = ceil_div(rows, tile.at_once)
            room = products * tile.at_once  # rows, rounded up to whole products
            # `numbers` is the size of struct Shared, in numbers of the kernel's type.
            numbers = (
                room * tile.row + fetched * rows * units + tile.warps * room * outputs * units + pointers + dropout
            )
            numbers += 4 * units if forward else parts * rows * units  # forward has biases, backward dc
            shared = 16 * ceil_div(itemsize * numbers, 16)
            if shared > limits.shared_bytes:
                continue
            product = tile.clocks + ceil_div(threads, REGISTER_UNIT) * tile.registers * REGISTER_CLOCKS
            clocks = parts * (PART_CLOCKS + rows * inputs * itemsize / BYTES_A_CLOCK + products * product)
            blocks, flags = groups * stages * ceil_div(H, units), stages * groups * parts * FLAG_WORDS
            yield clocks, Division(groups, units, parts, rows, blocks, threads, shared, flags)


def _held(tile: Tile, H: int, threads: int, limits: Limits, forward: bool) -> bool:
    """Whether a multiprocessor's registers hold a block's weights and what else its threads need.

    What else they need was found by compiling without a spill for every architecture (tools/compile_gate.py). A thread
    needs more where rows of the matrix are not aligned to 16 bytes or are long, where copies go through registers
    (before compute capability 8.0), and where the block is large.
    """
    beside = BESIDE_WEIGHTS + 8 * (H % 4 > 0 or H > 512) + 24 * (threads > 384)
    beside += 16 if limits.capability < 80 else 8 * (limits.capability == 80 or (forward and limits.capability >= 120))
    return limits.take(threads, tile.registers + beside, 0)


class PersistentRecurrence:
    """`cuchar.engines.cuda.gradients.Recurrence` with one launch in each direction."""

    def __init__(self, target: Target, plan: Persistent, dropout: bool):
        self._plan, self.flags, self._drop = plan, plan.flags, Dropping(target) if dropout else None
        macros: dict[str, int | str] = {**target.sizes, **target.operand, "DROPOUT": int(dropout)}

        def compiled(name: str, division: Division) -> Kernel:
            return target.kernels(f"persistent/{name}.cu", {**macros, **division.macros}, cooperative=True)[name]

        self._forward = compiled("persistent_forward", plan.forward)
        self._backward = compiled("persistent_backward", plan.backward)

    def forward(self, weights: Weights, tape: Tape, mask: Mask | None) -> None:
        division = self._plan.forward
        self._forward(
            division.blocks, division.threads, division.shared_bytes, parameters=weights.flat, inputs=tape.inputs,
            h=tape.h, c=tape.c, gates=tape.gates, dropped=tape.dropped, flags=tape.flags[0],
            progress=tape.progress, T=tape.T, B=tape.B, **(mask or NO_MASK).arguments, steps=tape.steps,
        )  # fmt: skip

    def backward(self, weights: Weights, tape: Tape, backward: Backward, mask: Mask | None) -> None:
        if self._drop and mask:
            self._drop(backward.dh, backward.dh, weights.model.layers - 1, mask, tape)
        division = self._plan.backward
        self._backward(
            division.blocks, division.threads, division.shared_bytes, parameters=weights.flat, c=tape.c,
            gates=tape.gates, dh=backward.dh, flags=tape.flags[1], progress=tape.progress, T=tape.T, B=tape.B,
            **(mask or NO_MASK).arguments, steps=tape.steps,
        )  # fmt: skip
