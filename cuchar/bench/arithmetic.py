"""What a training step costs by count: the same for every implementation, whatever it does besides."""

from cuchar.bench.configurations import Configuration
from cuchar.parameters import parameter_count

FLOAT_BYTES = 4
ADAM_PASSES = 7  # reads weights, gradients and two moments, writes weights and moments
STORED_UNITS = 6  # of a layer, character and unit: four gates, h, c


def flops(sizes: Configuration) -> int:
    """Floating-point operations of a training step's matrix products: a multiplication and an addition each.

    Forward, for each of the N = T * B characters: 2*4H*H of every layer's recurrence, 2*4H*H of every layer's input
    but the first one's, which picks a column of its weights, and 2*H*V of the head. Backward the same twice, for the
    gradients of weights and of inputs. Pointwise work, softmax and Adam are not counted.
    """
    V, H, L, N = sizes.V, sizes.H, sizes.L, sizes.T * sizes.B
    return 3 * N * (8 * H * H * (2 * L - 1) + 2 * H * V)


def bytes_moved(sizes: Configuration) -> int:
    """The least that must go between processor and memory, if nothing stayed in a cache: float32 for all.

    Weights are read forward and backward and their gradients written, then Adam's passes; what backward needs of every
    character (gates, h, c of each layer, and V logits) is written once and read once.
    """
    return FLOAT_BYTES * ((3 + ADAM_PASSES) * parameter_count(sizes.model) + 2 * _stored(sizes))


def bytes_held(sizes: Configuration) -> int:
    """Memory that training needs at once: weights, gradients, two moments, and what backward needs."""
    return FLOAT_BYTES * (4 * parameter_count(sizes.model) + _stored(sizes))


def _stored(sizes: Configuration) -> int:
    return sizes.T * sizes.B * (STORED_UNITS * sizes.L * sizes.H + sizes.V)
