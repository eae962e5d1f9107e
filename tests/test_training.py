"""The training loop: interrupted and resumed it does what it does uninterrupted, and it records what it computed."""

import json
import os
import signal
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
from support.learners import learner_of
from support.notes import Notes
from support.run_records import ENDS, expect_resumed_runs_to_end_as, metrics, records_without_times
from support.small_runs import DISCIPLINES, SMALL, TEXT

from cuchar.adam import Adam
from cuchar.batches import Windows, split_validation
from cuchar.callbacks import Callback
from cuchar.checkpoint import read_checkpoint, write_checkpoint
from cuchar.config import ModelConfig, TrainConfig, learning_rate
from cuchar.corpus import load_corpus
from cuchar.engines.base import Dropout, Example, TrainingState
from cuchar.engines.cpu.engine import CpuEngine, CpuLearner
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DivergedError, OutputError, RunError, TextError
from cuchar.interrupts import Interrupted
from cuchar.model import Model
from cuchar.parameters import Parameters, initialise
from cuchar.runs import resume_run, start_run
from cuchar.sampling import SampleConfig
from cuchar.training import Trainer


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_resumed_run_ends_as_the_uninterrupted_one(discipline, how, text, tmp_path, monkeypatch):
    config = DISCIPLINES[discipline]
    start_run([text], config, out=tmp_path / "whole")
    expected = records_without_times(tmp_path / "whole")
    epoch = expected["metrics"][-1]["step"] // 3  # steps
    steps = (3, 8, 10, 13, epoch - 1, epoch, epoch + 1, 2 * epoch + 5)
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, steps, monkeypatch, how)


def test_a_checkpoint_that_kept_a_generator_of_samples_still_resumes(text, tmp_path):
    """Older versions kept one; now the number of a sample's stream is its training step."""
    config = replace(SMALL, max_steps=13)
    start_run([text], config, out=tmp_path / "whole")
    start_run([text], replace(config, max_steps=9), out=tmp_path / "old")
    last = tmp_path / "old/last.safetensors"
    checkpoint = read_checkpoint(last)
    assert checkpoint.run["generators"].keys() == {"batches"}
    checkpoint.run["generators"]["sampler"] = np.random.default_rng([config.seed, 2]).bit_generator.state
    write_checkpoint(last, checkpoint)
    resume_run(tmp_path / "old", options={"max_steps": 13})
    old, whole = ((tmp_path / folder / "samples.txt").read_bytes() for folder in ("old", "whole"))
    assert old == whole and old.count(b"--- step") == 2
    found, expected = (read_checkpoint(tmp_path / folder).parameters.flat for folder in ("old", "whole"))
    assert found.tobytes() == expected.tobytes()


class AwayLearner(CpuLearner):
    """A learner as on a device: seven steps a call, on copies; the host has NaN until the numbers are fetched, once."""

    chunk = 7
    calls: ClassVar[list[int]] = []

    def __init__(self, engine, config, training, windows):
        self.given, self.home = training, [training.parameters.flat, training.adam.m, training.adam.v]
        there, moments = Parameters(engine.model), Adam(training.adam.m.size)
        self.away = [there.flat, moments.m, moments.v]
        self.fetched = True
        for ours, theirs in zip(self.away, self.home, strict=True):
            ours[:] = theirs
        super().__init__(engine, config, TrainingState(there, moments, training.state), windows)

    def train(self, window, step, rates):
        self.calls.append(len(rates))
        self.fetched = False
        for array in self.home:
            array.fill(np.nan)
        return super().train(window, step, rates)

    def fetch(self):
        assert not self.fetched
        self.fetched = True
        for ours, theirs in zip(self.away, self.home, strict=True):
            theirs[:] = ours
        super().fetch()
        self.given.state = self.training.state


