"""`--scale-logits`: validation finds the factor by which the model's logits suit the validation text."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.notes import Notes
from support.run_records import ENDS, expect_resumed_runs_to_end_as, metrics, records_without_times
from support.small_runs import SMALL

import cuchar
from cuchar.batches import split_validation
from cuchar.checkpoint import read_checkpoint, write_checkpoint
from cuchar.config import ModelConfig
from cuchar.corpus import load_corpus
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DivergedError, OptionError
from cuchar.evaluation import LossSum, chunk_losses, stream_losses
from cuchar.logit_scale import FACTORS, ScaledLosses, losses_at_factors, scaled
from cuchar.parameters import initialise
from cuchar.presets import with_preset
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer

CONFIG = replace(SMALL, val_fraction=0.1, scale_logits=True)
MIDDLE = replace(CONFIG, max_steps=91)  # the run ends in an epoch's middle, with a report
MODEL = ModelConfig(11, 7, 2)


def sharp_parameters(dtype=np.float64):
    """Of a model that is far too sure of itself."""
    parameters = initialise(MODEL, 5, dtype)
    parameters["head.weight"][...] *= 20
    parameters["head.bias"][...] = np.arange(11)
    return parameters


def test_factors_are_fiftieths_around_one():
    assert FACTORS[0] == 0.5 and FACTORS[-1] == 1.5 and len(FACTORS) == 51 and 1.0 in FACTORS
    assert np.allclose(np.diff(FACTORS), 0.02, atol=1e-12)


def test_losses_at_factors_are_those_of_scaled_logits():
    generator = np.random.default_rng(0)
    logits, targets = generator.normal(0, 9, (5, 3, 11)), generator.integers(0, 11, (5, 3))
    found = losses_at_factors(logits, targets)
    assert found.shape == (5, 3, 51)
    for k, factor in enumerate(FACTORS):
        powers = np.exp(factor * logits)
        p = np.take_along_axis(powers / powers.sum(-1, keepdims=True), targets[..., None], -1)[..., 0]
        assert np.abs(found[..., k] + np.log(p)).max() < 1e-13


def test_large_logits_overflow_nowhere():
    found = losses_at_factors(np.array([[8e37, -8e37, 0]], np.float32), np.array([0]))
    assert np.array_equal(found, np.zeros((1, 51))) and found.dtype == np.float32


def test_scaled_parameters_are_of_the_model_whose_logits_are_that_many_times_as_large():
    engine, parameters = NumpyEngine(MODEL, np.float64), sharp_parameters()
    before, inputs = parameters.flat.copy(), np.arange(12).reshape(4, 3) % 11
    logits, state = engine.forward(engine.fold(parameters), inputs, engine.zero_state(3))
    logits = logits.copy()  # the engine writes the next ones where these are
    found, state_after = engine.forward(engine.fold(scaled(parameters, 0.75)), inputs, engine.zero_state(3))
    assert np.abs(found - 0.75 * logits).max() < 1e-14 and np.abs(logits).max() > 5
    assert np.array_equal(state.h, state_after.h) and np.array_equal(parameters.flat, before)


@pytest.mark.parametrize("count", [700, 5000])
@pytest.mark.parametrize("by", ["streams", "chunks"])
def test_a_text_is_added_up_at_every_factor_in_one_pass(count, by):
    """The mean at the factor that is found is the mean loss of the scaled model, and no other factor has a lower one."""
    engine, parameters = NumpyEngine(MODEL, np.float64), sharp_parameters()
    ids = np.random.default_rng(1).integers(0, 11, count)

    def blocks(parameters, losses_of=None):
        if by == "chunks":
            return chunk_losses(engine, engine.fold(parameters), ids, losses_of)
        return stream_losses(engine, engine.fold(parameters), ids.reshape(2, -1), losses_of)

    def mean(factor):
        added = LossSum()
        for losses in blocks(scaled(parameters, factor)):
            added.add(losses)
        return added.mean

    found = ScaledLosses(engine)
    for losses in blocks(parameters, found.losses):
        found.add(losses)
    assert found.count == count - (1 if by == "chunks" else 2)
    assert found.mean == pytest.approx(mean(found.factor), abs=1e-12)
    assert found.mean_as_trained == pytest.approx(mean(1.0), abs=1e-12)
    assert found.factor == min(FACTORS, key=mean) < 1


@pytest.mark.parametrize("config", [CONFIG, MIDDLE])
def test_a_validated_checkpoint_says_by_which_factor_the_loss_is_least(text, tmp_path, config):
    """But for validation losses, and what is decided by them, the run is as it is without the option."""
    notes = Notes()
    start_run([text], config, out=tmp_path / "run", callbacks=[notes])
    start_run([text], replace(config, scale_logits=False), out=tmp_path / "plain")
    lines, plain_lines = (metrics(tmp_path / name) for name in ("run", "plain"))
    for line, plain in zip(lines, plain_lines, strict=True):
        assert {**line, "val_loss": 0} == {**plain, "val_loss": 0} and ("val_loss" in line) == ("val_loss" in plain)
        assert line.get("val_loss", 0) <= plain.get("val_loss", 0) + 1e-6
    last, plain = (read_checkpoint(tmp_path / name / "last.safetensors") for name in ("run", "plain"))
    assert np.array_equal(last.parameters.flat, plain.parameters.flat) and "logit_scale" not in plain.run
    best = read_checkpoint(tmp_path / "run")
    factor, loss = (best.run["logit_scale"][name] for name in ("factor", "val_loss"))
    assert loss == best.run["best"] == min(line.get("val_loss", 9) for line in lines)
    k = FACTORS.tolist().index(factor)
    of = {near: validation_loss(text, best, near) for near in (*FACTORS[max(0, k - 1) : k + 2], 1.0)}
    assert loss == pytest.approx(of[factor], abs=1e-6) and factor != 1 and min(of, key=of.get) == factor
    said = f"validation loss {loss:.4f} with logits times {factor:.2f} ({of[1.0]:.4f} as they are)"
    assert f"step {best.run['best_step']}: {said}" in notes.notes


def test_whoever_predicts_has_scaled_logits_and_whoever_learns_has_trained_ones(text, tmp_path, cli):
    run = start_run([text], CONFIG, out=tmp_path / "run")
    model, best = cuchar.load(run), read_checkpoint(run)
    factor, loss = (best.run["logit_scale"][name] for name in ("factor", "val_loss"))
    held_out = text.read_text()[-len(split_validation(load_corpus([text]).ids, CONFIG)[1][0]) :]
    assert model.score(held_out).nats_per_char == pytest.approx(loss, abs=1e-6)
    assert np.array_equal(model.parameters.flat, scaled(best.parameters, factor).flat)
    model.export(tmp_path / "python.safetensors")
    cli("export", run, tmp_path / "command.safetensors")
    for file in ("python", "command"):
        exported = load_file(tmp_path / f"{file}.safetensors")
        assert np.array_equal(exported["head.weight"], model.parameters["head.weight"])
    as_trained = tmp_path / "as trained.safetensors"
    del best.run["logit_scale"]
    write_checkpoint(as_trained, best)
    of_trained = cuchar.load(as_trained).score(held_out, dynamic=True).nats_per_char
    assert model.score(held_out, dynamic=True).nats_per_char == of_trained
    fact = f"multiplied by {factor:.2f}, which makes the validation loss {loss:.4f}"
    assert fact in " ".join(cli("info", run).stdout.decode().split())


def validation_loss(text, checkpoint, factor):
    """The mean loss on the last tenth of the text, in float64, with the checkpoint's logits times `factor`."""
    engine = NumpyEngine(checkpoint.parameters.model, np.float64)
    parameters = initialise(engine.model, 0, np.float64)
    parameters.flat[...] = checkpoint.parameters.flat
    ids = split_validation(load_corpus([text]).ids, CONFIG)[1].T
    weights = engine.fold(scaled(parameters, factor))
    return engine.losses(weights, ids[:-1], ids[1:], engine.zero_state(1))[0].mean()


