"""Times cuchar's training steps in turns with PyTorch's on the same GPU, its kernels one by one, and its drawing.

It is made of the same modules as `cuchar bench`. But here cuchar works in this process, on the device under test, and
each peer has one process for all configurations.
"""

import json
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from cuchar.bench.configurations import NAMED, Configuration
from cuchar.bench.contender import OURS, PEERS, QUICK, Turn, reason_against
from cuchar.bench.cuchar_contender import CucharContender, profile_kernels
from cuchar.bench.processes import Worker
from cuchar.bench.timing import ratio, take_turns
from cuchar.engines.cpu.library import thread_count
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.regimes import LEAST_CAPABILITY, plan_sampling, plan_window
from cuchar.engines.cuda.target import Target, Window
from cuchar.errors import CucharError
from tools.gpu_stages.device import ROOT, device_under_test, dry_run
from tools.gpu_stages.report import Report

ROUNDS, DRAWING_ROUNDS, BURST_S = (1, 1, 0.0) if dry_run() else (7, 3, 0.1)
PREDICTION = ROOT / "benchmarks/results/prediction-h100.json"  # made by tools/predict.py
CONFIGURATIONS = [
    *(NAMED[name] for name in ("a", "2x128", "b", "2x256", "3x512")),
    Configuration("stepwise", 68, 1024, 2, 32, 32),
    *(Configuration(f"b {precision}", 68, 512, 2, 50, 50, precision) for precision in ("tf32", "bf16", "fp16")),
    NAMED["c"],
    NAMED["d"],
]
TINY = [
    Configuration("resident", 9, 8, 2, 3, 4),
    Configuration("persistent", 9, 81, 2, 2, 2),
    Configuration("stepwise", 9, 260, 2, 2, 2),
    Configuration("fp16", 9, 8, 1, 2, 2, "fp16"),
]
if dry_run():
    CONFIGURATIONS = TINY
STREAMS = (1, 3) if dry_run() else (1, 64, 4096)


def run_stage(report: Report) -> None:
    device = device_under_test()
    configurations = [
        sizes for sizes in CONFIGURATIONS if device.limits.capability >= LEAST_CAPABILITY[sizes.precision]
    ]
    for sizes in configurations:
        measure_kernels(report, device, sizes)
        if sizes.precision == "fp32":
            measure_drawing(report, device, sizes)
    prediction = json.loads(PREDICTION.read_text("utf-8")) if PREDICTION.is_file() and not dry_run() else {}
    report.fact("prediction", prediction)
    with ExitStack() as stack:
        peers = start_peers(report, stack)
        for sizes in configurations:
            predicted = prediction if prediction.get("configuration", "").startswith(title(sizes)) else {}
            measure(report, device, peers, sizes, predicted)


def title(sizes: Configuration) -> str:
    return sizes.sizes + (f" {sizes.precision}" if sizes.precision != "fp32" else "")


def peers_device() -> str:
    return "cpu" if dry_run() else "cuda:0"


def start_peers(report: Report, stack: ExitStack) -> dict[str, Worker]:
    peers: dict[str, Worker] = {}
    facts: dict[str, Any] = {}
    for peer in QUICK:
        if reason_against(peer, peers_device(), "fp16"):
            continue
        try:
            peers[peer] = stack.enter_context(Worker(peer, peers_device(), thread_count()))
            facts |= peers[peer].facts
        except CucharError as error:
            facts["absent"] = str(error)
            report.add(f"peer: {PEERS[peer].title}", None, note=str(error))
    report.fact("peer", facts)
    return peers


def measure_kernels(report: Report, device: Any, sizes: Configuration) -> None:
    """Time every kernel of a training step by itself."""
    kernels = profile_kernels(device, sizes, **({"repeats": 2, "rounds": 1} if dry_run() else {}))
    launches = {name: kernel["launches"] for name, kernel in kernels.items()}
    timed = {name: kernel["us"] for name, kernel in kernels.items() if "us" in kernel}
    total = sum(launches[name] * us for name, us in timed.items()) / 1e3
    times = {"us a launch": timed, "sum of all launches, ms": total}
    report.add(f"kernels: {title(sizes)}", True, times, launches=launches)


def measure_drawing(report: Report, device: Any, sizes: Configuration) -> None:
    ours, times = CucharContender(CudaEngine(sizes.model, device), sizes), {}
    for streams in STREAMS:
        timing = take_turns({OURS: partial(ours.draw, streams)}, DRAWING_ROUNDS, BURST_S)[OURS]
        times[f"{streams} streams"] = {
            "us a character of each": timing.ms * 1e3, "chars_per_s": streams / timing.ms * 1e3,
        }  # fmt: skip
    plan = plan_sampling(Target(device, sizes.model, np.dtype("f4")))
    report.add(f"drawing: V{sizes.V} H{sizes.H} L{sizes.L}", True, times, plan=str(plan), streams=STREAMS)


def measure(
    report: Report, device: Any, peers: dict[str, Worker], sizes: Configuration, predicted: dict[str, Any]
) -> None:
    """Time a configuration's training steps in turns with the peers, and report them beside what was `predicted`."""
    turns: dict[str, Turn] = {
        OURS: CucharContender(CudaEngine(sizes.model, device, precision=sizes.precision), sizes).train
    }
    errors: dict[str, str] = {}
    for peer, worker in peers.items():
        reason = reason_against(peer, peers_device(), sizes.precision)
        try:
            if reason is None:
                worker.prepare(sizes)
                turns[PEERS[peer].title] = worker.train
        except CucharError as error:
            errors[peer] = str(error)
    timings = take_turns(turns, ROUNDS, BURST_S)
    own, chars = timings[OURS], sizes.B * sizes.T
    times: dict[str, Any] = {
        name: {
            "ms": timing.ms, "least_ms": min(timing.rounds), "most_ms": max(timing.rounds),
            "by the GPU's clock, ms": timing.device_ms, "chars_per_s": chars / timing.ms * 1e3,
            "times_cuchar": ratio(timing.rounds, own.rounds).value,
        }
        for name, timing in timings.items()
    }  # fmt: skip
    for form, forecast in predicted.get("forms", {}).items():
        times[f"predicted, H100, {form}"] = {"ms": forecast["us_a_step"] / 1e3}
    plan = plan_window(Target(device, sizes.model, np.dtype("f4"), sizes.precision), Window(sizes.T, sizes.B))
    report.add(f"step: {title(sizes)}", True, times, plan=str(plan), rounds=ROUNDS, errors=errors)
