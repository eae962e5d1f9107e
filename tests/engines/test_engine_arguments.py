"""Engines check what they are handed before C++ or a kernel computes with it; all three refuse in the same words."""

import numpy as np
import pytest

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Example, State, Streams, TrainingState
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError, OptionError, ShapeError
from cuchar.parameters import Parameters, initialise
from cuchar.sampling import SampleConfig

MODEL = ModelConfig(5, 3, 2)


def on_emulator(model, dtype=np.float32):
    return CudaEngine(model, EmulatedDevice(), dtype)


@pytest.fixture(params=[NumpyEngine, CpuEngine, on_emulator])
def engine_of(request):
    return request.param


@pytest.mark.parametrize(
    "sizes,message",
    [
        ((5, 3, 0), "layers: expected from 1 to 8, found 0"),
        ((5, 3, 9), "layers: expected from 1 to 8, found 9"),
        ((5, 3, True), "layers: expected an integer, found True"),
        ((5, 0, 1), "hidden: expected from 1 to 65536, found 0"),
        ((5, 3.0, 1), "hidden: expected an integer, found 3.0"),
        ((5, "3", 1), "hidden: expected an integer, found '3'"),
        ((0, 3, 1), "vocabulary_size: expected from 1 to 65536, found 0"),
        ((65_537, 3, 1), "vocabulary_size: expected from 1 to 65536, found 65537"),
    ],
)
def test_no_engine_has_such_sizes(engine_of, sizes, message):
    with pytest.raises(OptionError) as refused:
        engine_of(ModelConfig(*sizes))
    assert str(refused.value) == message


@pytest.mark.parametrize("dtype", ["i4", "c8", "?"])
def test_no_engine_has_such_a_type(engine_of, dtype):
    with pytest.raises(DeviceError, match=r"expected .*float.*, found"):
        engine_of(MODEL, dtype)


def state(layers=2, batch=4, hidden=3, dtype="f4", layers_of_c=None):
    return State(np.zeros((layers, batch, hidden), dtype), np.zeros((layers_of_c or layers, batch, hidden), dtype))


IDS = np.zeros((6, 4), np.uint8)
WRONG = [
    (IDS, IDS, state(batch=3), "state: expected (2, 4, 3), found (2, 3, 3)"),
    (IDS, IDS, state(layers_of_c=1), "state: expected (2, 4, 3), found (1, 4, 3)"),
    (IDS, IDS, state(dtype="f8"), "state: expected float32, found float64"),
    (IDS + 5, IDS, state(), "inputs: expected ids from 0 to 4, found 5 to 5"),
    (IDS, IDS.astype(np.int8) - 1, state(), "targets: expected ids from 0 to 4, found -1 to -1"),
    (IDS.astype("f4"), IDS, state(), "inputs: expected integers, found float32"),
    (IDS > 0, IDS, state(), "inputs: expected integers, found bool"),
    (IDS, IDS[:5], state(), "targets: expected (6, 4), found (5, 4)"),
    (IDS[0], IDS[0], state(), "inputs: expected [T, B], found (4,)"),
    (IDS[None], IDS[None], state(), "inputs: expected [T, B], found (1, 6, 4)"),
    (IDS[:0], IDS[:0], state(), "inputs: expected [T, B], found (0, 4)"),
]


def test_windows_that_do_not_fit_are_named(engine_of):
    engine, parameters = engine_of(MODEL), initialise(MODEL, 0)
    weights = engine.fold(parameters)
    for inputs, targets, before, message in WRONG:
        with pytest.raises(ShapeError) as refused:
            engine.losses(weights, inputs, targets, before)
        assert str(refused.value) == message
        with pytest.raises(ShapeError) as refused:
            engine.loss_and_gradients(parameters, Example(inputs, targets, before), Parameters(MODEL))
        assert str(refused.value) == message
    losses, _ = engine.losses(weights, IDS, np.asfortranarray(IDS), state())  # any layout will do
    assert losses.shape == (6, 4) and np.isfinite(losses).all()


def test_parameters_and_streams_that_do_not_fit_are_named(engine_of):
    engine, parameters = engine_of(MODEL), initialise(MODEL, 0)
    for other in (Parameters(ModelConfig(5, 3, 1)), Parameters(MODEL, np.float64)):
        with pytest.raises(ShapeError, match=r"^parameters: expected ModelConfig.* float32, found ModelConfig"):
            engine.loss_and_gradients(other, Example(IDS, IDS, state()), Parameters(MODEL))
        with pytest.raises(ShapeError, match=r"^gradients: expected ModelConfig.* float32, found ModelConfig"):
            engine.loss_and_gradients(parameters, Example(IDS, IDS, state()), other)
    for ids, before, message in (
        (np.zeros(3, int), state(batch=3), r"ids: expected \(4,\), one for each stream, found \(3,\)"),
        (np.zeros(4, int), state(batch=3), "state: expected"),
        (np.full(4, 5), state(), "inputs: expected ids from 0 to 4"),
    ):
        with pytest.raises(ShapeError, match=message):
            engine.sampler(engine.fold(parameters), SampleConfig(), Streams(0, range(4), ids, before, 0))


def test_moments_and_texts_that_do_not_fit_are_named(engine_of):
    engine, parameters = engine_of(MODEL), initialise(MODEL, 0)
    config, size = TrainConfig(hidden=3, window=6, batch=4), parameters.flat.size
    windows = Windows(np.zeros(100, np.uint8), 4, 6, 6)
    for adam in (Adam(size + 1), Adam(size, np.float64)):
        with pytest.raises(ShapeError, match=rf"Adam: expected \({size},\) float32, found \("):
            engine.learner(config, TrainingState(parameters, adam, state()), windows)
    outside = Windows(np.full(100, 5, np.uint8), 4, 6, 6)
    with pytest.raises(ShapeError, match="expected ids from 0 to 4, found 5 to 5"):
        engine.learner(config, TrainingState(parameters, Adam(size), state()), outside).train(0, 1, [0.1])


def test_weights_of_another_model_are_not_given_to_cpp():
    engine = CpuEngine(MODEL)
    other = CpuEngine(ModelConfig(5, 3, 1))
    weights = other.fold(initialise(other.model, 0))
    for call in (
        lambda: engine.forward(weights, IDS, state()),
        lambda: engine.sampler(weights, SampleConfig(), Streams(0, range(4), IDS[0], state(), 0)),
    ):
        with pytest.raises(ShapeError, match=r"weights: expected \(\d+,\) float32, found \(\d+,\) float32"):
            call()
