"""The persistent regime: every recurrent weight in the registers of the whole chip.

A launch forward and a launch backward take all layers and time steps, by blocks that run at once. How each launch divides
batch and units among them is planned here, by the formulas of kernels/persistent/persistent.cuh and tile.cuh.
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

BESIDE_WEIGHTS = 40  # registers of a thread
# Clocks of a part; of a product with its rows, by FFMA or by tensor cores; of a register of weights in a product; and bytes
# of rows that are fetched in a clock. Rounded from a fit to 297 launches on an H200 (benchmarks/divisions.py), which is
# off by a tenth (root mean square).
PART_CLOCKS, FFMA_CLOCKS, MMA_CLOCKS, REGISTER_CLOCKS, BYTES_A_CLOCK = 3200, 440, 990, 2.8, 72
FLAG_WORDS, MOST_PARTS = 32, 64


@dataclass(frozen=True)
class Tile:
    """kernels/persistent/tile.cuh: a warp's part of a matrix. `warps` share its outputs, a `row` of inputs takes so many numbers.

    A thread has `registers` for weights. A product is with `at_once` rows, and takes `clocks` beside those of its registers.
    """

    warps: int
    outputs: int
    row: int
    at_once: int
    registers: int
    clocks: int


def ffma_tile(inputs: int, lanes: int, itemsize: int) -> Tile:
    """struct Tile."""
    warps = ceil_div(inputs, lanes * (128 // itemsize))
    slice_ = 4 * ceil_div(ceil_div(inputs, lanes * warps), 4)
    row = warps * lanes * padded(slice_)
    return Tile(warps, 128 // lanes, row, 2, itemsize * slice_, FFMA_CLOCKS)


def tensor_tile(inputs: int, precision: str) -> Tile:
    """struct TensorTile."""
    per_word = 1 if precision == "tf32" else 2
    warps = ceil_div(inputs, 256 * per_word)
    each = ceil_div(inputs, warps * 8 * per_word)
    row = 32 * ceil_div(warps * each * 8 * per_word, 32) + 4 * per_word
    return Tile(warps, 16, row, 8, 4 * each, MMA_CLOCKS)


@dataclass(frozen=True)
class Division:
    """`groups` of batch rows, each on `stages` times `ceil(H / units)` blocks, `parts` of at most `rows` rows in turns."""

    groups: int
    units: int
    parts: int
    rows: int
    blocks: int
    threads: int
    shared_bytes: int
    flags: int

    @property
    def macros(self) -> dict[str, int]:
        """kernels/persistent/persistent.cuh's."""
        sizes = {"GROUPS": self.groups, "UNITS": self.units, "PARTS": self.parts, "ROWS": self.rows}
        return sizes | {"SHARED_BYTES": self.shared_bytes}


@dataclass(frozen=True)
class Persistent:
    """A launch forward and one backward, each divided as suits it."""

    forward: Division
    backward: Division

    @property
    def flags(self) -> int:
        """Words for both, half of them for each."""
        return 2 * max(self.forward.flags, self.backward.flags)

    def launches(self, target: Target, dropout: bool) -> GemmLaunches:
        return GemmLaunches(target, gemm_of(target), PersistentRecurrence(target, self, dropout))


def plan_window(target: Target, window: Window) -> Persistent | None:
    """The divisions of batch and units that take the fewest clocks; None where the chip does not hold the weights."""
    forward, backward = (
        min(divisions(direction, target, window.B), key=itemgetter(0), default=None)
        for direction in ("forward", "backward")
    )
    return Persistent(forward[1], backward[1]) if forward and backward else None


def divisions(direction: str, target: Target, B: int) -> Iterator[tuple[float, Division]]:
    """Every division that fits the device, no more blocks than multiprocessors, with the clocks of a time step."""
    H, stages, forward = target.model.hidden, 2 * target.model.layers - 1, direction == "forward"
    limits, itemsize = target.device.limits, target.itemsize
    inputs, lanes = (H, 8) if forward else (4 * H, 16)
    is_fp32 = target.precision == "fp32"
    tile = ffma_tile(inputs, lanes, itemsize) if is_fp32 else tensor_tile(inputs, target.precision)
    outputs, fetched = (4, 5) if forward else (1, 7)  # of a unit; numbers of a unit and row beside the sums
    pointers = 16 // itemsize if forward else 0  # struct Shared
    dropout = 2 + 16 // itemsize  # struct Dropout
    whole = ceil_div(tile.outputs, outputs)  # units of a warp
    for groups in range(1, min(B, limits.multiprocessors // stages) + 1):
        each = limits.multiprocessors // (groups * stages)  # blocks of a stage, at most
        units = whole * ceil_div(ceil_div(H, each), whole)
        threads = 32 * tile.warps * outputs * units // tile.outputs
        if not _held(tile, H, threads, limits, forward):
            continue
        for parts in range(1, min(ceil_div(B, groups), MOST_PARTS) + 1):
            rows = ceil_div(B, groups * parts)
            products = ceil_div(rows, tile.at_once)
            room = products * tile.at_once
            numbers = (
                room * tile.row + fetched * rows * units + tile.warps * room * outputs * units + pointers + dropout
            )
            numbers += 4 * units if forward else parts * rows * units  # biases; dc
            shared = 16 * ceil_div(itemsize * numbers, 16)
            if shared > limits.shared_bytes:
                continue
            product = tile.clocks + ceil_div(threads, REGISTER_UNIT) * tile.registers * REGISTER_CLOCKS
            clocks = parts * (PART_CLOCKS + rows * inputs * itemsize / BYTES_A_CLOCK + products * product)
            blocks, flags = groups * stages * ceil_div(H, units), stages * groups * parts * FLAG_WORDS
            yield clocks, Division(groups, units, parts, rows, blocks, threads, shared, flags)


def _held(tile: Tile, H: int, threads: int, limits: Limits, forward: bool) -> bool:
    """Whether a multiprocessor's registers hold the weights of a block, and what else its threads need.

    That is what compiles without a spill on every architecture (tools/compile_gate.py): rows that are not aligned, long
    ones, copies through registers and the few registers of a large block each take more.
    """
    beside = BESIDE_WEIGHTS + 8 * (H % 4 > 0 or H > 512) + 24 * (threads > 384)
    beside += 16 if limits.capability < 80 else 8 * (limits.capability == 80 or (forward and limits.capability >= 120))
    return limits.take(threads, tile.registers + beside, 0)


class PersistentRecurrence:
    """`cuchar.engines.cuda.gradients.Recurrence`: a launch in each direction."""

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
