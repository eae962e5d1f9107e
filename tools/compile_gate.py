"""Registers, spills and shared memory of every kernel on every architecture. No GPU and no toolkit is needed.

    python tools/compile_gate.py [--write]

Compiles the files of kernels/ to machine code through NVRTC with the options that CuPy's RawModule
passes, for the shapes in `builds`: each file with its defaults, and for the kernels whose sizes are macros
the configurations of `cuchar bench` and the edges of what plan.py takes on each architecture. Prints one row a kernel,
shape and architecture; --write puts them into kernels/registers.md, with which tests/test_compile_gate.py
compares. Machine code is kept in ~/.cache/cuchar/cubins, by the hash of all that it depends on.

Needs cupy-cuda12x, nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12 (`pip install 'cuchar[test]'`).
"""

import argparse
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from functools import cache
from io import StringIO
from pathlib import Path

from cuchar.bench.configurations import NAMED
from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.devices.kernel_sources import join, kernel_folder, signatures
from cuchar.engines.cuda.gemm import TILES
from cuchar.engines.cuda.head import one_pass_head
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import LEAST_CAPABILITY, make_plan, resident_plan, sample_plan
from cuchar.engines.cuda.resident import OneBlock, Resident
from cuchar.engines.cuda.stepwise import draw_warps

TABLE = Path(__file__).parent.parent / "kernels/registers.md"
OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")  # RawModule's, without include paths
WINDOW = 32  # T; B is such that plan.py takes a cluster of two where there are clusters, or does not
BATCHES = {"cluster": 32, "single": 128}
CHARACTERS = 84  # the notebook's vocabulary on data/shakespeare.txt
MOST_HIDDEN, MOST_PERSISTENT, DEPTHS = 256, 2048, (1, 2, 3, 4, 8)  # where to look for the edges of two regimes
PARTITIONS = 4  # of a multiprocessor; each has a quarter of the registers and every fourth warp of a block
GROUP_THREADS = {"sum_rows": 1024, "sum_rows_by_id": 128}  # a block's, where that is not 256


