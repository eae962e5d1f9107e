"""Training in reduced precision beside fp32; on the emulator beside NumPy; and what fp16's loss scaling does."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pytest
from support.learners import learner_of
from support.process import ROOT, environment
from support.rounding import PRECISIONS
from support.rounding_engine import RoundingEngine, train
from support.run_records import expect_resumed_runs_to_end_as, records_without_times
from support.small_runs import SMALL

from cuchar.adam import Adam, LossScaling
from cuchar.checkpoint import read_checkpoint
from cuchar.config import ModelConfig, TrainConfig
from cuchar.corpus import load_corpus
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.errors import DivergedError
from cuchar.parameters import initialise
from cuchar.runs import resume_run, start_run

TEXT_10K = "data/shakespeare_10K.txt"
TINY = TrainConfig(hidden=5, layers=2, window=4, batch=3, precision="fp16")


@pytest.fixture(scope="module")
def corpus():
    return load_corpus([TEXT_10K])


def scale_of(precision):
    return LossScaling().scale if precision == "fp16" else 1.0


def test_300_steps_end_where_fp32s_do():
    """The engine that rounds as kernels do trains the notebook's model; means of the last 50 losses are compared."""

    def end(precision):
        environ = environment() | {"OPENBLAS_NUM_THREADS": "1"}  # its matrices are small
        command = [sys.executable, ROOT / "tests/support/rounding_engine.py", TEXT_10K, precision, "300"]
        run = subprocess.run(command, env=environ, cwd=ROOT, check=True, capture_output=True, text=True)
        losses = json.loads(run.stdout)
        assert losses[0] > 4 and len(losses) == 300
        return float(np.mean(losses[-50:]))

    with ThreadPoolExecutor(2) as pool:
        of_fp32, *ends = pool.map(end, ["fp32", *PRECISIONS])
    assert of_fp32 < 3.3  # it has learnt something
    for found in ends:
        assert abs(found - of_fp32) < 0.02, (of_fp32, ends)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_twenty_steps_on_the_emulator_are_those_of_rounded_operands(precision, corpus):
    """Where float32's error carries an operand over a tie, they differ; far less than from steps that do not round."""
    config, model = TrainConfig(hidden=32, batch=8, window=16), ModelConfig(len(corpus.vocabulary), 32, 2)
    of_fp32, expected = (
        train(RoundingEngine(model, of, np.float32, scale_of(of)), config, corpus.ids, 20) for of in ("fp32", precision)
    )
    ours = train(CudaEngine(model, EmulatedDevice(), precision=precision), config, corpus.ids, 20)
    for found, rounded, unrounded in zip(ours[:3], expected, of_fp32, strict=False):
        assert np.linalg.norm(found - rounded) <= np.linalg.norm(unrounded - rounded) / 3


def engine_of(config, corpus, **device):
    model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
    return CudaEngine(model, EmulatedDevice(**device), precision=config.precision)


def test_a_scale_that_is_too_large_is_halved_and_training_goes_on_as_if_nothing_was(corpus):
    losses, norms, parameters, scaling = train(engine_of(TINY, corpus), TINY, corpus.ids, 40, LossScaling(2.0**30, 7))
    skipped = int(np.argmax(norms > 0))
    assert 3 < skipped < 20 and not norms[:skipped].any() and (norms[skipped:] > 0).all()
    assert np.isfinite(losses).all() and np.ptp(losses[:skipped]) > 0
    assert scaling == LossScaling(2.0 ** (30 - skipped), 40 - skipped)
    rest = train(
        engine_of(TINY, corpus), TINY, corpus.ids, 40 - skipped, LossScaling(scaling.scale), skipped, skipped + 1
    )
    assert np.array_equal(rest[0], losses[skipped:]) and np.array_equal(rest[2], parameters)


def test_a_step_passed_over_changes_no_byte(corpus):
    _, norms, parameters, scaling = train(engine_of(TINY, corpus), TINY, corpus.ids, 3, LossScaling(2.0**60))
    assert not norms.any() and scaling == LossScaling(2.0**57, 0)
    assert parameters.tobytes() == initialise(engine_of(TINY, corpus).model, 0).flat.tobytes()


def test_gradients_do_not_depend_on_a_scale_that_fits(corpus):
    """Scales are powers of two: what they multiply comes out to the last bit, as long as nothing is subnormal."""
    engine, found = engine_of(replace(TINY, precision="fp16"), corpus), []
    for scale in (2.0**14, 2.0**16):
        found.append(train(engine, TINY, corpus.ids, 2, LossScaling(scale))[1])
    assert np.array_equal(*found) and (found[0] > 0).all()


