"""The compile gate: it fails if a kernel spills registers, has a stack or cannot be launched, on any architecture.

    python tools/compile_gate.py

It compiles the files of kernels/ to machine code, which needs no GPU, with the macros that engines of many sizes ask
for: the sizes of `cuchar bench`, and for each regime and architecture the largest models that fit, where registers are
scarcest. It prints a row for each kernel, and names every fault that it finds. It takes many minutes, but what was
compiled before is not compiled again (tools/machine_code.py).
"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import numpy as np
from architectures import ARCHITECTURES, Architecture
from listing import Listing
from machine_code import Usage, compile_source, nvrtc_version, usages

from cuchar.bench.configurations import NAMED
from cuchar.config import ModelConfig
from cuchar.devices.kernel_sources import join, kernel_folder
from cuchar.devices.signatures import signatures
from cuchar.engines.cuda import resident
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import LEAST_CAPABILITY, plan_window
from cuchar.engines.cuda.resident import Resident
from cuchar.engines.cuda.target import Window

T = 32
BATCHES = (32, 128)  # with 32 rows the planner takes a cluster of two where there are clusters, with 128 it does not
CHARACTERS = 84  # the notebook's vocabulary on data/shakespeare.txt
MOST_HIDDEN = 256  # hidden sizes below this are tried to find the largest resident models
MOST_PERSISTENT = 2048  # hidden sizes up to this are tried to find the largest persistent models
DEPTHS = (1, 2, 3, 4, 8)  # layers
STEPWISE = [
    ModelConfig(CHARACTERS, 64, 2),
    ModelConfig(68, 512, 1),
    ModelConfig(512, 512, 1),
    ModelConfig(65_536, 1, 1),
]


@dataclass(frozen=True, order=True)
class Build:
    """A file of kernels/, an architecture and macros: what is compiled once."""

    file: str
    capability: int
    macros: tuple[tuple[str, int | str], ...]


@dataclass(frozen=True)
class Row:
    """What a kernel of a build needs, and how many of its blocks a multiprocessor holds at once."""

    build: Build
    kernel: str
    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int  # static and dynamic together
    blocks: int

    @property
    def faults(self) -> list[str]:
        """The kernel's faults, in words; none if it may pass the gate."""
        macros = " ".join(f"{name}={value}" for name, value in self.build.macros)
        kernel = f"{self.build.file} {self.kernel} {macros} sm_{self.build.capability}, {self.registers} registers"
        found = {
            f"{self.spill_bytes} bytes of spill": self.spill_bytes > 0,
            f"{self.stack_bytes} bytes of stack": self.stack_bytes > 0,
            "no block of it fits a multiprocessor": self.blocks == 0,
        }
        return [f"{kernel}: {fault}" for fault, has in found.items() if has]


# ---- What is compiled ----


def builds() -> list[Build]:
    """All that is compiled: for every architecture that NVRTC knows in single precision, for Hopper also in double.

    Double precision is for gradient checks alone.
    """
    from cupy.cuda import nvrtc

    found = set()
    for capability in ARCHITECTURES.keys() & set(nvrtc.getSupportedArchs()):
        listings = [*in_single_precision(ARCHITECTURES[capability])]
        if capability == 90:
            listings += in_double_precision(ARCHITECTURES[90])
        found |= {Build(file, capability, macros) for listing in listings for file, macros, _ in listing.asked}
    return sorted(heads_that_differ(found), key=repr)


def heads_that_differ(builds: set[Build]) -> set[Build]:
    """All builds, but of head/head.cu only those with the most hidden units: one with aligned rows and one without.

    To that kernel H is only the length of its loops, and nearly every model has another.
    """
    kept, heads = set(), dict[object, Build]()
    for build in sorted(builds, key=lambda build: dict(build.macros).get("HIDDEN", 0)):
        macros = dict(build.macros)
        if build.file != "head/head.cu":
            kept.add(build)
        else:
            hidden = int(macros.pop("HIDDEN"))
            heads[build.capability, hidden % 4 == 0, *macros.items()] = build
    return kept | set(heads.values())


