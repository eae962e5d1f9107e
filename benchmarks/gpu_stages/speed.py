"""Time of a training step: cuchar's, beside PyTorch's on the same GPU, taking turns. And of sampling, cuchar's alone.

cuchar's is the wall clock around `learner.train`: told, done, losses read. PyTorch's is that of as
many steps, and one wait for the device at their end.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.gpu_stages.device import ROOT, device_under_test, dry_run, environment
from benchmarks.gpu_stages.kernel_times import Recorder, kernel_times
from benchmarks.gpu_stages.report import Report
from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.cuda_engine import CudaEngine
from cuchar.engines.device_learner import MOST_WINDOWS
from cuchar.engines.plan import LEAST_CAPABILITY, make_plan, sample_plan
from cuchar.parameters import initialise
from cuchar.sampling import SampleConfig

ROUNDS = 1 if dry_run() else 5
PREDICTION = ROOT / "benchmarks/results/prediction-h100.json"  # of benchmarks/predict.py


@dataclass(frozen=True)
class Configuration:
    """`ours` and `theirs`: steps a round; 0 for no peer."""

    V: int
    H: int
    L: int
    B: int
    T: int
    ours: int
    theirs: int
    precision: str = "fp32"

    @property
    def name(self) -> str:
        reduced = f" {self.precision}" if self.precision != "fp32" else ""
        return f"V{self.V} H{self.H} L{self.L} B{self.B} T{self.T}{reduced}"


CONFIGURATIONS = [
    Configuration(84, 64, 2, 32, 32, 4000, 200),  # (a)
    Configuration(68, 128, 2, 50, 50, 100, 50),
    Configuration(68, 512, 2, 50, 50, 50, 30),  # (b)
    Configuration(68, 256, 2, 50, 50, 100, 50),  # torch-rnn's
    Configuration(68, 512, 3, 50, 50, 30, 20),
    Configuration(68, 1024, 2, 32, 32, 30, 20),  # stepwise
    *(Configuration(68, 512, 2, 50, 50, 50, 0, precision) for precision in ("tf32", "bf16", "fp16")),
]
TINY = [
    Configuration(9, 8, 2, 3, 4, 4, 2),
    Configuration(9, 81, 2, 2, 2, 4, 2),
    Configuration(9, 260, 2, 2, 2, 4, 2),
    Configuration(9, 8, 1, 2, 2, 4, 0, "fp16"),
]
STREAMS, SAMPLED = ([1, 3], 2) if dry_run() else ([1, 128, 4096], 256)  # characters a call


class Ours:
    """A learner on random characters."""

    def __init__(self, device: Any, sizes: Configuration):
        self.model = ModelConfig(sizes.V, sizes.H, sizes.L)
        config = TrainConfig(hidden=sizes.H, layers=sizes.L, steps=sizes.T, batch=sizes.B, stride=1)
        self.most, self.done = max(sizes.ours, MOST_WINDOWS), 0
        ids = np.random.default_rng(0).integers(sizes.V, size=sizes.B * (sizes.T + self.most), dtype=np.uint8)
        windows, parameters = Windows(ids, sizes.B, sizes.T, 1), initialise(self.model, 0)
        engine = CudaEngine(self.model, device, precision=sizes.precision)
        state = engine.zero_state(sizes.B)
        self.learner = engine.learner(config, parameters, Adam(parameters.flat.size), state, windows)

    def train(self, steps: int) -> float:
        """Seconds a step."""
        began = perf_counter()
        losses, _ = self.learner.train(0, self.done + 1, [1e-3] * steps)
        seconds = perf_counter() - began
        self.done += steps
        if len(losses) < steps or not np.isfinite(losses[-1]):
            raise SystemExit(f"expected {steps} finite losses, found {losses[-3:]} after {len(losses)} steps")
        return seconds / steps


class Peer:
    """torch_peer.py, running."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu_stages.torch_peer"], env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.facts = self._answer()

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return self._answer()

    def train(self, contender: str, steps: int) -> float:
        """Seconds a step."""
        return self.ask(run=contender, steps=steps)["seconds"] / steps

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"absent": f"PyTorch's process ended with {self._process.wait()}"}


