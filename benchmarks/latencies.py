"""Measures what the design of the kernels assumes of a GPU.

    python benchmarks/latencies.py OUT.json

It measures how long blocks take to hand over, fences, the gaps in a graph, and a library's products. All times are
medians by the GPU's clock. In `gather` each block of a group writes its share of some bytes and then reads all of the
group's into shared memory, STEPS times. Blocks hand over in three ways: by a flag that counts blocks, by a flag that
counts warps, or by the words themselves, which are polled until they are no longer what they were set to.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from cuchar.bench.machine import gpu_facts, versions
from cuchar.devices.cupy_device import CudaDevice
from cuchar.devices.signatures import signatures

SOURCE = r"""
__device__ __forceinline__ void add_release(unsigned* flag) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(flag) : "memory");
}
__device__ __forceinline__ unsigned acquire(unsigned* flag) {
    unsigned value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}
__device__ __forceinline__ uint4 poll(const unsigned* words) {  // until none of the four is unset
    uint4 v;
    do {
        asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(words) : "memory");
    } while (v.x == ~0u || v.y == ~0u || v.z == ~0u || v.w == ~0u);
    return v;
}

/* data [steps, groups, words], all bits set; how: 0 a flag counts blocks, 1 warps, 2 no flag. */
extern "C" __global__ void __launch_bounds__(384) gather(
    unsigned* data, unsigned* flags, int steps, int words, int blocks, int groups, int how) {
    extern __shared__ __align__(16) unsigned mine[];
    const int block = blockIdx.x % blocks, group = blockIdx.x / blocks, share = words / blocks;
    unsigned *flag = flags + 32 * group, seen = 0;
    for (int t = 0; t < steps; ++t) {
        unsigned* all = data + (static_cast<long long>(t) * groups + group) * words;
        for (int i = threadIdx.x; i < share; i += blockDim.x) {
            const unsigned value = (t * 131 + i + seen) & 0x7fffffff;
            asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(all + block * share + i), "r"(value) : "memory");
        }
        if (how == 0) {
            __syncthreads();
            if (threadIdx.x == 0) {
                add_release(flag);
                while (acquire(flag) < static_cast<unsigned>(t + 1) * blocks);
            }
            __syncthreads();
        } else if (how == 1) {
            __syncwarp();
            if (threadIdx.x % 32 == 0) {
                add_release(flag);
                while (acquire(flag) < static_cast<unsigned>(t + 1) * blocks * (blockDim.x / 32));
            }
            __syncwarp();
        }
        for (int i = threadIdx.x * 4; i < words; i += blockDim.x * 4)
            *reinterpret_cast<uint4*>(mine + i) = how == 2 ? poll(all + i) : *reinterpret_cast<const uint4*>(all + i);
        __syncthreads();
        seen += mine[(threadIdx.x * 4 + t) % words];
        __syncthreads();
    }
    if (seen == 0x12345) flags[0] = seen;  // or the compiler would leave it all out
}

extern "C" __global__ void nothing(unsigned* words) {
    if (words[0] == 77) words[1] = 1;
}