@pytest.mark.parametrize(
    "before,steps,after",
    [
        (LossScaling(1024.0, 1996), 3, LossScaling(1024.0, 1999)),
        (LossScaling(1024.0, 1996), 4, LossScaling(2048.0, 0)),
        (LossScaling(1024.0, 1996), 6, LossScaling(2048.0, 2)),
        (LossScaling(2.0**24, 1999), 2, LossScaling(2.0**24, 1)),  # no further
    ],
)
def test_good_steps_double_the_scale(before, steps, after, corpus):
    small = replace(TINY, lr=1e-9, window=24, batch=24)  # a mean over so many that 2^24 fits
    assert train(engine_of(small, corpus), small, corpus.ids, steps, before)[3] == after


def test_gradients_that_overflow_at_scale_1_end_training(corpus):
    """Every g is 0, so every c and h is, and the loss ln V; backward, weights near fp16's largest multiply twice."""
    engine = engine_of(TINY, corpus)
    parameters = initialise(engine.model, 0)
    adam = Adam(parameters.flat.size)
    parameters["lstm.weight_ih_l0"][10:15] = 0
    parameters["head.weight"][...] = 60_000 * np.sign(parameters["head.weight"])
    parameters["lstm.weight_hh_l1"][...] = 60_000
    adam.scaling, before = LossScaling(4.0), parameters.flat.copy()
    learner, _ = learner_of(engine, TINY, corpus.ids, parameters, adam)
    losses, norms = learner.train(0, 1, [0.1] * 9)
    learner.fetch()
    assert losses == pytest.approx([np.log(len(corpus.vocabulary))] * 3)
    assert norms[:2].tolist() == [0, 0] and not np.isfinite(norms[2])
    assert np.array_equal(parameters.flat, before) and adam.scaling == LossScaling(1.0)


def test_a_loss_that_is_not_finite_ends_training_at_any_scale(text, tmp_path):
    with pytest.raises(DivergedError, match="expected the loss to be finite"):
        start_run([text], replace(SMALL, lr=1e38, precision="fp16"), out=tmp_path / "run", device="emulate")


def test_resumed_run_ends_as_the_uninterrupted_one(text, tmp_path, monkeypatch):
    # The scale is so large that the first save comes while it is still being halved.
    monkeypatch.setattr("cuchar.training.Adam", scaled_adam(2.0**40))
    config = replace(SMALL, epochs=1, dropout=0.2, carry_state=True, max_steps=26, save_every=15, precision="fp16")
    start_run([text], config, out=tmp_path / "whole", device="emulate")
    expected = records_without_times(tmp_path / "whole")
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, (3, 18), monkeypatch, device="emulate")
    stored = read_checkpoint(tmp_path / "whole").run["loss_scaling"]
    assert 2**10 < stored["scale"] < 2**40 and 0 < stored["good_steps"] < 26


def scaled_adam(scale):
    def adam(size):
        made = Adam(size)
        made.scaling = LossScaling(scale)
        return made

    return adam


def test_a_chunk_of_steps_leaves_the_same_bits_as_one_at_a_time(text, tmp_path, monkeypatch):
    monkeypatch.setattr("cuchar.training.Adam", scaled_adam(2.0**30))
    config = replace(SMALL, epochs=1, carry_state=True, log_every=100, sample_every=0, save_every=100, precision="fp16")
    for seconds in (0, 1000):  # one step a call; as many as there are
        monkeypatch.setattr("cuchar.engines.cuda.learner.CHUNK_SECONDS", seconds)
        start_run([text], config, out=tmp_path / f"{seconds}", device="emulate")
    found, expected = (read_checkpoint(tmp_path / f"{seconds}") for seconds in (0, 1000))
    assert found.parameters.flat.tobytes() == expected.parameters.flat.tobytes()
    assert found.run["loss_scaling"] == expected.run["loss_scaling"] != asdict(LossScaling())


def test_a_run_from_before_precisions_is_an_fp32_run(text, tmp_path):
    out = start_run([text], replace(SMALL, max_steps=2), out=tmp_path / "run", device="cpu")
    config = json.loads((out / "config.json").read_text())
    assert config["train"].pop("precision") == "fp32"
    (out / "config.json").write_text(json.dumps(config))
    assert "loss_scaling" not in read_checkpoint(out).run
    resume_run(out, options={"max_steps": 4, "precision": "fp32"}, device="cpu")
    assert json.loads((out / "config.json").read_text())["train"]["precision"] == "fp32"
