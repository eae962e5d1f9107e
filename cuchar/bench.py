"""How fast a training step is, beside a peer that takes turns with it in the same run."""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.adam import Adam
from cuchar.config import ModelConfig
from cuchar.engines import choose_engine
from cuchar.errors import DeviceError, OptionError
from cuchar.parameters import Parameters, initialise

PEERS = ("torch",)
VOCABULARY_SIZE = 84
ROUNDS, STEPS_A_ROUND, WARM_UP = 10, 20, 5


@dataclass(frozen=True)
class Timing:
    """One contender's median training step."""

    name: str
    ms_per_step: float
    steps_per_s: float
    chars_per_s: float


def bench(device: str, peer: str | None, hidden: int, layers: int, steps: int, batch: int) -> dict[str, Any]:
    """Median time of a training step (forward, backward, Adam; zero state; random characters).

    Contenders take turns, a round each, so that a noisy machine is noisy for both.

    Returns:
        configuration, threads, a `Timing` a contender, and peer time / our time as `ratio`.
    """
    if peer is not None and peer not in PEERS:
        raise OptionError(f"--peer: expected {' | '.join(PEERS)}, found {peer}")
    model = ModelConfig(VOCABULARY_SIZE, hidden, layers)
    generator = np.random.default_rng(0)
    inputs, targets = generator.integers(VOCABULARY_SIZE, size=(2, steps, batch)).astype(np.uint8)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    contenders = {"cuchar": _our_step(device, model, inputs, targets)}
    if peer:
        contenders[peer] = _torch_step(model, inputs, targets, threads)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, step in contenders.items():
            for _ in range(WARM_UP):
                step()
            for _ in range(STEPS_A_ROUND):
                began = perf_counter()
                step()
                times[name].append(perf_counter() - began)
    timings = [
        Timing(name, seconds * 1e3, 1 / seconds, steps * batch / seconds)
        for name, seconds in ((name, median(taken)) for name, taken in times.items())
    ]
    return {
        "configuration": {"vocabulary": VOCABULARY_SIZE, "hidden": hidden, "layers": layers, "steps": steps, "batch": batch},
        "threads": threads,
        "timings": [asdict(timing) for timing in timings],
        "ratio": timings[1].ms_per_step / timings[0].ms_per_step if peer else None,
    }  # fmt: skip


def _our_step(device: str, model: ModelConfig, inputs: np.ndarray, targets: np.ndarray) -> Callable[[], None]:
    engine, _ = choose_engine(device, model)
    parameters, gradients = initialise(model, 0), Parameters(model)
    adam, state = Adam(parameters.flat.size), engine.zero_state(inputs.shape[1])
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        engine.loss_and_gradients(parameters, inputs, targets, state, gradients)
        adam.update(parameters.flat, gradients.flat, done, 1e-3)

    return step


def _torch_step(model: ModelConfig, inputs: np.ndarray, targets: np.ndarray, threads: int) -> Callable[[], None]:
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
    x = torch.from_numpy(inputs.astype(np.int64))
    y = torch.from_numpy(targets.astype(np.int64)).reshape(-1)
    loss_of = torch.nn.CrossEntropyLoss()

    def step() -> None:
        optimiser.zero_grad()
        hidden, _ = lstm(torch.nn.functional.one_hot(x, V).float())
        loss = loss_of(head(hidden).reshape(-1, V), y)
        loss.backward()
        optimiser.step()
        loss.item()

    return step
