"""Prints a digest of what a folder's kernels compute on the emulator.

python tests/support/fingerprint.py KERNELS WORKLOAD [SANITIZER SCHEDULE]
"""

import hashlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.tensor_library import TensorLibrary

from cuchar.adam import Adam, LossScaling
from cuchar.batches import Windows
from cuchar.config import PRECISIONS, ModelConfig, TrainConfig
from cuchar.devices import kernel_sources
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Dropout, Example, Share, State, Streams, TrainingState
from cuchar.engines.cuda import head, resident, stepwise
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.parameters import Parameters, initialise
from cuchar.sampling import SampleConfig

H100, A100 = Limits(90, 28, 232_448), Limits(80, 28, 166_912)  # few multiprocessors, so that N has few splits
FEW = Limits(90, 6, 232_448)
# Little shared memory, so that a persistent launch has several blocks a stage, groups and parts.
TWELVE, TEN = Limits(90, 12, 2_900), Limits(90, 10, 1_050)
TWELVE_BF16, TWELVE_SMALL = Limits(90, 12, 6_100), Limits(90, 12, 950)
STEPWISE = Limits(80, 108, 166_912, registers=0)
# V, H, L, B, T and the device's limits. A name asks for more: "library" for a device with a library of matrix products,
# "without" for no dropout, "shared" for rows of a larger batch, a precision for that precision, "overflow" for a loss scale that is too large.
WORKLOADS = {
    "cluster": (40, 64, 2, 3, 67, H100),
    "block": (40, 25, 3, 2, 9, A100),
    "block without dropout": (40, 25, 3, 2, 9, A100),
    "block, shared": (40, 25, 3, 2, 9, A100),
    "stepwise": (40, 64, 2, 7, 5, STEPWISE),
    "stepwise, many rows": (3, 4, 1, 20, 15, STEPWISE),  # N is more than a warp of sums.cuh looks at together
    "stepwise, many parameters": (2, 256, 1, 1, 2, STEPWISE),  # more than all threads of gradient_norm
    "persistent": (40, 30, 2, 7, 5, TWELVE),
    "persistent deep": (40, 16, 3, 4, 4, TEN),  # H is a multiple of a block's units
    "persistent, many rows": (40, 30, 2, 7, 5, FEW),  # more than one product's, at once
    "persistent bf16": (40, 30, 2, 7, 5, TWELVE_BF16),
    "persistent bf16 library": (40, 30, 2, 7, 5, TWELVE_BF16),
    "persistent tf32": (40, 70, 1, 3, 4, FEW),
    "large vocabulary": (600, 5, 1, 3, 4, STEPWISE),
    "stepwise tf32": (40, 64, 2, 7, 5, STEPWISE),
    "stepwise fp16": (44, 28, 2, 7, 5, STEPWISE),
    "stepwise fp16 overflow": (12, 9, 2, 2, 3, STEPWISE),
    # for ThreadSanitizer, which takes no more than 8,000 threads
    "small cluster": (12, 9, 2, 1, 34, H100),
    "small block": (12, 17, 3, 2, 4, A100),  # a layer's units need two warps
    "small stepwise": (12, 9, 2, 2, 3, STEPWISE),
    "small persistent": (12, 9, 2, 3, 3, TWELVE_SMALL),
    "small persistent fp16": (12, 9, 2, 3, 3, FEW),
    "small persistent fp16 library": (11, 9, 2, 3, 3, FEW),  # matrices of an odd number of elements are rounded
    "small large vocabulary": (12, 2, 1, 3, 2, STEPWISE),
    "small stepwise bf16": (12, 9, 2, 2, 3, STEPWISE),
    "small stepwise fp16": (12, 9, 2, 2, 3, STEPWISE),
}


class OneProcess:
    """A `cuchar.engines.base.Reducer` for a process whose share of a batch is the only one that is added up."""

    def sum_on(self, device):
        return lambda array: None


def fingerprint(V: int, H: int, L: int, B: int, T: int, limits: Limits, sanitize=None, schedule="forward") -> str:
    """Digest of the loss scaling, losses, norms, parameters, moments, state, gradients, scores, logits and draws.

    They are those after two steps of training. With dropout, the gradients are those of rows of a larger batch.
    """
    if sys.argv[2] == "small large vocabulary" or "persistent" in sys.argv[2]:
        head.ONE_PASS_VOCABULARY = resident.ONE_PASS_VOCABULARY = stepwise.WARP_VOCABULARY = V - 1
    model, generator = ModelConfig(V, H, L), np.random.default_rng(0)
    dropout = 0.3 if "without" not in sys.argv[2] else 0.0
    dropouts = {"dropout": dropout, "weight_dropout": dropout / 2}
    options = {"clip": 0.01, "weight_decay": 0.1, "carry_state": True}
    config = TrainConfig(hidden=H, layers=L, window=T, batch=B, seed=7, **dropouts, **options)
    precision = next((name for name in PRECISIONS if name in sys.argv[2]), "fp32")
    device = TensorLibrary if "library" in sys.argv[2] else EmulatedDevice
    engine = CudaEngine(model, device(schedule, 1, sanitize, limits), precision=precision)
    parameters = initialise(model, 0)
    adam, ids = Adam(parameters.flat.size), generator.integers(V, size=B * (3 * T + 1)).astype(np.uint16)
    adam.scaling = LossScaling(2.0**40, 5) if "overflow" in sys.argv[2] else LossScaling(2.0**10, 1999)
    state = State(*generator.normal(0, 0.5, (2, L, B, H)).astype(np.float32))
    windows = Windows(ids, B, T, T)
    training = TrainingState(parameters, adam, state)
    share = Share(2, B, B + 3, OneProcess()) if "shared" in sys.argv[2] else None
    learner = engine.learner(replace(config, batch=B + 3) if share else config, training, windows, share)
    learner._seconds_a_step = 0.01  # both steps in one call
    results = learner.train(0, 1, [0.1, 0.2])
    learner.fetch()
    state = training.state
    inputs, targets = windows[1]
    gradients = Parameters(model)
    shard = Dropout(dropout, 7, 3, first_row=2, batch=B + 3, weights=dropout / 2) if dropout else None
    engine.loss_and_gradients(parameters, Example(inputs, targets, state, shard), gradients)
    weights = engine.fold(parameters)
    losses, end = engine.losses(weights, inputs, targets, state)
    logits, _ = engine.forward(weights, inputs, state)
    draws = []
    laws = ({"law": "exp"}, {"top_k": V - 2, "top_p": 0.9, "temperature": 0.8}, {"temperature": 1e-4})
    for options in laws:
        law, begin = SampleConfig(**options), inputs[-1]
        sampler = engine.sampler(weights, law, Streams((5 << 32) | 7, range(2, 2 + B), begin, state, 1 << 32))
        draws += [sampler.make(T), sampler.make(1)]
        left = sampler._tape.get_state()
        draws += [left.h, left.c]
    digest = hashlib.sha256(repr(adam.scaling).encode())
    trained = (*results, parameters.flat, adam.m, adam.v, state.h, state.c, gradients.flat)
    for array in (*trained, losses, end.h, end.c, logits, *draws):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    kernel_sources.kernel_folder = lambda: folder
    print(fingerprint(*WORKLOADS[sys.argv[2]], *sys.argv[3:]))
