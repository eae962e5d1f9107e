"""A multiprocessor of an H100 that runs machine code a clock at a time, as far as published figures go.

Warps go through their instructions in order and wait for stall counts, scoreboards, units and barriers; a scheduler
issues one instruction a clock. Figures: arXiv 2402.13499 and 2501.12084, and estimates
marked (e). What is not here: see predict.py.
"""

from dataclasses import dataclass, field
from typing import TypeVar

from sass import Instruction

BARRIER = 20
LATENCY = {  # clocks until a scoreboard clears; the first prefix that fits
    "LDS": 29, "SHFL": 23, "MUFU": 18, "LDG": 263, "LD.": 263, "SYNCS": 29, "ST": 20, "RED": 20, "D": 20,
    "": 30,
}  # fmt: skip
CLOCKS = {  # that an instruction keeps its unit busy, and which; the first prefix that fits
    "FFMA": ("fma", 1), "FADD": ("fma", 1), "FMUL": ("fma", 1), "IMAD": ("fma", 2), "MUFU": ("mufu", 8),
    "HMMA": ("tensor", 6),
    "DFMA": ("double", 2), "DADD": ("double", 2), "DMUL": ("double", 2), "DSETP": ("double", 2),
    "BAR": ("control", 1), "BRA": ("control", 1), "BSSY": ("control", 1), "BSYNC": ("control", 1),
    "EXIT": ("control", 1), "NOP": ("control", 1), "WARPSYNC": ("control", 1), "S2R": ("control", 1), "": ("alu", 2),
}  # fmt: skip
PASSES = {"LDS": 1, "STS": 1, "SHFL": 1, "SYNCS": 1, "LDG": 1, "STG": 1, "LD.": 1, "ST.": 1, "STAS": 1, "LDC": 1}
SCHEDULERS = 4
Value = TypeVar("Value")


def first_of(table: dict[str, Value], opcode: str) -> Value:
    return next(value for prefix, value in table.items() if opcode.startswith(prefix))


def passes(opcode: str, global_passes: int) -> int:
    """Clocks of the SM's one path to memory."""
    one = next((value for prefix, value in PASSES.items() if opcode.startswith(prefix)), 0)
    if not one:
        return 0
    if opcode.startswith(("LDG", "STG")):
        return global_passes or (4 if ".128" in opcode else 2 if ".64" in opcode else 1)
    return 2 if ".128" in opcode or ".64" in opcode else 1


@dataclass
class Warp:
    trace: list[Instruction]
    block: int
    scheduler: int
    next: int = 0
    ready: int = 0
    boards: list[int] = field(default_factory=lambda: [0] * 6)
    at_barrier: bool = False


class Multiprocessor:
    """Warps of some blocks on one SM, each through its trace in order.

    Args:
        blocks: a list of traces, one a warp, for each block.
        global_passes: of a global access, where it is not what its width says.
    """

    def __init__(self, blocks: list[list[list[Instruction]]], global_passes: int = 0):
        self.warps, self.global_passes = [], global_passes
        for block, traces in enumerate(blocks):
            for trace in traces:
                self.warps.append(Warp(trace, block, len(self.warps) % SCHEDULERS))

    def run(self) -> int:
        """Clocks until the last warp has ended."""
        clock, memory_free = 0, 0
        units: dict[tuple[int, str], int] = {}
        while any(warp.next < len(warp.trace) for warp in self.warps):
            soonest = None
            for scheduler in range(SCHEDULERS):
                for warp in sorted((w for w in self.warps if w.scheduler == scheduler), key=lambda w: w.ready):
                    if warp.next >= len(warp.trace) or warp.at_barrier:
                        continue
                    instruction = warp.trace[warp.next]
                    unit, busy = first_of(CLOCKS, instruction.opcode)
                    width = passes(instruction.opcode, self.global_passes)
                    if width:
                        unit, busy = "memory", 1
                    boards = [warp.boards[k] for k in range(6) if instruction.waits >> k & 1]
                    start = max([warp.ready, units.get((scheduler, unit), 0), *boards])
                    if start > clock:
                        soonest = start if soonest is None else min(soonest, start)
                        continue
                    units[scheduler, unit] = clock + busy
                    done = clock
                    if width:
                        done = memory_free = max(memory_free, clock) + width
                    if instruction.sets < 6:
                        board = warp.boards[instruction.sets]
                        warp.boards[instruction.sets] = max(board, done + first_of(LATENCY, instruction.opcode))
                    if instruction.frees < 6:
                        warp.boards[instruction.frees] = max(warp.boards[instruction.frees], done + 12)
                    warp.ready = clock + max(1, instruction.stall)
                    warp.next += 1
                    if instruction.opcode.startswith("BAR.SYNC"):
                        warp.at_barrier = True
                        self._meet(warp.block, clock)
                    soonest = clock + 1
                    break
            clock = max(clock + 1, soonest) if soonest is not None else clock + 1
        return max(max(warp.ready, *warp.boards) for warp in self.warps)

    def _meet(self, block: int, clock: int) -> None:
        there = [warp for warp in self.warps if warp.block == block and warp.next < len(warp.trace)]
        waiting = [warp for warp in self.warps if warp.block == block and warp.at_barrier]
        if all(warp.at_barrier for warp in there):
            for warp in waiting:
                warp.at_barrier, warp.ready = False, clock + BARRIER


def per_pass(blocks: list[list[list[Instruction]]], few: int = 4, many: int = 12) -> float:
    """Clocks of one more pass of the warps of some blocks through their traces, in the long run."""
    clocks = [Multiprocessor([[trace * times for trace in block] for block in blocks]).run() for times in (few, many)]
    return (clocks[1] - clocks[0]) / (many - few)
