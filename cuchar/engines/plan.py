"""Which kernels for which sizes: pure functions of the model, the window and the device's limits.

resident: every recurrent weight in the registers of one block, or of a cluster of two, a batch
row each; a whole window in one launch. persistent: every recurrent weight in the registers of the whole
chip, a launch forward and one backward. stepwise: a GEMM and a pointwise kernel a step, for
anything. The formulas for threads and shared memory are those of kernels/wavefront.cuh, persistent.cuh,
lstm_resident.cu and lstm_persistent.cu; the last two check them when they are compiled.
"""

from dataclasses import dataclass

import numpy as np

from cuchar.config import ModelConfig
from cuchar.engines.device import Limits
from cuchar.errors import DeviceError
from cuchar.parameters import parameter_count

ONE_PASS_VOCABULARY = 512  # characters whose logits stay in a warp's registers
WARP_VOCABULARY = 512  # characters among which one warp draws
STATIC_SHARED_BYTES = 48 << 10
# Registers of a thread beside its weights, as compiled without a spill on every architecture
# (benchmarks/registers.py): for H a multiple of 16, when every thread has a unit, and for any other.
BESIDE_WEIGHTS, BESIDE_WEIGHTS_PARTIAL, BESIDE_ON_VOLTA = 40, 88, 16
REGISTER_UNIT = 128  # threads: four parts of a multiprocessor have a quarter of its registers and of a block's warps
MOST_REGISTERS, MOST_THREADS = 255, 1024
CLUSTER_SPEED = 1.4  # of a cluster of two over one block, a row: an estimate from instruction counts
LEAST_CAPABILITY = {"fp32": 70, "tf32": 80, "bf16": 80, "fp16": 75}  # that has tensor cores for it
# Clocks of the persistent regime, estimates: of a pair of rows for each weight of a thread, of a fragment, of a part
# beside its products,
# of results on their way to other blocks, of a first row on its way to shared memory; and bytes of rows a clock.
PAIR_CLOCKS, FRAGMENT_CLOCKS, PART_CLOCKS, TRAVEL_CLOCKS, FETCH_CLOCKS, FETCH_BYTES = 2.4, 32, 800, 1500, 600, 64
FLAG_WORDS, MOST_PARTS = 32, 64
SUM_COLUMNS, NORM_BLOCKS = 256, 1024  # kernels/sums.cuh; blocks whose sums of squares Adam adds


@dataclass(frozen=True)
class Resident:
    """The window in one launch. `splits` parts of N for the weight gradients, each of `tiles` blocks.

    So many that every product's blocks have a multiprocessor each.
    """

    cluster: int
    threads: int
    shared_bytes: int
    tiles: int
    splits: int


@dataclass(frozen=True)
class Tile:
    """kernels/tile.cuh: a warp's part of a matrix. `warps` share its outputs, a `row` of inputs takes so many numbers.

    pair_clocks: that a warp's product with `at_once` rows takes of its quarter of a multiprocessor, an estimate.
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


@dataclass(frozen=True)
class Stepwise:
    """Launches a step."""


@dataclass(frozen=True)
class OneBlock:
    """Sampling with a stream a block, many characters a launch."""

    threads: int
    shared_bytes: int


Plan = Resident | Persistent | Stepwise


def make_plan(
    model: ModelConfig, T: int, B: int, dtype: np.typing.DTypeLike, limits: Limits, precision: str = "fp32"
) -> Plan:
    """The kernels for windows [T, B] of this model on a device."""
    itemsize = np.dtype(dtype).itemsize
    resident = resident_plan(model, T, B, itemsize, limits) if precision == "fp32" else None
    return resident or persistent_plan(model, B, itemsize, limits, precision) or Stepwise()


def expect_tensor_cores(precision: str, dtype: np.dtype, name: str, limits: Limits) -> None:
    """
    Raises:
        DeviceError: the device `name` has none for this precision, or the numbers are not float32.
    """
    least = LEAST_CAPABILITY[precision]
    if limits.capability < least:
        raise DeviceError(
            f"--precision {precision}: expected compute capability {least / 10} or newer, "
            f"found {limits.capability / 10} ({name}); --precision fp32 runs on it"
        )
    if precision != "fp32" and dtype != np.float32:
        raise DeviceError(f"--precision {precision}: expected float32 parameters, found {dtype}")


def sample_plan(model: ModelConfig, dtype: np.typing.DTypeLike, limits: Limits) -> OneBlock | Stepwise:
    """The kernels that draw from this model on a device: kernels/lstm_sample.cu where one block holds it."""
    H, L, V = model.hidden, model.layers, model.vocabulary_size
    itemsize = np.dtype(dtype).itemsize
    group, slice_ = group_and_slice(H)
    threads = group * (2 * L - 1)
    characters, row = 32 * ceil_div(V, 32), padded(4 * ceil_div(H, 4))
    numbers = 4 * L * padded(slice_) + (L + 2) * group + characters * (row + 1)
    shared = numbers * itemsize + 8 * characters + 16
    registers = itemsize // 4 * 4 * slice_ + beside_weights(H, limits)
    if V <= ONE_PASS_VOCABULARY and fits_a_block(limits, threads, registers, shared):
        return OneBlock(threads, shared)
    return Stepwise()


def draw_warps(model: ModelConfig) -> int:
    """Of a block of kernels/draw.cu: one as long as its trips over the vocabulary cost less than a block's barriers."""
    return 1 if model.vocabulary_size <= WARP_VOCABULARY else 8


