"""A text that has no room on a device comes in pieces, and trains to the bits of one that lies there."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support.learners import learner_of
from support.small_runs import SMALL

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Share, TrainingState
from cuchar.engines.cuda import learner as module
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.learner import TEXT_PART, lives_on_device
from cuchar.errors import DeviceError
from cuchar.parameters import initialise

V, MODEL = 29, ModelConfig(29, SMALL.hidden, SMALL.layers)
CONFIG = replace(SMALL, dropout=0.2)
TEXTS = [np.random.default_rng(seed).integers(V, size=size).astype("u1") for seed, size in ((0, 500), (1, 480))]
SEVERAL = (1, 2, 5)  # steps that are asked for at once


class Watched(EmulatedDevice):
    """A device that notes how much is allocated on it, and the sizes of what may be a text: arrays of bytes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.bytes, self.texts = 0, []

    def empty(self, shape, dtype):
        array = super().empty(shape, dtype)
        self.bytes += array.nbytes
        if array.dtype == np.uint8 and array.ndim == 1:
            self.texts.append(array.size)
        return array


def trained(memory_bytes, config, offset, most, monkeypatch):
    """What two epochs on two texts leave, and the device that they were trained on."""
    monkeypatch.setattr(module, "MOST_WINDOWS", most)
    monkeypatch.setattr(module, "expect_memory", lambda *_: None)
    monkeypatch.setattr(module.DeviceLearner, "chunk", most)
    device = Watched(memory_bytes=memory_bytes)
    learner, training = learner_of(CudaEngine(MODEL, device), config, TEXTS[0])
    found, step = [], 1
    for text in TEXTS:
        windows = Windows(text, config.batch, config.window, config.window_stride, offset)
        learner.begin_epoch(windows)
        window = 0
        for count in SEVERAL:
            found += learner.train(window, step, [0.01] * count)
            window, step = window + count, step + count
    learner.fetch()
    state = training.state
    return [*found, training.parameters.flat, training.adam.v, state.h, state.c], device


@pytest.mark.parametrize("stride,offset,carry", [(3, 0, False), (7, 4, False), (11, 2, False), (7, 0, True)])
def test_a_text_in_pieces_leaves_the_same_bits(stride, offset, carry, monkeypatch):
    """With windows that overlap, that follow each other, and that leave characters out."""
    config = replace(CONFIG, stride=stride, carry_state=carry)
    there, device = trained(None, config, offset, 3, monkeypatch)
    assert device.texts == [len(text) for text in TEXTS]
    too_little = int(min(map(len, TEXTS)) / TEXT_PART) - 1
    for most in (1, 3, 128):
        pieces, device = trained(too_little, config, offset, most, monkeypatch)
        steps = min(most, max(SEVERAL))
        assert max(device.texts) == config.batch * ((steps - 1) * stride + config.window + 1) < min(map(len, TEXTS))
        for piece, whole in zip(pieces, there, strict=True):
            assert np.array_equal(piece, whole)


def test_memory_for_a_text_in_pieces_is_counted(monkeypatch):
    """The text takes a third of the memory. What a learner needs is what it has taken after its first chunk."""
    monkeypatch.setattr(module, "MOST_WINDOWS", 20)
    text = np.zeros(200_000, np.uint8)
    device = Watched(memory_bytes=600_000)
    windows = Windows(text, CONFIG.batch, CONFIG.window, CONFIG.window_stride)
    assert not lives_on_device(device, windows) and lives_on_device(device, windows.part(0, 100))
    engine = CudaEngine(MODEL, device)
    learner, _ = learner_of(engine, CONFIG, text)
    learner.train(0, 1, [0.01] * 20)
    assert device.bytes == engine.training_bytes(CONFIG, windows) < 300_000


class Alone:
    """A reducer for a process whose others do nothing."""

    def sum_on(self, device):
        return lambda array: None


def shared_learner(device, config, first, rows):
    """A learner of some rows of a batch, which begins with one window of them, and all windows of these rows."""
    engine = CudaEngine(MODEL, device)
    text = np.zeros(200_000, np.uint8)
    windows = Windows(text, config.batch, config.window, config.window_stride)
    parameters = initialise(MODEL, 0)
    training = TrainingState(parameters, Adam(parameters.flat.size), engine.zero_state(rows))
    own = slice(first, first + rows)
    share = Share(first, rows, config.batch, Alone())
    learner = engine.learner(config, training, windows.part(0, 1, own), share)
    return learner, windows.part(0, 20, own)


def test_memory_for_the_windows_of_a_share_is_counted(monkeypatch):
    """They come with every message, and the learner does not know them before; strides may be long."""
    monkeypatch.setattr(module, "MOST_WINDOWS", 20)
    device, counted = Watched(), []
    monkeypatch.setattr(module, "expect_memory", lambda needed, free, batch: counted.append(needed(batch)))
    config = replace(CONFIG, batch=5, stride=1000)
    learner, windows = shared_learner(device, config, 2, 2)
    learner.go_on_with(windows)
    learner.train(0, 1, [0.01] * 20)
    assert max(device.texts) == 2 * (19 * 1000 + config.window + 1)
    assert [device.bytes] == counted
    whole = Windows(np.zeros(200_000, np.uint8), config.batch, config.window, config.window_stride)
    assert [CudaEngine(MODEL, device).training_bytes(config, whole, Share(2, 2, config.batch, Alone()))] == counted


def test_too_little_memory_for_a_share_names_a_batch_that_would_fit(monkeypatch):
    config = replace(CONFIG, batch=64, hidden=SMALL.hidden)
    monkeypatch.setattr(module, "MOST_WINDOWS", 4)
    with pytest.raises(DeviceError, match=r"^batch=64: expected .*; batch=\d+ would fit$") as raised:
        shared_learner(Watched(memory_bytes=150_000), config, 0, 16)
    fits = int(re.search(r"batch=(\d+) would", str(raised.value))[1])
    assert fits > 16
    shared_learner(Watched(memory_bytes=150_000), replace(config, batch=fits), 0, -(-fits // 4))