def in_single_precision(architecture: Architecture) -> Iterator[Listing]:
    listing = Listing(architecture.example, architecture.limits)
    listing.ask_for_windows()
    for model in resident_edges(architecture):
        listing.ask_for_drawing(listing.target(model))
        for B, dropout in product(BATCHES, (False, True)):
            if isinstance(_plan(model, architecture, B), Resident):
                listing.ask_for_training(listing.target(model), Window(T, B, dropout))
    for model, dropout in product(persistent_edges(architecture), (False, True)):
        listing.ask_for_training(listing.target(model), Window(T, BATCHES[0], dropout))
    for precision in precisions(architecture):
        listing.ask_for_both_products(precision)
        for model in persistent_edges(architecture, precision, (1, 2)):
            listing.ask_for_training(listing.target(model, precision), Window(T, BATCHES[0], dropout=True))
    # The batch decides how many rows a block has, and these decide what the compiler unrolls. So it is not enough to
    # compile the largest models with one batch.
    for sizes, precision in product(NAMED.values(), ("fp32", *precisions(architecture))):
        if isinstance(_plan(sizes.model, architecture, sizes.B, precision), Persistent):
            listing.ask_for_training(listing.target(sizes.model, precision), Window(T, sizes.B))
    yield listing
    stepwise = Listing(architecture.example, replace(architecture.limits, registers=0))
    for model, precision in product(STEPWISE, ("fp32", *precisions(architecture))):
        stepwise.ask_for_training(stepwise.target(model, precision), Window(T, BATCHES[0], dropout=True))
        stepwise.ask_for_drawing(stepwise.target(model))
    yield stepwise


def in_double_precision(architecture: Architecture) -> Iterator[Listing]:
    double, limits = np.float64, architecture.limits
    for model in resident_edges(architecture, 8):
        if model.vocabulary_size == CHARACTERS and model.layers < 3:
            listing = Listing(architecture.example, limits)
            listing.ask_for_training(listing.target(model, dtype=double), Window(T, BATCHES[0]))
            listing.ask_for_drawing(listing.target(model, dtype=double))
            yield listing
    persistent, stepwise = (Listing(architecture.example, of) for of in (limits, replace(limits, registers=0)))
    spread = persistent.target(ModelConfig(20, 33, 3), dtype=double)
    persistent.ask_for_training(spread, Window(T, BATCHES[0], dropout=True))
    for model in STEPWISE:
        stepwise.ask_for_training(stepwise.target(model, dtype=double), Window(T, BATCHES[0], dropout=True))
        stepwise.ask_for_drawing(stepwise.target(model, dtype=double))
    yield from (persistent, stepwise)


def precisions(architecture: Architecture) -> list[str]:
    """The precisions that the architecture's tensor cores have."""
    return [name for name, least in LEAST_CAPABILITY.items() if name != "fp32" and least <= architecture.capability]


def _plan(model: ModelConfig, architecture: Architecture, B: int, precision: str = "fp32") -> object:
    target = Listing(architecture.example, architecture.limits).target(model, precision)
    return plan_window(target, Window(T, B))


@cache
def resident_edges(architecture: Architecture, itemsize: int = 4) -> list[ModelConfig]:
    """The notebook's model, and for each number of layers the largest resident models.

    One has a hidden size that is a multiple of 16, one a size that is not, and one a size that is not a multiple of 4.
    """

    def taken(model: ModelConfig) -> bool:
        target = Listing(architecture.example, architecture.limits).target(model, dtype=f"f{itemsize}")
        return any(resident.plan_window(target, Window(T, B)) for B in BATCHES)

    found = [ModelConfig(CHARACTERS, 64, 2)]
    for V, depths in ((CHARACTERS, DEPTHS), (512, (1, 2))):
        for L in depths:
            sizes = [H for H in range(1, MOST_HIDDEN) if taken(ModelConfig(V, H, L))]
            if MOST_HIDDEN - 1 in sizes:
                raise ValueError(f"H={MOST_HIDDEN - 1} L={L} V={V} is resident: raise MOST_HIDDEN")
            kinds = [[H for H in sizes if H % 16 == 0], [H for H in sizes if H % 16]]
            kinds += [[H for H in sizes if H % 4]] if V == CHARACTERS else []
            found += [ModelConfig(V, max(some), L) for some in kinds if some]
    return [model for model in dict.fromkeys(found) if taken(model)]


