"""What the blocks of a kernel share on each GPU architecture, and how many of them a multiprocessor holds at once."""

from dataclasses import dataclass

from cuchar.devices.device import Limits

PARTITIONS = 4  # of a multiprocessor; each has a quarter of the registers and every fourth warp of a block


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