/* clocks [blocks], a turn's: eight stores of each thread, and then, how: 0 nothing, 1 a fence, 2 a release of each warp. */
extern "C" __global__ void fences(unsigned* words, long long* clocks, int how) {
    const long long began = clock64();
    for (int turn = 0; turn < 100; ++turn) {
        for (int i = 0; i < 8; ++i) words[(blockIdx.x * 8 + i) * blockDim.x + threadIdx.x + turn % 4 * 1000000] = turn;
        if (how == 1) __threadfence();
        __syncwarp();
        if (how == 2 && threadIdx.x % 32 == 0) add_release(words + 5000000 + 32 * blockIdx.x);
    }
    if (threadIdx.x == 0) clocks[blockIdx.x] = (clock64() - began) / 100;
}
"""
STEPS, THREADS = 200, 384
HOW = ("a flag counts blocks", "a flag counts warps", "words are their own flags")
GROUPS = [(12, 11), (4, 33), (2, 44), (1, 132)]  # groups, blocks of each
KIB = (6, 13, 26, 53, 131)
PRODUCTS = {  # transposed a, transposed b, M, N, K; of configurations b, c and d
    "b, dW": (True, False, 2048, 512, 2500), "b, dW of the head": (True, False, 68, 512, 2500),
    "b, logits": (False, True, 2500, 68, 512), "c, a step forward": (False, True, 128, 4096, 1024),
    "c, a step backward": (False, False, 128, 1024, 4096), "c, dW": (True, False, 4096, 1024, 16384),
    "d, a step forward": (False, True, 128, 8192, 2048), "d, a step backward": (False, False, 128, 2048, 8192),
}  # fmt: skip


class Bench:
    def __init__(self) -> None:
        import cupy

        self.device, self.cupy = CudaDevice(), cupy
        with self.device.current():
            options = ("-std=c++17",)
            one_by_one = cupy.RawModule(code=SOURCE, options=options)
            at_once = cupy.RawModule(code=SOURCE, options=options, enable_cooperative_groups=True)
            self.kernels = {name: one_by_one.get_function(name) for name in ("nothing", "fences")}
            self.kernels["gather"] = at_once.get_function("gather")
            self.kernels["gather"].max_dynamic_shared_size_bytes = 200 << 10

    def us(self, work: Callable[[], Any], before: Callable[[], Any] = lambda: None) -> float:
        times = []
        for _ in range(6):
            before()
            with self.device.current():
                times.append(self.device.elapsed_ms(work))
        return 1e3 * median(times[1:])

    def launch(self, name: str, grid: int, block: int, *arguments: Any, shared: int = 0) -> None:
        with self.device.current():
            self.kernels[name]((grid,), (block,), arguments, shared_mem=shared)

    def gathers(self) -> Iterator[tuple[str, float]]:
        flags = self.device.empty((32 * 64,), np.uint32)
        for kib in KIB:
            for groups, blocks in GROUPS:
                words = kib * 256 // (4 * blocks) * 4 * blocks
                data = self.device.empty((STEPS, groups, words), np.uint32)

                def clear(data: Any = data) -> None:
                    with self.device.current():
                        data.fill(0xFFFFFFFF)
                        flags.fill(0)

                for how, name in enumerate(HOW):
                    sizes = (np.int32(one) for one in (STEPS, words, blocks, groups, how))
                    arguments = (groups * blocks, THREADS, data, flags, *sizes)
                    took = self.us(
                        lambda given=arguments, words=words: self.launch("gather", *given, shared=4 * words), clear
                    )
                    yield f"{kib} KiB, {groups} groups of {blocks} blocks, {name}, us", took / STEPS

    def fences(self) -> Iterator[tuple[str, float]]:
        words, clocks = self.device.empty((6_000_000,), np.uint32), self.device.empty((132,), np.int64)
        for how, name in enumerate(("8 stores", "8 stores and a fence", "8 stores and a release of each warp")):
            for blocks in (1, 132):
                self.launch("fences", blocks, 256, words, clocks, np.int32(how))
                yield f"{name}, {blocks} blocks, clocks", float(self.device.read(clocks)[0])

    def gaps(self) -> Iterator[tuple[str, float]]:
        words = self.device.empty((8,), np.uint32)
        kernel = self.device._kernel(signatures(SOURCE)["nothing"], self.kernels["nothing"])
        for blocks in (1, 132, 1000):
            graph = self.device.capture(lambda blocks=blocks: [kernel(blocks, 256, words=words) for _ in range(200)])
            yield f"a launch of {blocks} blocks in a graph, us", self.us(graph) / 200

    def products(self) -> Iterator[tuple[str, float]]:
        """Products that are called one after the other; outside a graph, the time of a small one is what the host takes to call it."""
        for name, (ta, tb, M, N, K) in PRODUCTS.items():
            for precision in ("fp32", "tf32", "bf16"):
                dtype = np.uint16 if precision == "bf16" else np.float32
                a = self.device.empty((K, M) if ta else (M, K), dtype)
                b, out = self.device.empty((N, K) if tb else (K, N), dtype), self.device.empty((M, N), np.float32)
                for array in (a, b):
                    numbers = np.random.default_rng(0).standard_normal(array.shape).astype(np.float32)
                    self.device.write(
                        array, numbers if precision != "bf16" else (numbers.view(np.uint32) >> 16).astype(dtype)
                    )

                def multiply(given: Any = (a, b, out), how: Any = (ta, tb, precision)) -> None:
                    for _ in range(20):
                        self.device.gemm(*given, ta=how[0], tb=how[1], precision=how[2])

                yield f"cuBLAS {precision}, {name} {M}x{N}x{K}, us", self.us(multiply) / 20


def main() -> None:
    out, bench = Path(sys.argv[1]), Bench()
    found: dict[str, Any] = {"device": bench.device.name, **versions(), **gpu_facts(bench.device)}
    for part in (bench.gathers, bench.fences, bench.gaps, bench.products):
        for name, value in part():
            print(f"{name}: {value:.2f}", flush=True)
            found[name] = round(value, 3)
            out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
