"""Prints a digest of what the C++ engine computes when it is built from a folder's sources.

python tests/support/cpu_fingerprint.py KERNELS [COMPILER FLAGS]
"""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices import kernel_sources
from cuchar.engines.base import Dropout, Example, State, Streams, TrainingState
from cuchar.engines.cpu import engine as cpu_engine
from cuchar.engines.cpu import library as cpu_library
from cuchar.parameters import Parameters, initialise
from cuchar.sampling import SampleConfig

SHAPES = [(70, 50, 3, 13, 5), (5, 3, 1, 1, 3), (130, 70, 2, 5, 40), (80, 60, 2, 2, 4)]  # V, H, L, B, T
LAWS = (
    {"law": "exp"}, {"top_k": 4, "top_p": 0.6}, {"top_p": 0.4}, {"min_p": 0.3}, {"argmax": True}, {"temperature": 1e-4},
)  # fmt: skip


def results(
    V: int, H: int, L: int, B: int, T: int, dtype: str = "f4", laws: Sequence[dict] = LAWS
) -> dict[str, np.ndarray]:
    """By name, losses, norms, parameters, moments, state, gradients, scores, logits and draws after two steps of training.

    With dropout, the gradients are those of rows of a larger batch.
    """
    model, generator = ModelConfig(V, H, L), np.random.default_rng(0)
    dropout = 0.3 if L == 3 else 0.0
    dropouts = {"dropout": dropout, "weight_dropout": dropout / 2}
    options = {"clip": 0.01, "weight_decay": 0.1, "carry_state": True}
    config = TrainConfig(hidden=H, layers=L, window=T, batch=B, seed=7, **dropouts, **options)
    engine, parameters = cpu_engine.CpuEngine(model, dtype), initialise(model, 0, dtype)
    adam, ids = Adam(parameters.flat.size, dtype), generator.integers(V, size=B * (3 * T + 1)).astype(np.uint8)
    state = State(*generator.normal(0, 0.5, (2, L, B, H)).astype(dtype))
    windows = Windows(ids, B, T, T)
    training = TrainingState(parameters, adam, state)
    learner = engine.learner(config, training, windows)
    trained = learner.train(0, 1, [0.1, 0.2])
    learner.fetch()
    state, (inputs, targets) = training.state, windows[1]
    gradients = Parameters(model, dtype)
    shard = Dropout(dropout, 7, 3, first_row=2, batch=B + 3, weights=dropout / 2) if dropout else None
    engine.loss_and_gradients(parameters, Example(inputs, targets, state, shard), gradients)
    weights = engine.fold(parameters)
    losses, end = engine.losses(weights, inputs, targets, state)
    logits, _ = engine.forward(weights, inputs, state)
    found = dict(zip(("losses", "norms"), trained, strict=True))
    found |= {"parameters": parameters.flat.copy(), "m": adam.m, "v": adam.v, "h": state.h, "c": state.c}
    found |= {"gradients": gradients.flat, "scores": losses, "end.h": end.h, "end.c": end.c, "logits": logits.copy()}
    for options in laws:
        sampler = engine.sampler(
            weights, SampleConfig(**options), Streams((5 << 32) | 7, range(2, 2 + B), inputs[-1], state, 9)
        )
        found |= {f"draws by {options}": sampler.make(50), f"one more by {options}": sampler.make(1)}
    parameters["head.bias"][-1] = np.inf
    weights = engine.fold(parameters)
    found["no draw"] = engine.sampler(weights, SampleConfig(), Streams(7, range(B), inputs[-1], state, 9)).make(1)
    return found


def digest_of(*found: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in (array for arrays in found for array in arrays.values()):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    kernel_sources.kernel_folder = lambda: folder
    cpu_library.FLAGS = [*cpu_library.FLAGS, *sys.argv[2:]]
    cpu_engine.thread_count, cpu_engine.PRODUCTS_A_THREAD, cpu_engine.PRODUCTS_OF_A_STEP = lambda: 3, 1, 1
    cpu_engine.aligned = np.zeros  # its memory ends where the array does, so that AddressSanitizer sees a read beyond
    print(digest_of(*(results(*shape) for shape in SHAPES)))
