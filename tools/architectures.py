"""The limits of each GPU architecture, and how many blocks of a kernel a multiprocessor holds at once."""

from dataclasses import dataclass

from cuchar.devices.device import Limits

PARTITIONS = 4  # quarters of a multiprocessor; each has a quarter of the registers and every fourth warp of a block


@dataclass(frozen=True)
class Architecture:
    """An architecture's limits. Source: CUDA C++ Programming Guide, "Technical specifications"."""

    capability: int  # 90 is compute capability 9.0
    example: str  # a GPU of this architecture
    multiprocessors: int  # how many that GPU has
    shared_bytes: int  # shared memory that a block gets if it asks for it
    shared_total: int  # shared memory of a multiprocessor
    shared_reserved: int  # shared memory of each block that the system takes
    warps: int  # warps that a multiprocessor runs at once
    blocks: int  # blocks that a multiprocessor runs at once
    registers: int = 65_536  # registers of a multiprocessor

    @property
    def limits(self) -> Limits:
        return Limits(self.capability, self.multiprocessors, self.shared_bytes, self.registers)

    def blocks_at_once(self, registers: int, threads: int, shared: int) -> int:
        """How many blocks a multiprocessor runs at once: the least of four limits, as in cuda_occupancy.h.

        Args:
            registers: registers of a thread.
            threads: threads of a block.
            shared: bytes of shared memory of a block.
        """
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
