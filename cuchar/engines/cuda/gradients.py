"""From weights and a tape to outputs and gradients: the launches, in order, of each regime.

All regimes leave the same: h and c of every step, then per-character losses with dlogits in
`tape.logits`, then gradients as `splits` partial sums, which `finish` adds up and squares.
"""

from typing import Any

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices.device import Device
from cuchar.engines.cuda.dropout import NULL, Mask, i32, i64, real_macro, shape_macros
from cuchar.engines.cuda.gemm import LibraryGemm, gemm_of, prepared
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import Plan, Resident, norm_blocks, one_pass_head
from cuchar.engines.cuda.stepwise import PersistentRecurrence, Recurrence, StepwiseRecurrence
from cuchar.engines.cuda.tape import Backward, Tape, Weights
from cuchar.engines.sizes import ceil_div
from cuchar.parameters import parameter_count


class Head:
    """Logits or losses of what the last layer hands on; the sums that end every backward pass."""

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype, precision: str = "fp32"):
        self.model, self.gemm, self._scaled = model, gemm_of(device, precision), precision == "fp16"
        self.macros = {**real_macro(dtype), "SCALED": int(self._scaled)}  # of adam.cu too
        self.one_pass = precision == "fp32" and one_pass_head(model, dtype.itemsize)
        if self.one_pass:
            sizes = {"HIDDEN": model.hidden, "VOCABULARY": model.vocabulary_size}
            self._kernel = device.kernels("head/head.cu", {**real_macro(dtype), **sizes})["head"]
        else:
            self._kernel = device.kernels("head/softmax.cu", self.macros)["softmax"]
        self._norm = device.kernels("training/gradient_norm.cu", self.macros)["gradient_norm"]

    def __call__(self, weights: Weights, tape: Tape, with_targets: bool, dropped: bool = False) -> None:
        """Losses and dlogits with targets, logits without."""
        N, V = tape.N, self.model.vocabulary_size
        weight, bias, x = weights["head.weight"], weights["head.bias"], tape.output(self.model.layers - 1, dropped)
        targets = tape.targets if with_targets else NULL
        if self.one_pass:
            self._kernel(
                ceil_div(N, 32), 256, weight, bias, x, targets, tape.progress, tape.logits, tape.losses, i32(N)
            )
        else:
            self.gemm(x, weight, tape.logits.reshape(N, V), tb=True)
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
    """One launch for a window, three for a training step's gradients."""

    steps_at_once = 16
    flags = 0
    copies = False

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype, plan: Resident, dropout: bool):
        self.plan, self.splits = plan, plan.splits
        self.head = Head(device, model, dtype)
        macros = {**real_macro(dtype), **shape_macros(model)}
        resident = {"CLUSTER": plan.cluster, "DROPOUT": int(dropout), "SHARED_BYTES": plan.shared_bytes}
        kernels = device.kernels("resident/lstm_resident.cu", {**macros, **resident})
        self._forward, self._step = kernels["lstm_forward"], kernels["lstm_step"]
        self._weight_gradients = device.kernels("resident/weight_gradients.cu", macros)["weight_gradients"]
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


class GemmLaunches:
    """A recurrence between GEMMs; any size, any precision."""

    steps_at_once = splits = 1

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype, plan: Plan, dropout: bool, precision: str):
        self.model, self.head = model, Head(device, model, dtype, precision)
        self.gemm = self.head.gemm
        self.copies = isinstance(self.gemm, LibraryGemm) and self.gemm.copies
        self._recurrence: Recurrence
        if isinstance(plan, Persistent):
            self._recurrence = PersistentRecurrence(device, model, dtype, plan, dropout, precision)
        else:
            self._recurrence = StepwiseRecurrence(device, model, dtype, dropout, self.gemm)
        self.flags = self._recurrence.flags
        real = real_macro(dtype)
        self._begin = device.kernels("training/begin_window.cu", real)["begin_window"]
        sums = device.kernels("training/sums.cu", real)
        self._sum_rows, self._sum_rows_by_id = sums["sum_rows"], sums["sum_rows_by_id"]

    def forward(self, weights: Weights, tape: Tape, carry: bool = True, mask: Mask | None = None) -> None:
        """From the state in the tape's last slot, or from zero without `carry`."""
        T, B, H, L = tape.T, tape.B, self.model.hidden, self.model.layers
        self._begin(
            ceil_div(L * B * H, 256), 256, tape.h, tape.c, tape.progress, tape.flags, i32(tape.flags.size),
            i32(L), i32(T), i64(B * H), i32(carry),
        )  # fmt: skip
        self._recurrence.forward(weights, tape, mask)

    def gradients(self, weights: Weights, tape: Tape, backward: Backward, carry: bool, mask: Mask | None) -> None:
        self.forward(weights, tape, carry, mask)
        dropped = mask is not None
        self.head(weights, tape, with_targets=True, dropped=dropped)
        N, H, V, L = tape.N, self.model.hidden, self.model.vocabulary_size, self.model.layers
        gemm, gradients = self.gemm, backward.gradients
        dlogits = tape.logits.reshape(N, V)
        gemm(dlogits, tape.output(L - 1, dropped), gradients["head.weight"], ta=True)
        self._sum(dlogits, gradients["head.bias"])
        gemm(dlogits, weights["head.weight"], backward.dh.reshape(N, H))
        self._recurrence.backward(weights, tape, backward, mask)
        for layer in range(L):
            gates, into = tape.gates[layer].reshape(N, 4 * H), gradients[f"lstm.weight_ih_l{layer}"]
            da = prepared(gemm, "da", gates)
            gemm(da, tape.h[layer, :-1].reshape(N, H), gradients[f"lstm.weight_hh_l{layer}"], ta=True)
            self._sum(gates, gradients[f"lstm.bias_l{layer}"])
            if layer:
                gemm(da, tape.output(layer - 1, dropped), into, ta=True)
            else:
                self._sum_by_id(gates, tape, into)
        self.head.finish(tape, backward)

    def _sum(self, rows: Any, out: Any) -> None:
        self._sum_rows(ceil_div(rows.shape[1], 32), 1024, rows, out, i32(rows.shape[0]), i32(rows.shape[1]))

    def _sum_by_id(self, rows: Any, tape: Tape, out: Any) -> None:
        (N, M), V = rows.shape, self.model.vocabulary_size
        blocks = ceil_div(V * ceil_div(M, 256), 4)
        self._sum_rows_by_id(blocks, 128, tape.inputs, tape.progress, rows, out, i32(N), i32(M), i32(V))


Launches = ResidentLaunches | GemmLaunches


def launches(
    device: Device, model: ModelConfig, dtype: np.dtype, plan: Plan, dropout: bool, precision: str
) -> Launches:
    if isinstance(plan, Resident):
        return ResidentLaunches(device, model, dtype, plan, dropout)
    return GemmLaunches(device, model, dtype, plan, dropout, precision)
