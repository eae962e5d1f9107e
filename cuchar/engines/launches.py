"""From weights and a tape to outputs and gradients: the launches, in order, of each regime.

Both regimes leave the same: h and c of every step, then per-character losses with dlogits in
`tape.logits`, then gradients as `splits` partial sums, which `finish` adds up and squares.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cuchar.config import ModelConfig
from cuchar.engines.base import Dropout
from cuchar.engines.buffers import Backward, Tape, Weights
from cuchar.engines.device import Device
from cuchar.engines.plan import Plan, Resident, ceil_div, norm_blocks, one_pass_head
from cuchar.engines.tensor_gemm import gemm_of
from cuchar.parameters import parameter_count

NULL = np.uint64(0)  # a pointer that is not there
i32, i64, u32, u64 = np.int32, np.int64, np.uint32, np.uint64


@dataclass(frozen=True)
class Mask:
    """Which cells to drop, as the kernels are told; the step's number is on the device."""

    seed: np.uint64
    threshold: np.uint32
    scale: np.floating

    @classmethod
    def of(cls, probability: float, seed: int, dtype: np.dtype) -> "Mask":
        return cls(u64(seed), u32(probability * 2**32), dtype.type(1 / (1 - probability)))


class Head:
    """Logits or losses of a tape's last layer; the sums that end every backward pass."""

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype, precision: str = "fp32"):
        self.model, self.gemm, self._scaled = model, gemm_of(device, precision), precision == "fp16"
        self.macros = {**real_macro(dtype), "SCALED": int(self._scaled)}  # of adam.cu too
        self.one_pass = precision == "fp32" and one_pass_head(model, dtype.itemsize)
        if self.one_pass:
            sizes = {"HIDDEN": model.hidden, "VOCABULARY": model.vocabulary_size}
            self._kernel = device.kernels("head.cu", {**real_macro(dtype), **sizes})["head"]
        else:
            self._kernel = device.kernels("softmax.cu", self.macros)["softmax"]
        self._norm = device.kernels("gradient_norm.cu", self.macros)["gradient_norm"]

    def __call__(self, weights: Weights, tape: Tape, with_targets: bool) -> None:
        """Losses and dlogits with targets, logits without."""
        N, V, H = tape.N, self.model.vocabulary_size, self.model.hidden
        weight, bias, h = weights["head.weight"], weights["head.bias"], tape.h[-1, 1:]
        targets = tape.targets if with_targets else NULL
        if self.one_pass:
            self._kernel(
                ceil_div(N, 32), 256, weight, bias, h, targets, tape.progress, tape.logits, tape.losses, i32(N)
            )
        else:
            self.gemm(h.reshape(N, H), weight, tape.logits.reshape(N, V), tb=True)
            self._kernel(
                N, 256, tape.logits, bias, targets, tape.progress, self.scaling(tape), tape.losses, i32(N), i32(V)
            )

    def scaling(self, tape: Tape) -> Any:
        """Where the loss scaling is, or that there is none."""
        return tape.scaling if self._scaled else NULL

    def finish(self, tape: Tape, backward: Backward) -> None:
        """Gradients from their parts, the squares of their norm, the mean loss."""
        P, blocks = parameter_count(self.model), norm_blocks(parameter_count(self.model))
        partials = backward.partials
        self._norm(
            blocks + 1, 256, partials, backward.gradients.flat, backward.squares, tape.losses, tape.results,
            tape.progress, self.scaling(tape), i64(P), i32(partials.size // P), i32(tape.N),
        )  # fmt: skip


class ResidentLaunches:
    """One launch for a window, three for a training step's gradients; all of them can be captured."""

    steps_a_graph = 16

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype, plan: Resident, dropout: bool):
        self.plan, self.splits = plan, plan.splits
        self.head = Head(device, model, dtype)
        sizes = {"HIDDEN": model.hidden, "LAYERS": model.layers, "VOCABULARY": model.vocabulary_size}
        macros = {**real_macro(dtype), **sizes}
        resident = {"CLUSTER": plan.cluster, "DROPOUT": int(dropout), "SHARED_BYTES": plan.shared_bytes}
        kernels = device.kernels("lstm_resident.cu", {**macros, **resident})
        self._forward, self._step = kernels["lstm_forward"], kernels["lstm_step"]
        self._weight_gradients = device.kernels("weight_gradients.cu", macros)["weight_gradients"]
        self._no_mask = Mask.of(0, 0, dtype)

    def forward(self, weights: Weights, tape: Tape) -> None:
        """From the state in the tape's last slot."""
        self._forward(
            tape.B * self.plan.cluster, self.plan.threads, weights.flat, tape.inputs, tape.h, tape.c, tape.gates,
            i32(tape.T), i32(tape.B), shared_bytes=self.plan.shared_bytes,
        )  # fmt: skip

    def gradients(self, weights: Weights, tape: Tape, backward: Backward, carry: bool, mask: Mask | None) -> None:
        drop = mask or self._no_mask
        self._step(
            tape.B * self.plan.cluster, self.plan.threads, weights.flat, tape.inputs, tape.targets, tape.h, tape.c,
            tape.gates, tape.dropped, backward.dh, tape.logits, tape.losses, i32(tape.T), i32(tape.B), i32(carry),
            drop.seed, drop.threshold, drop.scale, tape.steps, tape.progress, shared_bytes=self.plan.shared_bytes,
        )  # fmt: skip
        self._weight_gradients(
            self.plan.tiles * self.splits, 256, tape.gates, tape.h, tape.dropped if mask else NULL, tape.logits,
            tape.inputs, tape.progress, backward.partials, i32(tape.T), i32(tape.B), i32(self.splits),
        )  # fmt: skip
        self.head.finish(tape, backward)