def many_steps_a_call(monkeypatch):
    def learner(self, *arguments):
        return AwayLearner(self, *arguments)

    monkeypatch.setattr(AwayLearner, "calls", [])
    monkeypatch.setattr(CpuEngine, "learner", learner)


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_many_steps_a_call_change_nothing(discipline, text, tmp_path, monkeypatch):
    monkeypatch.setattr("cuchar.training.SUMMARY_STEPS", 22)
    config = replace(DISCIPLINES[discipline], log_every=12, sample_every=16, save_every=20)

    def run_parts(name):
        start_run([text], replace(config, max_steps=41), out=tmp_path / name)
        stopped = records_without_times(tmp_path / name)
        resume_run(tmp_path / name, options={"max_steps": None})
        return stopped, records_without_times(tmp_path / name)

    expected = run_parts("a step a call")
    many_steps_a_call(monkeypatch)
    assert run_parts("many steps a call") == expected
    assert max(AwayLearner.calls) == 7 and sum(AwayLearner.calls) == expected[1]["metrics"][-1]["step"]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_resumed_run_of_many_steps_a_call_ends_as_the_uninterrupted_one(discipline, how, text, tmp_path, monkeypatch):
    config = replace(DISCIPLINES[discipline], log_every=12, sample_every=16, save_every=20)
    start_run([text], config, out=tmp_path / "whole")
    expected = records_without_times(tmp_path / "whole")
    epoch = expected["metrics"][-1]["step"] // 3  # steps
    many_steps_a_call(monkeypatch)
    steps = (3, 16, 25, epoch, epoch + 1, 2 * epoch + 5)
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, steps, monkeypatch, how)


def test_resumed_twice_and_with_larger_totals(text, tmp_path):
    start_run([text], SMALL, out=tmp_path / "whole")
    start_run([text], replace(SMALL, max_steps=17, epochs=1), out=tmp_path / "parts")
    assert metrics(tmp_path / "parts")[-1]["step"] == 17
    resume_run(tmp_path / "parts", options={"max_steps": 60, "epochs": 2})
    resume_run(tmp_path / "parts", options={"max_steps": None, "epochs": 3})
    whole, parts = records_without_times(tmp_path / "whole"), records_without_times(tmp_path / "parts")
    assert parts["metrics"] == whole["metrics"] and parts["samples"] == whole["samples"]
    assert parts["last.safetensors"][0] == whole["last.safetensors"][0]
    assert json.loads((tmp_path / "parts/config.json").read_text())["train"]["epochs"] == 3


