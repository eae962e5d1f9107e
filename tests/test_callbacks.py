"""Callbacks hear of everything that a run does, and may end it at any point without losing a step."""

from dataclasses import replace

import numpy as np
import pytest
from support.run_records import metrics, records_without_times

import cuchar
from cuchar.callbacks import Callback, StopTraining
from cuchar.checkpoint import read_checkpoint
from cuchar.config import TrainConfig
from cuchar.errors import RunError
from cuchar.runs import resume_run, start_run

CONFIG = TrainConfig(
    hidden=8, layers=1, window=7, batch=5, epochs=2, lr=0.01, log_every=6, sample_every=8, sample_length=9, save_every=10,
    carry_state=True, val_fraction=0.05,
)  # fmt: skip


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "fox.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return path


class At(Callback):
    """Raises an error once, in the method of the given name, when it is first called after step `step` has begun."""

    def __init__(self, method, step, error):
        self.method, self.last, self.error = method, step, error

    def step(self, step, loss, chars):
        self.now = step
        self.called("step")

    def line(self, metrics):
        self.called("line")

    def note(self, text):
        self.called("note")

    def sample(self, text):
        self.called("sample")

    def saved(self, checkpoint):
        self.called("saved")

    def called(self, method):
        if method == self.method and getattr(self, "now", 0) >= self.last:
            self.method = None
            raise self.error


@pytest.mark.parametrize("method", ["step", "line", "note", "sample", "saved"])
@pytest.mark.parametrize("kind", [StopTraining, RuntimeError])
def test_an_error_in_a_callback_loses_nothing(text, tmp_path, method, kind):
    """The step is finished and saved, other callbacks are told all the same, and the run resumes to the same end."""
    steps = []

    class Count(Callback):
        def step(self, step, loss, chars):
            steps.append(step)

    both = [At(method, 13, kind("enough")), Count()]
    if kind is StopTraining:
        start_run([text], CONFIG, out=tmp_path / "run", callbacks=both)
    else:
        with pytest.raises(RuntimeError, match="enough"):
            start_run([text], CONFIG, out=tmp_path / "run", callbacks=both)
    done = read_checkpoint(tmp_path / "run/last.safetensors").run["position"]["step"]
    assert steps == [*range(1, done + 1)] and 13 <= done <= 49
    assert (metrics(tmp_path / "run")[-1]["step"] == done) == (kind is StopTraining or done % 6 == 0)
    resume_run(tmp_path / "run")
    start_run([text], CONFIG, out=tmp_path / "whole")
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")


@pytest.mark.parametrize("on_nan", ["stop", "rollback"])
def test_an_error_before_the_first_step_leaves_no_folder(text, tmp_path, on_nan):
    class Refuse(Callback):
        def start(self, run):
            raise RuntimeError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        start_run([text], replace(CONFIG, on_nan=on_nan), out=tmp_path / "run", callbacks=[Refuse()])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("on_nan", ["stop", "rollback"])
def test_an_end_that_is_asked_for_at_the_start_is_one(text, tmp_path, on_nan):
    notes = []

    class Enough(Callback):
        def start(self, run):
            raise StopTraining

        def note(self, text):
            notes.append(text)

    start_run([text], replace(CONFIG, on_nan=on_nan), out=tmp_path / "run", callbacks=[Enough()])
    assert read_checkpoint(tmp_path / "run").run["position"]["step"] == 0 and not any("nan" in note for note in notes)


def test_gradients_are_refused_where_a_window_may_be_half_done(text, tmp_path):
    class Anywhere(Callback):
        def start(self, run):
            self.run = run

        def line(self, metrics):
            self.run.gradients()

    with pytest.raises(RunError, match="gradients: expected to be asked for in start or saved"):
        start_run([text], CONFIG, out=tmp_path / "run", callbacks=[Anywhere()])
    assert read_checkpoint(tmp_path / "run").run["position"]["step"] == 6


def test_an_error_at_the_very_end_is_raised_after_the_last_save(text, tmp_path):
    class Ending(Callback):
        def stop(self, finished):
            raise RuntimeError("too late")

    with pytest.raises(RuntimeError, match="too late"):
        start_run([text], CONFIG, out=tmp_path / "run", callbacks=[Ending()])
    start_run([text], CONFIG, out=tmp_path / "whole")
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")


@pytest.mark.parametrize("carry_state", [True, False])
def test_a_run_says_what_it_is_and_computes_its_gradients(text, tmp_path, carry_state):
    """Asking for gradients changes nothing, and they are those of the step that comes next."""
    seen = []

    class Gradients(Callback):
        def start(self, run):
            self.run = run

        def saved(self, checkpoint):
            gradients = self.run.gradients()
            seen.append((checkpoint.run["position"]["step"], gradients.flat.copy()))

    config = replace(CONFIG, carry_state=carry_state, val_fraction=0)
    callback = Gradients()
    start_run([text], config, out=tmp_path / "run", callbacks=[callback])
    start_run([text], config, out=tmp_path / "whole")
    assert records_without_times(tmp_path / "run") == records_without_times(tmp_path / "whole")
    run = callback.run
    assert (run.folder, run.config, run.step) == (tmp_path / "run", config, 0)
    assert run.total_steps == seen[-1][0] and (run.model.hidden, run.model.layers) == (8, 1)
    # The gradient's norm that training finds in the next step is that of the gradients which were asked for before it.
    every = start_run([text], replace(config, log_every=1), out=tmp_path / "every")
    norms = {line["step"]: line["grad_norm"] for line in metrics(every)}
    for step, gradients in seen[:-1]:
        assert np.linalg.norm(gradients.astype(float)) == pytest.approx(norms[step + 1], rel=1e-5)


def test_python_has_the_protocol():
    assert cuchar.Callback is Callback and cuchar.StopTraining is StopTraining
