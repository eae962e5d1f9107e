"""The stepwise regime: layer by layer, every time step is a product of matrices and a pointwise kernel.

It fits any size, and it is the plainest to read.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cuchar.config import ModelConfig
from cuchar.engines.cuda.dropout import Dropping, Mask
from cuchar.engines.cuda.gemm import Gemm, gemm_of
from cuchar.engines.cuda.gradients import GemmLaunches
from cuchar.engines.cuda.tape import Backward, Tape, Weights
from cuchar.engines.cuda.target import Target
from cuchar.sizes import ceil_div

WARP_VOCABULARY = 512  # the largest vocabulary from which a single warp draws


@dataclass(frozen=True)
class Stepwise:
    """The plan of the stepwise regime, in which there is nothing to choose."""

    def launches(self, target: Target, dropout: bool) -> GemmLaunches:
        gemm = gemm_of(target)
        return GemmLaunches(target, gemm, StepwiseRecurrence(target, dropout, gemm))

    def drawing(self, target: Target) -> "StepwiseDrawing":
        return StepwiseDrawing(target, self.launches(target, dropout=False))


class StepwiseRecurrence:
    """`cuchar.engines.cuda.gradients.Recurrence` with a product and a pointwise kernel for every time step."""

    flags = 0

    def __init__(self, target: Target, dropout: bool, gemm: Gemm):
        self._model, self._gemm = target.model, gemm
        cell = target.kernels("stepwise/cell.cu")
        self._cell_forward, self._cell_backward = cell["cell_forward"], cell["cell_backward"]
        self._drop = Dropping(target) if dropout else None

    def forward(self, weights: Weights, tape: Tape, mask: Mask | None) -> None:
        T, B, N, H = tape.T, tape.B, tape.N, self._model.hidden
        gemm = self._gemm
        for layer in range(self._model.layers):
            gates, h, c = tape.gates[layer], tape.h[layer], tape.c[layer]
            recurrent = gemm.prepared("recurrent", weights[f"lstm.weight_hh_l{layer}"])
            bias = weights[f"lstm.bias_l{layer}"]
            inputs = weights[f"lstm.weight_ih_l{layer}"]
            if layer:
                gemm(tape.output(layer - 1, mask is not None), inputs, gates.reshape(N, 4 * H), tb=True)
            for t in range(T):
                gemm(h[t], recurrent, gates[t], tb=True, accumulate=layer > 0)
                table, ids = (None, None) if layer else (inputs, tape.inputs[0, t])
                self._cell_forward(
                    ceil_div(B * H, 256), 256, gates=gates[t], bias=bias, table=table, inputs=ids, progress=tape.progress,
                    N=N, c=c[t], c_next=c[t + 1], h_next=h[t + 1], B=B, H=H,
                )  # fmt: skip
            if self._drop and mask:
                self._drop(h[1:], tape.dropped[layer], layer, mask, tape)

    def backward(self, weights: Weights, tape: Tape, backward: Backward, mask: Mask | None) -> None:
        T, B, N, H = tape.T, tape.B, tape.N, self._model.hidden
        gemm, dh = self._gemm, backward.dh
        for layer in reversed(range(self._model.layers)):
            gates, c = tape.gates[layer], tape.c[layer]
            recurrent = gemm.prepared("recurrent", weights[f"lstm.weight_hh_l{layer}"])
            if self._drop and mask:
                self._drop(dh, dh, layer, mask, tape)
            for t in reversed(range(T)):
                self._cell_backward(
                    ceil_div(B * H, 256), 256, gates=gates[t], c=c[t], c_next=c[t + 1], dh=dh[t], dc=backward.dc,
                    is_last=t == T - 1, B=B, H=H,
                )  # fmt: skip
                if t:
                    gemm(gates[t], recurrent, dh[t - 1], accumulate=True)
            if layer:
                gemm(gates.reshape(N, 4 * H), weights[f"lstm.weight_ih_l{layer}"], dh.reshape(N, H))


class StepwiseDrawing:
    """`cuchar.engines.cuda.regimes.Drawing`: each character takes a window of one time step and a launch that draws."""

    def __init__(self, target: Target, launches: GemmLaunches):
        self._device, self._V, self._launches = target.device, target.model.vocabulary_size, launches
        self._warps = draw_warps(target.model)
        self._draw = target.kernels("sampling/draw.cu", {"WARPS": self._warps})["draw_ids"]

    def __call__(self, weights: Weights, tape: Tape, made: Any, law: dict[str, Any], position: int) -> None:
        count, streams = made.shape
        p = self._device.empty((streams, self._V), np.float64)

        def run() -> None:
            self._launches.forward(weights, tape)
            self._launches.head(weights, tape, with_targets=False)

        window = self._device.capture(run)
        for k in range(count):
            window()
            self._draw(
                streams, 32 * self._warps, logits=tape.logits, p=p, inputs=tape.inputs, made=made[k], V=self._V, **law,
                position=position + k,
            )  # fmt: skip


def draw_warps(model: ModelConfig) -> int:
    """How many warps a block of kernels/sampling/draw.cu has.

    One warp goes over the vocabulary several times, several warps wait for each other at barriers. One is faster up to
    WARP_VOCABULARY characters.
    """
    return 1 if model.vocabulary_size <= WARP_VOCABULARY else 8
