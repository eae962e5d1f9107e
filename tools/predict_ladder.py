"""How many clocks a time step of docs/kernels.md's kernels should take: estimates from machine code. No GPU was used.

    python tools/predict_ladder.py

The kernels that the page marks as complete are compiled for sm_90 and simulated by multiprocessor.py; predict.py says
what that assumes. All warps of a block run the whole loop, with both sides of every branch. Only in `wavefront` a warp
leaves out what its stage does not do. From the second time step on, the weights that one_launch reads are in the L1
cache; everything else that is read from global memory comes from L2.
"""

import re
from pathlib import Path

from multiprocessor import LATENCY, Multiprocessor, per_pass
from sass import Code, Instruction, disassemble_source

PAGE = Path(__file__).parent.parent / "docs/kernels.md"
COMPLETE = re.compile(r"^```cuda complete\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CAPABILITY, HIDDEN = 90, 64
L2, L1 = 263, 41  # clocks of a load from either cache; arXiv 2402.13499


def inside(code: Code, loop: int) -> list[Instruction]:
    first, last = code.loops[loop]
    return [i for i in code.instructions if first <= i.address <= last]


def naive(code: Code) -> int:
    """Clocks of a launch, whose loop takes four k in each pass; nothing is left over for the loop that takes one."""
    rest, four = code.loops
    before = [i for i in code.instructions if i.address < four[0]]
    after = [i for i in code.instructions if i.address > rest[1]]
    return Multiprocessor([[before + inside(code, 1) * (HIDDEN // 4) + after] * 8]).run()


def one_launch(code: Code) -> float:
    """Clocks of a time step, whose inner loop takes sixteen k in each of four passes."""
    (begin, end), (first, last) = code.loops
    before = [i for i in code.instructions if first <= i.address < begin]
    after = [i for i in code.instructions if end < i.address <= last]
    LATENCY["LDG"] = L1
    clocks = per_pass([[before + inside(code, 0) * 4 + after] * 8])
    LATENCY["LDG"] = L2
    return clocks


def wavefront(code: Code, source: str) -> float:
    """Clocks of a tick of three teams of four warps; each warp runs one side of `if (!recurrent) ... else ...`."""
    lines = source.splitlines()
    begin = next(number for number, line in enumerate(lines, 1) if "if (!recurrent) {" in line)
    middle = next(number for number, line in enumerate(lines, 1) if number > begin and "} else {" in line)
    end = next(number for number, line in enumerate(lines, 1) if number > middle and line == "            }")

    def without(left_out: range) -> list[Instruction]:
        return [i for i in inside(code, -1) if not any(line in left_out for _, line in i.places)]

    recurrent, projection = without(range(begin + 1, middle)), without(range(middle + 1, end))
    return per_pass([[recurrent] * 4 + [projection] * 4 + [recurrent] * 4])


def predicted() -> dict[str, float]:
    """For each kernel the clocks of a time step, for `wavefront` those of a tick."""
    source = "\n".join(COMPLETE.findall(PAGE.read_text("utf-8")))
    codes = disassemble_source(f'#line 1 "docs/{PAGE.name}"\n{source}', CAPABILITY)
    return {
        "naive_time_step": naive(codes["naive_time_step"]),
        "one_launch": one_launch(codes["one_launch"]),
        "weights_in_registers": per_pass([[inside(codes["weights_in_registers"], -1)] * 8]),
        "two_lanes_a_unit": per_pass([[inside(codes["two_lanes_a_unit"], -1)] * 4]),
        "wavefront": wavefront(codes["wavefront"], source),
        "backward": per_pass([[inside(codes["backward"], -1)] * 4]),
    }


def main() -> None:
    for name, count in predicted().items():
        print(f"{name:22} {round(count):6,} clocks a {'tick' if name == 'wavefront' else 'time step'}")


if __name__ == "__main__":
    main()
