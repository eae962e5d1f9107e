"""cuchar's work, as `cuchar train`, `cuchar sample` and `cuchar eval` do it."""

import math
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from itertools import cycle
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.bench.arithmetic import flops
from cuchar.bench.configurations import SCORED_WINDOWS, WINDOWS, Configuration
from cuchar.bench.contender import Burst
from cuchar.bench.kernel_times import Recorder, kernel_times
from cuchar.bench.machine import device_ms
from cuchar.engines.base import Engine, Example, Sampler, Streams, TrainingState
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.errors import DivergedError
from cuchar.parameters import Parameters
from cuchar.ranks.together import Leader, make_learner
from cuchar.sampling import SampleConfig

RATE = 1e-3
PROFILE_ROUNDS = 20


class Calls:
    """A library whose calls are timed: `seconds` has how long each call took, by the function's name."""

    def __init__(self, library: Any):
        self._library = library
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            began = perf_counter()
            result = getattr(self._library, name)(*arguments)
            self.seconds[name].append(perf_counter() - began)
            return result

        return timed


class CucharContender:
    """A contender: an engine that works on a configuration. Its turns are `train`, `draw` and `score`.

    As every contender, it draws and scores with the weights that training begins with.

    Args:
        leader: leads the processes that share every batch; None if this one is alone.
    """

    def __init__(self, engine: Engine, sizes: Configuration, leader: Leader | None = None):
        self.engine, self.sizes = engine, sizes
        self._windows, self._parameters = Windows(sizes.ids(), sizes.B, sizes.T, 1), sizes.parameters()
        training = TrainingState(self._parameters, Adam(self._parameters.flat.size), engine.zero_state(sizes.B))
        self.learner, self._done = make_learner(leader, engine, sizes.train, training, self._windows), 0
        self._sampler = lru_cache(maxsize=1)(self._make_sampler)
        self._scorer = lru_cache(maxsize=1)(self._make_scorer)

    def train(self, steps: int) -> Burst:
        """Do so many more training steps.

        Raises:
            DivergedError: a loss is not finite.
        """
        end, loss = self._done + steps, math.nan

        def work() -> None:
            nonlocal loss
            while self._done < end:
                window = self._done % WINDOWS
                count = min(end - self._done, self.learner.chunk, WINDOWS - window)
                losses, _ = self.learner.train(window, self._done + 1, [RATE] * count)
                loss = float(losses[-1])
                if not math.isfinite(loss):
                    raise DivergedError(f"expected finite losses, found {loss} at step {self._done + len(losses)}")
                self._done += count

        return self._timed(work, lambda: loss)

    def draw(self, streams: int, characters: int) -> Burst:
        """Draw `characters` more characters of each of `streams` streams, by softmax at temperature 1."""
        sampler = self._sampler(streams)
        return self._timed(lambda: sampler.make(characters), lambda: None)

    def score(self, windows: int) -> Burst:
        """Score so many more windows; the state is carried from each to the next."""
        score_next, loss = self._scorer(), math.nan

        def work() -> None:
            nonlocal loss
            for _ in range(windows):
                loss = score_next()

        return self._timed(work, lambda: loss)

    def _make_scorer(self) -> Callable[[], float]:
        """A call that scores the next window, and returns its mean loss."""
        weights, text = self.engine.fold(self.sizes.parameters()), self.sizes.scored()
        state, order = self.engine.zero_state(len(text.rows)), cycle(range(SCORED_WINDOWS))

        def score_next() -> float:
            nonlocal state
            losses, state = self.engine.losses(weights, *text[next(order)], state)
            return float(losses.mean(dtype=np.float64))

        return score_next

    def _timed(self, work: Callable[[], Any], loss: Callable[[], float | None]) -> Burst:
        device, began = getattr(self.engine, "device", None), perf_counter()
        ms = device_ms(device, work)
        return Burst(perf_counter() - began, None if ms is None else ms / 1e3, loss())

    def _make_sampler(self, streams: int) -> Sampler:
        weights, ids = self.engine.fold(self.sizes.parameters()), np.zeros(streams, np.int64)
        begin = Streams(0, range(streams), ids, self.engine.zero_state(streams), 0)
        return self.engine.sampler(weights, SampleConfig(), begin)

    def notes(self) -> str:
        return self.engine.name

    def device_bytes(self) -> int | None:
        device = getattr(self.engine, "device", None)
        return None if device is None else device.held_bytes()

    def profile(self) -> dict[str, dict[str, Any]]:
        """What a training step is made of: for each part, how often a step has it, and how many µs it takes."""
        device = getattr(self.engine, "device", None)
        if device is not None:
            return profile_kernels(device, self.sizes)
        return self._parts_of_library(self.engine) if isinstance(self.engine, CpuEngine) else self._host_parts()

    def _parts_of_library(self, engine: CpuEngine) -> dict[str, dict[str, Any]]:
        """What the C++ engine's calls of its library take in a training step: the least time of each, by the wall clock.

        Backward is what going both ways takes beyond going forward. Products have the `flops` of a third of a step's.
        """
        library, taken = engine.library, Calls(engine.library)
        (inputs, targets), state = self._windows[0], engine.zero_state(self.sizes.B)
        weights, steps = engine.fold(self._parameters), []
        engine.library = taken  # type: ignore[assignment]
        try:
            for _ in range(PROFILE_ROUNDS):
                engine.losses(weights, inputs, targets, state)
                began = perf_counter()
                self.train(1)
                steps.append(perf_counter() - began)
        finally:
            engine.library = library
        us = {name: min(found) * 1e6 for name, found in taken.seconds.items()}
        parts = {
            "fold": us["fold_weights"], "forward": us["run_forward"],
            "backward": us["run_both_ways"] - us["run_forward"], "gradients": us["sum_gradients"], "Adam": us["update"],
        }  # fmt: skip
        parts["the rest"] = min(steps) * 1e6 - sum(parts.values())
        third = {"flops": flops(self.sizes) // 3}
        products = ("forward", "backward", "gradients")
        return {
            name: {"launches": 1, "us": found} | (third if name in products else {}) for name, found in parts.items()
        }

    def _host_parts(self) -> dict[str, dict[str, Any]]:
        """The parts that can be told apart by calling `Engine`: the least time of several calls, by the wall clock."""
        engine, parameters, gradients = self.engine, self._parameters, Parameters(self.sizes.model)
        (inputs, targets), state = self._windows[0], engine.zero_state(self.sizes.B)
        calls: dict[str, Callable[[], Any]] = {
            "forward": lambda: engine.losses(engine.fold(parameters), inputs, targets, state),
            "both": lambda: engine.loss_and_gradients(parameters, Example(inputs, targets, state), gradients),
            "step": lambda: self.train(1),
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(PROFILE_ROUNDS + 1):
            for name, call in calls.items():
                began = perf_counter()
                call()
                times[name].append(perf_counter() - began)
        us = {name: min(taken[1:]) * 1e6 for name, taken in times.items()}
        parts = {
            "forward": us["forward"], "backward": us["both"] - us["forward"], "Adam and the rest": us["step"] - us["both"],
        }  # fmt: skip
        return {name: {"launches": 1, "us": found} for name, found in parts.items()}


def profile_kernels(device: Any, sizes: Configuration, **how: int) -> dict[str, dict[str, Any]]:
    """The time of every kernel of a training step by itself; `how` is passed to `kernel_times`: repeats and rounds."""
    from cuchar.engines.cuda.engine import CudaEngine
    from cuchar.engines.cuda.learner import MOST_WINDOWS

    recorder = Recorder(device)
    learner = CucharContender(CudaEngine(sizes.model, recorder, precision=sizes.precision), sizes).learner
    # The learner itself is asked: a contender makes chunks as short as a slow device needs them, down to one window.
    return kernel_times(recorder, lambda steps: learner.train(0, 1, [RATE] * steps), 2 if how else MOST_WINDOWS, **how)
