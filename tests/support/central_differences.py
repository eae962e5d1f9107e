"""The judge of every gradient: how the loss itself changes when a parameter is moved to either side."""

import numpy as np

from cuchar.engines.base import Example
from cuchar.parameters import Parameters


def expect_gradients_of_central_differences(engine, parameters, inputs, targets, state, dropout):
    """Compare a float64 engine's gradients with (loss(p + e) - loss(p - e)) / 2e, tensor by tensor."""
    model, epsilon = parameters.model, 1e-5
    gradients, numeric, scratch = (Parameters(model, np.float64) for _ in range(3))
    gradients.flat[:] = np.nan  # so that one that the engine does not write is seen
    engine.loss_and_gradients(parameters, Example(inputs, targets, state, dropout), gradients)
    for index, kept in enumerate(parameters.flat.copy()):
        sides = []
        for side in (kept + epsilon, kept - epsilon):
            parameters.flat[index] = side
            sides.append(engine.loss_and_gradients(parameters, Example(inputs, targets, state, dropout), scratch)[0])
        parameters.flat[index] = kept
        numeric.flat[index] = (sides[0] - sides[1]) / (2 * epsilon)
    for name, gradient in gradients.items():
        # A quotient is rounded by eps * loss / (2 * epsilon), and is off by a third derivative times epsilon^2 / 6, for
        # which there are 1e-6.
        noise = 4 * np.finfo(float).eps / epsilon * np.sqrt(gradient.size)
        error = np.linalg.norm(gradient - numeric[name])
        assert error <= 1e-6 * np.linalg.norm(numeric[name]) or error <= noise, name