def run_stage(report: Report) -> None:
    device = device_under_test()
    configurations = [
        sizes
        for sizes in (TINY if dry_run() else CONFIGURATIONS)
        if device.limits.capability >= LEAST_CAPABILITY[sizes.precision]
    ]
    for sizes in configurations:
        measure_kernels(report, device, sizes)
        if sizes.precision == "fp32":
            measure_sampling(report, device, sizes)
    peer = Peer()
    report.fact("peer", peer.facts)
    if "absent" in peer.facts:
        report.add("peer", None, note=peer.facts["absent"])
    prediction = json.loads(PREDICTION.read_text("utf-8")) if PREDICTION.is_file() and not dry_run() else {}
    report.fact("prediction", prediction)
    for sizes in configurations:
        predicted = prediction if prediction.get("configuration", "").startswith(sizes.name) else {}
        measure(report, device, None if "absent" in peer.facts else peer, sizes, predicted)


def measure_kernels(report: Report, device: Any, sizes: Configuration) -> None:
    """Every kernel of a step by itself."""
    recorder = Recorder(device)
    kernels = kernel_times(recorder, Ours(recorder, sizes).train, 2 if dry_run() else MOST_WINDOWS)
    launches = {name: kernel["launches"] for name, kernel in kernels.items()}
    timed = {name: kernel["us"] for name, kernel in kernels.items() if "us" in kernel}
    total = sum(launches[name] * us for name, us in timed.items()) / 1e3
    times = {"us a launch": timed, "sum of all launches, ms": total}
    report.add(f"kernels: {sizes.name}", True, times, launches=launches)


def measure_sampling(report: Report, device: Any, sizes: Configuration) -> None:
    """Medians over calls of SAMPLED characters of so many streams, after a call that does not count."""
    model = ModelConfig(sizes.V, sizes.H, sizes.L)
    engine, times = CudaEngine(model, device), {}
    weights = engine.fold(initialise(model, 0))
    for streams in STREAMS:
        ids, state = np.zeros(streams, int), engine.zero_state(streams)
        sampler = engine.sampler(weights, SampleConfig(), 0, range(streams), ids, state, 0)
        seconds = []
        for _ in range(ROUNDS + 1):
            began = perf_counter()
            sampler.make(SAMPLED)
            seconds.append(perf_counter() - began)
        middle = median(seconds[1:])
        times[f"{streams} streams"] = {
            "us a character of each": middle / SAMPLED * 1e6, "chars_per_s": streams * SAMPLED / middle,
        }  # fmt: skip
    plan = sample_plan(model, np.float32, device.limits)
    report.add(f"sampling: V{sizes.V} H{sizes.H} L{sizes.L}", True, times, plan=str(plan), streams=STREAMS)


def measure(report: Report, device: Any, peer: Peer | None, sizes: Configuration, predicted: dict[str, Any]) -> None:
    """Medians of ROUNDS rounds, in turns, after a round that does not count; beside them what was `predicted`."""
    ours = Ours(device, sizes)
    plan = make_plan(ours.model, sizes.T, sizes.B, np.float32, device.limits, sizes.precision)
    contenders = {"cuchar": partial(ours.train, sizes.ours)}
    errors: dict[str, str] = {}
    if peer is not None and sizes.theirs:
        made = peer.ask(shape=[sizes.V, sizes.H, sizes.L, sizes.B, sizes.T])
        errors = made.get("errors", {"PyTorch": str(made)})
        for name in made.get("contenders", []):
            contenders[f"PyTorch {name}"] = partial(peer.train, name, sizes.theirs)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(ROUNDS + 1):
        for name, run in contenders.items():
            found = run()
            if round_:
                seconds[name].append(found)
    mine, chars = median(seconds["cuchar"]), sizes.B * sizes.T
    times = {
        name: {
            "ms": median(taken) * 1e3, "least_ms": min(taken) * 1e3, "most_ms": max(taken) * 1e3,
            "chars_per_s": chars / median(taken), "times_cuchar": median(taken) / mine,
        }
        for name, taken in seconds.items()
    }  # fmt: skip
    for form, forecast in predicted.get("forms", {}).items():
        times[f"predicted, H100, {form}"] = {"ms": forecast["us_a_step"] / 1e3}
    report.add(
        f"step: {sizes.name}", True, times, plan=str(plan), rounds=ROUNDS, errors=errors, steps_a_round=sizes.ours
    )
