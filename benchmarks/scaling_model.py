"""From which batch on do several GPUs train faster than one? An estimate; no second GPU was there to measure.

    python benchmarks/scaling_model.py [--speed benchmarks/results/gpu-h200-2026-11-26/speed.json]

A training step on one GPU is taken apart by the measured times of its kernels: a part that takes the same time whatever
the number of rows (the recurrence, whose time steps wait for each other, and Adam), and a part that grows with the rows
(products over all characters, the head). Of R GPUs each has 1/R of the rows, so that only the second part becomes shorter,
and all must add up the gradients:

    t(rows) = fixed + rows * per_row        R GPUs: t(rows / R) + sum
    sum = 2 (R - 1) / R * 4 (P + 1) bytes / bandwidth + 2 log2(R) * latency

(the bytes of a reduce-scatter and an all-gather; the latency of a tree, as NCCL takes for small arrays: Thakur, Rabenseifner
and Gropp 2005, "Optimization of collective communication operations in MPICH"). The resident regime has a multiprocessor,
or a cluster of two, for each row: more rows are free until all are taken, and then a further round begins.
"""

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

from cuchar.bench.configurations import NAMED, Configuration
from cuchar.parameters import parameter_count

SPEED = Path(__file__).parent / "results" / "gpu-h200-2026-11-26" / "speed.json"
# What does not become shorter with fewer rows: the recurrence of each regime, and what works on parameters.
FIXED = ("persistent_", "cell_", "round_numbers", "adam", "gradient_norm", "begin_window", "cut_windows")
ROWS_AT_ONCE = 66  # rows of the resident regime that an H200 computes at once: 132 multiprocessors, two a row


@dataclass(frozen=True)
class Link:
    """What carries the gradients: bytes a second that a GPU really sends and receives, and seconds a message."""

    name: str
    bandwidth: float
    latency: float


# Of NVIDIA's and PCI-SIG's nominal 450, 64 and 12.5 GB/s a direction, what all-reduces are commonly seen to reach.
LINKS = (
    Link("NVLink 4", 340e9, 3e-6),
    Link("PCIe 5.0 x16", 40e9, 6e-6),
    Link("100 Gb/s network", 11e9, 15e-6),
)
SIZES = (8, 64)  # GPUs; 64 are 8 machines of 8, whose network carries what leaves a machine


@dataclass(frozen=True)
class Step:
    """A training step on one GPU, in seconds. `at_once` rows take the time of one."""

    fixed: float
    per_row: float
    at_once: int

    def seconds(self, rows: float) -> float:
        return self.fixed + math.ceil(rows / self.at_once) * self.at_once * self.per_row


def step_of(name: str, speed: dict) -> Step:
    """The step of a named configuration, from what `make gpu` measured of its kernels and of the whole step."""
    sizes = NAMED[name]
    title = f"V{sizes.V} H{sizes.H} L{sizes.L} B{sizes.B} T{sizes.T}" + f" {sizes.precision}" * (
        sizes.precision != "fp32"
    )
    found = {result["name"]: result for result in speed["results"]}
    kernels, whole = found[f"kernels: {title}"], found[f"step: {title}"]["times"]["cuchar"]["ms"] / 1e3
    times = {kernel: kernels["launches"][kernel] * us / 1e6 for kernel, us in kernels["times"]["us a launch"].items()}
    if "lstm_step" in times:
        return Step(whole - times["lstm_step"], times["lstm_step"] / ROWS_AT_ONCE, ROWS_AT_ONCE)
    of_a_step = f"gemm {sizes.B}x"  # stepwise: a product of every time step, whose time is that of its weights
    growing = sum(us for kernel, us in times.items() if not kernel.startswith((*FIXED, of_a_step)))
    return Step(whole - growing, growing / sizes.B, 1)


def summing(sizes: Configuration, link: Link, gpus: int) -> float:
    """Seconds that R GPUs take to add up the gradients."""
    bytes_ = 4 * (parameter_count(sizes.model) + 1)
    return 2 * (gpus - 1) / gpus * bytes_ / link.bandwidth + 2 * math.log2(gpus) * link.latency


def speedup(step: Step, sizes: Configuration, link: Link, gpus: int, rows: int) -> float:
    return step.seconds(rows) / (step.seconds(rows / gpus) + summing(sizes, link, gpus))


def batch_for(step: Step, sizes: Configuration, link: Link, gpus: int, wanted: float) -> int | None:
    """The least batch, a power of two times the GPUs, from which on the speed-up is as large as wanted."""
    for exponent in range(24):
        if speedup(step, sizes, link, gpus, gpus * 2**exponent) >= wanted:
            return gpus * 2**exponent
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speed", type=Path, default=SPEED)
    speed = json.loads(parser.parse_args().speed.read_text("utf-8"))
    print(
        "| configuration | fixed + a row, µs | GPUs, through | sum, µs | speed-up at its batch | faster from | half of R times from |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in "abcd":
        sizes, step = NAMED[name], step_of(name, speed)
        for gpus in SIZES:
            for link in LINKS if gpus == SIZES[0] else LINKS[-1:]:
                batches = [batch_for(step, sizes, link, gpus, wanted) for wanted in (1.0, gpus / 2)]
                shown = " | ".join("never" if batch is None else f"{batch:,}" for batch in batches)
                print(
                    f"| ({name}) B = {sizes.B} | {step.fixed * 1e6:,.0f} + {step.per_row * 1e6:.2f} | {gpus}, {link.name} | "
                    f"{summing(sizes, link, gpus) * 1e6:,.0f} | {speedup(step, sizes, link, gpus, sizes.B):.2f} | {shown} |"
                )


if __name__ == "__main__":
    main()