def test_the_best_model_is_the_best_with_scaled_logits(text, tmp_path, monkeypatch):
    """A model that is worse as it is, and better once its logits are scaled, is the best one."""
    found = iter([(2.0, 0.98, 2.1), (1.8, 0.7, 2.5), (1.9, 0.9, 1.95)])

    def validate(self, rows, added):
        mean, factor, as_trained = next(found)
        added.count, k = 1, int(np.argmin(abs(FACTORS - factor)))
        added._sums[:] = as_trained
        added._sums[k] = mean

    monkeypatch.setattr(Trainer, "_add_validation_losses", validate)
    start_run([text], replace(CONFIG, epochs=3), out=tmp_path / "run")
    best = read_checkpoint(tmp_path / "run")
    assert best.run["best"] == 1.8 and best.run["position"]["epoch"] == 2
    assert best.run["logit_scale"] == {"factor": FACTORS[10], "val_loss": 1.8}
    last = read_checkpoint(tmp_path / "run" / "last.safetensors")
    assert last.run["logit_scale"] == {"factor": FACTORS[20], "val_loss": 1.9}  # it is its own


def test_a_checkpoint_that_was_not_validated_says_nothing(text, tmp_path):
    start_run([text], replace(MIDDLE, max_steps=91), out=tmp_path / "run")
    last, best = (read_checkpoint(tmp_path / "run" / name) for name in ("last.safetensors", "best.safetensors"))
    assert "logit_scale" not in last.run and "logit_scale" in best.run  # it was saved before the report validated


