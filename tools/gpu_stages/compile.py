"""Compiles every kernel that later stages launch, in processes side by side, so that these stages find it in the cache.

Which files are compiled with which macros follows from the sizes that later stages and tests/gpu use: the engine is
asked to make its kernels on a device that only lists what it is asked for (tools/listing.py).
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from time import perf_counter
from typing import Any

from cuchar.bench.processes import die_with_the_starter
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.cuda.regimes import LEAST_CAPABILITY
from cuchar.engines.cuda.stepwise import draw_warps
from cuchar.engines.cuda.target import Window
from cuchar.errors import CucharError
from cuchar.evaluation import CHUNKS
from tools.gpu_stages import one_step, parity, run, shapes, speed
from tools.gpu_stages.device import device_under_test
from tools.gpu_stages.report import Report
from tools.listing import Listing, Source

MOST_WORKERS = 16


@dataclass(frozen=True)
class Work:
    """A model, and the size of the windows that it is trained on or that it scores."""

    model: ModelConfig
    window: Window
    precision: str = "fp32"
    dtype: str = "f4"


def of_sizes(
    V: int, H: int, L: int, B: int, T: int, precision: str = "fp32", dropout: bool = False, dtype: str = "f4"
) -> Work:
    return Work(ModelConfig(V, H, L), Window(T, B, dropout), precision, dtype)


def everything(device: Any) -> list[Source]:
    """All that later stages ask the device to compile, each once."""
    listing = Listing(device.name, device.limits, device.has_tensor_library)
    for work in works():
        if device.limits.capability < LEAST_CAPABILITY[work.precision]:
            continue
        listing.ask_for_training(listing.target(work.model, work.precision, work.dtype), work.window)
        if not work.window.dropout and work.dtype == "f4":
            listing.ask_for_drawing(listing.target(work.model))
    for precision, least in LEAST_CAPABILITY.items():
        # Both kinds of product are tested, whichever of them the engine takes.
        if precision != "fp32" and device.limits.capability >= least:
            listing.ask_for_both_products(precision)
    listing.ask_for_windows()
    for size in shapes.DRAWN:
        listing.kernels("sampling/draw.cu", {"WARPS": draw_warps(ModelConfig(size, 1, 1))})
    return list(listing.asked)


def works() -> Iterator[Work]:
    for dropout in (False, True):
        for shape in (*shapes.RESIDENT, *shapes.PERSISTENT, *shapes.STEPWISE, *parity.SHAPES):
            yield of_sizes(*shape, dropout=dropout)
        for hidden in shapes.TRAINED_HIDDEN.values():
            yield trained(shapes.TRAINED_V, TrainConfig(**shapes.TRAINED, hidden=hidden, dropout=0.2 * dropout))
        for V, H, L, B, T, precision in one_step.REGIMES:
            yield of_sizes(V, H, L, B, T, precision, dropout)
    for shape in shapes.DOUBLE:
        yield of_sizes(*shape, dropout=True, dtype="f8")
    for hidden in shapes.EVALUATED_HIDDEN.values():
        for rows in shapes.EVALUATED_ROWS:
            yield of_sizes(shapes.EVALUATED_V, hidden, 2, rows, 32)
    V = len(parity.load_text().vocabulary)
    for config, _ in parity.CASES.values():
        yield trained(V, config)
    for precision in LEAST_CAPABILITY:
        yield trained(V, replace(parity.ROUNDED, precision=precision))
        yield trained(
            shapes.TRAINED_V, TrainConfig(hidden=shapes.SCALED_HIDDEN, window=4, batch=3, precision=precision)
        )
        for shape in shapes.ROUNDED:
            yield of_sizes(*shape, precision=precision, dropout=True)
    for sizes in speed.CONFIGURATIONS:
        yield of_sizes(sizes.V, sizes.H, sizes.L, sizes.B, sizes.T, sizes.precision)
    for rows in (run.CONFIG.batch, CHUNKS):
        yield trained(V, replace(run.CONFIG, batch=rows))


def trained(V: int, config: TrainConfig) -> Work:
    window = Window(config.window, config.batch, config.dropout > 0)
    return Work(ModelConfig(V, config.hidden, config.layers), window, config.precision)


def run_stage(report: Report) -> None:
    sources = everything(device_under_test())
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    # Processes are spawned, since one that is forked from a process that has used CUDA cannot use it.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=die_with_the_starter, initargs=(os.getpid(),)) as pool:
        outcomes = dict(zip(sources, pool.map(compiled, sources), strict=True))
    for file in dict.fromkeys(file for file, _, _ in sources):
        ours = [outcome for (name, _, _), outcome in outcomes.items() if name == file]
        errors = [error for _, error in ours if error]
        times = {"seconds in all processes": sum(seconds for seconds, _ in ours)}
        report.add(file, not errors, times, builds=len(ours), note=errors[0] if errors else f"{len(ours)} builds")


def compiled(source: Source) -> tuple[float, str | None]:
    """Compile a file, and return how many seconds that took, and the error if it does not compile."""
    file, macros, cooperative = source
    began, error = perf_counter(), None
    try:
        own_device().kernels(file, dict(macros), cooperative)
    except CucharError as found:
        error = str(found)
    return perf_counter() - began, error


own_device = cache(device_under_test)  # each process has its own
