"""Training on a device: the host launches a chunk of training steps at once and reads all their losses at the end."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.adam import BETA1, BETA2
from cuchar.batches import RowBeginnings, Windows
from cuchar.config import TrainConfig
from cuchar.devices.device import Device
from cuchar.engines.base import Share, State, TrainingState, expect_ids, expect_moments
from cuchar.engines.cuda.dropout import Mask, WeightDropping
from cuchar.engines.cuda.head import scaled
from cuchar.engines.cuda.memory import bytes_needed, expect_memory
from cuchar.engines.cuda.regimes import Launches, Pass
from cuchar.engines.cuda.sharing import Sharing
from cuchar.engines.cuda.tape import STEP, Backward, Tape, Weights, norm_blocks
from cuchar.engines.cuda.target import Target, Window
from cuchar.mapped import drop_pages
from cuchar.parameters import parameter_count
from cuchar.sizes import ceil_div

MOST_WINDOWS = 128  # windows that a chunk has at most
WINDOW_BYTES = 64 << 20  # bytes that the ids of a chunk's windows take at most
CHUNK_SECONDS = 0.1  # how long a chunk should take
BROUGHT_AT_ONCE = 1 << 24  # characters of a text that are copied to a device at once
TEXT_PART = 0.25  # of the free memory: a text whose ids take more does not live on the device


def most_windows(config: TrainConfig) -> int:
    """Windows that a chunk has at most."""
    return max(1, min(MOST_WINDOWS, WINDOW_BYTES // (8 * config.window * config.batch)))


def lives_on_device(device: Device, windows: Windows) -> bool:
    """Whether the whole text is kept on the device; if not, every chunk brings the characters of its windows."""
    return windows.ids.nbytes <= TEXT_PART * device.free_bytes()


def training_bytes(
    target: Target, launches: Launches, config: TrainConfig, windows: Windows, rows: int, is_shared: bool = False
) -> int:
    """Bytes of device memory that a learner takes.

    Args:
        rows: of the batch, which this process has.
        is_shared: whether other processes have other rows; then all windows come in parts, and `windows` are some.
    """
    window, most = Window(config.window, rows, config.dropout > 0), most_windows(config)
    text = windows.ids.nbytes
    if is_shared or not lives_on_device(target.device, windows):
        text = rows * ((most - 1) * windows.stride + windows.window + 1) * windows.ids.itemsize
    copy = parameter_count(target.model) * target.itemsize if config.weight_dropout else 0  # WeightDropping's
    return bytes_needed(target, window, launches, most, text) + copy


class DeviceLearner:
    """`cuchar.engines.base.Learner` for the CUDA engine.

    Args:
        launches: for windows of the rows that this process has.
    Raises:
        DeviceError: the device has too little free memory; this is found out before anything is allocated.
        ShapeError: Adam's moments are not laid out as the parameters are, or the text has an id outside the vocabulary.
    """

    def __init__(
        self,
        target: Target,
        launches: Launches,
        config: TrainConfig,
        training: TrainingState,
        windows: Windows,
        share: Share | None,
    ):
        expect_moments(training)
        self._target, self._device, self._launches = target, target.device, launches
        self._config, self._training = config, training
        window = Window(config.window, len(windows.rows), config.dropout > 0)
        most = most_windows(config)
        self._is_shared = share is not None
        self._expect_memory(windows)
        self._text = self._bring_whole(windows)
        host = training.parameters.flat, training.adam.m, training.adam.v
        self._weights, self._m, self._v = (Weights.of(target, flat) for flat in host)
        self._tape = Tape(target, window, launches.flags, most)
        self._backward = Backward(target, window, launches.splits)
        first_row = share.first if share else 0
        mask = Mask.of(config.dropout, config.seed, config.batch, first_row) if config.dropout else None
        dropping = WeightDropping.of(target, config.weight_dropout, config.seed)
        self._pass = Pass(launches, config.carry_state, mask, dropping)
        self._sharing = Sharing(target, share) if share else None
        self._adam = target.kernels("training/adam.cu", scaled(target))["adam"]
        identifier = {1: "unsigned char", 2: "unsigned short"}[windows.ids.dtype.itemsize]
        self._cut = self._device.kernels("training/windows.cu", {"ID": identifier})["cut_windows"]
        self._replays: dict[int, Callable[[], None]] = {}
        self._seconds_a_step = math.inf
        self._windows = windows
        self._tape.put_state(training.state)
        self._tape.put_scaling(training.adam.scaling)

    def _expect_memory(self, windows: Windows) -> None:
        config = self._config

        def needed(batch: int) -> int:  # with a batch of so many rows, of which this process has as large a part as now
            rows, fewer = ceil_div(batch * len(windows.rows), config.batch), replace(config, batch=batch)
            return training_bytes(self._target, self._launches, fewer, windows, rows, self._is_shared)

        expect_memory(needed, self._device.free_bytes(), config.batch)

    def _bring_whole(self, windows: Windows) -> Any:
        """The whole text's ids on the device, or None if they do not live there."""
        if self._is_shared or not lives_on_device(self._device, windows):
            return None
        return self._bring(windows.ids)

    def _bring(self, text: np.ndarray | RowBeginnings) -> Any:
        """Copy a text's ids to the device, in pieces: the text may lie in a file, and the host's memory may be smaller."""
        corpus = self._device.empty(len(text), text.dtype)
        for start in range(0, len(text), BROUGHT_AT_ONCE):
            ids = text[start : start + BROUGHT_AT_ONCE]
            expect_ids("text", ids, self._target.model)
            self._device.write(corpus[start : start + len(ids)], ids)
            drop_pages(text)
        return corpus

    @property
    def chunk(self) -> int:
        return max(1, min(self._tape.windows, int(CHUNK_SECONDS / self._seconds_a_step)))

    def go_on_with(self, windows: Windows) -> None:
        if windows.ids is not self._windows.ids:
            self._text = self._bring_whole(windows)
        self._windows = windows

    def begin_epoch(self, windows: Windows) -> None:
        self.go_on_with(windows)
        tape = self._tape
        zeros = np.zeros((len(tape.h), tape.B, tape.h.shape[-1]), tape.h.dtype)
        tape.put_state(State(zeros, zeros))

    def train(self, window: int, step: int, rates: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        losses, norms = [], []
        for first in range(0, len(rates), self._tape.windows):
            some = rates[first : first + self._tape.windows]
            found = self._train(window + first, step + first, some)
            losses.append(found[0])
            norms.append(found[1])
            if len(found[0]) < len(some) or not np.isfinite(found).all():
                break
        return np.concatenate(losses), np.concatenate(norms)

    def _train(self, window: int, step: int, rates: Sequence[float]) -> np.ndarray:
        """Train for one chunk, at most `tape.windows` steps.

        Returns:
            Losses and norms, [2, steps done].
        """
        began = perf_counter()
        tape, windows, text, K = self._tape, self._windows, self._text, len(rates)
        if text is None:
            windows, window = windows.part(window, K), 0
            text = self._bring(windows.ids)
        orders = np.zeros(K, STEP)
        numbers = np.arange(step, step + K, dtype=np.float64)
        orders["origin"] = windows.offset + np.array([windows.starts[window + k] for k in range(K)])
        orders["number"] = np.arange(step, step + K)
        orders["step_size"] = np.array(rates) / (1 - BETA1**numbers)
        orders["root"] = np.sqrt(1 - BETA2**numbers)
        orders["decay"] = 1 - np.array(rates) * self._config.weight_decay
        tape.order(orders)
        self._cut(
            ceil_div(K * tape.N, 256), 256, corpus=text, steps=tape.steps, inputs=tape.inputs,
            targets=tape.targets, windows=K, T=tape.T, B=tape.B, row_length=windows.rows.shape[1],
        )  # fmt: skip
        most = self._launches.steps_at_once
        for steps in [most] * (K // most) + [1] * (K % most):
            self._replay(steps)()
        results = self._device.read(tape.results)[:, :K]
        tape.expect_no_wait()
        self._seconds_a_step = (perf_counter() - began) / K
        bad = np.flatnonzero(~np.isfinite(results).all(axis=0))
        return results[:, : bad[0] + 1] if len(bad) else results

    def _replay(self, steps: int) -> Callable[[], None]:
        if steps not in self._replays:
            self._replays[steps] = self._device.capture(lambda: self._steps(steps))
        return self._replays[steps]

    def _steps(self, count: int) -> None:
        for _ in range(count):
            self._step()

    def _step(self) -> None:
        tape, config, backward = self._tape, self._config, self._backward
        self._pass(self._weights, tape, backward)
        if self._sharing:
            self._sharing(tape, backward)
        P = self._weights.flat.size
        self._adam(
            ceil_div(P, 256), 256, parameters=self._weights.flat, gradients=backward.gradients.flat, m=self._m.flat,
            v=self._v.flat, squares=backward.squares, square_count=norm_blocks(P), mean_losses=tape.results,
            norms=tape.results[1], steps=tape.steps, progress=tape.progress, scaling=tape.scaling, clip=config.clip,
            P=P,
        )  # fmt: skip

    def fetch(self) -> None:
        training, scaling = self._training, self._tape.get_scaling()
        self._weights.get(training.parameters.flat)
        self._m.get(training.adam.m)
        self._v.get(training.adam.v)
        if scaling is not None:
            training.adam.scaling = scaling
        training.state = self._tape.get_state()