class StepwiseLaunches:
    """Layer by layer, step by step, around a GEMM: any size, any precision, and the plainest to read."""

    splits = 1

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype, dropout: bool, precision: str):
        self.model = model
        self.head = Head(device, model, dtype, precision)
        self.gemm = self.head.gemm
        self.steps_a_graph = 0 if precision == "fp32" else 1  # cuBLAS cannot be captured
        real = real_macro(dtype)
        self._begin = device.kernels("begin_window.cu", real)["begin_window"]
        cell = device.kernels("cell.cu", real)
        self._cell_forward, self._cell_backward = cell["cell_forward"], cell["cell_backward"]
        sums = device.kernels("sums.cu", real)
        self._sum_rows, self._sum_rows_by_id = sums["sum_rows"], sums["sum_rows_by_id"]
        self._apply_dropout = device.kernels("dropout.cu", real)["apply_dropout"] if dropout else None

    def forward(self, weights: Weights, tape: Tape, carry: bool = True, mask: Mask | None = None) -> None:
        """From the state in the tape's last slot, or from zero without `carry`."""
        T, B, N, H, L = tape.T, tape.B, tape.N, self.model.hidden, self.model.layers
        cells, gemm = ceil_div(B * H, 256), self.gemm
        begin = ceil_div(L * B * H, 256)
        self._begin(begin, 256, tape.h, tape.c, tape.progress, i32(L), i32(T), i64(B * H), i32(carry))
        for layer in range(L):
            gates, h, c = tape.gates[layer], tape.h[layer], tape.c[layer]
            recurrent, bias = weights[f"lstm.weight_hh_l{layer}"], weights[f"lstm.bias_l{layer}"]
            inputs = weights[f"lstm.weight_ih_l{layer}"]
            if layer:
                gemm(self._below(tape, layer, mask), inputs, gates.reshape(N, 4 * H), tb=True)
            for t in range(T):
                gemm(h[t], recurrent, gates[t], tb=True, accumulate=layer > 0)
                table, ids = (NULL, NULL) if layer else (inputs, tape.inputs[0, t])
                self._cell_forward(
                    cells, 256, gates[t], bias, table, ids, tape.progress, i32(N), c[t], c[t + 1], h[t + 1],
                    i32(B), i32(H),
                )  # fmt: skip
            if mask and layer < L - 1:
                self._drop(h[1:], tape.dropped[layer], layer, mask, tape)

    def gradients(self, weights: Weights, tape: Tape, backward: Backward, carry: bool, mask: Mask | None) -> None:
        self.forward(weights, tape, carry, mask)
        self.head(weights, tape, with_targets=True)
        T, B, N, H, V = tape.T, tape.B, tape.N, self.model.hidden, self.model.vocabulary_size
        gemm, gradients, dh = self.gemm, backward.gradients, backward.dh
        dlogits = tape.logits.reshape(N, V)
        gemm(dlogits, tape.h[-1, 1:].reshape(N, H), gradients["head.weight"], ta=True)
        self._sum(dlogits, gradients["head.bias"])
        gemm(dlogits, weights["head.weight"], dh.reshape(N, H))
        for layer in reversed(range(self.model.layers)):
            gates, h, c = tape.gates[layer], tape.h[layer], tape.c[layer]
            for t in reversed(range(T)):
                self._cell_backward(
                    ceil_div(B * H, 256), 256, gates[t], c[t], c[t + 1], dh[t], backward.dc, i32(t == T - 1),
                    i32(B), i32(H),
                )  # fmt: skip
                if t:
                    gemm(gates[t], weights[f"lstm.weight_hh_l{layer}"], dh[t - 1], accumulate=True)
            da, into = gates.reshape(N, 4 * H), gradients[f"lstm.weight_ih_l{layer}"]
            gemm(da, h[:-1].reshape(N, H), gradients[f"lstm.weight_hh_l{layer}"], ta=True)
            self._sum(da, gradients[f"lstm.bias_l{layer}"])
            if layer == 0:
                jobs = V * ceil_div(4 * H, 256)
                self._sum_rows_by_id(
                    ceil_div(jobs, 4), 128, tape.inputs, tape.progress, da, into, i32(N), i32(4 * H), i32(V)
                )
            else:
                gemm(da, self._below(tape, layer, mask), into, ta=True)
                gemm(da, weights[f"lstm.weight_ih_l{layer}"], dh.reshape(N, H))
                if mask:
                    self._drop(dh, dh, layer - 1, mask, tape)
        self.head.finish(tape, backward)

    def _below(self, tape: Tape, layer: int, mask: Mask | None) -> Any:
        """The input [N, H] of a layer above the first."""
        below = tape.dropped[layer - 1] if mask else tape.h[layer - 1, 1:]
        return below.reshape(tape.N, self.model.hidden)

    def _drop(self, source: Any, out: Any, layer: int, mask: Mask, tape: Tape) -> None:
        assert self._apply_dropout is not None
        self._apply_dropout(
            ceil_div(out.size, 256), 256, source, out, i64(out.size), i32(layer), mask.seed, mask.threshold, mask.scale,
            tape.steps, tape.progress,
        )  # fmt: skip

    def _sum(self, rows: Any, out: Any) -> None:
        self._sum_rows(ceil_div(rows.shape[1], 32), 256, rows, out, i32(rows.shape[0]), i32(rows.shape[1]))


Launches = ResidentLaunches | StepwiseLaunches


def launches(
    device: Device, model: ModelConfig, dtype: np.dtype, plan: Plan, dropout: bool, precision: str
) -> Launches:
    if isinstance(plan, Resident):
        return ResidentLaunches(device, model, dtype, plan, dropout)
    return StepwiseLaunches(device, model, dtype, dropout, precision)


def real_macro(dtype: np.dtype) -> dict[str, int | str]:
    """kernels/real.cuh's number type."""
    return {"REAL": {"f": "float", "d": "double"}[dtype.char]}


def mask_of(dropout: Dropout | None, dtype: np.dtype) -> Mask | None:
    return Mask.of(dropout.probability, dropout.seed, dtype) if dropout else None
