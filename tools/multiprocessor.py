"""Simulates a multiprocessor of an H100, which runs machine code clock by clock, as far as published figures allow.

Warps go through their instructions in order and wait for stall counts, scoreboards, units and barriers. A scheduler
issues one instruction a clock. The figures are from arXiv 2402.13499 and 2501.12084. predict.py says which of them are
estimates, and what the simulation leaves out.
"""

from dataclasses import dataclass, field
from typing import TypeVar

from sass import Instruction

BARRIER = 20  # clocks from the last warp's arrival until warps go on
LATENCY = {  # clocks until an instruction's scoreboard clears; the first prefix of its opcode counts
    "LDS": 29, "SHFL": 23, "MUFU": 18, "LDG": 263, "LD.": 263, "SYNCS": 29, "ST": 20, "RED": 20, "D": 20,
    "": 30,
}  # fmt: skip
CLOCKS = {  # which unit an instruction uses, and for how many clocks; the first prefix of its opcode counts
    "FFMA": ("fma", 1), "FADD": ("fma", 1), "FMUL": ("fma", 1), "IMAD": ("fma", 2), "MUFU": ("mufu", 8),
    "HMMA": ("tensor", 6),
    "DFMA": ("double", 2), "DADD": ("double", 2), "DMUL": ("double", 2), "DSETP": ("double", 2),
    "BAR": ("control", 1), "BRA": ("control", 1), "BSSY": ("control", 1), "BSYNC": ("control", 1),
    "EXIT": ("control", 1), "NOP": ("control", 1), "WARPSYNC": ("control", 1), "S2R": ("control", 1), "": ("alu", 2),
}  # fmt: skip
# Prefixes of opcodes that use the multiprocessor's path to memory.
PASSES = {"LDS": 1, "STS": 1, "SHFL": 1, "SYNCS": 1, "LDG": 1, "STG": 1, "LD.": 1, "ST.": 1, "STAS": 1, "LDC": 1}
SCHEDULERS = 4
Value = TypeVar("Value")


def first_of(table: dict[str, Value], opcode: str) -> Value:
    return next(value for prefix, value in table.items() if opcode.startswith(prefix))


def passes(opcode: str, global_passes: int) -> int:
    """For how many clocks an instruction occupies the multiprocessor's only path to memory.

    Args:
        global_passes: the answer for loads from and stores to global memory; 0 means what their width says.
    """
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
    """A multiprocessor with the warps of some blocks, each of which runs its trace of instructions in order.

    Args:
        blocks: for each block a list of traces, one for each warp.
        global_passes: as for `passes`.
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
    """How many clocks one more pass of all warps through their traces takes in the long run.

    This is the difference between `many` passes and `few`, divided by the number of passes between them.
    """
    clocks = [Multiprocessor([[trace * times for trace in block] for block in blocks]).run() for times in (few, many)]
    return (clocks[1] - clocks[0]) / (many - few)
