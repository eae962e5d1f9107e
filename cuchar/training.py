"""The training loop: it trains on windows and decides when to validate, to sample, to write a line and to save.

Everything that the next step depends on is in `Trainer` and its learner and goes into every
checkpoint, so that an interrupted run and an uninterrupted one end with the same bytes.
"""

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.adam import Adam, LossScaling
from cuchar.batches import LargeRows, RowBeginnings, Windows, draw_offset, offset_generator
from cuchar.callbacks import Callbacks, Run, StopTraining
from cuchar.checkpoint import Checkpoint
from cuchar.config import TrainConfig, learning_rate
from cuchar.engines.base import Engine, Example, TrainingState
from cuchar.errors import DivergedError, RunError
from cuchar.evaluation import LONG_TEXT, LossSum, chunk_losses, stream_losses
from cuchar.generation import generate
from cuchar.interrupts import Interrupted
from cuchar.logit_scale import ScaledLosses
from cuchar.mapped import drop_pages
from cuchar.parameters import Parameters, initialise
from cuchar.position import MOST_HALVINGS, Mean, Position
from cuchar.ranks.together import Leader, make_learner
from cuchar.run_folder import RunFolder
from cuchar.sampling import SampleConfig
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option

TAKES_A_WHILE = 1_000_000  # characters of a validation text from which on it is said that it is being read
SUMMARY_STEPS = 1000  # steps whose mean loss is noted and stored in the checkpoint's history


@dataclass(frozen=True)
class Material:
    """The texts that a run trains and validates on.

    Args:
        training: ids [n] to train on.
        validation: ids [streams, m] to validate on, or None.
        facts: JSON values that config.json and every checkpoint contain: the texts' paths and digests.
    """

    vocabulary: Vocabulary
    training: np.ndarray | RowBeginnings
    validation: np.ndarray | LargeRows | None
    facts: dict[str, Any]