@cache
def persistent_edges(
    architecture: Architecture, precision: str = "fp32", depths: tuple[int, ...] = DEPTHS
) -> list[ModelConfig]:
    """For each number of layers the largest persistent model, and the largest whose rows are not aligned."""

    def taken(model: ModelConfig) -> bool:
        return isinstance(_plan(model, architecture, BATCHES[0], precision), Persistent)

    found = []
    for L in depths:
        whole = next((H for H in range(MOST_PERSISTENT, 0, -16) if taken(ModelConfig(CHARACTERS, H, L))), 0)
        odd = next((H for H in range(whole - 1, 0, -2) if taken(ModelConfig(CHARACTERS, H, L))), 0)
        found += [ModelConfig(CHARACTERS, H, L) for H in (whole, odd) if H]
    return found


# ---- What is found ----


def rows_of(build: Build) -> list[Row]:
    """Compile a build, and return a row for each of its kernels.

    Raises:
        RuntimeError: NVRTC is missing or rejects the source, or its log lacks a kernel.
    """
    source = join(build.file, dict(build.macros))
    found = usages(*compile_source(source, build.capability))
    if sorted(found) != sorted(signatures(source)):
        raise RuntimeError(f"{build}: expected kernels {signatures(source)}, found {sorted(found)} in the log")
    return [row_of(build, name, usage) for name, usage in found.items()]


def row_of(build: Build, kernel: str, usage: Usage) -> Row:
    shared = usage.shared_bytes + int(dict(build.macros).get("SHARED_BYTES", 0))
    blocks = ARCHITECTURES[build.capability].blocks_at_once(usage.registers, usage.threads, shared)
    return Row(build, kernel, usage.registers, usage.spill_bytes, usage.stack_bytes, shared, blocks)


def all_rows() -> list[Row]:
    nvrtc_version()  # if NVRTC is missing, the error is raised here, not in a process of the pool
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return [row for rows in pool.map(rows_of, builds(), chunksize=2) for row in rows]


def uncovered(rows: list[Row], architecture: Architecture) -> list[str]:
    """Kernels and precisions that have no row on an architecture, although it has what they need."""
    there = [row for row in rows if row.build.capability == architecture.capability]
    files = [str(path.relative_to(kernel_folder())) for path in kernel_folder().rglob("*.cu")]
    defined = {f"{file} {name}" for file in files for name in signatures(join(file, {}))}
    if not precisions(architecture):
        defined = {kernel for kernel in defined if not kernel.startswith("gemm/")}
    compiled = {str(dict(row.build.macros).get("PRECISION")).lower() for row in there}
    missing = defined - {f"{row.build.file} {row.kernel}" for row in there}
    return sorted(missing) + [precision for precision in precisions(architecture) if precision not in compiled]


def digest(rows: list[Row]) -> str:
    """A table with a line for each kernel: registers of a thread by architecture, the most spill and shared memory."""
    kernels: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        kernels.setdefault((row.build.file, row.kernel), []).append(row)
    architectures = sorted({row.build.capability for row in rows})
    table = [["file", "kernel", "variants", *(f"sm_{one}" for one in architectures), "spill", "shared"]]
    for (file, kernel), ours in sorted(kernels.items()):
        registers = [[row.registers for row in ours if row.build.capability == one] for one in architectures]
        spans = [
            f"{min(some)}-{max(some)}" if len(set(some)) > 1 else "".join(map(str, some[:1])) for some in registers
        ]
        variants = len({row.build.macros for row in ours})
        most = [max(row.spill_bytes for row in ours), max(row.shared_bytes for row in ours)]
        table.append([file, kernel, *map(str, [variants, *spans, *most])])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in table]
    return "\n".join([f"Registers of a thread, bytes of spill and shared memory, by NVRTC {nvrtc_version()}:", *lines])


def main() -> None:
    rows = all_rows()
    print(digest(rows))
    raise SystemExit("\n".join(fault for row in rows for fault in row.faults) or 0)


if __name__ == "__main__":
    main()
