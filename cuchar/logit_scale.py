"""The factor by which a model's logits suit a text best, and the model that has it in its head's weights.

A model that has read its text many times is too sure of itself on another text. There, logits that are all a little
smaller make the loss lower. Which characters are likelier than which stays as it was.
Source: Guo, Pleiss, Sun and Weinberger 2017, "On calibration of modern neural networks", section 4.2, "temperature scaling";
the factor is one over their temperature.
"""

from collections.abc import Callable

from cuchar.parameters import Parameters

ONE, MOST = 100, 200  # factors are whole hundredths, at most 2: a text that is known by heart asks for ever larger ones
FIRST_STRIDE = 16  # hundredths by which the search moves at first


def best_factor(loss_of: Callable[[float], float], loss: float) -> tuple[float, float]:
    """The factor of 0.01, 0.02, ... 2 that makes a text's mean loss least, and that loss.

    The loss is a convex function of the factor, so whoever goes down only, first by large strides and then by ever smaller
    ones, ends at its least value.

    Args:
        loss_of: the mean loss with all logits times a factor. It is asked once for each factor, for some ten in all.
        loss: with the logits as they are.
    """
    found, at, stride = {ONE: loss}, ONE, FIRST_STRIDE
    while stride:
        for move in (-stride, stride):
            while 0 < at + move <= MOST:
                if at + move not in found:
                    found[at + move] = loss_of((at + move) / ONE)
                if not found[at + move] < found[at]:
                    break
                at += move
        stride //= 2
    return at / ONE, found[at]


def scaled(parameters: Parameters, factor: float) -> Parameters:
    """The parameters of the model whose logits are `factor` times as large: the head's are."""
    flat = parameters.flat.copy()
    copy = Parameters(parameters.model, flat.dtype, flat)
    for name in ("head.weight", "head.bias"):
        copy[name][...] *= flat.dtype.type(factor)
    return copy
