"""`--scale-logits`: the best model's logits times the factor that suits the validation text."""

import json
from dataclasses import replace
from itertools import chain, repeat

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.notes import Notes
from support.run_records import ENDS, expect_resumed_runs_to_end_as, metrics, records_without_times
from support.small_runs import SMALL

import cuchar
from cuchar import training
from cuchar.batches import split_validation
from cuchar.checkpoint import read_checkpoint
from cuchar.config import ModelConfig
from cuchar.corpus import load_corpus
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import OptionError
from cuchar.logit_scale import best_factor, scaled
from cuchar.parameters import initialise
from cuchar.presets import with_preset
from cuchar.runs import resume_run, start_run
from cuchar.training import Trainer

CONFIG = replace(SMALL, val_fraction=0.1, scale_logits=True)
MIDDLE = replace(CONFIG, max_steps=91)  # the run ends in an epoch's middle, with a report


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("least", [0.004, 0.01, 0.07, 0.33, 0.84, 0.85, 0.86, 0.99, 1.0, 1.01, 1.17, 1.99, 2.0, 7.0])
def test_the_search_ends_at_the_least_value_of_a_convex_function(least, power):
    asked = []

    def loss_of(factor):
        asked.append(factor)
        return abs(factor - least) ** power

    expected = min((loss_of(hundredths / 100), hundredths / 100) for hundredths in range(1, 201))
    asked.clear()
    assert best_factor(loss_of, loss_of(1.0)) == expected[::-1]
    assert len(asked) == len(set(asked)) <= 21


def test_a_loss_that_is_no_number_is_never_the_least():
    assert best_factor(lambda factor: np.nan if factor > 1.1 else -factor, -1.0) == (1.1, -1.1)
    assert best_factor(lambda factor: np.nan, 1.0) == (1.0, 1.0)


def test_scaled_parameters_are_of_the_model_whose_logits_are_that_many_times_as_large():
    model = ModelConfig(11, 7, 2)
    engine, parameters = NumpyEngine(model, np.float64), initialise(model, 5, np.float64)
    parameters["head.bias"][...] = np.arange(11)
    before, inputs = parameters.flat.copy(), np.arange(12).reshape(4, 3) % 11
    logits, state = engine.forward(engine.fold(parameters), inputs, engine.zero_state(3))
    logits = logits.copy()  # the engine writes the next ones where these are
    found, state_after = engine.forward(engine.fold(scaled(parameters, 0.75)), inputs, engine.zero_state(3))
    assert np.abs(found - 0.75 * logits).max() < 1e-14 and np.abs(logits).max() > 5
    assert np.array_equal(state.h, state_after.h) and np.array_equal(parameters.flat, before)


