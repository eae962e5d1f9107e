"""Training on the device: it does what NumPy does, the same bytes every time, and stops where it has to."""

import numpy as np
import pytest

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.base import State, TrainingState
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError
from cuchar.parameters import initialise
from tools.gpu_stages.device import dry_run
from tools.gpu_stages.reference import train
from tools.gpu_stages.shapes import TRAINED, TRAINED_HIDDEN
from tools.gpu_stages.shapes import TRAINED_V as V

STEPS = 6 if dry_run() else 40
OPTIONS = {"dropout": 0.2, "weight_dropout": 0.1, "clip": 0.05, "weight_decay": 0.01, "schedule": "cosine", "warmup": 5}


@pytest.fixture(params=TRAINED_HIDDEN)
def hidden(request) -> int:
    return TRAINED_HIDDEN[request.param]


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    """Characters with something to learn: each is likely the one before it, or its successor."""
    steps = np.random.default_rng(0).choice([0, 1, 2, 40], size=60_000, p=[0.2, 0.6, 0.1, 0.1])
    return (np.cumsum(steps) % V).astype(np.uint8)


def config_of(hidden: int, **options: object) -> TrainConfig:
    return TrainConfig(**TRAINED, hidden=hidden, **options)


def engine_of(config: TrainConfig, device: object) -> CudaEngine:
    return CudaEngine(ModelConfig(V, config.hidden, config.layers), device)


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "every option"])
@pytest.mark.parametrize("carry_state", [False, True], ids=["windows", "carried"])
def test_losses_are_numpys(hidden, carry_state, options, ids, device):
    config = config_of(hidden, carry_state=carry_state, **options)
    # For 1,100 units NumPy takes up to a second a step. And carried with every option, such a run is chaotic: after 22
    # steps NumPy's and the C++ engine's losses differ by 1 %, and still by less than 1e-5 after 12.
    steps = min(STEPS, 12) if hidden == TRAINED_HIDDEN["stepwise"] else STEPS
    expected, host = train(NumpyEngine(ModelConfig(V, hidden, 2)), config, ids, steps)
    ours, parameters = train(engine_of(config, device), config, ids, steps)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    assert np.linalg.norm(parameters.flat - host.flat) <= 1e-2 * np.linalg.norm(host.flat)


@pytest.mark.parametrize("carry_state", [False, True], ids=["windows", "carried"])
def test_same_seed_same_bytes(hidden, carry_state, ids, device):
    config = config_of(hidden, carry_state=carry_state, **OPTIONS)
    (losses, first), (again, second) = (train(engine_of(config, device), config, ids, STEPS) for _ in range(2))
    assert losses.tobytes() == again.tobytes() and first.flat.tobytes() == second.flat.tobytes()


class Uncaptured:
    """A device whose graphs are plain launches."""

    def __init__(self, device):
        self._device = device

    def __getattr__(self, name):
        return getattr(self._device, name)

    def capture(self, work):
        return work


def test_replayed_graphs_leave_the_bytes_of_plain_launches(hidden, ids, device):
    config = config_of(hidden, **OPTIONS)
    steps = 40 if hidden == TRAINED_HIDDEN["resident"] else STEPS  # 40 are enough for the graph of 16 steps
    losses, replayed = train(engine_of(config, device), config, ids, steps)
    again, launched = train(engine_of(config, Uncaptured(device)), config, ids, steps)
    assert losses.tobytes() == again.tobytes() and replayed.flat.tobytes() == launched.flat.tobytes()


def learner_of(config, ids, device, state=None):
    parameters = initialise(ModelConfig(V, config.hidden, config.layers), 0)
    engine, windows = engine_of(config, device), Windows(ids, config.batch, config.window, config.window)
    adam, state = Adam(parameters.flat.size), state or engine.zero_state(config.batch)
    return engine.learner(config, TrainingState(parameters, adam, state), windows), parameters


@pytest.mark.parametrize("diverging", [1, 3] if dry_run() else [1, 3, 18])
def test_divergence_ends_training_at_its_step_and_keeps_the_parameters(hidden, diverging, ids, device):
    config = config_of(hidden)
    rates = [1e-3] * (5 if dry_run() else 20)
    rates[diverging - 1] = 1e38  # the parameters that this step makes have logits that overflow
    learner, parameters = learner_of(config, ids, device)
    with np.errstate(over="ignore", invalid="ignore"):
        losses, norms = learner.train(0, 1, rates)
    assert len(losses) == len(norms) == diverging + 1
    assert np.isfinite(losses[:-1]).all() and np.isfinite(norms[:-1]).all()
    assert not (np.isfinite(losses[-1]) and np.isfinite(norms[-1]))
    learner.fetch()
    kept, expected = learner_of(config, ids, device)
    kept.train(0, 1, rates[:diverging])
    kept.fetch()
    assert parameters.flat.tobytes() == expected.flat.tobytes()


class Unallocating(Uncaptured):
    """A device on which nothing may be allocated."""

    def empty(self, shape, dtype):
        raise AssertionError("allocated before the memory error")


def test_too_little_memory_is_said_before_anything_is_allocated(hidden, ids, device):
    config = TrainConfig(hidden=hidden, batch=1 << 30, window=64)
    nothing = np.broadcast_to(np.zeros((), np.float32), (2, config.batch, hidden))
    free = device.free_bytes()
    with pytest.raises(DeviceError, match=r"batch=1073741824: expected .* MiB of device memory.* would fit"):
        learner_of(config, ids, Unallocating(device), state=State(nothing, nothing))
    assert dry_run() or abs(device.free_bytes() - free) < 256 << 20  # what loading kernels takes