def test_losses_are_those_of_the_engine_on_the_notebooks_batches(text, tmp_path):
    """The loop is written once more, plainly: offsets, zero states, learning rates, clipping, weight decay, Adam."""
    config = replace(SMALL, schedule="step", epochs=2, log_every=1, clip=0.7, weight_decay=0.2, dropout=0.1)
    start_run([text], config, out=tmp_path / "run")
    corpus = load_corpus([text])
    model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
    engine, parameters, gradients = NumpyEngine(model), initialise(model, config.seed), Parameters(model)
    m = v = np.zeros(parameters.flat.size)
    offsets, step = np.random.default_rng([config.seed, 1]), 0
    found = metrics(tmp_path / "run")
    for epoch in range(2):
        offset = int(offsets.integers(config.window))
        windows = Windows(corpus.ids, config.batch, config.window, config.window, offset)
        for index in range(len(windows)):
            step += 1
            drop = Dropout(0.1, config.seed, step)
            loss, _ = engine.loss_and_gradients(
                parameters, Example(*windows[index], engine.zero_state(config.batch), drop), gradients
            )
            g = gradients.flat.astype(float)
            norm = np.linalg.norm(g)
            g *= min(1, 0.7 / norm)
            rate = learning_rate(config, step, epoch, 10**9)
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            stepped = rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            parameters.flat[:] = parameters.flat * (1 - rate * 0.2) - stepped
            line = found[step - 1]
            assert (line["step"], line["epoch"], line["lr"]) == (step, epoch, rate)
            assert line["loss"] == pytest.approx(loss, rel=1e-4) and line["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert len(found) == step


def test_carried_state_flows_through_an_epoch_and_is_reset_at_the_next(text, tmp_path, monkeypatch):
    states, original = [], CpuEngine.loss_and_gradients

    def recording(self, parameters, example, gradients):
        loss, after = original(self, parameters, example, gradients)
        states.append((example.state, after))
        return loss, after

    monkeypatch.setattr(CpuEngine, "loss_and_gradients", recording)
    start_run([text], replace(SMALL, carry_state=True, epochs=2), out=tmp_path / "run")
    half = len(states) // 2
    for index in range(1, len(states)):
        expected = states[index - 1][1] if index != half else None
        assert np.array_equal(states[index][0].h, expected.h) if expected else not states[index][0].h.any()
    assert not states[0][0].h.any() and states[1][0].h.any()


def test_log_lines_are_means_since_the_line_before(text, tmp_path):
    config = replace(SMALL, epochs=1, max_steps=20)
    start_run([text], replace(config, log_every=1), out=tmp_path / "each")
    start_run([text], config, out=tmp_path / "means")
    losses = [line["loss"] for line in metrics(tmp_path / "each")]
    lines = metrics(tmp_path / "means", times=True)
    assert [line["step"] for line in lines] == [6, 12, 18, 20]
    for line, start in zip(lines, (0, 6, 12, 18), strict=True):
        assert line["loss"] == pytest.approx(np.mean(losses[start : line["step"]]), rel=1e-12)
        assert line["chars_per_s"] > 0 and line["elapsed_s"] >= 0
        assert list(line) == ["step", "epoch", "loss", "lr", "grad_norm", "chars_per_s", "elapsed_s"]


def test_same_seed_same_bits_another_seed_others(text, tmp_path):
    config = replace(SMALL, max_steps=20)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        start_run([text], replace(config, seed=seed), out=tmp_path / name)
    a, b, c = (records_without_times(tmp_path / name) for name in "abc")
    assert a == b and a["samples"] != c["samples"] and a["metrics"] != c["metrics"]


@pytest.mark.parametrize("split", ["tail", "streams"])
def test_validation_loss_is_the_models_score_and_best_is_the_best(split, text, tmp_path):
    text.write_text(TEXT[:800] + TEXT[::-1][:800] + TEXT[:400])
    config = replace(SMALL, epochs=6, lr=0.05, val_fraction=0.2, val_split=split, window=4)
    start_run([text], config, out=tmp_path / "run")
    measured = {line["step"]: line["val_loss"] for line in metrics(tmp_path / "run") if "val_loss" in line}
    assert len(measured) == 6
    best = min(measured, key=measured.get)
    best_run = read_checkpoint(tmp_path / "run/best.safetensors").run
    assert best_run["position"]["step"] == best and best_run["best"] == measured[best]
    model = Model(tmp_path / "run")
    _, validation = split_validation(load_corpus([text]).ids, config)
    scores = [np.concatenate(list(model.losses(stream))) for stream in validation]
    assert np.mean(scores) == pytest.approx(measured[best], rel=1e-5)


def test_a_long_validation_text_is_scored_in_chunks(text, tmp_path, monkeypatch):
    monkeypatch.setattr("cuchar.training.LONG_TEXT", 1000)
    text.write_text(TEXT * 2)
    start_run([text], replace(SMALL, epochs=1, val_fraction=0.4), out=tmp_path / "run")
    measured = metrics(tmp_path / "run")[-1]["val_loss"]
    model, ids = Model(tmp_path / "run"), load_corpus([text]).ids[-1408:]
    chunks, stream = (np.concatenate(list(model.losses(ids, chunked=chunked))).mean() for chunked in (True, False))
    assert measured == pytest.approx(chunks, rel=1e-6) and measured != pytest.approx(stream, rel=1e-3)


def test_validation_text_of_its_own(text, tmp_path):
    (tmp_path / "val.txt").write_text("the lazy dog jumps")
    start_run([text], replace(SMALL, epochs=1), val=tmp_path / "val.txt", out=tmp_path / "run")
    measured = metrics(tmp_path / "run")[-1]["val_loss"]
    assert Model(tmp_path / "run").score("the lazy dog jumps").nats_per_char == pytest.approx(measured, rel=1e-6)
    (tmp_path / "val.txt").write_text("The")
    with pytest.raises(TextError, match=r"val: .*val\.txt:1:1: character 'T'"):
        start_run([text], SMALL, val=tmp_path / "val.txt", out=tmp_path / "other")
    with pytest.raises(RunError, match="expected the run's validation text"):
        (tmp_path / "val.txt").write_text("the")
        resume_run(tmp_path / "run")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("many", [False, True])
def test_divergence_stops_and_keeps_the_last_good_checkpoint(many, text, tmp_path, monkeypatch):
    if many:
        many_steps_a_call(monkeypatch)
    original = CpuEngine.loss_and_gradients

    def failing(self, *arguments):
        loss, state = original(self, *arguments)
        failing.calls += 1
        return (float("nan") if failing.calls == 13 else loss), state

    failing.calls = 0
    monkeypatch.setattr(CpuEngine, "loss_and_gradients", failing)
    with pytest.raises(
        DivergedError,
        match=r"stopped at step 13: expected the loss to be finite, found nan; .*last.safetensors keeps step 10",
    ):
        start_run([text], SMALL, out=tmp_path / "run")
    kept = read_checkpoint(tmp_path / "run")
    assert kept.run["position"]["step"] == 10 and np.isfinite(kept.parameters.flat).all()


def test_exploding_parameters_are_never_saved(text, tmp_path):
    with pytest.raises(DivergedError, match="no checkpoint was saved before it"):
        start_run([text], replace(SMALL, lr=1e38, save_every=1), out=tmp_path / "run")
    assert not (tmp_path / "run/last.safetensors").exists()


@pytest.mark.parametrize("engine_of", [NumpyEngine, CpuEngine])
@pytest.mark.parametrize("broken", ["loss", "norm"])
def test_learner_stops_at_the_first_step_that_is_not_finite(broken, engine_of, monkeypatch):
    """Of five steps that are asked for the third fails: two are done, to the bits of a call that asks for two."""
    config = TrainConfig(hidden=5, window=4, batch=3, carry_state=True)
    model, rates = ModelConfig(6, config.hidden, config.layers), [0.1, 0.2, 0.3, 0.4, 0.5]
    original, calls = engine_of.loss_and_gradients, []

    def failing(self, *arguments):
        loss, state = original(self, *arguments)
        calls.append(loss)
        if len(calls) == 3 and broken == "norm":
            arguments[2].flat[7] = np.inf
        return (float("inf") if len(calls) == 3 and broken == "loss" else loss), state

    def train(asked):
        learner, training = learner_of(engine_of(model), config, np.arange(90) % 6)
        losses, norms = learner.train(1, 1, asked)
        learner.fetch()
        adam, state = training.adam, training.state
        return losses, norms, [training.parameters.flat, adam.m, adam.v, state.h, state.c]

    losses, norms, arrays = train(rates[:2])
    monkeypatch.setattr(engine_of, "loss_and_gradients", failing)
    stopped_losses, stopped_norms, stopped = train(rates)
    assert len(calls) == 3 and stopped_losses.dtype == stopped_norms.dtype == np.float64
    assert np.array_equal(stopped_losses[:2], losses) and np.array_equal(stopped_norms[:2], norms)
    assert len(stopped_losses) == len(stopped_norms) == 3 and not np.isfinite(stopped_norms[2])
    assert np.isfinite(stopped_losses[2]) == (broken == "norm")
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(stopped, arrays, strict=True))