@pytest.mark.parametrize("config", [CONFIG, MIDDLE])
def test_the_best_checkpoint_says_by_which_factor_the_loss_is_least(text, tmp_path, config):
    """In all else the run is as it is without the option. No factor beside this one makes the loss less."""
    notes = Notes()
    start_run([text], config, out=tmp_path / "run", callbacks=[notes])
    start_run([text], replace(config, scale_logits=False), out=tmp_path / "plain")
    found, plain = (read_checkpoint(tmp_path / name / "best.safetensors") for name in ("run", "plain"))
    assert metrics(tmp_path / "run") == metrics(tmp_path / "plain") and "logit_scale" not in plain.run
    assert np.array_equal(found.parameters.flat, plain.parameters.flat)
    assert found.run["best"] == plain.run["best"] == min(line.get("val_loss", 9) for line in metrics(tmp_path / "run"))
    factor, loss = (found.run["logit_scale"][name] for name in ("factor", "val_loss"))
    of = {near: validation_loss(text, plain, near) for near in (factor - 0.01, factor, factor + 0.01, 1.0)}
    assert loss == pytest.approx(of[factor], abs=1e-6) and plain.run["best"] == pytest.approx(of[1.0], abs=1e-6)
    assert factor != 1 and min(of, key=of.get) == factor
    file = tmp_path / "run" / "best.safetensors"
    assert f"{file}: logits times {factor:.2f} make the validation loss {loss:.4f}" in notes.notes


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
    plain = start_run([text], replace(CONFIG, scale_logits=False), out=tmp_path / "plain")
    of_plain = cuchar.load(plain).score(held_out, dynamic=True).nats_per_char
    assert model.score(held_out, dynamic=True).nats_per_char == of_plain
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


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("config", [CONFIG, MIDDLE])
def test_an_interrupted_run_ends_with_the_same_scaled_model(text, tmp_path, monkeypatch, config, how):
    start_run([text], config, out=tmp_path / "whole")
    expected = records_without_times(tmp_path / "whole")
    assert "logit_scale" in expected["best.safetensors"][1]
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, (1, 45, 90), monkeypatch, how)


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("config", [CONFIG, MIDDLE])
def test_a_run_that_ends_before_its_best_model_is_scaled_is_not_finished(text, tmp_path, monkeypatch, config, how):
    def end(loss_of, loss):
        loss_of(0.84)
        raise ENDS[how]

    start_run([text], config, out=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(type(ENDS[how])):
        patch.setattr(training, "best_factor", end)
        start_run([text], config, out=tmp_path / "run")
    resume_run(tmp_path / "run")
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")
    notes, before = Notes(), (tmp_path / "run" / "best.safetensors").read_bytes()
    resume_run(tmp_path / "run", callbacks=[notes])
    assert "is finished" in notes.notes[-1] and (tmp_path / "run" / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("config", [CONFIG, MIDDLE])
def test_a_run_that_is_given_more_steps_ends_as_if_it_had_had_them(text, tmp_path, config):
    longer = {"epochs": 4, "max_steps": None}
    start_run([text], replace(config, **longer), out=tmp_path / "whole")
    start_run([text], config, out=tmp_path / "run")
    resume_run(tmp_path / "run", options=longer)
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")


def test_a_finished_run_can_be_given_the_option_and_lose_it_again(text, tmp_path):
    plain, run = replace(CONFIG, scale_logits=False), tmp_path / "run"
    start_run([text], plain, out=run)
    before = records_without_times(run)
    resume_run(run, options={"scale_logits": True})
    start_run([text], CONFIG, out=tmp_path / "whole")
    found, expected = (read_checkpoint(folder).run["logit_scale"] for folder in (run, tmp_path / "whole"))
    assert found == expected and json.loads((run / "config.json").read_text())["train"]["scale_logits"] is True
    resume_run(run, options={"scale_logits": False})
    assert records_without_times(run) == before


def test_an_earlier_model_that_is_the_best_is_scaled_and_looked_at_once(text, tmp_path, monkeypatch):
    losses = iter([9.0, 8.0, 8.5, 8.6])  # the second epoch's model is the best
    monkeypatch.setattr(Trainer, "_validate", lambda self: next(losses))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_scale_best", lambda self: None)
        start_run([text], CONFIG, out=tmp_path / "run")
    best, last = (read_checkpoint(tmp_path / "run" / name) for name in ("best.safetensors", "last.safetensors"))
    assert best.run["best_step"] == best.run["position"]["step"] < last.run["position"]["step"]
    resume_run(tmp_path / "run")
    found = read_checkpoint(tmp_path / "run")
    factor, loss = (found.run["logit_scale"][name] for name in ("factor", "val_loss"))
    assert loss == pytest.approx(validation_loss(text, best, factor), abs=1e-6)
    assert loss != pytest.approx(validation_loss(text, last, factor), abs=1e-3)
    assert np.array_equal(found.parameters.flat, best.parameters.flat)
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    resume_run(tmp_path / "run", options={"epochs": 4})
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("instead", ["nothing", "damage", "a model of another size", "a model without validation"])
def test_a_best_model_that_is_not_there_is_told(text, tmp_path, monkeypatch, instead):
    losses = chain([2.0], repeat(3.0))  # the first epoch's model is the best, and no other checkpoint has it
    monkeypatch.setattr(Trainer, "_validate", lambda self: next(losses))
    monkeypatch.setattr(Trainer, "_scale_best", lambda self: None)
    run, other = tmp_path / "run", tmp_path / "other"
    best = run / "best.safetensors"
    start_run([text], replace(CONFIG, scale_logits=False), out=run)
    best.unlink()
    if instead == "damage":
        best.write_bytes(b"damaged")
    elif instead != "nothing":
        hidden = SMALL.hidden + (instead == "a model of another size")
        start_run([text], replace(SMALL, hidden=hidden, max_steps=1), out=other)
        best.write_bytes((other / "last.safetensors").read_bytes())
    notes, before = Notes(), best.exists() and best.read_bytes()
    resume_run(run, options={"scale_logits": True}, callbacks=[notes])
    assert "is finished" in notes.notes[-2]
    told = f"{best}: expected the best model, whose logits are to be scaled, found none of this run"
    assert notes.notes[-1] == told and (best.exists() and best.read_bytes()) == before


def test_the_best_preset_has_the_option_and_drops_it_where_nothing_is_validated():
    assert with_preset("best", {})["scale_logits"] is True
    assert "scale_logits" not in with_preset("best", {"val_fraction": 0})
    assert with_preset("best", {"val_fraction": 0}, own_validation=True)["scale_logits"] is True


def test_without_a_text_to_validate_on_it_is_a_mistake(text, tmp_path):
    start_run([text], replace(SMALL, max_steps=2), out=tmp_path / "run")
    with pytest.raises(OptionError, match="scale_logits=True: expected a run that validates, found one that does not"):
        resume_run(tmp_path / "run", options={"scale_logits": True})
