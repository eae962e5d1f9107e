"""The head (logits, losses and dlogits from the last layer's output), and the kernel that ends every backward pass."""

from cuchar.config import ModelConfig
from cuchar.engines.cuda.gemm import Gemm
from cuchar.engines.cuda.tape import Backward, Tape, Weights, norm_blocks
from cuchar.engines.cuda.target import Target
from cuchar.sizes import ceil_div

ONE_PASS_VOCABULARY = 512  # characters at most, so that one batch row's logits stay in a warp's registers
STATIC_SHARED_BYTES = 48 << 10  # shared memory that a block gets without asking for dynamic shared memory


class Head:
    """Computes logits, or losses and their gradients, from the last layer's output.

    Args:
        gemm: multiplies where kernels/head/head.cu does not take the vocabulary or the precision.
    """

    def __init__(self, target: Target, gemm: Gemm):
        self._gemm, self._V = gemm, target.model.vocabulary_size
        self.one_pass = target.precision == "fp32" and one_pass_head(target.model, target.itemsize)
        if self.one_pass:
            sizes = {"HIDDEN": target.model.hidden, "VOCABULARY": self._V}
            self._kernel = target.kernels("head/head.cu", sizes)["head"]
        else:
            self._kernel = target.kernels("head/softmax.cu", scaled(target))["softmax"]

    def __call__(self, weights: Weights, tape: Tape, with_targets: bool, dropped: bool = False) -> None:
        """Write losses to `tape.losses` and dlogits to `tape.logits`; without targets, write logits to `tape.logits`.

        Args:
            dropped: whether the head reads the last layer's output times its dropout mask.
        """
        weight, bias, N, V = weights["head.weight"], weights["head.bias"], tape.N, self._V
        h = tape.output(weights.model.layers - 1, dropped)
        targets = tape.targets if with_targets else None
        if self.one_pass:
            self._kernel(
                ceil_div(N, 32), 256, weight=weight, bias=bias, h=h, targets=targets, progress=tape.progress,
                dlogits=tape.logits, losses=tape.losses, N=N,
            )  # fmt: skip
        else:
            self._gemm(h, weight, tape.logits.reshape(N, V), tb=True)
            self._kernel(
                N, 256, logits=tape.logits, bias=bias, targets=targets, progress=tape.progress, scaling=tape.scaling,
                losses=tape.losses, N=N, V=V,
            )  # fmt: skip


class Norm:
    """Adds the splits' partial gradients, and computes the squares for their norm and the window's mean loss.

    Source: kernels/training/gradient_norm.cu.
    """

    def __init__(self, target: Target):
        self._kernel = target.kernels("training/gradient_norm.cu", scaled(target))["gradient_norm"]

    def __call__(self, tape: Tape, backward: Backward) -> None:
        gradients, partials = backward.gradients.flat, backward.partials
        P = gradients.size
        self._kernel(
            norm_blocks(P) + 1, 256, partials=partials, gradients=gradients, squares=backward.squares,
            losses=tape.losses, mean_losses=tape.results, progress=tape.progress, scaling=tape.scaling, P=P,
            splits=partials.size // P, N=tape.N,
        )  # fmt: skip


def scaled(target: Target) -> dict[str, int]:
    """The macro that tells kernels whether gradients are multiplied by a loss scaling."""
    return {"SCALED": int(target.is_scaled)}


def one_pass_head(model: ModelConfig, itemsize: int) -> bool:
    """Whether kernels/head/head.cu takes the vocabulary. If not, the head is a product and kernels/head/softmax.cu."""
    rows = 32 * ceil_div(model.vocabulary_size, 32) + 32
    return model.vocabulary_size <= ONE_PASS_VOCABULARY and rows * 20 * itemsize <= STATIC_SHARED_BYTES