def test_callback_hears_summaries_and_samples(text, tmp_path, monkeypatch):
    monkeypatch.setattr("cuchar.training.SUMMARY_STEPS", 10)
    heard = {"notes": [], "samples": b"", "steps": 0}

    class Recorder(Callback):
        def note(self, text):
            heard["notes"].append(text)

        def sample(self, text):
            heard["samples"] += text

        def step(self, step, loss, chars):
            heard["steps"] += 1
            assert chars == 35

    start_run([text], replace(SMALL, epochs=1, log_every=1), out=tmp_path / "run", callbacks=[Recorder()])
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert heard["steps"] == len(losses)
    assert any(f"step 20: mean loss {np.mean(losses[10:20]):.4f}" in note for note in heard["notes"])
    assert any(f"epoch 0: mean loss {np.mean(losses):.4f} over {len(losses)} steps" in note for note in heard["notes"])
    assert heard["samples"] == (tmp_path / "run/samples.txt").read_bytes()
    blocks = heard["samples"].decode().split("--- step ")[1:]
    assert [block.split(" ---\n")[0] for block in blocks] == [*map(str, range(8, len(losses), 8)), str(len(losses))]
    assert all(len(block.split(" ---\n", 1)[1]) == 22 for block in blocks)


@pytest.mark.parametrize("law", ["softmax", "exp"])
def test_samples_are_drawn_by_the_law(law, text, tmp_path):
    config = replace(SMALL, max_steps=8, lr=0.1, law=law, temperature=0.5)
    start_run([text], config, out=tmp_path / "run")
    drawing = SampleConfig(length=config.sample_length, temperature=0.5, law=law)
    *_, (stream, expected) = Model(tmp_path / "run").continuations(drawing, config.seed).samples(9, np.empty(0, int))
    assert stream == 8 and (tmp_path / "run/samples.txt").read_bytes() == b"--- step 8 ---\n" + expected + b"\n\n"
    other = replace(drawing, law={"softmax": "exp", "exp": "softmax"}[law])
    assert [*Model(tmp_path / "run").continuations(other, config.seed).samples(9, np.empty(0, int))][-1][1] != expected