@dataclass(frozen=True)
class Architecture:
    """What a block and a multiprocessor have; CUDA C++ Programming Guide, "Technical specifications"."""

    capability: int
    example: str
    multiprocessors: int  # of the example
    shared_bytes: int  # of a block that opts in
    shared_total: int  # of a multiprocessor
    shared_reserved: int  # of each block, by the system
    warps: int  # of a multiprocessor
    blocks: int
    registers: int = 65_536

    @property
    def limits(self) -> Limits:
        return Limits(self.capability, self.multiprocessors, self.shared_bytes, self.registers)

    def blocks_at_once(self, registers: int, threads: int, shared: int) -> int:
        """Blocks on a multiprocessor: the least of four limits, as in cuda_occupancy.h."""
        warps = -(-threads // 32)
        of_warp = 32 * 8 * -(-registers // 8)
        by_registers = self.registers // PARTITIONS // of_warp * PARTITIONS // warps
        if of_warp * PARTITIONS * -(-warps // PARTITIONS) > self.registers or shared > self.shared_bytes:
            return 0
        by_shared = self.shared_total // max(1, shared + self.shared_reserved)
        return min(self.blocks, self.warps // warps, by_registers, by_shared)


ARCHITECTURES = {
    architecture.capability: architecture
    for architecture in (
        Architecture(70, "V100", 80, 98_304, 98_304, 0, 64, 32),
        Architecture(75, "T4", 40, 65_536, 65_536, 0, 32, 16),
        Architecture(80, "A100", 108, 166_912, 167_936, 1024, 64, 32),
        Architecture(86, "A40", 84, 101_376, 102_400, 1024, 48, 16),
        Architecture(89, "L40", 142, 101_376, 102_400, 1024, 48, 24),
        Architecture(90, "H100", 132, 232_448, 233_472, 1024, 64, 32),
        Architecture(100, "B200", 148, 232_448, 233_472, 1024, 64, 32),
        Architecture(120, "RTX 5090", 170, 101_376, 102_400, 1024, 48, 24),
    )
}


@dataclass(frozen=True, order=True)
class Build:
    """One file, compiled once. `launches`: threads and dynamic shared bytes of blocks, where not GROUP_THREADS or 256, and 0."""

    file: str
    shape: str
    capability: int
    macros: tuple[tuple[str, int | str], ...] = ()
    launches: tuple[tuple[str, int, int], ...] = ()  # of the kernels named

    def launch(self, kernel: str) -> tuple[int, int]:
        given = {name: (threads, shared) for name, threads, shared in self.launches}
        return given.get(kernel, (GROUP_THREADS.get(kernel, 256), 0))

    @property
    def source(self) -> str:
        return join(self.file, dict(self.macros))


@dataclass(frozen=True)
class Row:
    """What the compiler says of a kernel, and how many of its blocks a multiprocessor holds at once."""

    file: str
    kernel: str
    shape: str
    arch: str
    threads: int
    registers: int
    spill_bytes: int  # stores and loads
    stack_bytes: int
    shared_bytes: int  # static and dynamic
    blocks: int
    warps_percent: int

    @property
    def faults(self) -> list[str]:
        """What a kernel that plan.py takes must not have; double precision, for gradient checks, may spill."""
        found = [] if self.blocks else ["no block of it fits a multiprocessor"]
        if not self.shape.startswith("double"):
            found += [f"{self.spill_bytes} bytes of spill"] if self.spill_bytes else []
            found += [f"{self.stack_bytes} bytes of stack"] if self.stack_bytes else []
        name = f"{self.file} {self.kernel} {self.shape} {self.arch}, {self.registers} registers"
        return [f"{name}: {fault}" for fault in found]


@dataclass(frozen=True)
class Usage:
    """A kernel's line of the compiler's log."""

    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int  # static


def builds() -> list[Build]:
    """Everything that the table has a row of, on the architectures that NVRTC knows."""
    from cupy.cuda import nvrtc

    found: set[Build] = set()
    for capability, architecture in ARCHITECTURES.items():
        if capability not in nvrtc.getSupportedArchs():
            continue
        found |= set(_shape_free(capability, "float")) | set(_reduced(capability))
        for model in edge_models(architecture, 4):
            for dropout in (0, 1):
                found |= set(_resident(model, architecture, "float", dropout))
            found |= set(_sampling(model, architecture, "float"))
        for model in persistent_models(architecture, 4):
            for dropout in (0, 1):
                found |= set(_persistent(model, architecture, "float", dropout))
        for model, B, precision in configurations(architecture):
            found |= set(_persistent(model, architecture, "float", 0, precision, B))
        for precision in (name for name, least in LEAST_CAPABILITY.items() if name != "fp32" and capability >= least):
            for model in persistent_models(architecture, 4, precision, (1, 2)):
                found |= set(_persistent(model, architecture, "float", 1, precision))
        for V, H in ((CHARACTERS, 64), (68, 512), (512, 512)):
            found.add(_head(V, H, capability, "float"))
    hopper = ARCHITECTURES[90]
    found |= set(_shape_free(90, "double"))
    found.add(_head(CHARACTERS, 64, 90, "double"))
    found |= set(_persistent(ModelConfig(20, 33, 3), hopper, "double", 1))
    for model in edge_models(hopper, 8):
        if model.vocabulary_size == CHARACTERS and model.layers < 3:
            found |= set(_resident(model, hopper, "double", 0))
            found |= set(_sampling(model, hopper, "double"))
    return sorted(found)


def _shape_free(capability: int, real: str) -> Iterable[Build]:
    macros = () if real == "float" else (("REAL", real),)
    for file in "adam begin_window cell dropout gradient_norm softmax sums".split():
        yield Build(f"{file}.cu", real, capability, macros)
    for V in (CHARACTERS, 65_536):
        warps = draw_warps(ModelConfig(V, 1, 1))
        yield Build(
            "sampling/draw.cu",
            f"{real} V{V}",
            capability,
            (("REAL", real), ("WARPS", warps)),
            (("draw_ids", 32 * warps, 0),),
        )
    if real == "float":
        yield Build("training/windows.cu", "1-byte ids", capability, (("ID", "unsigned char"),))
        yield Build("training/windows.cu", "2-byte ids", capability, (("ID", "unsigned short"),))


def _reduced(capability: int) -> Iterable[Build]:
    """In the precisions that the architecture has, and what scales fp16's gradients."""
    if "fp16" in precisions(capability):
        for file in "adam gradient_norm softmax".split():
            yield Build(f"{file}.cu", "float, scaled for fp16", capability, (("SCALED", 1),))
    for precision in precisions(capability):
        operand = ("PRECISION", precision.capitalize())
        if precision != "tf32":  # which cuBLAS rounds to by itself
            yield Build("gemm/round.cu", precision, capability, (operand,))
        for tile in TILES:
            launches = (("tensor_gemm", 4 * tile, 0),)
            yield Build(
                "gemm/tensor_gemm.cu", f"{precision} tile {tile}", capability, (operand, ("TILE", tile)), launches
            )


def precisions(capability: int) -> list[str]:
    """That tensor cores have."""
    return [name for name, least in LEAST_CAPABILITY.items() if name != "fp32" and least <= capability]


def _head(V: int, H: int, capability: int, real: str) -> Build:
    if not one_pass_head(ModelConfig(V, H, 1), 8 if real == "double" else 4):
        raise ValueError(f"V{V} {real}: kernels/head.cu does not take it")
    macros = (("REAL", real), ("HIDDEN", H), ("VOCABULARY", V))
    return Build("head/head.cu", f"{real} V{V} H{H}", capability, macros)


def _resident(model: ModelConfig, architecture: Architecture, real: str, dropout: int) -> Iterable[Build]:
    """The builds that the plans for this model ask for, as ResidentLaunches makes them."""
    sizes = (("HIDDEN", model.hidden), ("LAYERS", model.layers), ("VOCABULARY", model.vocabulary_size))
    macros = (("REAL", real), *sizes)
    shape = f"{real} V{model.vocabulary_size} H{model.hidden} L{model.layers}"
    for B in BATCHES.values():
        plan = _plan(model, architecture, 8 if real == "double" else 4, B)
        if isinstance(plan, Resident):
            own = (("CLUSTER", plan.cluster), ("DROPOUT", dropout), ("SHARED_BYTES", plan.shared_bytes))
            launches = tuple((kernel, plan.threads, plan.shared_bytes) for kernel in ("lstm_forward", "lstm_step"))
            yield Build(
                "resident/lstm_resident.cu", f"{shape} cluster {plan.cluster} dropout {dropout}", architecture.capability,
                macros + own, launches,
            )  # fmt: skip
            yield Build("resident/weight_gradients.cu", shape, architecture.capability, macros)


def _sampling(model: ModelConfig, architecture: Architecture, real: str) -> Iterable[Build]:
    """As ResidentSteps makes it."""
    plan = sample_plan(model, "f8" if real == "double" else "f4", architecture.limits)
    if isinstance(plan, OneBlock):
        sizes = (("HIDDEN", model.hidden), ("LAYERS", model.layers), ("VOCABULARY", model.vocabulary_size))
        macros = (("REAL", real), *sizes, ("SHARED_BYTES", plan.shared_bytes))
        shape = f"{real} V{model.vocabulary_size} H{model.hidden} L{model.layers}"
        launches = (("lstm_sample", plan.threads, plan.shared_bytes),)
        yield Build("sampling/lstm_sample.cu", shape, architecture.capability, macros, launches)


def _persistent(
    model: ModelConfig,
    architecture: Architecture,
    real: str,
    dropout: int,
    precision: str = "fp32",
    B: int = BATCHES["cluster"],
) -> Iterable[Build]:
    """As PersistentRecurrence makes them."""
    plan = _plan(model, architecture, 8 if real == "double" else 4, B, precision)
    assert isinstance(plan, Persistent)
    sizes = {"REAL": real, "HIDDEN": model.hidden, "LAYERS": model.layers, "VOCABULARY": model.vocabulary_size}
    shape = f"{real} V{model.vocabulary_size} H{model.hidden} L{model.layers} B{B} dropout {dropout}"
    reduced: dict[str, str] = {}
    if precision != "fp32":
        shape, reduced = f"{precision} {shape}", {"PRECISION": precision.capitalize()}
    for name, launch in (("persistent_forward", plan.forward), ("persistent_backward", plan.backward)):
        macros = tuple((sizes | launch.macros | {"DROPOUT": dropout} | reduced).items())
        yield Build(
            f"{name}.cu", shape, architecture.capability, macros, ((name, launch.threads, launch.shared_bytes),)
        )


@cache
def persistent_models(
    architecture: Architecture, itemsize: int, precision: str = "fp32", depths: tuple[int, ...] = DEPTHS
) -> list[ModelConfig]:
    """By depth, the largest model that is spread over the chip, and the largest whose rows are not aligned."""

    def taken(model: ModelConfig) -> bool:
        return isinstance(_plan(model, architecture, itemsize, BATCHES["cluster"], precision), Persistent)

    found = []
    for L in depths:
        whole = next((H for H in range(MOST_PERSISTENT, 0, -16) if taken(ModelConfig(CHARACTERS, H, L))), 0)
        odd = next((H for H in range(whole - 1, 0, -2) if taken(ModelConfig(CHARACTERS, H, L))), 0)
        found += [ModelConfig(CHARACTERS, H, L) for H in (whole, odd) if H]
    return found


def configurations(architecture: Architecture) -> Iterable[tuple[ModelConfig, int, str]]:
    """Model, batch and precision of what `cuchar bench` has a name for, where it is spread over the chip.

    The batch decides how many rows a block has, and with them what the compiler unrolls: the edges alone do not tell.
    """
    for sizes in NAMED.values():
        for precision in ("fp32", *precisions(architecture.capability)):
            if isinstance(_plan(sizes.model, architecture, 4, sizes.B, precision), Persistent):
                yield sizes.model, sizes.B, precision


def _plan(model: ModelConfig, architecture: Architecture, itemsize: int, B: int, precision: str = "fp32") -> object:
    return make_plan(model, WINDOW, B, f"f{itemsize}", architecture.limits, precision)


@cache
def edge_models(architecture: Architecture, itemsize: int) -> list[ModelConfig]:
    """The notebook's model and the largest that plan.py takes: by depth, of sizes that fill their warps or do not."""

    def taken(model: ModelConfig) -> bool:
        return any(resident_plan(model, WINDOW, B, itemsize, architecture.limits) for B in BATCHES.values())

    found = [ModelConfig(CHARACTERS, 64, 2)]
    for V, depths in ((CHARACTERS, DEPTHS), (512, (1, 2))):
        for L in depths:
            sizes = [H for H in range(1, MOST_HIDDEN) if taken(ModelConfig(V, H, L))]
            if MOST_HIDDEN - 1 in sizes:
                raise ValueError(f"H={MOST_HIDDEN - 1} L={L} V={V} is resident: raise MOST_HIDDEN")
            whole = [H for H in sizes if H % 16 == 0]
            rest = [H for H in sizes if H % 16]
            odd = [H for H in sizes if H % 4]
            found += [
                ModelConfig(V, max(some), L) for some in (whole, rest, odd)[: 3 if V == CHARACTERS else 2] if some
            ]
    return [model for model in dict.fromkeys(found) if taken(model)]


def compile_source(source: str, capability: int, more: tuple[str, ...] = ()) -> tuple[bytes, str]:
    """Machine code and the compiler's log.

    Raises:
        RuntimeError: NVRTC is missing, or rejects the source.
    """
    options = (f"-arch=sm_{capability}", "--ptxas-options=-v", *OPTIONS, *more)
    key = hashlib.sha256(json.dumps([source, options, nvrtc_version()]).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cuchar/cubins"
    cubin, log = folder / f"{key}.cubin", folder / f"{key}.log"
    if not log.is_file():
        from cupy.cuda import compiler

        text = StringIO()
        try:
            code, _ = compiler._NVRTCProgram(source, "kernels.cu", method="cubin").compile(options, text)
        except compiler.CompileException as error:
            raise RuntimeError(f"sm_{capability}: {error}") from None
        folder.mkdir(parents=True, exist_ok=True)
        _write(cubin, code + b"\0")  # CuPy leaves out the last byte, as if it were a string's
        _write(log, text.getvalue().encode())
    return cubin.read_bytes(), log.read_text()


def _write(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


@cache
def nvrtc_version() -> str:
    """Of the compiler that CuPy finds, as its machine code says.

    Raises:
        RuntimeError: there is none.
    """
    try:
        from cupy.cuda import compiler

        code, _ = compiler._NVRTCProgram("", "empty.cu", method="ptx").compile(("-arch=compute_75",))
    except Exception as error:
        raise RuntimeError(f"expected NVRTC for CuPy, found: {error}; pip install 'cuchar[test]'") from None
    found = re.search(r"release [\d.]+, V([\d.]+)", code.decode())
    if not found:
        raise RuntimeError("expected NVRTC to name its version in what it compiles, found none")
    return found[1]


_USAGE = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers([^\n]*)",
    re.DOTALL,
)


def usages(log: str) -> dict[str, Usage]:
    """What a log says, kernel by kernel."""
    found = {}
    for name, stack, stores, loads, registers, rest in _USAGE.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[name] = Usage(int(registers), int(stores) + int(loads), int(stack), int(shared[1]) if shared else 0)
    return found


def rows_of(build: Build) -> list[Row]:
    """A row for every kernel in a build."""
    source, architecture = build.source, ARCHITECTURES[build.capability]
    _, log = compile_source(source, build.capability)
    found = usages(log)
    if sorted(found) != sorted(signatures(source)):
        raise RuntimeError(f"{build}: expected kernels {signatures(source)}, found {sorted(found)} in the log")
    rows = []
    for name in signatures(source):
        usage, (threads, dynamic) = found[name], build.launch(name)
        shared = usage.shared_bytes + dynamic
        blocks = architecture.blocks_at_once(usage.registers, threads, shared)
        of_warps = round(100 * blocks * -(-threads // 32) / architecture.warps)
        facts = (threads, usage.registers, usage.spill_bytes, usage.stack_bytes, shared, blocks, of_warps)
        rows.append(Row(build.file, name, build.shape, f"sm_{build.capability}", *facts))
    return rows


def all_rows() -> list[Row]:
    nvrtc_version()  # complains here rather than in a worker
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        return [row for rows in pool.map(rows_of, builds(), chunksize=2) for row in rows]


HEADER = """\
# Registers, spills, shared memory

Every kernel as NVRTC {version} compiles it, by `python tools/compile_gate.py --write`. Nothing here was measured.

spill: bytes stored and loaded; shared: bytes, static and dynamic; blocks, warps: what a multiprocessor
holds at once by registers, threads and shared memory, and the part of its warps that this is.

"""
COLUMNS = ("file", "kernel", "shape", "arch", "threads", "registers", "spill", "stack", "shared", "blocks", "warps")


def table(rows: list[Row]) -> str:
    """The text of kernels/registers.md."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *([*astuple(row)[:-1], f"{row.warps_percent}%"] for row in rows)]
    text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
    return HEADER.format(version=nvrtc_version()) + text + "\n"


def uncovered(rows: list[Row], capability: int) -> list[str]:
    """Kernels of kernels/ without a row on an architecture that has what they need, and precisions without one."""
    files = [path.name for path in kernel_folder().glob("*.cu")]
    defined = {(file, name) for file in files for name in signatures(join(file, {}))}
    if not precisions(capability):
        defined -= {("gemm/tensor_gemm.cu", "tensor_gemm"), ("gemm/round.cu", "round_numbers")}
    shapes = {row.shape.split()[0] for row in rows}
    return sorted(
        [f"{file} {name}" for file, name in defined - {(row.file, row.kernel) for row in rows}]
        + [precision for precision in precisions(capability) if precision not in shapes]
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help=f"into {TABLE.name}")
    options = arguments.parse_args()
    rows = all_rows()
    print(table(rows), end="")
    if options.write:
        TABLE.write_text(table(rows), "utf-8")
    faults = [fault for row in rows for fault in row.faults]
    raise SystemExit("\n".join(faults) if faults else 0)


if __name__ == "__main__":
    main()
