"""What `cuchar train --dry-run` prints: everything that a run would do, with estimates, and nothing is written."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.adam import Adam
from cuchar.batches import Windows, draw_offset, offset_generator
from cuchar.engines.base import TrainingState
from cuchar.files import escape, say
from cuchar.messages import Messages
from cuchar.parameters import initialise, parameter_count
from cuchar.preparation import Prepared, notes_on_steps, prepare
from cuchar.ranks.together import Leader, make_learner, together
from cuchar.run_folder import expect_place_for_run
from cuchar.runs import cache_folder, run_folder
from cuchar.terminal import clock
from cuchar.training import total_steps
from cuchar.vocabulary import Vocabulary

MEASURED_S = 2.0  # seconds of training by which a run's time is estimated
ROWS = 3  # rows of the first batch that are shown
SHOWN = 50  # characters of a row that are shown, at most


def print_plan(
    texts: Sequence[str | Path],
    options: Mapping[str, Any],
    *,
    out: Path | None,
    cache: Path | None,
    reading: Callable[[str, int, int], None],
    **start: Any,
) -> None:
    """Print what `cuchar.runs.start_run` would do with these arguments, whose errors this raises too.

    Processes that a launcher has started plan together, and rank 0 prints.

    Args:
        reading: shows how far a large text is read (`cuchar.callbacks.Callback.reading`).
    """
    folder = run_folder(texts, out)

    def lead(leader: Leader | None) -> None:
        expect_place_for_run(folder)
        messages = Messages(say, reading)
        run = prepare(texts, options, **start, cache=cache_folder(folder, cache), messages=messages, leader=leader)
        steps = total_steps(len(run.material.training), run.config)
        facts = (f"{name:<11} {value}" for name, value in _facts(run, folder, leader, steps))
        for line in chain(run.notes, notes_on_steps(run.config, steps), facts, _first_batch(run)):
            print(escape(line), flush=True)

    together(lead)


def _facts(run: Prepared, folder: Path, leader: Leader | None, steps: int) -> Iterator[tuple[str, str]]:
    """What is known of the run; what must be measured, which may take long for a large model, comes last but one."""
    config, material, model = run.config, run.material, run.engine.model
    windows, vocabulary = _windows(run), material.vocabulary
    largest = None if leader is None else max(leader.shares(config.batch), key=lambda share: share.rows)
    needed = run.engine.training_bytes(config, windows, largest)
    in_each = "" if leader is None else " in each process"
    limit = "" if config.max_steps is None else f", at most {config.max_steps:,}"
    validation = 0 if material.validation is None else material.validation.size
    yield "engine", f"{run.engine.name} ({run.reason})"
    if leader is not None:
        yield "together", leader.describe(config.batch)
    yield "model", f"{model.layers} layers of {model.hidden}, {parameter_count(model):,} parameters"
    yield "text", f"{material.facts['characters']:,} characters, of which {len(material.training):,} are trained on"
    yield "validation", f"{validation:,} characters after every epoch" if validation else "none"
    shown = _shown(vocabulary, np.arange(min(len(vocabulary), 200)))
    yield "vocabulary", f"{len(vocabulary)} characters: {shown}"
    yield "steps", f"{steps:,}: {config.epochs} epochs of {len(windows):,}{limit}"
    yield "memory", f"{needed / 2**20:,.1f} MiB for training{in_each}, an estimate; text and program come on top"
    measured, seconds = _measure(run, windows, leader)
    spent = f"{clock(steps * seconds)}, an estimate: {1000 * seconds:.2f} ms a step, measured over {measured:,}"
    yield "time", f"{spent}; validation, samples and saves come on top"
    yield "run folder", f"{folder}; this run was dry, so it was not made"


def _windows(run: Prepared) -> Windows:
    """The first epoch's windows."""
    config = run.config
    offset = draw_offset(config, offset_generator(config))
    return Windows(run.material.training, config.batch, config.window, config.window_stride, offset)


def _measure(run: Prepared, windows: Windows, leader: Leader | None) -> tuple[int, float]:
    """Train for some seconds, with a learning rate of 0, on what is thrown away afterwards.

    Args:
        leader: leads the processes that train together; None if this one is alone.
    Returns:
        how many steps were timed, and the seconds that each took.
    """
    config, engine = run.config, run.engine
    parameters = initialise(engine.model, config.seed) if run.initial is None else run.initial
    training = TrainingState(parameters, Adam(parameters.flat.size), engine.zero_state(config.batch))
    learner, done, seconds = make_learner(leader, engine, config, training, windows), 0, 0.0
    learner.train(0, 1, [0.0])  # untimed: kernels may be compiled now
    while seconds < MEASURED_S:
        window = done % len(windows)
        count = min(learner.chunk, len(windows) - window)
        began = perf_counter()
        losses, _ = learner.train(window, done + 2, [0.0] * count)
        seconds += perf_counter() - began
        done += len(losses)
        if not math.isfinite(losses[-1]):
            break
    return done, seconds / done


def _first_batch(run: Prepared) -> list[str]:
    """The first rows of the first window: what is read, and below it what is to be predicted."""
    config, lines = run.config, []
    inputs, targets = _windows(run)[0]
    for row in range(min(ROWS, config.batch)):
        for name, ids in (("reads", inputs), ("predicts", targets)):
            lines.append(f"{name:<11} {_shown(run.material.vocabulary, ids[:SHOWN, row])}")
    which = f"{ROWS} of its {config.batch} rows" if config.batch > ROWS else "its rows"
    return [f"the first window, of {config.window} characters, {which}:", *lines]


def _shown(vocabulary: Vocabulary, ids: np.ndarray) -> str:
    return json.dumps("".join(chr(code) for code in vocabulary.codes[ids]), ensure_ascii=False)