def test_disk_full_keeps_the_last_good_checkpoint(text, tmp_path, monkeypatch):
    real, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device"):
        start_run([text], replace(SMALL, save_every=2, sample_every=0), out=tmp_path / "run")
    monkeypatch.undo()
    saved = read_checkpoint(tmp_path / "run").run["position"]["step"]
    assert saved >= 2
    resume_run(tmp_path / "run")
    start_run([text], replace(SMALL, save_every=2, sample_every=0), out=tmp_path / "whole")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_resume_refuses_what_is_not_the_runs(text, tmp_path):
    start_run([text], replace(SMALL, max_steps=20), out=tmp_path / "run")
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"hidden: expected the run's 9 to resume .*, found 10"):
        resume_run(run, options={"hidden": 10})
    with pytest.raises(RunError, match="max_steps: expected a total of at least the 20 done, found 19"):
        resume_run(run, options={"max_steps": 19})
    text.write_text(TEXT + "more")
    with pytest.raises(RunError, match="expected the run's text"):
        resume_run(run)
    moved = tmp_path / "moved.txt"
    moved.write_text(TEXT)
    text.unlink()
    with pytest.raises(TextError, match=r"fox\.txt: expected a text file, found no such file"):
        resume_run(run, options={"max_steps": 25})
    resume_run(run, texts=[moved], options={"max_steps": 25, "hidden": 9, "stride": 7})
    assert metrics(run)[-1]["step"] == 25


def test_run_killed_before_its_last_report_makes_it(text, tmp_path, monkeypatch):
    config = replace(SMALL, max_steps=17, val_fraction=0.2)
    start_run([text], config, out=tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(Trainer, "_validate", lambda self: (_ for _ in ()).throw(RuntimeError))
        start_run([text], config, out=tmp_path / "run")
    assert [line["step"] for line in metrics(tmp_path / "run")] == [6, 12]
    resume_run(tmp_path / "run")
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")
    assert "val_loss" in metrics(tmp_path / "run")[-1]


def test_finished_run_says_so_and_stays_as_it_is(text, tmp_path):
    start_run([text], replace(SMALL, epochs=1), out=tmp_path / "run")
    before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    notes = []

    class Recorder(Callback):
        def note(self, text):
            notes.append(text)

    resume_run(tmp_path / "run", callbacks=[Recorder()])
    assert len(notes) == 1 and "is finished at step" in notes[0]
    assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_signal_in_the_last_validation_ends_it_and_a_resumed_run_makes_it_again(tmp_path, monkeypatch):
    """The run is saved before its report, so a long validation need not be waited for."""
    (tmp_path / "fox.txt").write_text(TEXT)
    config = replace(SMALL, val_fraction=0.4, max_steps=7, epochs=1)  # 704 characters: three blocks
    whole = start_run([tmp_path / "fox.txt"], config, out=tmp_path / "whole", device="cpu")
    asked = []

    def in_the_last_validation(trainer):
        asked.append(trainer.position.step)
        return signal.SIGTERM if trainer.position.step == 7 else None

    with monkeypatch.context() as patch, pytest.raises(Interrupted) as interrupted:
        patch.setattr(Trainer, "_signal", in_the_last_validation)
        start_run([tmp_path / "fox.txt"], config, out=tmp_path / "stopped", device="cpu")
    assert interrupted.value.exit_status == 143
    assert asked.count(7) == 2  # after the last step, when a run that is finished heeds no signal, and after a block
    assert b"val_loss" not in (tmp_path / "stopped/metrics.jsonl").read_bytes()
    assert read_checkpoint(tmp_path / "stopped/last.safetensors").run["position"]["step"] == 7
    resumed = resume_run(tmp_path / "stopped", device="cpu")
    assert records_without_times(resumed) == records_without_times(whole)


def test_a_signal_in_an_epochs_validation_is_heeded_after_it(tmp_path, monkeypatch):
    (tmp_path / "fox.txt").write_text(TEXT)
    config = replace(SMALL, val_fraction=0.4, epochs=2)
    whole = start_run([tmp_path / "fox.txt"], config, out=tmp_path / "whole", device="cpu")
    heard = Notes()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        at_an_epochs_end = lambda trainer: trainer.position.window in (0, len(trainer.windows))  # noqa: E731
        patch.setattr(Trainer, "_signal", lambda trainer: signal.SIGINT if at_an_epochs_end(trainer) else None)
        start_run([tmp_path / "fox.txt"], config, out=tmp_path / "stopped", device="cpu", callbacks=[heard])
    assert sum("will stop after this validation" in note for note in heard.notes) == 1
    assert b"val_loss" in (tmp_path / "stopped/metrics.jsonl").read_bytes()
    assert records_without_times(resume_run(tmp_path / "stopped", device="cpu")) == records_without_times(whole)