def one_pass_head(model: ModelConfig, itemsize: int) -> bool:
    """Whether kernels/head.cu takes the vocabulary; else it is a GEMM and kernels/softmax.cu."""
    rows = 32 * ceil_div(model.vocabulary_size, 32) + 32
    return model.vocabulary_size <= ONE_PASS_VOCABULARY and rows * 20 * itemsize <= STATIC_SHARED_BYTES


def resident_plan(model: ModelConfig, T: int, B: int, itemsize: int, limits: Limits) -> Resident | None:
    H, L, V = model.hidden, model.layers, model.vocabulary_size
    words = itemsize // 4
    group, slice_ = group_and_slice(H)
    if V > ONE_PASS_VOCABULARY:
        return None
    registers = words * max(4 * slice_, 4 * ceil_div(V, 32)) + beside_weights(H, limits)
    candidates = [1] + [2] * (limits.has_clusters and L == 2)
    fitting = []
    for cluster in candidates:
        threads = group * (2 if cluster == 2 else 2 * L - 1)
        shared = shared_bytes(model, cluster, itemsize)
        if fits_a_block(limits, threads, registers, shared):
            waves = ceil_div(B * cluster, limits.multiprocessors)
            fitting.append((waves / (CLUSTER_SPEED if cluster == 2 else 1), cluster, threads, shared))
    if not fitting:
        return None
    _, cluster, threads, shared = min(fitting)
    products, characters = gradient_tiles(model)
    splits = max(1, min(T * B // 32, limits.multiprocessors // products))
    return Resident(cluster, threads, shared, products + characters, splits)


def group_and_slice(hidden: int) -> tuple[int, int]:
    """Threads that hold a matrix, and the part of a vector that each reads: kernels/matvec.cuh."""
    return 32 * ceil_div(hidden, 16), 4 * ceil_div(ceil_div(hidden, 2), 4)


def beside_weights(hidden: int, limits: Limits) -> int:
    """Registers of a thread."""
    partial = BESIDE_WEIGHTS_PARTIAL if hidden % 16 else BESIDE_WEIGHTS
    return partial + BESIDE_ON_VOLTA * (limits.capability < 75)


def fits_a_block(limits: Limits, threads: int, registers: int, shared: int) -> bool:
    """Whether a multiprocessor takes a block of so many threads, registers of each, and bytes."""
    held = REGISTER_UNIT * ceil_div(threads, REGISTER_UNIT) * 8 * ceil_div(registers, 8)
    enough = held <= limits.registers and shared <= limits.shared_bytes
    return enough and registers <= MOST_REGISTERS and threads <= MOST_THREADS


def persistent_plan(
    model: ModelConfig, B: int, itemsize: int, limits: Limits, precision: str = "fp32"
) -> Persistent | None:
    """The division of batch and units that takes the fewest clocks; no more blocks than multiprocessors."""
    H, stages = model.hidden, 2 * model.layers - 1
    if precision == "fp32":
        forward, backward = ffma_tile(H, 8, itemsize), ffma_tile(4 * H, 16, itemsize)
    else:
        forward, backward = tensor_tile(H, precision), tensor_tile(4 * H, precision)
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
                (forward, threads[0], 4 * units, H, 5, 0),
                (backward, threads[1], units, 4 * H, 7, parts * rows * units),
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
    """Whether a multiprocessor's registers hold the weights of a block, and what else its threads need."""
    beside = BESIDE_WEIGHTS + 8 * (H % 4 > 0 or H > 512) + 16 * (limits.capability < 80) + 24 * (threads > 384)
    return fits_a_block(limits, threads, tile.registers + beside, 0)


def shared_bytes(model: ModelConfig, cluster: int, itemsize: int) -> int:
    """Of a block of kernels/lstm_resident.cu: struct Shared."""
    H, L, V = model.hidden, model.layers, model.vocabulary_size
    group, slice_ = group_and_slice(H)
    window, channels = (32, 1) if cluster == 2 else (2, max(1, L - 1))
    exchange = (L * 2 * 8 * padded(slice_) + channels * window * 2 * group) * itemsize + 8 * window
    each, warps = (2, 2 * group // 32) if cluster == 2 else (3, (2 * L - 1) * group // 32)
    characters, row = 32 * ceil_div(V, 32), padded(4 * ceil_div(H, 4))
    head, fetched = each * warps * (row + characters), L * 4 * 6 * group
    return 16 * ceil_div(exchange, 16) + (characters * row + max(head, fetched)) * itemsize


def padded(numbers: int) -> int:
    """The distance of rows of so many numbers, a multiple of 4, such that they start in different banks."""
    return numbers + (0 if numbers // 4 % 2 else 4)


def gradient_tiles(model: ModelConfig) -> tuple[int, int]:
    """Blocks that kernels/weight_gradients.cu has for a split: for products of matrices, for characters."""
    H, L, V = model.hidden, model.layers, model.vocabulary_size

    def product(rows: int) -> int:
        return ceil_div(rows, 64) * ceil_div(H, 64)

    return (2 * L - 1) * product(4 * H) + product(V), ceil_div(V * ceil_div(4 * H, SUM_COLUMNS), 8)


def norm_blocks(parameters: int) -> int:
    """Blocks of gradient_norm that square gradients; one more does the loss."""
    return min(ceil_div(parameters, 256), NORM_BLOCKS)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def bytes_needed(
    model: ModelConfig,
    T: int,
    B: int,
    dtype: np.typing.DTypeLike,
    splits: int,
    dropout: bool,
    flags: int,
    windows: int,
    corpus: int,
) -> int:
    """Device memory of training: weights, gradients, moments, the tape, `windows` cut windows and the corpus's bytes."""
    H, L, V, P = model.hidden, model.layers, model.vocabulary_size, parameter_count(model)
    N = T * B
    numbers = 4 * P + 2 * L * (T + 1) * B * H + 4 * L * N * H + N * H + N * V + N + B * H
    numbers += (L - 1) * N * H * dropout + (splits * P if splits > 1 else 0)
    return numbers * np.dtype(dtype).itemsize + windows * (8 * N + 56) + corpus + 8 * NORM_BLOCKS + 4 * flags + 24


def expect_memory(needed: int, free: int, smallest: int, batch: int) -> None:
    """
    Args:
        needed: bytes for `batch` rows; smallest: for one.
    Raises:
        DeviceError: too little is free; says which batch would fit.
    """
    if needed <= free:
        return
    fits = 1 + (batch - 1) * (free - smallest) // (needed - smallest) if batch > 1 and free >= smallest else 0
    hint = f"--batch {fits} would fit" if fits else "not even --batch 1 fits"
    raise DeviceError(
        f"--batch {batch}: expected {needed / 2**20:,.0f} MiB of device memory, found {free / 2**20:,.0f} free; {hint}"
    )
