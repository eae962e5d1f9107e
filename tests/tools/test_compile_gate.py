"""Every kernel, compiled for every architecture without a GPU: no spill, no stack, and as kernels/compile_gate.md says."""

import difflib
import re
from concurrent.futures import ProcessPoolExecutor

import compile_gate
import pytest

from cuchar.devices.kernel_sources import join, kernel_folder

FILES = sorted(path.name for path in kernel_folder().glob("*.cu"))
SPILLS = """
extern "C" __global__ void __launch_bounds__(1024) spills(float* numbers) {
    float held[96];
#pragma unroll
    for (int k = 0; k < 96; ++k) held[k] = numbers[k * 1024 + threadIdx.x];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 96; ++k) numbers[(k * 7 + 5) % 96 * 1024 + threadIdx.x] = held[k] * held[(k + 31) % 96];
}"""
STACKS = """
extern "C" __global__ void stacks(float* numbers, int which) {
    float held[16];
    for (int k = 0; k < 16; ++k) held[(k * which) % 16] = numbers[k];
    numbers[threadIdx.x] = held[(which + threadIdx.x) % 16];
}"""
INNOCENT = 'extern "C" __global__ void doubles(float* numbers) { numbers[threadIdx.x] *= 2; }'


@pytest.fixture(scope="module")
def rows():
    return compile_gate.all_rows()


def test_no_kernel_that_the_planner_takes_spills_or_has_a_stack(rows):
    faults = [fault for row in rows for fault in row.faults]
    assert not faults, "\n".join(faults)


def test_every_kernel_has_a_row_on_every_architecture(rows):
    for architecture in compile_gate.ARCHITECTURES:
        there = [row for row in rows if row.arch == f"sm_{architecture}"]
        assert compile_gate.uncovered(there, architecture) == []


def test_rows_that_are_missing_are_named(rows):
    there = [row for row in rows if row.arch == "sm_80"]
    assert compile_gate.uncovered([row for row in there if row.file != "training/adam.cu"], 80) == ["adam.cu adam"]
    assert compile_gate.uncovered([row for row in there if "bf16" not in row.shape], 80) == ["bf16"]


def test_the_committed_table_is_of_these_kernels(rows):
    committed = compile_gate.TABLE.read_text("utf-8")
    version = re.search(r"NVRTC (\S+)", committed)[1]
    advice = "run python tools/compile_gate.py --write and commit kernels/compile_gate.md"
    assert version == compile_gate.nvrtc_version(), f"expected NVRTC {version}, as the table; {advice}"
    changed = difflib.unified_diff(
        committed.splitlines(), compile_gate.table(rows).splitlines(), "committed", "now", n=0, lineterm=""
    )
    assert not (lines := list(changed)), "\n".join([advice, *lines])


@pytest.mark.parametrize("capability", [70, 90])
@pytest.mark.parametrize("file", FILES)
def test_a_file_compiles_without_macros(file, capability):
    compile_gate.compile_source(join(file, {}), capability)


@pytest.mark.parametrize(("source", "spills", "stacks"), [(SPILLS, 1, 1), (STACKS, 0, 1), (INNOCENT, 0, 0)])
@pytest.mark.parametrize("capability", sorted(compile_gate.ARCHITECTURES))
def test_the_gate_sees_a_planted_spill_and_a_planted_stack(capability, source, spills, stacks):
    """The spill has a stack to spill to."""
    (usage,) = compile_gate.usages(compile_gate.compile_source(source, capability)[1]).values()
    assert (usage.spill_bytes > 0, usage.stack_bytes > 0) == (spills, stacks)
    blocks = compile_gate.ARCHITECTURES[capability].blocks_at_once(usage.registers, 256, 0)
    row = compile_gate.Row(
        "planted.cu", "planted", "float", f"sm_{capability}", 256, usage.registers, usage.spill_bytes,
        usage.stack_bytes, 0, blocks, 0,
    )  # fmt: skip
    assert len(row.faults) == spills + stacks


def test_a_kernel_that_does_not_compile_is_an_error_that_says_why():
    with pytest.raises(RuntimeError, match="undeclared_name"):
        compile_gate.compile_source('extern "C" __global__ void k(int* a) { *a = undeclared_name; }', 90)


def test_a_worker_finds_what_this_process_finds():
    build = compile_gate.Build("training/adam.cu", "float", 90)
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(compile_gate.rows_of, build).result() == compile_gate.rows_of(build)


@pytest.mark.parametrize(
    ("capability", "used", "threads", "shared", "blocks"),
    [
        (90, 32, 256, 0, 8),  # by warps: 64 of them
        (90, 168, 384, 64_272, 1),  # by registers: 3 warps a quarter, 16384 / (32 * 168)
        (90, 168, 320, 107_904, 1),  # 10 warps are allotted like 12
        (90, 176, 320, 0, 0),  # so that this cannot be launched, though 320 * 176 < 65536
        (90, 32, 32, 0, 32),  # by blocks
        (90, 32, 128, 100_000, 2),  # by shared memory
        (75, 32, 256, 65_536, 1),
        (75, 32, 256, 65_537, 0),
    ],
)
def test_blocks_at_once(capability, used, threads, shared, blocks):
    assert compile_gate.ARCHITECTURES[capability].blocks_at_once(used, threads, shared) == blocks
