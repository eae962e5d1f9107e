"""How fast a training step is, beside a peer that takes turns with it in the same run."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines import choose_engine
from cuchar.errors import DeviceError, OptionError
from cuchar.parameters import initialise

PEERS = ("torch",)
VOCABULARY_SIZE = 84
ROUNDS, ROUND_S = 10, 0.2
WINDOWS = 1000  # so many steps a call at most


@dataclass(frozen=True)
class Timing:
    """One contender's median training step."""

    name: str
    ms_per_step: float
    steps_per_s: float
    chars_per_s: float


def bench(
    device: str, peer: str | None, hidden: int, layers: int, steps: int, batch: int, precision: str = "fp32"
) -> dict[str, Any]:
    """Median time of a training step (forward, backward, Adam; zero state; random characters).

    Contenders take turns, a round each, so that a noisy machine is noisy for both. A call of
    a contender does as many steps as it likes to, and says how many.

    Returns:
        configuration, threads, a `Timing` a contender, and peer time / our time as `ratio`.
    """
    if peer is not None and peer not in PEERS:
        raise OptionError(f"--peer: expected {' | '.join(PEERS)}, found {peer}")
    model = ModelConfig(VOCABULARY_SIZE, hidden, layers)
    config = TrainConfig(hidden=hidden, layers=layers, steps=steps, batch=batch, stride=1, precision=precision)
    ids = np.random.default_rng(0).integers(VOCABULARY_SIZE, size=batch * (steps + WINDOWS), dtype=np.uint8)
    windows = Windows(ids, batch, steps, config.window_stride)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    contenders = {"cuchar": _our_steps(device, model, config, windows)}
    if peer:
        contenders[peer] = _torch_step(model, *windows[0], threads)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, train in contenders.items():
            started = perf_counter()
            while perf_counter() - started < ROUND_S / 4:
                train()
            while not times[name] or perf_counter() - started < ROUND_S:
                began = perf_counter()
                done = train()
                times[name].append((perf_counter() - began) / done)
    timings = [
        Timing(name, seconds * 1e3, 1 / seconds, steps * batch / seconds)
        for name, seconds in ((name, median(taken)) for name, taken in times.items())
    ]
    return {
        "configuration": {
            "vocabulary": VOCABULARY_SIZE, "hidden": hidden, "layers": layers, "steps": steps, "batch": batch,
            "precision": precision,
        },
        "threads": threads,
        "timings": [asdict(timing) for timing in timings],
        "ratio": timings[1].ms_per_step / timings[0].ms_per_step if peer else None,
    }  # fmt: skip


def _our_steps(device: str, model: ModelConfig, config: TrainConfig, windows: Windows) -> Callable[[], int]:
    """As `cuchar train` does them: the learner's chunk a call."""
    engine, _ = choose_engine(device, model, precision=config.precision)
    parameters = initialise(model, 0)
    adam, state = Adam(parameters.flat.size), engine.zero_state(config.batch)
    learner = engine.learner(config, parameters, adam, state, windows)
    done = 0

    def train() -> int:
        nonlocal done
        losses, _ = learner.train(0, done + 1, [config.lr] * min(learner.chunk, len(windows)))
        done += len(losses)
        return len(losses)

    return train


def _torch_step(model: ModelConfig, inputs: np.ndarray, targets: np.ndarray, threads: int) -> Callable[[], int]:
    """The same step as PyTorch users write it: nn.LSTM over one-hot inputs, CrossEntropyLoss, Adam."""
    try:
        import torch
    except ImportError:
        raise DeviceError("--peer torch: expected PyTorch, found none; pip install 'cuchar[peers]'") from None
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    V, H = model.vocabulary_size, model.hidden
    lstm, head = torch.nn.LSTM(V, H, model.layers), torch.nn.Linear(H, V)
    optimiser = torch.optim.Adam([*lstm.parameters(), *head.parameters()], lr=1e-3)
    x = torch.from_numpy(inputs.astype(np.int64, order="C"))
    y = torch.from_numpy(targets.astype(np.int64, order="C")).reshape(-1)
    loss_of = torch.nn.CrossEntropyLoss()

    def step() -> int:
        optimiser.zero_grad()
        hidden, _ = lstm(torch.nn.functional.one_hot(x, V).float())
        loss = loss_of(head(hidden).reshape(-1, V), y)
        loss.backward()
        optimiser.step()
        loss.item()
        return 1

    return step