def test_a_loss_that_is_not_finite_ends_the_run(text, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Trainer, "_add_validation_losses", lambda self, rows, added: added.add(np.full((1, 51), np.nan))
    )
    with pytest.raises(DivergedError, match="expected the validation loss to be finite, found nan"):
        start_run([text], CONFIG, out=tmp_path / "run")


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("config", [CONFIG, MIDDLE])
def test_an_interrupted_run_ends_with_the_same_scaled_model(text, tmp_path, monkeypatch, config, how):
    start_run([text], config, out=tmp_path / "whole")
    expected = records_without_times(tmp_path / "whole")
    assert "logit_scale" in expected["best.safetensors"][1]
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, (1, 45, 90), monkeypatch, how)


@pytest.mark.parametrize("config", [CONFIG, MIDDLE])
def test_a_run_that_is_given_more_steps_ends_as_if_it_had_had_them(text, tmp_path, config):
    longer = {"epochs": 4, "max_steps": None}
    start_run([text], replace(config, **longer), out=tmp_path / "whole")
    start_run([text], config, out=tmp_path / "run")
    resume_run(tmp_path / "run", options=longer)
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")


def test_a_resumed_run_validates_as_it_did_before(text, tmp_path):
    """Validation losses with and without the option are not of one kind, so that a best one could not be told."""
    start_run([text], replace(CONFIG, scale_logits=False), out=tmp_path / "run")
    with pytest.raises(cuchar.CucharError, match="scale_logits"):
        resume_run(tmp_path / "run", options={"scale_logits": True})


def test_the_best_preset_has_the_option_and_drops_it_where_nothing_is_validated():
    assert with_preset("best", {})["scale_logits"] is True
    assert "scale_logits" not in with_preset("best", {"val_fraction": 0})
    assert with_preset("best", {"val_fraction": 0}, own_validation=True)["scale_logits"] is True


def test_without_a_text_to_validate_on_it_is_a_mistake(text, tmp_path):
    expected = "scale_logits=True: expected val or val_fraction with it, found neither"
    with pytest.raises(OptionError, match=expected):
        start_run([text], replace(SMALL, scale_logits=True), out=tmp_path / "run")
