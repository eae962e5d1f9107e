"""Real GPUs, and what a multiprocessor of each runs at once: judges of what the planner asks for.

Sources: NVIDIA's CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", for what a
multiprocessor has; for how many of them a GPU has, the white papers of the architectures (Volta, Turing, Ampere GA100
and GA102, Ada, Hopper, Blackwell) and the GPUs' data sheets; for the slices of a divided GPU, the MIG User Guide.
"""

from dataclasses import dataclass, replace

from architectures import ARCHITECTURES, Architecture

from cuchar.devices.device import Limits
from cuchar.engines.cuda.persistent import Division
from cuchar.engines.cuda.resident import OneBlock, Resident

ORIN = Architecture(87, "Jetson AGX Orin", 16, 166_912, 167_936, 1024, 48, 16)
MOST_THREADS, MOST_REGISTERS, MOST_CLUSTER = 1024, 255, 8  # of a block; of a thread; blocks of a cluster


@dataclass(frozen=True)
class Gpu:
    name: str
    architecture: Architecture
    memory_gib: int

    @property
    def limits(self) -> Limits:
        """What CUDA says of it, as the planner gets it."""
        return self.architecture.limits

    def runs_at_once(self, blocks: int, threads: int, shared_bytes: int) -> bool:
        """Whether so many blocks run at once, compiled for one block a multiprocessor (`__launch_bounds__(threads, 1)`).

        With these bounds a thread gets no more registers than let a block of `threads` run, whatever the planner
        estimates.
        """
        of = self.architecture
        if not 1 <= threads <= MOST_THREADS:
            return False
        registers = min(MOST_REGISTERS, of.registers // (128 * -(-threads // 128)) // 8 * 8)
        return blocks <= of.multiprocessors * of.blocks_at_once(registers, threads, shared_bytes)

    def takes(self, plan: Division | Resident | OneBlock) -> bool:
        """Whether the GPU runs what a plan asks for.

        All blocks of a persistent launch must run at once. A resident one needs room for one block, or for a cluster.
        """
        cluster = getattr(plan, "cluster", 1)
        if cluster > 1 and not (self.architecture.capability >= 90 and cluster <= MOST_CLUSTER):
            return False
        return self.runs_at_once(getattr(plan, "blocks", cluster), plan.threads, plan.shared_bytes)


SIZES = {  # by name: compute capability, multiprocessors, GiB of memory
    "V100": (70, 80, 16), "T4": (75, 40, 16), "RTX 2080 Ti": (75, 68, 11), "A100": (80, 108, 40),
    "A100 80 GB": (80, 108, 80), "A100 MIG 1g.5gb": (80, 14, 5), "A100 MIG 2g.10gb": (80, 28, 10),
    "A100 MIG 3g.20gb": (80, 42, 20), "A100 MIG 4g.20gb": (80, 56, 20), "A100 MIG 7g.40gb": (80, 98, 40),
    "A30": (80, 56, 24), "A10": (86, 72, 24), "A40": (86, 84, 48), "RTX 3060": (86, 28, 12),
    "RTX 3090": (86, 82, 24), "Jetson AGX Orin": (87, 16, 64), "Jetson Orin Nano": (87, 8, 8),
    "L4": (89, 58, 24), "L40S": (89, 142, 48), "RTX 4060": (89, 24, 8), "RTX 4090": (89, 128, 24),
    "H100 PCIe": (90, 114, 80), "H100 SXM": (90, 132, 80), "H100 MIG 1g.10gb": (90, 16, 10),
    "H200": (90, 132, 141), "GH200": (90, 132, 96), "B200": (100, 148, 180), "RTX 5090": (120, 170, 32),
}  # fmt: skip
GPUS = {
    name: Gpu(name, replace(ORIN if of == 87 else ARCHITECTURES[of], multiprocessors=count), memory_gib)
    for name, (of, count, memory_gib) in SIZES.items()
}
DISTINCT = list({gpu.limits: gpu for gpu in GPUS.values()}.values())  # of those with the same limits, one
