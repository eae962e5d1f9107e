"""Weights of 8 bits: each row of a matrix has a scale, by which its integers from -127 to 127 are multiplied."""

import numpy as np

from cuchar.engines.base import Engine
from cuchar.engines.choose import choose_engine
from cuchar.evaluation import stream_losses
from cuchar.generation import generate
from cuchar.parameters import Parameters
from cuchar.sampling import SampleConfig

LARGEST = 127
STREAMS, LENGTH = 20, 1000  # the samples on which rounded weights are compared with the model's own


def quantised(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers, int8 [M,N], and the scales, float32 [M], whose products are nearest to a matrix [M,N]."""
    scales = (np.abs(matrix).max(axis=1) / LARGEST).astype(np.float32)
    divisors = np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(matrix / divisors), -LARGEST, LARGEST).astype(np.int8), scales


def rounded(parameters: Parameters) -> Parameters:
    """The parameters with each matrix as its integers times their scales; biases stay as they are."""
    result = Parameters(parameters.model, parameters.flat.dtype)
    for name, view in parameters.items():
        if view.ndim == 2:
            integers, scales = quantised(view)
            result[name][...] = integers * scales[:, None]
        else:
            result[name][...] = view
    return result


def losses(parameters: Parameters, text: np.ndarray | None) -> tuple[float, float]:
    """The mean loss, in nats per character, of the model, and of the model with `rounded` weights.

    Args:
        text: ids [n], n >= 2, to measure on. None measures on 20 samples of 1,000 characters that the model draws with
            seed 0. On those, the first loss is the entropy of the model's own writing, and the difference estimates
            the Kullback-Leibler divergence between the two models, which is zero where they predict the same.
    """
    engine, _ = choose_engine("auto", parameters.model, parameters.flat.dtype)
    rows = _samples(engine, parameters) if text is None else text[None]

    def loss(weights: Parameters) -> float:
        return float(np.mean(np.concatenate(list(stream_losses(engine, engine.fold(weights), rows)), axis=1)))

    return loss(parameters), loss(rounded(parameters))


def _samples(engine: Engine, parameters: Parameters) -> np.ndarray:
    """Samples [STREAMS, LENGTH] of ids."""
    none, config = np.array([], np.int64), SampleConfig(length=LENGTH)
    blocks = generate(engine, engine.fold(parameters), config, 0, range(STREAMS), none, none)
    return np.concatenate([ids for ids, _ in blocks]).T
