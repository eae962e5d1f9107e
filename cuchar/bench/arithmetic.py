"""How many operations and bytes a training step takes at least, which is the same for every implementation."""

from cuchar.bench.configurations import Configuration
from cuchar.parameters import parameter_count

FLOAT_BYTES = 4
ADAM_PASSES = 7  # Adam reads weights, gradients and two moments, and writes weights and moments
STORED_UNITS = 6  # numbers that backward needs of each layer, character and unit: four gates, h, c


def flops(sizes: Configuration) -> int:
    """Floating-point operations of a training step's matrix products; a multiply-add counts as two.

    For each of the N = T * B characters, forward takes 2*4H*H for the recurrence of every layer, 2*4H*H for the input
    of every layer but the first, which only picks a column of its weights, and 2*H*V for the head. Backward takes the
    same twice, for the gradients of weights and of inputs. Pointwise work, softmax and Adam are not counted.
    """
    V, H, L, N = sizes.V, sizes.H, sizes.L, sizes.T * sizes.B
    return 3 * N * (8 * H * H * (2 * L - 1) + 2 * H * V)


def bytes_moved(sizes: Configuration) -> int:
    """The least bytes that go between processor and memory in a training step if caches keep nothing, in float32.

    Weights are read in forward and in backward, gradients are written, then come Adam's passes. What backward needs of
    every character (gates, h and c of each layer, and V logits) is written once and read once.
    """
    return FLOAT_BYTES * ((3 + ADAM_PASSES) * parameter_count(sizes.model) + 2 * _stored(sizes))


def bytes_held(sizes: Configuration) -> int:
    """Bytes of memory that training needs at once: weights, gradients, two moments, and what backward needs."""
    return FLOAT_BYTES * (4 * parameter_count(sizes.model) + _stored(sizes))


def _stored(sizes: Configuration) -> int:
    return sizes.T * sizes.B * (STORED_UNITS * sizes.L * sizes.H + sizes.V)
