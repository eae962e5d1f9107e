"""Times persistent launches by how they divide batch and units; engines/cuda/persistent.py's clocks are fitted to this.

    python benchmarks/divisions.py [--out FILE] [--fit FILE]

On a GPU the script takes every division whose estimated time is at most MOST times that of the best, for each direction
by itself. It compiles them side by side, and then times each by the GPU's clock. With --fit it needs no GPU: it fits
the clocks to a file's times, and prints them, how far the fitted times are off, and how the division that the planner
would choose by them compares with the best one.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cuchar.bench.configurations import Configuration
from cuchar.bench.machine import gpu_facts, versions
from cuchar.devices.cupy_device import CudaDevice
from cuchar.devices.device import REGISTER_UNIT
from cuchar.engines.cuda.gradients import GemmLaunches
from cuchar.engines.cuda.persistent import Division, divisions, ffma_tile, plan_window, tensor_tile
from cuchar.engines.cuda.tape import STEP, Backward, Tape, Weights
from cuchar.engines.cuda.target import Target, Window
from cuchar.parameters import initialise
from cuchar.sizes import ceil_div

CONFIGURATIONS = [
    Configuration("2x64", 68, 64, 2, 50, 50), Configuration("2x128", 68, 128, 2, 50, 50),
    Configuration("2x256", 68, 256, 2, 50, 50), Configuration("2x512", 68, 512, 2, 50, 50),
    Configuration("3x512", 68, 512, 3, 50, 50), Configuration("1x1024", 68, 1024, 1, 50, 50),
    Configuration("2x384", 68, 384, 2, 128, 50), Configuration("2x128, 400 rows", 68, 128, 2, 400, 20),
    Configuration("2x512 tf32", 68, 512, 2, 50, 50, "tf32"), Configuration("2x256 bf16", 68, 256, 2, 50, 50, "bf16"),
    Configuration("2x512 bf16", 68, 512, 2, 50, 50, "bf16"), Configuration("3x512 bf16", 68, 512, 3, 50, 50, "bf16"),
    Configuration("2x640 bf16", 68, 640, 2, 64, 50, "bf16"),
]  # fmt: skip
MOST = 1.8  # times the least estimate: divisions that are estimated to be slower are not timed
AT_MOST = 22  # divisions of a configuration and direction that are timed
REPEATS, ROUNDS = 6, 3  # launches that are timed together; how often
HERTZ = 1.98e9  # the clock of an H200 while it computes
DIRECTIONS = ("forward", "backward")
Job = tuple[Configuration, str, Division]

device = cache(CudaDevice)  # each process has its own


def jobs() -> Iterator[Job]:
    for sizes in CONFIGURATIONS:
        for direction in DIRECTIONS:
            found = sorted(divisions(direction, target(sizes), sizes.B), key=lambda one: one[0])
            yield from (
                (sizes, direction, launch) for clocks, launch in found[:AT_MOST] if clocks <= MOST * found[0][0]
            )


def target(sizes: Configuration) -> Target:
    return Target(device(), sizes.model, np.dtype("f4"), sizes.precision)


def kernels(job: Job) -> GemmLaunches:
    """The launches of the best plan, but with the job's division in the job's direction."""
    sizes, direction, launch = job
    best = plan_window(target(sizes), Window(sizes.T, sizes.B))
    return replace(best, **{direction: launch}).launches(target(sizes), dropout=False)


def compile_for(job: Job) -> None:
    kernels(job)


def us_of(job: Job) -> float:
    """Microseconds of a launch. begin_window must go before each, to set the flags to zero; its time is subtracted."""
    sizes, direction, _ = job
    V, H, L, B, T = sizes.V, sizes.H, sizes.L, sizes.B, sizes.T
    launches, generator, window = kernels(job), np.random.default_rng(0), Window(T, B)
    weights = Weights.of(target(sizes), initialise(sizes.model, 0).flat)
    tape = Tape(target(sizes), window, launches.flags)
    backward = Backward(target(sizes), window, splits=1)
    tape.order(np.zeros(1, STEP))
    tape.put(generator.integers(V, size=(T, B)))
    for array, scale in ((tape.h, 0.1), (tape.c, 0.1), (tape.gates, 1), (backward.dh, 1e-3)):
        device().write(array, (scale * generator.random(array.shape)).astype("f4"))

    def begin() -> None:
        launches._begin(
            ceil_div(L * B * H, 256), 256, h=tape.h, c=tape.c, progress=tape.progress, flags=tape.flags,
            flag_count=tape.flags.size, L=L, T=T, BH=B * H, carry=False,
        )  # fmt: skip

    def both() -> None:
        begin()
        if direction == "forward":
            launches._recurrence.forward(weights, tape, None)
        else:
            launches._recurrence.backward(weights, tape, backward, None)

    def us(work: Any) -> float:
        def repeat() -> None:
            for _ in range(REPEATS):
                work()

        replay = device().capture(repeat)  # uncaptured, a small launch would take as long as Python's call of it
        times = [device().elapsed_ms(replay) for _ in range(ROUNDS + 1)]
        return median(times[1:]) / REPEATS * 1e3

    found = us(both) - us(begin)
    tape.expect_no_wait()
    return found


def measure(out: Path) -> None:
    todo = list(jobs())
    with ProcessPoolExecutor(min(16, os.cpu_count() or 1), get_context("spawn")) as pool:
        list(pool.map(compile_for, todo))
    machine = {"device": device().name, **versions(), **gpu_facts(device())}
    results = []
    for job in todo:
        sizes, direction, launch = job
        results.append({"configuration": asdict(sizes), "direction": direction, **asdict(launch), "us": us_of(job)})
        out.write_text(json.dumps({"machine": machine, "results": results}, indent=0) + "\n", "utf-8")


def terms(sizes: dict[str, Any], direction: str, launch: dict[str, Any]) -> list[float]:
    """The factors of the four fitted clocks in a time step's estimate.

    They are: parts; products; products times a tile's registers, for every 128 threads; thousands of bytes of rows.
    """
    H, forward, precision = sizes["H"], direction == "forward", sizes["precision"]
    inputs, lanes = (H, 8) if forward else (4 * H, 16)
    tile = ffma_tile(inputs, lanes, 4) if precision == "fp32" else tensor_tile(inputs, precision)
    products = launch["parts"] * ceil_div(launch["rows"], tile.at_once)
    warps = ceil_div(launch["threads"], REGISTER_UNIT)
    return [
        launch["parts"],
        products,
        products * warps * tile.registers,
        launch["parts"] * launch["rows"] * inputs * 4e-3,
    ]


def fit(file: Path) -> None:
    found = json.loads(file.read_text("utf-8"))
    hertz = HERTZ
    for name, exact in (("FFMA", True), ("tensor cores", False)):
        rows = [row for row in found["results"] if (row["configuration"]["precision"] == "fp32") == exact]
        X = np.array([terms(row["configuration"], row["direction"], row) for row in rows], float)
        y = np.array([row["us"] * 1e-6 * hertz / row["configuration"]["T"] for row in rows])
        clocks = np.linalg.lstsq(X / y[:, None], np.ones(len(y)), rcond=None)[0]
        error = X @ clocks / y - 1
        print(
            f"{name}: {len(rows)} launches; clocks of a part, a product, a register of weights, 1000 bytes: {clocks.round(2)}"
        )
        print(f"  off by {np.sqrt((error**2).mean()):.3f} (root mean square), at most {abs(error).max():.3f}")
        groups: dict[tuple[str, str], list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault((row["configuration"]["name"], row["direction"]), []).append(number)
        for group, numbers in groups.items():
            taken = min(numbers, key=lambda number: X[number] @ clocks)
            print("  {} {}: takes {:.3f} of the best".format(*group, y[taken] / y[numbers].min()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("divisions.json"))
    parser.add_argument("--fit", type=Path, help="a file of times")
    options = parser.parse_args()
    fit(options.fit) if options.fit else measure(options.out)


if __name__ == "__main__":
    sys.exit(main())
