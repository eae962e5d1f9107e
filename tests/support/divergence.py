"""A training that diverges where a test wants it: at certain steps, unless the learning rate is low enough."""

import math
from collections.abc import Callable, Mapping

from cuchar.engines.host import HostLearner


def diverging_step(limits: Mapping[int, float]) -> Callable:
    """A `HostLearner._step` whose loss is NaN at the steps of `limits`, where the learning rate is above the limit."""
    original = HostLearner._step

    def step(self, inputs, targets, step, rate):
        if rate > limits.get(step, math.inf):
            return math.nan, math.nan
        return original(self, inputs, targets, step, rate)

    return step
