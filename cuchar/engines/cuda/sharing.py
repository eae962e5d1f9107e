"""Between back-propagation and Adam: the gradients of this process's rows become those of the whole batch."""

from cuchar.engines.base import Share
from cuchar.engines.cuda.tape import Backward, Tape, norm_blocks
from cuchar.engines.cuda.target import Target
from cuchar.sizes import ceil_div


class Sharing:
    """Adds up the gradients and mean losses of all processes that share a batch, each by its share of the rows.

    The squares for the norm and the window's mean loss are then computed again, from the sums.
    """

    def __init__(self, target: Target, share: Share):
        self._weight, self._sum = share.weight, share.reducer.sum_on(target.device)
        self._weigh = target.kernels("training/weigh.cu")["weigh"]
        unscaled = {"SCALED": 0}  # the regime's launches have divided the gradients by the loss scaling already
        self._norm = target.kernels("training/gradient_norm.cu", unscaled)["gradient_norm"]

    def __call__(self, tape: Tape, backward: Backward) -> None:
        computed, gradients = backward.computed, backward.gradients.flat
        P = gradients.size
        self._weigh(
            ceil_div(P + 1, 256), 256, computed=computed, mean_losses=tape.results, progress=tape.progress,
            weight=self._weight, P=P,
        )  # fmt: skip
        self._sum(computed)
        self._norm(
            norm_blocks(P) + 1, 256, partials=gradients, gradients=gradients, squares=backward.squares,
            losses=computed[P:], mean_losses=tape.results, progress=tape.progress, scaling=None, P=P, splits=1, N=1,
        )  # fmt: skip
