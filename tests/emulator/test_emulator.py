"""The emulator: correct kernels compute what they compute on a GPU, and each kind of wrong kernel is found out."""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from support.process import environment

from cuchar.devices.device import Device, Kernel, Limits
from cuchar.devices.emulator import EmulatedDevice, sanitizer_environment
from cuchar.devices.emulator.compiler import HERE
from cuchar.devices.kernel_sources import kernel_folder
from cuchar.errors import DeviceError

LANES = np.arange(64)


@pytest.fixture(params=["forward", "reverse", "shuffled"])
def schedule(request) -> str:
    return request.param


def source_of(body: str, parameters: str = "float* out") -> str:
    """A kernel whose body's first line is line 1."""
    return f'#include "hardware.cuh"\nextern "C" __global__ void planted({parameters}) {{\n#line 1\n{body}\n}}\n'


def planted(device: EmulatedDevice, body: str, parameters: str = "float* out", **options: int) -> Kernel:
    return device.compile(source_of(body, parameters), "planted.cu", **options)["planted"]


def results(schedule: str, body: str, blocks: int = 1, threads: int = 64, shared_bytes: int = 0, **options: int):
    """What each thread of a kernel leaves in out[thread of the grid]."""
    device = EmulatedDevice(schedule, seed=5)
    out = device.empty(blocks * threads, "f4")
    body = f"const int me = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;\n{body}"
    planted(device, body, **options)(blocks, threads, shared_bytes, out=out)
    return out


def failure(body: str, blocks: int = 1, threads: int = 64, **options: int) -> str:
    device = EmulatedDevice()
    with pytest.raises(DeviceError) as caught:
        planted(device, body, **options)(blocks, threads, out=device.empty(blocks * threads, "f4"))
    return str(caught.value)


# ---- What correct kernels compute ----