class Trainer:
    """A run in progress.

    Args:
        engine: must have been made for the vocabulary and for the configuration's sizes.
        checkpoint: what to go on from; None starts a new run. The folder must have been rolled back to it before `run`.
        initial: the parameters of a new run; None draws them.
        leader: leads the processes that share every batch; None if this one is alone.
    Raises:
        RunError: the checkpoint is at a window that an epoch of this text does not have.
        DeviceError: the device has too little memory.
    """

    def __init__(
        self,
        config: TrainConfig,
        material: Material,
        engine: Engine,
        folder: RunFolder,
        checkpoint: Checkpoint | None,
        callbacks: Callbacks,
        initial: Parameters | None = None,
        leader: Leader | None = None,
    ):
        self.config, self.material, self.engine, self.leader = config, material, engine, leader
        self.folder, self.callbacks = folder, callbacks
        self.best: float
        self.best_step: int | None
        self.logit_scale: dict[str, float] | None  # with scale_logits: what a validation after the last step has found
        self.total_steps = total_steps(len(material.training), config)
        self.signalled: Callable[[], int | None] = lambda: None
        self.is_told_to_stop = False  # whether a callback has raised StopTraining
        self.is_kept_at_once = config.on_nan == "rollback" or initial is not None  # whether step 0 is saved
        self._begin(checkpoint, initial)

    def _begin(self, checkpoint: Checkpoint | None, initial: Parameters | None) -> None:
        """Make everything that a step depends on what it was when `checkpoint` was written, or at a run's beginning."""
        config, engine, folder = self.config, self.engine, self.folder
        self.loss, self.loss_since = math.nan, 0  # the last line's mean loss; the step after which that mean begins
        self.batches, self.logit_scale = offset_generator(config), None
        if checkpoint is None:
            parameters = initialise(engine.model, config.seed) if initial is None else initial
            state = engine.zero_state(config.batch)
            self.changing = TrainingState(parameters, Adam(parameters.flat.size), state)
            self.position = Position(offset=draw_offset(config, self.batches))
            self.best, self.best_step = math.inf, None
        else:
            self.changing = TrainingState(checkpoint.parameters, checkpoint.adam, checkpoint.state)
            self.position = Position.from_json(checkpoint.run["position"])
            self.batches.bit_generator.state = checkpoint.run["generators"]["batches"]
            self.changing.adam.scaling = LossScaling(**checkpoint.run.get("loss_scaling", {}))
            best = checkpoint.run["best"]
            self.best, self.best_step = math.inf if best is None else best, checkpoint.run.get("best_step")
        self.windows = self._cut()
        if self.position.window >= len(self.windows):
            raise RunError(f"{folder.last}: expected one of {len(self.windows)} windows, found {self.position.window}")
        self.learner = make_learner(self.leader, engine, config, self.changing, self.windows)
        self.is_between_windows = True  # whether position, state and parameters belong together, for `_gradients`
        self.stale = False  # whether `changing` is behind the learner; `_fetch` brings it up to date
        self.saved_step = None if checkpoint is None else self.position.step
        self.saved_is_due = checkpoint is not None and self.position.is_due(config)
        self.started = perf_counter() - self.position.elapsed_s

    def run(self, signalled: Callable[[], int | None] = lambda: None) -> None:
        """Train to the end.

        Args:
            signalled: returns the number of a signal that asks training to end, or None.
        Raises:
            Interrupted: a signal asked for it; the run was saved.
            DivergedError: a loss, gradient or parameter is not finite.
            OutputError, RunError: the folder cannot be written to.
        """
        finished = False
        self.signalled = signalled
        self._tell_start()
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                self._heed_callbacks()
                if self.saved_step is None and self.is_kept_at_once:
                    self._save_last()
                while (diverged := self._run_or_diverge()) is not None:
                    self._go_back(diverged)
            finished = True
        finally:
            self.callbacks.stop(finished)

    def _tell_start(self) -> None:
        position, model = self.position, self.engine.model
        self.callbacks.start(
            Run(self.folder.path, self.config, model, position.step, self.total_steps, self.best, self._gradients)
        )

    def _heed_callbacks(self) -> None:
        """Do what an exception says that a callback has raised: end training by `is_told_to_stop`, or save and raise it."""
        try:
            self.callbacks.raise_pending()
        except StopTraining:
            self.is_told_to_stop = True
        except Exception:
            if self.position.step > (self.saved_step or 0):
                with suppress(DivergedError):
                    self._save_last()
            raise

    def _run_or_diverge(self) -> str | None:
        """Train to the end, and return None; or train until something is not finite, and return what and where it is.

        Raises:
            DivergedError: there is no going back.
        """
        try:
            self._run()
        except DivergedError as error:
            halvings = self.position.halvings
            if self.config.on_nan == "rollback" and halvings < MOST_HALVINGS:
                return str(error)  # not the error itself, which would keep arrays alive whose memory is needed
            kept = (
                "no checkpoint was saved before it"
                if self.saved_step is None
                else f"{self.folder.last} keeps step {self.saved_step}"
            )
            hint = f"a lower {option('lr')}, {option('clip', 5)} or {option('on_nan', 'rollback')} may help"
            if self.config.on_nan == "rollback":
                hint = f"the learning rate was halved {halvings} times; a lower {option('lr')} or {option('clip', 5)} may help"
            raise DivergedError(f"training stopped at {error}; {kept}; {hint}") from None
        return None

    def _go_back(self, diverged: str) -> None:
        """Go back to the last checkpoint that was due, with half the learning rate.

        Checkpoints that were not due are passed over, since another interruption, or none, would have left others. The
        halving is saved before anything else is changed: a run that is killed now is resumed from there.
        """
        checkpoint = self.folder.read_last_due()
        if checkpoint is None:  # somebody has removed it
            raise DivergedError(f"training stopped at {diverged}; {self.folder.last} is not there any more")
        checkpoint.run["position"]["halvings"] = halvings = self.position.halvings + 1
        self.folder.save_last(checkpoint)
        del self.learner  # the next one needs its memory
        self._begin(checkpoint, None)
        self.best = self.folder.roll_back(checkpoint)
        if self.saved_is_due:
            self.folder.forget_previous_last()
        self.callbacks.note(
            f"{diverged}; back to step {self.position.step}, with the learning rate times 1/{2**halvings}"
        )
        self._tell_start()

    def _run(self) -> None:
        position, config = self.position, self.config
        if position.since_line.count and position.step % config.log_every == 0 and not position.finished(config):
            # The run had ended here before it was given more steps. Its last line was cut by `roll_back`, since it came
            # with a validation loss, which a line in the middle of an epoch does not have.
            self._line(None)
        self._heed_callbacks()
        while not (position.finished(config) or self.is_told_to_stop):
            self._advance(self._steps_ahead())
            self._after_step(epoch_ended=position.window == len(self.windows))
            signum = self._signal()
            if signum is not None and not position.finished(config):
                self._save_last()
                raise Interrupted(signum)
            self._heed_callbacks()
        self._finish()

    def _signal(self) -> int | None:
        """The number of a signal that asks training to end, or None."""
        return self.signalled() or (self.leader.signal if self.leader else None)

    def _steps_ahead(self) -> int:
        """How many steps to do in one call: nothing that `_after_step` does may become due before the last of them."""
        position, config = self.position, self.config
        steps = [self.learner.chunk, len(self.windows) - position.window]
        for every in (config.log_every, config.sample_every, SUMMARY_STEPS, config.save_every):
            if every:
                steps.append(every - position.step % every)
        if config.max_steps is not None:
            steps.append(config.max_steps - position.step)
        return min(steps)

    def _advance(self, steps: int) -> None:
        """Train on the epoch's next `steps` windows in one call, and count and report every step."""
        position, config, began = self.position, self.config, perf_counter()
        self.is_between_windows = False
        first = position.step + 1
        share = 0.5**position.halvings
        rates = [share * learning_rate(config, first + i, position.epoch, self.total_steps) for i in range(steps)]
        losses, norms = self.learner.train(position.window, first, rates)
        self.stale, self.logit_scale = True, None
        seconds = (perf_counter() - began) / len(losses)
        # There are fewer losses than rates if training diverged.
        for rate, loss, norm in zip(rates, losses.tolist(), norms.tolist(), strict=False):
            step = position.step + 1
            self._expect_finite(loss, "the loss", step)
            self._expect_finite(norm, "the gradient's norm", step)
            position.step, position.window = step, position.window + 1
            position.lr, position.grad_norm = rate, norm
            for mean in (position.since_line, position.since_summary, position.since_epoch):
                mean.add(loss, seconds)
            self.callbacks.step(step, loss, config.batch * config.window)

    def _fetch(self) -> None:
        """Bring `changing` up to date; this must come before anything reads it."""
        if self.stale:
            self.learner.fetch()
            self.stale = False

    def _gradients(self) -> Parameters:
        """The gradients of the mean loss on the next window; nothing is changed by it.

        Raises:
            RunError: a callback asks for them elsewhere than in `start` and `saved`.
        """
        if not self.is_between_windows:
            raise RunError("gradients: expected to be asked for in start or saved, found another moment")
        self._fetch()
        parameters = self.changing.parameters
        gradients = Parameters(parameters.model, parameters.flat.dtype)
        state = self.changing.state if self.config.carry_state else self.engine.zero_state(self.config.batch)
        inputs, targets = self.windows[self.position.window]
        self.engine.loss_and_gradients(parameters, Example(inputs, targets, state), gradients)
        return gradients

    def _after_step(self, epoch_ended: bool) -> None:
        position, config = self.position, self.config
        step = position.step
        validation_loss = self._validate() if epoch_ended else None
        if epoch_ended or (step % config.log_every == 0 and not position.finished(config)):
            self._line(validation_loss)
        if config.sample_every and (epoch_ended or step % config.sample_every == 0):
            self._sample()
        if step % SUMMARY_STEPS == 0:
            mean = position.since_summary
            self.callbacks.note(f"step {step}: mean loss {mean.loss:.4f}, {mean.seconds:.1f} s for {mean.count} steps")
            position.history.append({"step": step, "loss": mean.loss})
            position.since_summary = Mean()
        if epoch_ended:
            mean = position.since_epoch
            self.callbacks.note(
                f"epoch {position.epoch}: mean loss {mean.loss:.4f} over {mean.count} steps, {mean.seconds:.1f} s"
            )
            position.epoch += 1
            position.since_epoch = Mean()
            self._begin_epoch()
        is_best = self._is_best(validation_loss)
        if validation_loss is not None:
            position.worse = 0 if is_best else position.worse + 1
        if epoch_ended or step % config.save_every == 0:
            checkpoint = self._save_last()
            if is_best:
                self.folder.save_best(checkpoint)

    def _finish(self) -> None:
        """Save, then report on the steps since the last line.

        The save comes first, so that a run which is given more steps later goes on from before the report: that has a
        sample and a validation loss which a longer run would not have at this step. The report's line in metrics.jsonl
        comes last: it records that the run has ended and that all of the report is on disk.
        """
        position, config = self.position, self.config
        if self.saved_step != position.step:
            self._save_last()
        if not position.since_line.count:
            return
        if config.sample_every and position.step % config.sample_every:
            self._sample()
        validation_loss = self._validate()
        if self._is_best(validation_loss):
            self.folder.set_best_aside()
            self.folder.save_best(self._checkpoint())
        self.folder.sync()
        self._line(validation_loss)
        self.folder.sync()

    def _begin_epoch(self) -> None:
        self.position.window = 0
        self.position.offset = draw_offset(self.config, self.batches)
        self.changing.state = self.engine.zero_state(self.config.batch)
        self.windows = self._cut()
        self.learner.begin_epoch(self.windows)

    def _cut(self) -> Windows:
        config = self.config
        return Windows(self.material.training, config.batch, config.window, config.window_stride, self.position.offset)

    def _line(self, validation_loss: float | None) -> None:
        """Write a line of metrics.jsonl about the steps since the line before."""
        position, config = self.position, self.config
        mean = position.since_line
        metrics = {"step": position.step, "epoch": position.epoch, "loss": mean.loss}
        if validation_loss is not None:
            metrics["val_loss"] = validation_loss
        metrics |= {
            "lr": position.lr,
            "grad_norm": position.grad_norm,
            "chars_per_s": round(mean.count * config.batch * config.window / mean.seconds),
            "elapsed_s": round(perf_counter() - self.started, 3),
        }
        self.loss, self.loss_since, position.since_line = mean.loss, position.step - mean.count, Mean()
        self.folder.append(self.folder.metrics, json.dumps(metrics).encode() + b"\n")
        self.callbacks.line(metrics)

    def _is_best(self, validation_loss: float | None) -> bool:
        """Whether this validation loss is the lowest so far; if it is, it is noted as the best."""
        if validation_loss is None or validation_loss >= self.best:
            return False
        self.best, self.best_step = validation_loss, self.position.step
        return True

    def _validate(self) -> float | None:
        """The mean loss on the validation text, or None without one.

        With `scale_logits` it is the loss with the logits times the factor that makes it least, which is kept in
        `logit_scale` until the next step, so that a checkpoint which is written before has it.

        Raises:
            Interrupted: a signal asked for it, and the run is saved: if it is resumed, it validates here again. A signal
                in a validation before the save is heeded after it.
            DivergedError: the loss is not finite.
        """
        rows, step = self.material.validation, self.position.step
        if rows is None:
            return None
        if rows.size > TAKES_A_WHILE:
            self.callbacks.note(f"step {step}: validating on {rows.size:,} characters")
        self._fetch()
        added = ScaledLosses(self.engine) if self.config.scale_logits else LossSum()
        self._add_validation_losses(rows, added)
        loss, scaling = added.mean, ""
        self._expect_finite(loss, "the validation loss", step)
        if isinstance(added, ScaledLosses):
            self.logit_scale = {"factor": added.factor, "val_loss": loss}
            scaling = f" with logits times {added.factor:.2f} ({added.mean_as_trained:.4f} as they are)"
        self.callbacks.note(f"step {step}: validation loss {loss:.4f}{scaling}")
        return loss

    def _add_validation_losses(self, rows: np.ndarray | LargeRows, added: LossSum | ScaledLosses) -> None:
        """Add up the model's losses on the validation text; raises Interrupted as `_validate` does."""
        has_said_so, losses_in_all = False, rows.size - len(rows)
        weights = self.engine.fold(self.changing.parameters)
        losses_of = added.losses if isinstance(added, ScaledLosses) else None
        if len(rows) == 1 and rows.size > LONG_TEXT:
            blocks = chunk_losses(self.engine, weights, next(iter(rows)), losses_of)
        else:
            blocks = stream_losses(self.engine, weights, rows, losses_of)
        for losses in blocks:
            added.add(losses)
            drop_pages(rows)
            signum = None if added.count == losses_in_all else self._signal()
            if signum is not None and self.saved_step == self.position.step:
                raise Interrupted(signum)
            if signum is not None and not has_said_so:
                self.callbacks.note("the run will stop after this validation; a second Ctrl-C ends it at once, unsaved")
                has_said_so = True

    def _sample(self) -> None:
        """Draw a sample, write it to samples.txt and show it. It is the stream whose number is the step's."""
        config, step, nothing = self.config, self.position.step, np.empty(0, int)
        law = SampleConfig(length=config.sample_length, temperature=config.temperature, law=config.law)
        self._fetch()
        weights = self.engine.fold(self.changing.parameters)
        blocks = generate(self.engine, weights, law, config.seed, range(step, step + 1), nothing, nothing)
        try:
            text = self.material.vocabulary.decode(np.concatenate([ids[:, 0] for ids, _ in blocks]))
        except DivergedError as error:
            raise DivergedError(f"step {step}: {error}") from None
        block = f"--- step {step} ---\n".encode() + text + b"\n\n"
        self.folder.append(self.folder.samples, block)
        self.callbacks.sample(block)

    def _save_last(self) -> Checkpoint:
        checkpoint, is_due = self._checkpoint(), self.position.is_due(self.config)
        if self.config.on_nan == "rollback" and self.saved_is_due and not is_due:
            self.folder.set_last_aside()
        self.folder.save_last(checkpoint)
        if is_due:
            self.folder.forget_previous_last()
        self.saved_step, self.saved_is_due = self.position.step, is_due
        self.is_between_windows = True
        self.callbacks.saved(checkpoint)
        return checkpoint

    def _checkpoint(self) -> Checkpoint:
        self._fetch()
        changing = self.changing
        for what, array in (
            ("a parameter", changing.parameters.flat),
            ("a first moment", changing.adam.m),
            ("a second moment", changing.adam.v),
            ("the state h", changing.state.h),
            ("the state c", changing.state.c),
        ):
            worst = array.flat[np.argmax(~np.isfinite(array))]  # the first that is not finite, if there is one
            self._expect_finite(float(worst), what, self.position.step)
        self.position.elapsed_s = perf_counter() - self.started
        run = {
            **self.material.facts,
            "train": self.config.to_json(),
            "position": asdict(self.position),
            "generators": {"batches": self.batches.bit_generator.state},
            **({"loss_scaling": asdict(self.changing.adam.scaling)} if self.config.precision == "fp16" else {}),
            "lengths": self.folder.lengths(),
            "best": None if math.isinf(self.best) else self.best,
            "best_step": self.best_step,
            **({} if self.logit_scale is None else {"logit_scale": self.logit_scale}),
        }
        return Checkpoint(changing.parameters, self.material.vocabulary, changing.adam, changing.state, run)

    def _expect_finite(self, value: float, what: str, step: int) -> None:
        if not math.isfinite(value):
            raise DivergedError(f"step {step}: expected {what} to be finite, found {value}")


def total_steps(characters: int, config: TrainConfig) -> int:
    """How many training steps a whole run has; the random offsets of epochs can make it a few fewer."""
    nothing = np.broadcast_to(np.uint8(0), characters)  # as long as the text, of one byte
    windows = Windows(nothing, config.batch, config.window, config.window_stride)
    total = config.epochs * len(windows)
    return total if config.max_steps is None else min(total, config.max_steps)
