"""Compares the device with the NumPy engine, from the same seed: losses, gradients, and the same bytes in two runs."""

from dataclasses import replace
from typing import Any

import numpy as np

from cuchar.config import ModelConfig, TrainConfig
from cuchar.corpus import Corpus, load_corpus
from cuchar.engines.base import Dropout
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.regimes import LEAST_CAPABILITY
from cuchar.engines.numpy_engine import NumpyEngine
from tools.gpu_stages.device import ROOT, device_under_test, dry_run
from tools.gpu_stages.reference import accuracy, train
from tools.gpu_stages.report import Report

BOUND = 1e-4  # the largest relative difference of any step's loss: differences by rounding grow as training goes on
OPTIONS = {
    "dropout": 0.2,
    "weight_dropout": 0.1,
    "clip": 0.05,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup": 10,
}
WIDE = TrainConfig(hidden=256)
CASES = {
    "notebook": (TrainConfig(), 200),
    "notebook, every option": (TrainConfig(**OPTIONS), 200),
    "notebook, carried, every option": (TrainConfig(**OPTIONS, carry_state=True), 200),
    "2x256": (WIDE, 50),
    "2x256, every option": (replace(WIDE, **OPTIONS), 50),
    "2x256, carried, every option": (replace(WIDE, **OPTIONS, carry_state=True), 50),
}
SHAPES = [
    (84, 64, 2, 32, 32),
    (68, 64, 1, 200, 20),
    (84, 48, 3, 5, 33),
    (68, 256, 2, 50, 50),
    (68, 512, 2, 50, 20),
    (600, 100, 2, 20, 20),
    (84, 1024, 2, 20, 10),
]
TINY = {"window": 3, "batch": 2}
ROUNDED, PRECISION_STEPS = TrainConfig(), 300  # what is trained in each precision, and for how many steps
PRECISION_BOUND = 0.02  # nats by which the mean loss of the last 50 of these steps may differ from fp32's

if dry_run():
    CASES = {
        name: (replace(config, **TINY, hidden=16 if config.hidden == 64 else 81), 6)
        for name, (config, _) in CASES.items()
    }
    SHAPES = [(5, 4, 2, 3, 3), (4, 3, 1, 2, 4)]
    ROUNDED, PRECISION_STEPS = TrainConfig(**TINY, hidden=16), 6


def load_text() -> Corpus:
    return load_corpus([ROOT / "data" / ("shakespeare_10K.txt" if dry_run() else "shakespeare.txt")])


def run_stage(report: Report) -> None:
    device, corpus = device_under_test(), load_text()
    for name, (config, steps) in CASES.items():
        model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
        expected, host = train(NumpyEngine(model), config, corpus.ids, steps)
        (ours, first), (_, second) = (train(CudaEngine(model, device), config, corpus.ids, steps) for _ in range(2))
        worst = float(np.max(np.abs(ours - expected) / expected)) if len(ours) == steps else np.inf
        distance = float(np.linalg.norm(first.flat - host.flat) / np.linalg.norm(host.flat))
        report.add(
            f"losses: {name}", worst <= BOUND, config=config.to_json(), steps=steps, worst_relative_difference=worst, bound=BOUND,
            parameters_relative_distance=distance, last_loss=float(ours[-1]), note=f"{worst:.1e} <= {BOUND}",
        )  # fmt: skip
        report.add(f"same bytes twice: {name}", first.flat.tobytes() == second.flat.tobytes(), steps=steps)
    for shape in SHAPES:
        dropout = Dropout(0.3, 1, 2, weights=0.2)
        tensors = {name: (error, bound) for name, error, bound in accuracy(device, shape, dropout, np.float32)}
        name = max(tensors, key=lambda name: tensors[name][0] / tensors[name][1])
        error, bound = tensors[name]
        report.add(
            "gradients: V{} H{} L{} B{} T{}".format(*shape), error <= bound, tensors=tensors,
            note=f"{name}: error {error:.1e} <= {bound:.1e}",
        )  # fmt: skip
    report_precisions(report, device, corpus)


def report_precisions(report: Report, device: Any, corpus: Corpus) -> None:
    """Report how far the loss of the notebook's model ends from NumPy's in fp32, for each precision."""
    config, steps = ROUNDED, PRECISION_STEPS
    model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
    exact = train(NumpyEngine(model), config, corpus.ids, steps)[0]
    for precision, least in LEAST_CAPABILITY.items():
        if device.limits.capability < least:
            report.add(f"loss of {steps} steps: {precision}", None, note="this GPU has none")
            continue
        losses = train(CudaEngine(model, device, precision=precision), config, corpus.ids, steps)[0]
        away = float(abs(losses[-50:].mean() - exact[-50:].mean())) if len(losses) == steps else np.inf
        report.add(
            f"loss of {steps} steps: {precision}", away <= PRECISION_BOUND, config=config.to_json(), difference=away,
            bound=PRECISION_BOUND, last_loss=float(losses[-1]), note=f"{away:.1e} <= {PRECISION_BOUND}",
        )  # fmt: skip
