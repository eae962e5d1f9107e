"""The resident regime: every recurrent weight in the registers of one block, or of a cluster of two blocks.

One block or one cluster computes one batch row, so that one launch computes all layers and time steps of a window.
`plan_window` and `plan_sampling` say whether a model fits. Their formulas for threads and shared memory are those of
kernels/resident/wavefront.cuh, lstm_resident.cu and kernels/sampling/lstm_sample.cu; a kernel does not compile if its
shared memory differs from what is reckoned here.
"""

from dataclasses import dataclass
from typing import Any

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.engines.cuda.dropout import NO_MASK, Mask
from cuchar.engines.cuda.gemm import PlainGemm
from cuchar.engines.cuda.head import ONE_PASS_VOCABULARY, Head, Norm
from cuchar.engines.cuda.tape import Backward, Tape, Weights
from cuchar.engines.cuda.target import Target, Window
from cuchar.sizes import ceil_div, padded

# Registers of a thread for everything but its weights, such that kernels compile without a spill for every
# architecture (tools/compile_gate.py).
BESIDE_WEIGHTS = 40  # for H a multiple of 16, where every thread has a unit
BESIDE_WEIGHTS_PARTIAL = 88  # for any other H, where some threads have none
BESIDE_ON_VOLTA = 16  # so many more before compute capability 7.5
CLUSTER_SPEED = 1.4  # how much faster than one block a cluster of two is: an estimate from instruction counts
SUM_COLUMNS = 256  # columns that a warp of kernels/training/sums.cuh adds up


@dataclass(frozen=True)
class Resident:
    """The plan of the resident regime: one launch for a window's recurrence and head, one for the weights' gradients.

    There are as many splits as let every block of a product have a multiprocessor to itself.
    """

    cluster: int  # blocks that compute one batch row, 1 or 2
    threads: int  # threads of such a block
    shared_bytes: int  # bytes of its shared memory
    tiles: int  # blocks that compute the weights' gradients of one split
    splits: int  # shares of the N characters whose gradients are added up by themselves first

    def launches(self, target: Target, dropout: bool) -> "ResidentLaunches":
        return ResidentLaunches(target, self, dropout)


