"""The recurrence of the regimes whose other work is GEMMs: step by step, or in one launch on the whole chip.

Both begin with the state in slot 0 of the tape and leave h, c and gates of every step; backward
turns `Backward.dh`, the gradient of what the head read, and the gates into the gradients of the pre-activations.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices.device import Device
from cuchar.engines.cuda.dropout import NULL, Mask, i32, i64, real_macro, shape_macros
from cuchar.engines.cuda.gemm import prepared
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.tape import Backward, Tape, Weights
from cuchar.engines.sizes import ceil_div


class Dropping:
    """A layer's output, or the gradient of what it became, times the layer's mask."""

    def __init__(self, device: Device, dtype: np.dtype):
        self._apply_dropout = device.kernels("stepwise/dropout.cu", real_macro(dtype))["apply_dropout"]

    def __call__(self, source: Any, out: Any, layer: int, mask: Mask, tape: Tape) -> None:
        self._apply_dropout(
            ceil_div(out.size, 256), 256, source, out, i64(out.size), i32(layer), mask.seed, mask.threshold, mask.scale,
            tape.steps, tape.progress,
        )  # fmt: skip


class StepwiseRecurrence:
    """Layer by layer, a GEMM and a pointwise kernel a step: any size, and the plainest to read."""

    flags = 0

    def __init__(self, device: Device, model: ModelConfig, dtype: np.dtype, dropout: bool, gemm: Callable[..., None]):
        self.model, self._gemm = model, gemm
        real = real_macro(dtype)
        cell = device.kernels("stepwise/cell.cu", real)
        self._cell_forward, self._cell_backward = cell["cell_forward"], cell["cell_backward"]
        self._drop = Dropping(device, dtype) if dropout else None

    def forward(self, weights: Weights, tape: Tape, mask: Mask | None) -> None:
        T, B, N, H = tape.T, tape.B, tape.N, self.model.hidden
        cells, gemm = ceil_div(B * H, 256), self._gemm
        for layer in range(self.model.layers):
            gates, h, c = tape.gates[layer], tape.h[layer], tape.c[layer]
            recurrent = prepared(gemm, "recurrent", weights[f"lstm.weight_hh_l{layer}"])
            bias = weights[f"lstm.bias_l{layer}"]
            inputs = weights[f"lstm.weight_ih_l{layer}"]
            if layer:
                gemm(tape.output(layer - 1, mask is not None), inputs, gates.reshape(N, 4 * H), tb=True)
            for t in range(T):
                gemm(h[t], recurrent, gates[t], tb=True, accumulate=layer > 0)
                table, ids = (NULL, NULL) if layer else (inputs, tape.inputs[0, t])
                self._cell_forward(
                    cells, 256, gates[t], bias, table, ids, tape.progress, i32(N), c[t], c[t + 1], h[t + 1],
                    i32(B), i32(H),
                )  # fmt: skip
            if self._drop and mask:
                self._drop(h[1:], tape.dropped[layer], layer, mask, tape)

    def backward(self, weights: Weights, tape: Tape, backward: Backward, mask: Mask | None) -> None:
        T, B, N, H = tape.T, tape.B, tape.N, self.model.hidden
        gemm, dh = self._gemm, backward.dh
        for layer in reversed(range(self.model.layers)):
            gates, c = tape.gates[layer], tape.c[layer]
            recurrent = prepared(gemm, "recurrent", weights[f"lstm.weight_hh_l{layer}"])
            if self._drop and mask:
                self._drop(dh, dh, layer, mask, tape)
            for t in reversed(range(T)):
                self._cell_backward(
                    ceil_div(B * H, 256), 256, gates[t], c[t], c[t + 1], dh[t], backward.dc, i32(t == T - 1),
                    i32(B), i32(H),
                )  # fmt: skip
                if t:
                    gemm(gates[t], recurrent, dh[t - 1], accumulate=True)
            if layer:
                gemm(gates.reshape(N, 4 * H), weights[f"lstm.weight_ih_l{layer}"], dh.reshape(N, H))


class PersistentRecurrence:
    """All layers and steps in a launch forward and a launch backward, of blocks that run at once."""

    def __init__(
        self, device: Device, model: ModelConfig, dtype: np.dtype, plan: Persistent, dropout: bool, precision: str
    ):
        self.plan, self._drop = plan, Dropping(device, dtype) if dropout else None
        macros = {**real_macro(dtype), **shape_macros(model), "DROPOUT": int(dropout)}
        if precision != "fp32":
            macros["PRECISION"] = precision.capitalize()
        self._forward, self._backward = (
            device.kernels(f"persistent/{name}.cu", {**macros, **launch.macros}, cooperative=True)[name]
            for name, launch in (("persistent_forward", plan.forward), ("persistent_backward", plan.backward))
        )
        self._no_mask = Mask.of(0, 0, dtype)
        self.flags = plan.flags

    def forward(self, weights: Weights, tape: Tape, mask: Mask | None) -> None:
        launch, drop = self.plan.forward, mask or self._no_mask
        self._forward(
            launch.blocks, launch.threads, weights.flat, tape.inputs, tape.h, tape.c, tape.gates, tape.dropped,
            tape.flags[0], tape.progress, i32(tape.T), i32(tape.B), drop.seed, drop.threshold, drop.scale,
            tape.steps, shared_bytes=launch.shared_bytes,
        )  # fmt: skip

    def backward(self, weights: Weights, tape: Tape, backward: Backward, mask: Mask | None) -> None:
        if self._drop and mask:
            self._drop(backward.dh, backward.dh, len(tape.h) - 1, mask, tape)
        launch, drop = self.plan.backward, mask or self._no_mask
        self._backward(
            launch.blocks, launch.threads, weights.flat, tape.c, tape.gates, backward.dh, tape.flags[1],
            tape.progress, i32(tape.T), i32(tape.B), drop.seed, drop.threshold, drop.scale, tape.steps,
            shared_bytes=launch.shared_bytes,
        )  # fmt: skip


Recurrence = StepwiseRecurrence | PersistentRecurrence
