"""Which kernels for which sizes: pure functions of the model, the window and the device's limits.

resident: every recurrent weight in the registers of one block, or of a cluster of two, a batch
row each; a whole window in one launch. persistent: every recurrent weight in the registers of the whole
chip, a launch forward and one backward. stepwise: a GEMM and a pointwise kernel a step, for
anything. The formulas for threads and shared memory are those of kernels/wavefront.cuh and
kernels/lstm_resident.cu, which checks the latter when it is compiled.
"""

from dataclasses import dataclass

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.engines.cuda.persistent import Persistent, persistent_plan
from cuchar.engines.sizes import ceil_div, fits_a_block, padded
from cuchar.errors import DeviceError

ONE_PASS_VOCABULARY = 512  # characters whose logits stay in a warp's registers
WARP_VOCABULARY = 512  # characters among which one warp draws
STATIC_SHARED_BYTES = 48 << 10
# Registers of a thread beside its weights, as compiled without a spill on every architecture
# (tools/compile_gate.py): for H a multiple of 16, when every thread has a unit, and for any other.
BESIDE_WEIGHTS, BESIDE_WEIGHTS_PARTIAL, BESIDE_ON_VOLTA = 40, 88, 16
CLUSTER_SPEED = 1.4  # of a cluster of two over one block, a row: an estimate from instruction counts
LEAST_CAPABILITY = {"fp32": 70, "tf32": 80, "bf16": 80, "fp16": 75}  # that has tensor cores for it
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


def gradient_tiles(model: ModelConfig) -> tuple[int, int]:
    """Blocks that kernels/weight_gradients.cu has for a split: for products of matrices, for characters."""
    H, L, V = model.hidden, model.layers, model.vocabulary_size

    def product(rows: int) -> int:
        return ceil_div(rows, 64) * ceil_div(H, 64)

    return (2 * L - 1) * product(4 * H) + product(V), ceil_div(V * ceil_div(4 * H, SUM_COLUMNS), 8)


def norm_blocks(parameters: int) -> int:
    """Blocks of gradient_norm that square gradients; one more does the loss."""
    return min(ceil_div(parameters, 256), NORM_BLOCKS)
