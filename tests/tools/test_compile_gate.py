"""Kernels are compiled for all architectures without a GPU: none spills or has a stack; a digest has what they take."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
from architectures import ARCHITECTURES
from compile_gate import Build, all_rows, digest, row_of, rows_of, uncovered
from machine_code import compile_source, usages

from cuchar.devices.kernel_sources import join, kernel_folder
from cuchar.devices.signatures import signatures

FILES = sorted(str(path.relative_to(kernel_folder())) for path in kernel_folder().rglob("*.cu"))
ADAM, SUMS = (Build(f"training/{name}.cu", 90, (("REAL", "float"),)) for name in ("adam", "sums"))
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
    return all_rows()


def test_no_kernel_that_the_planner_takes_spills_or_has_a_stack(rows):
    faults = [fault for row in rows for fault in row.faults]
    assert not faults, "\n".join(faults)


def test_every_kernel_has_a_row_on_every_architecture(rows):
    for architecture in ARCHITECTURES.values():
        assert uncovered(rows, architecture) == []


def test_rows_that_are_missing_are_named(rows):
    others = [row for row in rows if row.build.file != "training/adam.cu"]
    assert uncovered(others, ARCHITECTURES[80]) == ["training/adam.cu adam"]
    others = [row for row in rows if ("PRECISION", "Bf16") not in row.build.macros]
    assert uncovered(others, ARCHITECTURES[80]) == ["bf16"]
    assert uncovered([], ARCHITECTURES[70]) == sorted(
        f"{file} {name}"
        for file in FILES
        if not file.startswith("gemm/")  # which needs tensor cores
        for name in signatures(join(file, {}))
    )


def test_a_digest_has_a_line_for_each_kernel(rows):
    _, head, *lines = digest(rows).splitlines()
    assert head.split() == ["file", "kernel", "variants", *(f"sm_{one}" for one in ARCHITECTURES), "spill", "shared"]
    kernels = [(file, name) for file in FILES for name in sorted(signatures(join(file, {})))]
    assert [tuple(line.split()[:2]) for line in lines] == kernels and len(kernels) <= 40


def test_a_digest_has_the_range_of_registers_and_the_most_of_the_rest():
    (adam,), (by_id, of_rows) = rows_of(ADAM), rows_of(SUMS)
    assert (by_id.kernel, of_rows.kernel) == ("sum_rows_by_id", "sum_rows")
    worse = [
        replace(adam, build=replace(ADAM, macros=()), registers=adam.registers + 2, spill_bytes=8),
        replace(adam, build=replace(ADAM, capability=120), registers=7, shared_bytes=999),
    ]
    _, head, *lines = [line.split() for line in digest([adam, *worse, of_rows]).splitlines()]
    assert head == ["file", "kernel", "variants", "sm_90", "sm_120", "spill", "shared"]
    span = f"{adam.registers}-{adam.registers + 2}"
    assert lines == [
        ["training/adam.cu", "adam", "2", span, "7", "8", "999"],
        ["training/sums.cu", "sum_rows", "1", str(of_rows.registers), "0", "4096"],  # nothing of sm_120
    ]


@pytest.mark.parametrize("capability", [70, 90])
@pytest.mark.parametrize("file", FILES)
def test_a_file_compiles_without_macros(file, capability):
    compile_source(join(file, {}), capability)


@pytest.mark.parametrize(("source", "spills", "stacks"), [(SPILLS, 1, 1), (STACKS, 0, 1), (INNOCENT, 0, 0)])
@pytest.mark.parametrize("capability", sorted(ARCHITECTURES))
def test_the_gate_sees_a_planted_spill_and_a_planted_stack(capability, source, spills, stacks):
    """A kernel that spills has a stack as well, which it spills to."""
    ((name, usage),) = usages(*compile_source(source, capability)).items()
    assert (usage.spill_bytes > 0, usage.stack_bytes > 0, usage.threads) == (spills, stacks, 1024)
    faults = row_of(Build("planted.cu", capability, (("HIDDEN", 9),)), name, usage).faults
    found = [f"{usage.spill_bytes} bytes of spill"] * spills + [f"{usage.stack_bytes} bytes of stack"] * stacks
    kernel = f"planted.cu {name} HIDDEN=9 sm_{capability}, {usage.registers} registers"
    assert faults == [f"{kernel}: {fault}" for fault in found]


def test_the_gate_sees_a_kernel_that_cannot_be_launched():
    (usage,) = usages(*compile_source(INNOCENT, 75)).values()
    (fault,) = row_of(Build("planted.cu", 75, (("SHARED_BYTES", 65_537),)), "doubles", usage).faults
    assert fault.endswith(": no block of it fits a multiprocessor")


@pytest.mark.parametrize("capability", sorted(ARCHITECTURES))
def test_blocks_are_as_large_as_launch_bounds_allow(capability):
    found = usages(*compile_source(join(SUMS.file, {}), capability))
    assert {name: usage.threads for name, usage in found.items()} == {"sum_rows": 1024, "sum_rows_by_id": 128}


def test_a_kernel_that_does_not_compile_is_an_error_that_says_why():
    with pytest.raises(RuntimeError, match="undeclared_name"):
        compile_source('extern "C" __global__ void k(int* a) { *a = undeclared_name; }', 90)


def test_a_worker_finds_what_this_process_finds():
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(rows_of, ADAM).result() == rows_of(ADAM)


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
    assert ARCHITECTURES[capability].blocks_at_once(used, threads, shared) == blocks
