"""The resident regime: every recurrent weight in the registers of one block, or of a cluster of two blocks.

A batch row is one block's or one cluster's, so that all layers and time steps of a window take one launch. `plan_window`
and `plan_sampling` say whether a model fits; the formulas for threads and shared memory are those of
kernels/resident/wavefront.cuh, lstm_resident.cu and kernels/sampling/lstm_sample.cu, which check the latter when they are
compiled.
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

# Registers of a thread beside its weights, as compiled without a spill on every architecture
# (tools/compile_gate.py): for H a multiple of 16, when every thread has a unit, and for any other.
BESIDE_WEIGHTS, BESIDE_WEIGHTS_PARTIAL, BESIDE_ON_VOLTA = 40, 88, 16
CLUSTER_SPEED = 1.4  # of a cluster of two over one block, a row: an estimate from instruction counts
SUM_COLUMNS = 256  # kernels/training/sums.cuh


@dataclass(frozen=True)
class Resident:
    """A window in one launch, by `cluster` blocks a batch row.

    The weights' gradients take `splits` shares of N, each of `tiles` blocks: so many shares that every block of a product
    has a multiprocessor to itself.
    """

    cluster: int
    threads: int
    shared_bytes: int
    tiles: int
    splits: int

    def launches(self, target: Target, dropout: bool) -> "ResidentLaunches":
        return ResidentLaunches(target, self, dropout)


def plan_window(target: Target, window: Window) -> Resident | None:
    """One block a row or a cluster of two, whichever takes less time; None where neither holds the model."""
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
    """Threads that hold a matrix, and the part of a vector that each reads: kernels/resident/matvec.cuh."""
    return 32 * ceil_div(hidden, 16), 4 * ceil_div(ceil_div(hidden, 2), 4)


def beside_weights(hidden: int, limits: Limits) -> int:
    """Registers of a thread."""
    partial = BESIDE_WEIGHTS_PARTIAL if hidden % 16 else BESIDE_WEIGHTS
    return partial + BESIDE_ON_VOLTA * (limits.capability < 75)


def shared_bytes(model: ModelConfig, cluster: int, itemsize: int) -> int:
    """Of a block of kernels/resident/lstm_resident.cu: struct Shared."""
    H, L, V = model.hidden, model.layers, model.vocabulary_size
    team, slice_ = team_and_slice(H)
    slots, channels = (32, 1) if cluster == 2 else (2, max(1, L - 1))
    exchange = (L * 2 * 8 * padded(slice_) + channels * slots * 2 * team) * itemsize + 8 * slots
    each, warps = (2, 2 * team // 32) if cluster == 2 else (3, (2 * L - 1) * team // 32)
    characters, row = 32 * ceil_div(V, 32), padded(4 * ceil_div(H, 4))
    head, fetched = each * warps * (row + characters), L * 4 * 6 * team
    return 16 * ceil_div(exchange, 16) + (characters * row + max(head, fetched)) * itemsize


def gradient_tiles(model: ModelConfig) -> tuple[int, int]:
    """Blocks of kernels/resident/weight_gradients.cu for a split: for products of matrices, for characters."""
    H, L, V = model.hidden, model.layers, model.vocabulary_size

    def product(rows: int) -> int:
        return ceil_div(rows, 64) * ceil_div(H, 64)

    return (2 * L - 1) * product(4 * H) + product(V), ceil_div(V * ceil_div(4 * H, SUM_COLUMNS), 8)


class ResidentLaunches:
    """`cuchar.engines.cuda.regimes.Launches`: one launch for a window, three for a training step's gradients."""

    steps_at_once = 16
    flags = 0
    copies = False

    def __init__(self, target: Target, plan: Resident, dropout: bool):
        self._plan, self.splits = plan, plan.splits
        self.head, self._norm = Head(target, PlainGemm(target)), Norm(target)
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
        self._norm(tape, backward)


@dataclass(frozen=True)
class OneBlock:
    """Sampling with a stream a block, many characters a launch."""

    threads: int
    shared_bytes: int

    def drawing(self, target: Target) -> "ResidentDrawing":
        return ResidentDrawing(target, self)


def plan_sampling(target: Target) -> OneBlock | None:
    """kernels/sampling/lstm_sample.cu where one block holds the model."""
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
    """`cuchar.engines.cuda.regimes.Drawing`: all characters of a call in one launch."""

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