@pytest.mark.parametrize(
    "expression,expected",
    [
        ("__shfl_sync(~0u, me, 3)", LANES // 32 * 32 + 3),
        ("__shfl_sync(~0u, me, 9, 8)", LANES // 8 * 8 + 1),
        ("__shfl_xor_sync(~0u, me, 5)", LANES ^ 5),
        ("__shfl_xor_sync(~0u, me, 8, 8)", LANES),
        ("__shfl_up_sync(~0u, me, 3)", np.where(LANES % 32 < 3, LANES, LANES - 3)),
        ("__shfl_down_sync(~0u, me, 3)", np.where(LANES % 32 > 28, LANES, LANES + 3)),
        ("__shfl_down_sync(~0u, me, 3, 4)", np.where(LANES % 4, LANES, LANES + 3)),
        ("__shfl_xor_sync(~0u, 1.0 / (1 + me), 1) * (1 + (me ^ 1))", np.ones(64)),
        ("__shfl_xor_sync(~0u, -0.5f * me, 1)", -0.5 * (LANES ^ 1)),
        ("lane < 8 ? __shfl_xor_sync(0xffu, me, 4) : __shfl_xor_sync(~0xffu, me, 8 & -(lane >= 16))",
         np.where(LANES % 32 < 8, LANES ^ 4, np.where(LANES % 32 < 16, LANES, LANES ^ 8))),
        ("__ballot_sync(~0u, lane % 16 == 1) == 0x20002u", np.ones(64)),
        ("__any_sync(~0u, me == 40) + 2 * __all_sync(~0u, me < 32)", np.repeat([2, 1], 32)),
        ("__syncthreads_count(me % 3 == 0)", np.full(64, 22)),
        ("__syncthreads_or(me == 63) + 2 * __syncthreads_or(me > 63)", np.ones(64)),
        ("__syncthreads_and(me < 64) + 2 * __syncthreads_and(me < 63)", np.ones(64)),
        ("min(me, 7) + max(2.5f, 1.0f) + fma(2.0f, 3.0f, 1.0f)", np.minimum(LANES, 7) + 9.5),
        ("__umulhi(0x80000000u, 6u) + __popc(7u) + __ffs(8) + __clz(1u)", np.full(64, 41)),
        ("__uint_as_float(__float_as_uint(1.5f)) + __longlong_as_double(__double_as_longlong(0.25))", np.full(64, 1.75)),
        ("__fdividef(reciprocal(4.0f), 2.0f) + isfinite(INFINITY) + tanh(0.0f)", np.full(64, 0.125)),
        ("make_float4(1, 2, 3, 4).w + make_double2(5, 6).x + sizeof(uint4)", np.full(64, 25)),
        ("blockDim.x + gridDim.x * 0.5f", np.full(64, 64.5)),
    ],
)  # fmt: skip
def test_operations_give_what_cuda_gives(expression, expected):
    np.testing.assert_array_equal(results("shuffled", f"out[me] = {expression};"), expected)


PROGRAMS = {
    "block barriers and two kinds of shared memory": (
        """
        SHARED(float, x, 64);
        DYNAMIC_SHARED(double, y);
        x[threadIdx.x] = me;
        __syncthreads();
        y[threadIdx.x] = x[63 - threadIdx.x];
        __syncthreads();
        #pragma unroll
        for (int turn = 0; turn < 4; ++turn) {
            const double next = y[(threadIdx.x + 1) % 64];
            __syncthreads();
            y[threadIdx.x] = next;
            __syncthreads();
        }
        out[me] = y[threadIdx.x];
        """,
        dict(blocks=3, shared_bytes=64 * 8),
        np.repeat([0, 64, 128], 64) + np.tile((63 - LANES - 4) % 64, 3),
    ),
    "warp barriers": (
        """
        SHARED(float, x, 64);
        x[threadIdx.x] = me;
        __syncwarp();
        out[me] = x[threadIdx.x ^ 31];
        """,
        {},
        LANES ^ 31,
    ),
    "copies that are waited for": (
        """
        SHARED(float, x, 128);
        out[me] = me;
        __syncthreads();
        for (int i = 0; i < 2; ++i) {
            copy_async(&x[64 * i + threadIdx.x], &out[me ^ i]);
            commit_copies();
        }
        wait_copies<1>();
        const float first = x[threadIdx.x], early = x[64 + threadIdx.x];
        wait_copies<0>();
        __syncthreads();
        out[me] = early == early ? -1 : 1000 * first + x[64 + threadIdx.x];
        """,
        dict(blocks=1),
        1000 * LANES + (LANES ^ 1),
    ),
    "a cluster's barriers, addresses and mbarriers": (
        """
        SHARED(unsigned long long, full, 2);
        DYNAMIC_SHARED(float, x);
        const unsigned peer = 1 - cluster_rank();
        if (threadIdx.x < 2) mbarrier_init(&full[threadIdx.x], 2);
        cluster_sync();
        float sum = 0;
        for (int turn = 0; turn < 6; ++turn) {
            float* slot = x + turn % 2 * 128 + 2 * threadIdx.x;
            send(slot, peer, 100.0f * turn, me + 0.0f, &full[turn % 2]);
            if (lane == 0) mbarrier_expect(&full[turn % 2], 256);
            mbarrier_wait(&full[turn % 2], turn / 2 % 2);
            sum += slot[0] + slot[1];
        }
        out[me] = sum;
        cluster_sync();
        """,
        dict(blocks=4, shared_bytes=1024, cluster=2),
        1500 + 6 * (np.arange(256) ^ 64),
    ),
    "a static variable that the other block has not come to": (
        """
        SHARED(unsigned long long, full, 1);
        if (threadIdx.x == 0) mbarrier_init(full, 1);
        cluster_sync();
        if (cluster_rank() == 1) {
            if (threadIdx.x == 0) mbarrier_expect(full, 256);
            mbarrier_wait(full, 0);
        }
        SHARED(float, unused, 8);
        SHARED(float, x, 64);
        if (cluster_rank() == 0) send(&x[threadIdx.x], 1, me + 0.0f, full);
        out[me] = cluster_rank() == 1 ? x[threadIdx.x] : 0;
        """,
        dict(blocks=2, cluster=2),
        np.concatenate([np.zeros(64), LANES]),
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_give_the_same_in_every_schedule(program, schedule):
    body, launch, expected = PROGRAMS[program]
    np.testing.assert_array_equal(results(schedule, body, **launch), expected)


RELAY = """
if (blockIdx.x > 0) {
    if (threadIdx.x == 0 && !wait_flag(flags + blockIdx.x - 1, 64, flags + 5)) __trap();
    __syncthreads();
}
out[blockIdx.x * 64 + threadIdx.x] = threadIdx.x + (blockIdx.x ? out[blockIdx.x * 64 - 1 - threadIdx.x] : 0);
add_release(flags + blockIdx.x, 1);
"""


def test_flags_order_the_blocks_of_a_cooperative_launch(schedule):
    device = EmulatedDevice(schedule)
    out, flags = device.empty((5, 64), "f4"), np.zeros(6, "u4")
    planted(device, RELAY, "float* out, unsigned* flags", cooperative=True)(5, 64, out=out, flags=flags)
    expected = [LANES, LANES + 63 - LANES, LANES + 63, LANES + 126 - LANES, LANES + 126]
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(flags, [64] * 5 + [0])


def test_a_loop_over_a_flag_lets_the_others_run(schedule):
    device = EmulatedDevice(schedule)
    flag = np.zeros(1, "u4")
    body = "if (blockIdx.x == 1 && threadIdx.x == 3) add_release(flag, 7); else while (load_acquire(flag) != 7);"
    planted(device, body, "unsigned* flag", cooperative=True)(2, 32, flag=flag)
    assert flag[0] == 7


def test_a_flag_that_nobody_can_set_is_given_up():
    device = EmulatedDevice()
    out, flag = device.empty(64, "f4"), np.zeros(2, "u4")
    body = "out[threadIdx.x] = wait_flag(flag, threadIdx.x / 32, flag + 1); __syncthreads();"
    planted(device, body, "float* out, const unsigned* flag", cooperative=True)(1, 64, out=out, flag=flag)
    np.testing.assert_array_equal(out, np.repeat([1, 0], 32))


def test_a_wait_ends_when_another_has_waited_too_long(schedule):
    device = EmulatedDevice(schedule)
    out, flags = device.empty(1, "f4"), np.zeros(3, "u4")
    body = """
    if (threadIdx.x) return;
    if (blockIdx.x) {
        add_release(flags + 1, 2);
        while (!load_acquire(flags + 2));  // so that the addition above alone ends the other's wait
        return;
    }
    out[0] = wait_flag(flags, 1, flags + 1);
    add_release(flags + 2, 1);
    """
    planted(device, body, "float* out, unsigned* flags", cooperative=True)(2, 32, out=out, flags=flags)
    assert out[0] == 0


def test_schedules_are_what_they_say():
    def order(schedule: str, seed: int = 0) -> list[int]:
        device = EmulatedDevice(schedule, seed)
        turn, out = np.zeros(1, "u4"), device.empty(64, "f4")
        planted(device, "out[threadIdx.x] = std::atomic_ref(*turn)++;", "float* out, unsigned* turn")(
            1, 64, out=out, turn=turn
        )
        return out.astype(int).tolist()

    assert order("forward") == list(range(64))
    assert order("reverse") == list(range(63, -1, -1))
    assert order("shuffled", 1) == order("shuffled", 1) != order("shuffled", 2)
    assert sorted(order("shuffled", 1)) == list(range(64))


# ---- What wrong kernels give away ----

EXCHANGE = "SHARED(float, x, 64);\nx[threadIdx.x] = threadIdx.x;\n{}\nout[threadIdx.x] = x[63 - threadIdx.x];"


def test_a_missing_barrier_reads_nan():
    without, expected = EXCHANGE.format(""), 63 - LANES
    forward, reverse = results("forward", without), results("reverse", without)
    np.testing.assert_array_equal(forward, np.where(LANES < 32, np.nan, expected))
    np.testing.assert_array_equal(reverse, np.where(LANES < 32, expected, np.nan))
    assert np.isnan(results("shuffled", without)).any()
    np.testing.assert_array_equal(results("forward", EXCHANGE.format("__syncthreads();")), expected)


def test_memory_starts_as_nan(schedule):
    assert np.isnan(EmulatedDevice().empty((3, 5), "f8")).all()
    assert (EmulatedDevice().empty((3, 0, 5), "i4").size, EmulatedDevice().empty((), "i4")) == (0, -1)
    body = """
        SHARED(float, x, 64);
        DYNAMIC_SHARED(double, y);
        out[me] = isnan(x[threadIdx.x]) + 2 * isnan(y[threadIdx.x]);
        __syncthreads();
        x[threadIdx.x] = y[threadIdx.x] = 0;  // the next block must not find it
    """
    np.testing.assert_array_equal(results(schedule, body, blocks=50, shared_bytes=512), 3)


MBARRIER = "SHARED(unsigned long long, full, 1);\nif (threadIdx.x == 0) mbarrier_init(full, 65);\n__syncthreads();\n"


@pytest.mark.parametrize(
    "body,message",
    [
        ("if (threadIdx.x < 32)\n__syncthreads();",
         "deadlock: block 0: threads 0-31 wait for __syncthreads at planted.cu:2, threads 32-63 ended"),
        ("if (threadIdx.x < 32)\n__syncthreads(); else\n__syncthreads();",
         "planted.cu:3: block 0, thread 32: divergent barrier: thread 31 is at planted.cu:2"),
        ("if (threadIdx.x == 5)\n__trap();\n__syncthreads();", "planted.cu:2: block 0, thread 5: __trap"),
        ("if (threadIdx.x % 2)\n__syncwarp(); else\n__syncwarp();",
         "planted.cu:2: block 0, thread 1: divergent warp: thread 0 is at planted.cu:3"),
        ("__syncwarp(threadIdx.x % 2 ? 3 : ~0u);",
         "planted.cu:1: block 0, thread 1: divergent warp: thread 0 is at planted.cu:1 with another mask"),
        ("__syncwarp(2);", "planted.cu:1: block 0, thread 0: a warp operation whose mask leaves out the thread itself"),
        ("if (threadIdx.x < 4)\n__shfl_sync(15, 1, 4);",
         "planted.cu:2: block 0, thread 0: a shuffle from a lane that takes no part in it"),
        ("if (threadIdx.x != 7)\n__ballot_sync(~0u, 1);",
         "deadlock: block 0: threads 0-6 wait for its warp at planted.cu:2, threads 7-7 ended, "
         "threads 8-31 wait for its warp at planted.cu:2, threads 32-63 ended"),
        (MBARRIER + "mbarrier_expect(full, 0);\nmbarrier_wait(full, 0);",
         "deadlock: block 0: threads 0-63 wait for an mbarrier at planted.cu:5"),
        (MBARRIER.replace("65", "64") + "mbarrier_expect(full, 4);\nmbarrier_wait(full, 0);",
         "deadlock: block 0: threads 0-63 wait for an mbarrier at planted.cu:5"),
        (MBARRIER.replace("65", "1") + "mbarrier_expect(full, 4);\nmbarrier_wait(full, 0);",
         "planted.cu:4: block 0, thread 0: an mbarrier whose phase has all its arrivals"),
        ("SHARED(unsigned long long, full, 1);\nmbarrier_wait(full, 0);",
         "planted.cu:2: block 0, thread 0: an mbarrier before its mbarrier_init"),
        ("SHARED(float, x, 1);\nsend(&x[0], 1, 1.0f, nullptr);",
         "planted.cu:2: block 0, thread 0: send: no block of that rank in the cluster"),
        ("send(out, 0, 1.0f, nullptr);",
         "planted.cu:1: block 0, thread 0: send: the address is not in this block's shared memory"),
        ("SHARED(float, x, 64);\ncopy_async(&x[threadIdx.x], &out[threadIdx.x]);\ncommit_copies();\n"
         "out[threadIdx.x] = 1;\nwait_copies<0>();",
         "planted.cu:5: block 0, thread 0: a copy's source has changed under way"),
        ("SHARED(double, x, 6144);\nSHARED(char, y, 1);",
         "planted.cu:2: block 0, thread 0: expected at most 49152 bytes of SHARED in at most 64 variables, found more"),
    ],
)  # fmt: skip
def test_a_launch_that_cannot_go_on_says_why(body, message):
    assert failure(body) == f"planted: {message}"


def test_a_deadlock_names_the_blocks():
    waits = "unsigned* flag = reinterpret_cast<unsigned*>(out);\nif (blockIdx.x) while (load_acquire(flag) == ~0u);"
    told = "; ".join(f"block {number}: threads 0-31 wait for a flag at planted.cu:2" for number in (1, 2, 3, 4))
    assert failure(waits, 7, 32, cooperative=True) == f"planted: deadlock: {told}; and 2 more blocks"


def test_a_device_goes_on_after_a_failed_launch():
    device = EmulatedDevice()
    kernel = planted(device, "if (*out < 0)\n__syncthreads();\nelse if (threadIdx.x == 9) *out = 3;")
    for _ in range(3):
        out = np.full(1, -1, "f4")
        with pytest.raises(DeviceError, match=r"^planted: deadlock: block \d: threads 0-8 wait"):
            planted(device, "if (threadIdx.x != 9)\n__syncthreads();")(4, 64, out=out)
        out[0] = 1
        kernel(1, 64, out=out)
        assert out[0] == 3


@pytest.mark.parametrize(
    "grid,block,shared_bytes,message",
    [
        (0, 32, 0, "expected a positive multiple of 2 blocks, found 0"),
        (3, 32, 0, "expected a positive multiple of 2 blocks, found 3"),
        (2, 1025, 0, "expected 1 to 1024 threads a block, found 1025"),
        (2, 0, 0, "expected 1 to 1024 threads a block, found 0"),
        (2, 32, 1001, "expected at most 1000 bytes shared, found 1001"),
        (18, 512, 0, "expected at most 16 blocks at once, found 18"),
    ],
)
def test_sizes_that_a_device_refuses(grid, block, shared_bytes, message):
    device = EmulatedDevice(limits=Limits(90, 4, 1000))
    kernel = planted(device, "", cluster=2, cooperative=True)
    with pytest.raises(DeviceError) as caught:
        kernel(grid, block, shared_bytes, out=device.empty(1, "f4"))
    assert str(caught.value) == f"planted: {message}"


def test_arguments_arrive_with_their_widths():
    parameters = (
        "double* out, const unsigned char* bytes, float a, double b, int c, unsigned long long d, unsigned char e"
    )
    kernel = planted(EmulatedDevice(), "out[threadIdx.x] = bytes[threadIdx.x] + a + b + c + d + e;", parameters)
    out = np.empty(4)
    kernel(1, 4, e=200, d=1 << 40, c=-3, b=0.25, a=0.5, bytes=np.arange(4, dtype="u1"), out=out)
    np.testing.assert_array_equal(out, np.arange(4) + 0.75 - 3 + 2**40 + 200)


# ---- What the sanitizers see ----

CHILD = """
import json, sys
import numpy as np
from cuchar.devices.emulator import EmulatedDevice
sanitize, source, options, blocks, threads = json.loads(sys.argv[1])
device = EmulatedDevice(sanitize=sanitize)
kernel = device.compile(source, "planted.cu", **options)["planted"]
out, flags = device.empty(blocks * threads, "f4"), np.zeros(4, "u4")
kernel(blocks, threads, 64, out=out, flags=flags)
print(out.astype(int).tolist())
"""


def sanitized(sanitize: str, body: str, blocks: int = 2, threads: int = 32, **options: int):
    source = source_of(body, "float* out, unsigned* flags")
    command = [sys.executable, "-c", CHILD, json.dumps([sanitize, source, options, blocks, threads])]
    env = environment() | sanitizer_environment(sanitize)
    return subprocess.run(command, capture_output=True, text=True, env=env)


CLEAN = """
SHARED(float, x, 32);
DYNAMIC_SHARED(float, y);
SHARED(unsigned long long, full, 1);
const unsigned peer = 1 - cluster_rank();
if (threadIdx.x == 0) mbarrier_init(full, 32);
cluster_sync();
if (threadIdx.x < 16) send(&y[threadIdx.x], peer, 100.0f * blockIdx.x, full);
mbarrier_expect(full, 2);
mbarrier_wait(full, 0);
x[threadIdx.x] = y[threadIdx.x / 2] + __shfl_xor_sync(~0u, threadIdx.x, 1);
__syncthreads();
const float mine = x[31 - threadIdx.x];
__syncthreads();
x[threadIdx.x] = mine + 1;
__syncwarp();
out[blockIdx.x * 32 + threadIdx.x] = x[threadIdx.x ^ 1];
cluster_sync();
"""


@pytest.mark.parametrize("sanitize", ["address", "thread"])
def test_sanitizers_leave_a_correct_kernel_alone(sanitize):
    run = sanitized(sanitize, CLEAN, cluster=2)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [31 - lane + peer for peer in (101, 1) for lane in range(32)]


def test_address_sanitizer_allows_a_variable_that_its_block_has_not_come_to():
    body = """
        SHARED(unsigned long long, full, 1);
        if (threadIdx.x == 0) mbarrier_init(full, 1);
        cluster_sync();
        if (cluster_rank() == 1 && threadIdx.x == 0) mbarrier_expect(full, 128);
        if (cluster_rank() == 1) mbarrier_wait(full, 0);
        SHARED(float, x, 32);
        if (cluster_rank() == 0) send(&x[threadIdx.x], 1, threadIdx.x + 0.0f, full);
        out[blockIdx.x * 32 + threadIdx.x] = cluster_rank() == 1 ? x[threadIdx.x] : 0;
    """
    run = sanitized("address", body, cluster=2)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [0] * 32 + list(range(32))


HANDOVER = """if (blockIdx.x == 0) {
    out[threadIdx.x] = threadIdx.x;
    __syncthreads();
    if (threadIdx.x == 0) std::atomic_ref(*flags).fetch_add(1, std::memory_order_ORDER);
} else {
    if (threadIdx.x == 0 && !wait_flag(flags, 1, flags + 1)) __trap();
    __syncthreads();
    out[32 + threadIdx.x] = out[threadIdx.x];
}"""


def test_thread_sanitizer_accepts_release_and_acquire():
    run = sanitized("thread", HANDOVER.replace("ORDER", "release"), cooperative=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"{[*range(32), *range(32)]}\n"


MBARRIERS = """SHARED(unsigned long long, full, 1);
SHARED(float, x, 32);
if (threadIdx.x == 0) mbarrier_init(full, 32);
__syncthreads();
x[threadIdx.x] = 1;
mbarrier_expect(full, 0);
if (threadIdx.x) mbarrier_wait(full, 0);
out[threadIdx.x] = x[31 - threadIdx.x];"""


COPIES = """SHARED(float, x, 32);
copy_async(&x[threadIdx.x], &out[threadIdx.x]);
commit_copies();
wait_copies<0>();
out[__shfl_xor_sync(~0u, threadIdx.x, 1)] = 1;"""


# By what is wrong: the sanitizer, a kernel, its launch, and what is found in which line. Where UBSan would see an
# array's end before AddressSanitizer does, a pointer hides the array.
FINDINGS = {
    "one past global memory": (
        "address", "\nout[blockIdx.x * 32 + threadIdx.x + 1] = 0;", {}, "heap-buffer-overflow", 2,
    ),
    "one past a static variable": (
        "address", "SHARED(float, x, 32);\nSHARED(float, y, 32);\n(+x)[threadIdx.x + 1] = y[threadIdx.x] = 0;", {},
        "use-after-poison", 3,
    ),
    "one past dynamic shared memory": (
        "address", "DYNAMIC_SHARED(float, x);\nout[0] = x[threadIdx.x / 2 + 1];", {}, "use-after-poison", 2,
    ),
    "one past another block's variable": (
        "address", "SHARED(float, x, 32);\nif (threadIdx.x == 31) send(&x[threadIdx.x + 1], 1, 1.0f, nullptr);", dict(cluster=2),
        "use-after-poison", 2,
    ),
    "past a thread's own array": (
        "address", "float x[4];\nfloat* volatile to = x;\nout[0] = to[threadIdx.x] = 0;", {},
        "stack-buffer-overflow", 3,
    ),
    "an overflow": (
        "address", "int big = 0x7fffffe1;\nout[threadIdx.x] = big + static_cast<int>(threadIdx.x);", {},
        "signed integer overflow", 2,
    ),
    "a misaligned vector": (
        "address", "\n*reinterpret_cast<float4*>(out + 1) = make_float4(1, 2, 3, 4);", {}, "misaligned address", 2,
    ),
    "no barrier": ("thread", EXCHANGE.format(""), dict(blocks=1, threads=64), "data race", 2),
    "a warp's barrier for a block": ("thread", EXCHANGE.format("__syncwarp();"), dict(blocks=1, threads=64), "data race", 2),
    "a relaxed wait": ("thread", HANDOVER.replace("ORDER", "release").replace(
        "if (threadIdx.x == 0 && !wait_flag(flags, 1, flags + 1)) __trap();", "while (threadIdx.x == 0 && !load_relaxed(flags));"
    ), dict(cooperative=True), "data race", 8),
    "a copy's source that another lane overwrites after a shuffle": (
        "thread", COPIES, dict(blocks=1), "data race", 5,
    ),
    "a relaxed flag": ("thread", HANDOVER.replace("ORDER", "relaxed"), dict(cooperative=True), "data race", 8),
    "blocks that write to one place": ("thread", "\nout[threadIdx.x] = blockIdx.x;", {}, "data race", 2),
    "a thread that does not wait for an mbarrier": ("thread", MBARRIERS, dict(blocks=1), "data race", 8),
    "an mbarrier not yet known to be initialised": (
        "thread", MBARRIERS.replace("__syncthreads();", ""), dict(blocks=1), "data race", 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", FINDINGS)
def test_sanitizers_find(planted):
    sanitize, body, options, finding, line = FINDINGS[planted]
    run = sanitized(sanitize, body, **options)
    assert run.returncode != 0 and run.stdout == ""
    assert finding in run.stderr
    assert f"planted.cu:{line}" in run.stderr


def test_sanitizers_that_replace_malloc_ask_for_their_environment():
    with pytest.raises(DeviceError) as caught:
        planted(EmulatedDevice(sanitize="thread"), "")
    assert str(caught.value) == ("expected libtsan.so in LD_PRELOAD for sanitize='thread'; see sanitizer_environment")


# ---- The rest of a device ----


def test_gemm():
    device: Device = EmulatedDevice()
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(3, 5)), rng.normal(size=(5, 4))
    out = device.empty((3, 4), "f8")
    device.gemm(a, b, out)
    np.testing.assert_array_equal(out, a @ b)
    device.gemm(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), out, ta=True, tb=True, accumulate=True)
    np.testing.assert_allclose(out, 2 * (a @ b), rtol=1e-14)


def test_write_and_read_copy():
    device = EmulatedDevice()
    array, host = np.zeros(3, "f4"), np.arange(3, dtype="f4")
    device.write(array, host)
    host[0] = 7
    copy = device.read(array)
    copy[1] = 7
    np.testing.assert_array_equal(array, [0, 1, 2])


def test_captured_launches_run_when_replayed():
    device = EmulatedDevice()
    kernel = planted(device, "*out = 2 * *out + a;", "float* out, float a")
    out = np.zeros(1, "f4")
    replay = device.capture(lambda: (kernel(1, 1, out=out, a=1), kernel(1, 1, out=out, a=5)))
    assert out[0] == 0
    replay()
    assert out[0] == 7
    replay()
    assert out[0] == 35
    kernel(1, 1, out=out, a=0)
    assert out[0] == 70


def test_a_captured_product_is_done_when_replayed():
    device = EmulatedDevice()
    kernel = planted(device, "for (int i = 0; i < 4; ++i) out[i] += 1;", "float* out")
    a, b, out = np.array([[1, 2], [3, 4]], "f4"), np.array([[0, 1], [5, 0]], "f4"), device.empty((2, 2), "f4")

    def work():
        device.gemm(a, b, out, ta=True)
        kernel(1, 1, out=out)
        device.gemm(out, a, b, accumulate=True)
        kernel(1, 1, out=out)

    replay = device.capture(work)
    assert np.isnan(out).all() and b.tolist() == [[0, 1], [5, 0]]
    for _ in range(2):
        expected = a.T @ b + 1, b + (a.T @ b + 1) @ a
        replay()
        np.testing.assert_array_equal(out, expected[0] + 1)
        np.testing.assert_array_equal(b, expected[1])
        a[0, 0] += 1  # a replay takes what is there then
    np.testing.assert_array_equal(device.read(out), expected[0] + 1)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_a_product_in_a_reduced_precision_is_refused(precision):
    device = EmulatedDevice()
    array = np.ones((2, 2), "f4")

    def work():
        device.gemm(array, array, array, precision=precision)

    for multiply in (work, lambda: device.capture(work)):
        with pytest.raises(DeviceError, match=f"expected a product in fp32 from NumPy, found {precision}"):
            multiply()
    assert not device.has_tensor_library and (array == 1).all()  # it is as it was


def test_only_launches_and_products_are_captured():
    device = EmulatedDevice()
    array = np.zeros((2, 2), "f4")
    for name, work in {
        "read": lambda: device.read(array),
        "write": lambda: device.write(array, array),
        "capture": lambda: device.capture(list),
    }.items():
        with pytest.raises(DeviceError) as caught:
            device.capture(work)
        assert str(caught.value) == f"{name}: expected only launches while capturing"
    device.read(array)  # a failed capture is over


def test_free_bytes():
    assert EmulatedDevice(memory_bytes=1000).free_bytes() == 1000
    assert EmulatedDevice().free_bytes() > 1 << 20


# ---- Compiling ----


def libraries(folder) -> list[str]:
    return sorted(path.name for path in (folder / "cuchar" / "emulator").glob("*.so"))


def test_a_source_is_compiled_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    notices: list[str] = []

    def device():
        return EmulatedDevice(notice=lambda kept: nullcontext(notices.append(kept)))

    for _ in range(2):
        planted(device(), "*out = 1;")
        assert notices == ["the next run finds them compiled"]
    assert len(libraries(tmp_path)) == 2  # the runtime and the kernel
    planted(device(), "*out = 2;")
    assert len(notices) == 2 and len(libraries(tmp_path)) == 3


def test_two_processes_may_compile_at_once(tmp_path):
    task = json.dumps([None, source_of("*out = 5;", "float* out, unsigned* flags"), {}, 1, 1])
    command = [sys.executable, "-c", CHILD, task]
    env = environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, env=env) for _ in range(2)]
    assert [child.communicate()[0] for child in children] == [b"[5]\n"] * 2
    assert len(libraries(tmp_path)) == 2


def test_a_kernel_of_this_run_alone_is_linked_to_the_runtime_in_a_cache_that_can_only_be_read(tmp_path):
    refuse = "import tempfile\ndef refuse(dir):\n    raise PermissionError(13, 'Permission denied')\ntempfile.TemporaryFile = refuse\n"
    env = environment() | {"XDG_CACHE_HOME": str(tmp_path)}
    for number, before in ((1, ""), (2, refuse)):
        task = json.dumps([None, source_of(f"*out = {number};", "float* out, unsigned* flags"), {}, 1, 1])
        assert subprocess.check_output([sys.executable, "-c", before + CHILD, task], env=env) == b"[%d]\n" % number
    assert len(libraries(tmp_path)) == 2  # the runtime and the first kernel


def test_a_compiler_s_first_error_is_the_message():
    with pytest.raises(DeviceError) as caught:
        planted(EmulatedDevice(), "\n*out = nothing;")
    assert str(caught.value) == "planted.cu:2:8: error: 'nothing' was not declared in this scope"


def test_a_frame_larger_than_the_stack_does_not_compile():
    body = "float x[9000];\nfor (int i = 0; i < 9000; ++i) x[i] = out[i];\n__syncthreads();\n*out = x[int(*out)];"
    with pytest.raises(
        DeviceError, match=r"^planted.cu:5:1: error: the frame size of 36\d+ bytes is larger than 32768"
    ):
        planted(EmulatedDevice(), body)


def test_without_a_compiler(monkeypatch):
    def message() -> str:
        with pytest.raises(DeviceError) as caught:
            planted(EmulatedDevice(), "")
        return str(caught.value)

    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    assert message() == ("expected a C++20 compiler, found no no-such-compiler -O2; install g++ 12 or set CXX")
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", os.devnull)
    assert message() == ("expected a C++20 compiler, found no c++, g++, clang++; install g++ 12 or set CXX")


def test_whatever_the_kernels_headers_define_is_used():
    sources = "".join(path.read_text() for path in kernel_folder().rglob("*.cu*"))
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", sources, flags=re.DOTALL)
    defined = re.findall(r"__device__ [^;{}()=]*?(\w+)\(", code)
    assert {"wait_flag", "add_release", "philox"} <= set(defined)
    assert [name for name in defined if len(re.findall(rf"\b{name}\b", code)) == defined.count(name)] == []


def test_a_first_kernel_that_asks_nothing_of_the_runtime_leaves_room_for_one_that_does():
    """Kernels need the runtime's thread-local variable at a fixed place, which it gets when it is loaded or never."""
    code = """
import numpy as np
from cuchar.devices.emulator import EmulatedDevice
device, numbers = EmulatedDevice(), np.zeros(4, "f4")
for body in ("numbers[0] = 1;", "numbers[threadIdx.x] += 2;"):
    source = f'#include "hardware.cuh"\\nextern "C" __global__ void kernel(float* numbers) {{ {body} }}\\n'
    device.compile(source)["kernel"](1, 4, numbers=numbers)
print(numbers.tolist())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert run.stdout == "[3.0, 2.0, 2.0, 2.0]\n", run.stderr


def test_both_hardware_headers_have_the_same_names():
    def names(header: Path) -> set[str]:
        begin = r"^(?:#define |__device__ __(?:forceinline|noinline)__ |inline |void |Type\* )(?:[\w*]+ )*"
        return set(re.findall(begin + r"(\w+)\(", header.read_text(), re.MULTILINE))

    own = kernel_folder() / "common/hardware.cuh"
    assert {"SHARED", "wait_flag", "send"} <= names(own)
    inside = {"shared_address", "address_in", "mbarrier_is_over", "MMA"}  # that only the header itself uses
    assert names(own) - inside <= names(HERE / "hardware.cuh")
