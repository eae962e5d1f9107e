"""What the persistent and stepwise regimes compute around their recurrence, by products of matrices of any size.

In forward, a recurrence leaves h, c and the gates of every time step on the tape. In backward, it replaces the gates
by da, the gradients of the pre-activations. The gradient of each tensor is then one product, or one sum, over the
N = T * B characters.
"""

from typing import Any, Protocol

from cuchar.engines.cuda.dropout import Mask
from cuchar.engines.cuda.gemm import Gemm
from cuchar.engines.cuda.head import Head, Norm
from cuchar.engines.cuda.tape import Backward, Tape, Weights
from cuchar.engines.cuda.target import Target
from cuchar.sizes import ceil_div


class Recurrence(Protocol):
    """The recurrence of all layers over a window's time steps, from the state in tape.h[:, 0] and tape.c[:, 0] on."""

    flags: int  # how many flags (32-bit words) it needs on the tape; they are set to zero before every window

    def forward(self, weights: Weights, tape: Tape, mask: Mask | None) -> None:
        """Writes h, c and the gates of every time step to the tape, with a mask also the dropped outputs."""

    def backward(self, weights: Weights, tape: Tape, backward: Backward, mask: Mask | None) -> None:
        """Computes da from `backward.dh`, the gradient of the head's input, and writes it to `tape.gates`."""


class GemmLaunches:
    """`cuchar.engines.cuda.regimes.Launches` for any recurrence; head and gradients are products of matrices."""

    steps_at_once = splits = 1

    def __init__(self, target: Target, gemm: Gemm, recurrence: Recurrence):
        self._model, self._gemm, self._recurrence = target.model, gemm, recurrence
        self.head, self.norm = Head(target, gemm), Norm(target)
        self.flags, self.copies = recurrence.flags, gemm.copies
        self._begin = target.kernels("training/begin_window.cu")["begin_window"]
        sums = target.kernels("training/sums.cu")
        self._sum_rows, self._sum_rows_by_id = sums["sum_rows"], sums["sum_rows_by_id"]

    def forward(self, weights: Weights, tape: Tape, carry: bool = True, mask: Mask | None = None) -> None:
        L, BH = self._model.layers, tape.B * self._model.hidden
        self._begin(
            ceil_div(L * BH, 256), 256, h=tape.h, c=tape.c, progress=tape.progress, flags=tape.flags,
            flag_count=tape.flags.size, L=L, T=tape.T, BH=BH, carry=carry,
        )  # fmt: skip
        self._recurrence.forward(weights, tape, mask)

    def gradients(self, weights: Weights, tape: Tape, backward: Backward, carry: bool, mask: Mask | None) -> None:
        self.forward(weights, tape, carry, mask)
        dropped = mask is not None
        self.head(weights, tape, with_targets=True, dropped=dropped)
        N, H, V, L = tape.N, self._model.hidden, self._model.vocabulary_size, self._model.layers
        gemm, gradients = self._gemm, backward.gradients
        dlogits = tape.logits.reshape(N, V)
        gemm(dlogits, tape.output(L - 1, dropped), gradients["head.weight"], ta=True)
        self._sum(dlogits, gradients["head.bias"])
        gemm(dlogits, weights["head.weight"], backward.dh.reshape(N, H))
        self._recurrence.backward(weights, tape, backward, mask)
        for layer in range(L):
            da, into = tape.gates[layer].reshape(N, 4 * H), gradients[f"lstm.weight_ih_l{layer}"]
            operand = gemm.prepared("da", da)
            gemm(operand, tape.h[layer, :-1].reshape(N, H), gradients[f"lstm.weight_hh_l{layer}"], ta=True)
            self._sum(da, gradients[f"lstm.bias_l{layer}"])
            if layer:
                gemm(operand, tape.output(layer - 1, dropped), into, ta=True)
            else:
                self._sum_by_id(da, tape, into)

    def _sum(self, rows: Any, out: Any) -> None:
        N, M = rows.shape
        self._sum_rows(ceil_div(M, 32), 1024, rows=rows, out=out, N=N, M=M)

    def _sum_by_id(self, rows: Any, tape: Tape, out: Any) -> None:
        (N, M), V = rows.shape, self._model.vocabulary_size
        blocks = ceil_div(V * ceil_div(M, 256), 4)
        self._sum_rows_by_id(blocks, 128, inputs=tape.inputs, progress=tape.progress, rows=rows, out=out, N=N, M=M, V=V)
