"""What a training comes to where numbers grow as large, or losses as small, as they can: every engine ends as is stated.

docs/manual.md, "When training diverges", states these ends.
"""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from support.learners import learner_of
from support.run_records import metrics
from support.small_runs import SMALL, TEXT

from cuchar.checkpoint import read_checkpoint
from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines import choose
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DivergedError, TextError
from cuchar.parameters import Parameters, initialise
from cuchar.runs import start_run

DEVICES = ["numpy", "cpu", "emulate"]
STEPWISE = Limits(80, 108, 166_912, registers=0)
CONFIG = replace(SMALL, sample_every=0, val_fraction=0.1, max_steps=5, log_every=5, save_every=5)


@pytest.fixture(params=DEVICES)
def start(request, tmp_path, monkeypatch):
    """Train on a text with one of the engines; a warning is an error. Gives the run's folder."""

    def run(text, **options):
        (tmp_path / "text.txt").write_text(text)
        device = "emulate" if request.param == "emulate" else "cpu"
        if request.param == "numpy":
            monkeypatch.setattr(choose, "CpuEngine", lambda model, dtype, notice: NumpyEngine(model, dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return start_run([tmp_path / "text.txt"], replace(CONFIG, **options), out=tmp_path / "run", device=device)

    return run


def expect_finite(folder):
    """Check that all numbers of both checkpoints are finite."""
    for name in ("last", "best"):
        checkpoint = read_checkpoint(folder / f"{name}.safetensors")
        adam, state = checkpoint.adam, checkpoint.state
        for values in (checkpoint.parameters.flat, adam.m, adam.v, state.h, state.c):
            assert np.isfinite(values).all()


@pytest.mark.parametrize("rate,least,most", [(10, 10, 1e3), (1e30, 1e29, 1e32)])
def test_a_high_learning_rate_ends_with_a_high_loss(start, rate, least, most):
    """Gates saturate, and Adam's step is no larger than the rate: logits and loss are as large as the rate, and finite."""
    folder = start(TEXT, lr=float(rate))
    [line] = metrics(folder)
    assert line["step"] == 5
    assert least < line["loss"] < most and least < line["val_loss"] < most and math.isfinite(line["grad_norm"])
    expect_finite(folder)


@pytest.mark.parametrize("options,step", [({"lr": 1e38}, 2), ({"lr": 1e30, "weight_decay": 0.1}, 3)])
def test_weights_beyond_the_largest_number_end_the_run(start, options, step, tmp_path):
    expected = (
        rf"^training stopped at step {step}: expected the loss to be finite, found (nan|inf); no checkpoint was saved before it; "
        "a lower lr, clip=5 or on_nan='rollback' may help$"
    )
    with pytest.raises(DivergedError, match=expected):
        start(TEXT, **options)
    assert not list(tmp_path.glob("run/*.safetensors"))


def test_a_text_of_one_character_is_refused(start, tmp_path):
    with pytest.raises(
        TextError, match=r"^expected at least 2 distinct characters, found 1: there is nothing to predict$"
    ):
        start("a" * 2000)
    assert not (tmp_path / "run").exists()


def test_a_text_that_is_nearly_constant_is_learnt_until_hardly_a_loss_is_left(start):
    """The text has all characters of TEXT, at its end, so that no other kernels have to be compiled."""
    folder = start("a" * 3000 + TEXT[:44], lr=0.3, max_steps=20, val_fraction=0.0)
    losses = [line["loss"] for line in metrics(folder)]
    assert losses == sorted(losses, reverse=True) and 0 < losses[-1] < 1e-4
    checkpoint = read_checkpoint(folder / "last.safetensors")
    assert all(
        np.isfinite(values).all() for values in (checkpoint.parameters.flat, checkpoint.adam.m, checkpoint.adam.v)
    )


def engines(model):
    yield NumpyEngine(model)
    yield CpuEngine(model)
    yield CudaEngine(model, EmulatedDevice())
    yield CudaEngine(model, EmulatedDevice(limits=STEPWISE))


def test_logits_of_1e30_train():
    """Where the likeliest character is the target, the loss is 0, and 2e30 where it is the least likely."""
    model, config = ModelConfig(28, 9, 2), TrainConfig(hidden=9, layers=2, window=7, batch=5)
    ids = np.zeros(5 * 8, np.uint8)
    for engine in engines(model):
        for of_target, loss in ((1e30, 0), (-1e30, 2e30)):
            parameters = Parameters(model)
            parameters["head.bias"][:] = -np.float32(of_target)
            parameters["head.bias"][0] = of_target
            learner, training = learner_of(engine, config, ids, parameters)
            losses, norms = learner.train(0, 1, [0.01])
            learner.fetch()
            assert losses.tolist() == pytest.approx([loss], rel=1e-6)
            # The gradient of the head's bias is softmax - one-hot: 1/27 for each of the likeliest, -1 for the target.
            assert norms.tolist() == pytest.approx([math.sqrt(1 + 1 / 27) if loss else 0], rel=1e-6)
            assert np.isfinite(training.parameters.flat).all()


def test_65536_characters_train():
    model, config = ModelConfig(65_536, 2, 1), TrainConfig(hidden=2, layers=1, window=1, batch=1)
    found = []
    for engine in (NumpyEngine(model, np.float64), *engines(model)):
        learner, training = learner_of(
            engine, config, np.array([65_535, 7], np.uint16), initialise(model, 0, engine.dtype)
        )
        losses, norms = learner.train(0, 1, [0.01])
        found.append((*losses, *norms))
        assert np.isfinite(training.parameters.flat).all()
    assert found == [pytest.approx(found[0], rel=1e-5)] * 5
    assert found[0][0] == pytest.approx(math.log(65_536), rel=0.01)