def plan_window(target: Target, window: Window) -> Resident | None:
    """One block a row or a cluster of two, whichever is estimated to be faster; None if neither holds the weights."""
    model, limits, itemsize = target.model, target.device.limits, target.itemsize
    H, L, V = model.hidden, model.layers, model.vocabulary_size
    if V > ONE_PASS_VOCABULARY or target.precision != "fp32":
        return None
    team, slice_ = team_and_slice(H)
    registers = itemsize // 4 * max(4 * slice_, 4 * ceil_div(V, 32)) + beside_weights(H, limits)
    fitting = []
    for cluster in [1] + [2] * (limits.has_clusters and L == 2):
        threads = team * (2 if cluster == 2 else 2 * L - 1)
        shared = shared_bytes(model, cluster, itemsize)
        if limits.take(threads, registers, shared):
            waves = ceil_div(window.B * cluster, limits.multiprocessors)
            fitting.append((waves / (CLUSTER_SPEED if cluster == 2 else 1), cluster, threads, shared))
    if not fitting:
        return None
    _, cluster, threads, shared = min(fitting)
    products, characters = gradient_tiles(model)
    splits = max(1, min(window.N // 32, limits.multiprocessors // products))
    return Resident(cluster, threads, shared, products + characters, splits)


def team_and_slice(hidden: int) -> tuple[int, int]:
    """Threads of a team, and how many numbers of the vector each of them multiplies by: kernels/resident/matvec.cuh."""
    return 32 * ceil_div(hidden, 16), 4 * ceil_div(ceil_div(hidden, 2), 4)


def beside_weights(hidden: int, limits: Limits) -> int:
    """Registers of a thread for everything but its weights."""
    partial = BESIDE_WEIGHTS_PARTIAL if hidden % 16 else BESIDE_WEIGHTS
    return partial + BESIDE_ON_VOLTA * (limits.capability < 75)


def shared_bytes(model: ModelConfig, cluster: int, itemsize: int) -> int:
    """Bytes of shared memory that a block of kernels/resident/lstm_resident.cu needs: the size of its struct Shared."""
    H, L, V = model.hidden, model.layers, model.vocabulary_size
    team, slice_ = team_and_slice(H)
    slots, channels = (32, 1) if cluster == 2 else (2, max(1, L - 1))
    exchange = (L * 2 * 8 * padded(slice_) + channels * slots * 2 * team) * itemsize + 8 * slots
    each, warps = (2, 2 * team // 32) if cluster == 2 else (3, (2 * L - 1) * team // 32)
    characters, row = 32 * ceil_div(V, 32), padded(4 * ceil_div(H, 4))
    head, fetched = each * warps * (row + characters), L * 4 * 6 * team
    return 16 * ceil_div(exchange, 16) + (characters * row + max(head, fetched)) * itemsize


def gradient_tiles(model: ModelConfig) -> tuple[int, int]:
    """How many blocks kernels/resident/weight_gradients.cu has for each split.

    Returns:
        blocks that multiply matrices, blocks that add up the rows of the first layer's table, character by character.
    """
    H, L, V = model.hidden, model.layers, model.vocabulary_size

    def product(rows: int) -> int:
        return ceil_div(rows, 64) * ceil_div(H, 64)

    return (2 * L - 1) * product(4 * H) + product(V), ceil_div(V * ceil_div(4 * H, SUM_COLUMNS), 8)


class ResidentLaunches:
    """`cuchar.engines.cuda.regimes.Launches` with one launch for forward and three for a training step's gradients."""

    steps_at_once = 16
    flags = 0
    copies = False

    def __init__(self, target: Target, plan: Resident, dropout: bool):
        self._plan, self.splits = plan, plan.splits
        self.head, self.norm = Head(target, PlainGemm(target)), Norm(target)
        own = {"CLUSTER": plan.cluster, "DROPOUT": int(dropout), "SHARED_BYTES": plan.shared_bytes}
        kernels = target.kernels("resident/lstm_resident.cu", {**target.sizes, **own})
        self._forward, self._step = kernels["lstm_forward"], kernels["lstm_step"]
        self._weight_gradients = target.kernels("resident/weight_gradients.cu", target.sizes)["weight_gradients"]

    def forward(self, weights: Weights, tape: Tape) -> None:
        plan = self._plan
        self._forward(
            tape.B * plan.cluster, plan.threads, plan.shared_bytes, parameters=weights.flat, inputs=tape.inputs,
            h=tape.h, c=tape.c, gates=tape.gates, T=tape.T, B=tape.B,
        )  # fmt: skip

    def gradients(self, weights: Weights, tape: Tape, backward: Backward, carry: bool, mask: Mask | None) -> None:
        plan = self._plan
        self._step(
            tape.B * plan.cluster, plan.threads, plan.shared_bytes, parameters=weights.flat, inputs=tape.inputs,
            targets=tape.targets, h=tape.h, c=tape.c, gates=tape.gates, dropped=tape.dropped, dh=backward.dh,
            dlogits=tape.logits, losses=tape.losses, T=tape.T, B=tape.B, carry=carry, **(mask or NO_MASK).arguments,
            steps=tape.steps, progress=tape.progress,
        )  # fmt: skip
        self._weight_gradients(
            plan.tiles * plan.splits, 256, gates=tape.gates, h=tape.h, dropped=tape.dropped if mask else None,
            dlogits=tape.logits, inputs=tape.inputs, progress=tape.progress, partials=backward.partials, T=tape.T,
            B=tape.B, splits=plan.splits,
        )  # fmt: skip


@dataclass(frozen=True)
class OneBlock:
    """The plan for sampling in the resident regime: one block draws one stream, many characters in one launch."""

    threads: int
    shared_bytes: int

    def drawing(self, target: Target) -> "ResidentDrawing":
        return ResidentDrawing(target, self)


def plan_sampling(target: Target) -> OneBlock | None:
    """The plan for kernels/sampling/lstm_sample.cu; None where one block cannot hold the model."""
    model, limits = target.model, target.device.limits
    H, L, V = model.hidden, model.layers, model.vocabulary_size
    team, slice_ = team_and_slice(H)
    threads = team * (2 * L - 1)
    characters, row = 32 * ceil_div(V, 32), padded(4 * ceil_div(H, 4))
    numbers = 4 * L * padded(slice_) + (L + 2) * team + characters * (row + 1)
    shared = numbers * target.itemsize + 8 * characters + 16
    registers = target.itemsize // 4 * 4 * slice_ + beside_weights(H, limits)
    fits = V <= ONE_PASS_VOCABULARY and limits.take(threads, registers, shared)
    return OneBlock(threads, shared) if fits else None


class ResidentDrawing:
    """`cuchar.engines.cuda.regimes.Drawing` with one launch for all characters of a call."""

    def __init__(self, target: Target, plan: OneBlock):
        self._plan = plan
        macros = {**target.sizes, "SHARED_BYTES": plan.shared_bytes}
        self._kernel = target.kernels("sampling/lstm_sample.cu", macros)["lstm_sample"]

    def __call__(self, weights: Weights, tape: Tape, made: Any, law: dict[str, Any], position: int) -> None:
        count, streams = made.shape
        self._kernel(
            streams, self._plan.threads, self._plan.shared_bytes, parameters=weights.flat, inputs=tape.inputs, h=tape.h,
            c=tape.c, made=made, count=count, streams=streams, **law, position=position,
        )  # fmt: skip
