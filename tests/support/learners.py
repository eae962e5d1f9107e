"""A learner before its first step, with what it trains."""

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.engines.base import TrainingState
from cuchar.parameters import initialise


def learner_of(engine, config, ids, parameters=None, adam=None):
    """A learner on windows of `ids` from a zero state on, and its TrainingState; parameters are seed 0's unless given.

    A device copies what it is given here: whoever sets something in `adam` does so before.
    """
    if parameters is None:
        parameters = initialise(engine.model, 0)
    if adam is None:
        adam = Adam(parameters.flat.size, parameters.flat.dtype)
    training = TrainingState(parameters, adam, engine.zero_state(config.batch))
    windows = Windows(ids, config.batch, config.window, config.window_stride)
    return engine.learner(config, training, windows), training
