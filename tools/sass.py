"""Reads kernels' machine code: the instructions with their source lines and control bits, and the loops among them.

nvdisasm (`pip install 'cuchar[test]'`) disassembles what NVRTC compiled. The highest 23 of an instruction's 128 bits
are for the scheduler. They say how long the warp stalls after the instruction, which of six scoreboards its result or
its operands occupy, and which scoreboards it waits for.
Source: Jia, Maggioni, Staiger, Scarpazza 2018, "Dissecting the NVIDIA Volta GPU architecture".
"""

import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from machine_code import compile_source

from cuchar.devices.kernel_sources import join, kernel_folder
from cuchar.sizes import ceil_div


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str
    target: str  # the label that a branch goes to
    places: tuple[tuple[str, int], ...]  # files of kernels/ and lines, from the innermost inlined call outwards
    stall: int  # clocks that the warp stalls after it
    sets: int  # the scoreboard that its result occupies, 7 for none
    frees: int  # the scoreboard that its operands occupy, 7 for none
    waits: int  # the scoreboards that it waits for, a bit for each


@dataclass
class Code:
    """A kernel's instructions and loops, without the slow paths, which come after its last EXIT."""

    instructions: list[Instruction]
    loops: list[tuple[int, int]] = field(default_factory=list)  # first and last address, innermost first


def disassemble(file: str, macros: Mapping[str, int | str], capability: int) -> dict[str, Code]:
    """Compile and disassemble a file of kernels/, and return its kernels by name.

    Raises:
        RuntimeError: nvdisasm is missing.
    """
    return disassemble_source(join(file, dict(macros)), capability)


def disassemble_source(source: str, capability: int) -> dict[str, Code]:
    """Compile and disassemble a source text, and return its kernels by name.

    Raises:
        RuntimeError: nvdisasm is missing.
    """
    tool = next(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvdisasm"), None)
    if tool is None:
        raise RuntimeError("expected nvdisasm, found none; pip install 'cuchar[test]'")
    cubin, _ = compile_source(source, capability, ("--generate-line-info",))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as image:
        image.write(cubin)
        image.flush()
        command = [tool, "-c", "-gi", "-hex", image.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sections = re.split(r"^\.text\.(\w+):$", text, flags=re.MULTILINE)
    return {name: parse(section) for name, section in zip(sections[1::2], sections[2::2], strict=True)}


_PLACE = re.compile(r'//## File "(?:[^"]*/)?([^"/]+/[^"/]+)", line (\d+)')
_INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+ )?\s*([\w.]+)([^;]*);\s+/\* 0x([0-9a-f]{16}) \*/")


def parse(section: str) -> Code:
    """The code of a kernel from its section of nvdisasm's output."""
    found, labels, pending, places, fresh = [], {}, [], (), True
    lines = section.splitlines()
    for number, line in enumerate(lines):
        if place := _PLACE.search(line):
            places = ((place[1], int(place[2])),) if fresh else (*places, (place[1], int(place[2])))
            fresh = False
        elif label := re.match(r"(\.L_x_\d+):", line):
            pending.append(label[1])
        elif match := _INSTRUCTION.search(line):
            fresh = True
            bits = int(re.search(r"0x([0-9a-f]{16})", lines[number + 1])[1], 16) >> 41
            address, target = int(match[1], 16), re.search(r"`\((\.L_x_\d+)\)", match[3])
            labels.update(dict.fromkeys(pending, address))
            pending = []
            control = (bits & 15, bits >> 5 & 7, bits >> 8 & 7, bits >> 11 & 63)
            found.append(Instruction(address, match[2], target[1] if target else "", places, *control))
    end = max(i.address for i in found if i.opcode == "EXIT")
    found = [i for i in found if i.address <= end]
    loops = [
        (labels[i.target], i.address)
        for i in found
        if i.opcode == "BRA" and i.target in labels and labels[i.target] <= i.address
    ]
    return Code(found, sorted(loops, key=lambda loop: loop[1] - loop[0]))


def source_lines(file: str, pattern: str, after: int = 0) -> range:
    """The lines of a statement in a file of kernels/.

    It begins with the first line after line `after` that matches the pattern. If that line opens a brace or a
    parenthesis, the statement ends where the indentation is the same again.

    Raises:
        RuntimeError: no line matches.
    """
    lines = (kernel_folder() / file).read_text("utf-8").splitlines()
    for first in range(after, len(lines)):
        if re.search(pattern, lines[first]):
            break
    else:
        raise RuntimeError(
            f"expected a line like {pattern!r} in {file}, found none: tools/predict.py is older than the kernels"
        )
    indent = indent_of(lines[first])
    last = first
    if lines[first].rstrip().endswith(("{", "(")):
        last += 1
        while not lines[last].strip() or lines[last].startswith("#") or indent_of(lines[last]) > indent:
            last += 1
    return range(first + 1, last + 2)


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def within(instruction: Instruction, file: str, lines: range) -> bool:
    return any(place[0] == file and place[1] in lines for place in instruction.places)


def select(code: Code, file: str, lines: range, without: tuple[range, ...] = ()) -> list[Instruction]:
    return [
        i for i in code.instructions if within(i, file, lines) and not any(within(i, file, other) for other in without)
    ]


def repeated(code: Code, some: list[Instruction], counts: dict[str, int]) -> list[Instruction]:
    """The instructions `some` as a warp runs them, with its innermost loops repeated.

    A loop is repeated until so many instructions were run as `counts` says for the beginning of their opcode. If
    several loops have that instruction, the compiler has unrolled one loop: the one with the most of it (but not more
    than the count) is repeated, and the others are not run, nor are other instructions of the same source lines. A loop
    without any instruction in `counts` is run once.

    Raises:
        RuntimeError: no loop has an instruction in `counts`.
    """
    inner: list[tuple[int, int]] = []
    for loop in code.loops:
        if not any(other[0] >= loop[0] and other[1] <= loop[1] for other in inner):
            inner.append(loop)
    bodies = {loop: [i for i in some if loop[0] <= i.address <= loop[1]] for loop in inner}
    trips: dict[tuple[int, int], int] = {}
    dropped: set[Instruction] = set()
    for opcode, total in counts.items():
        having = {loop: [i for i in body if i.opcode.startswith(opcode)] for loop, body in bodies.items()}
        having = {loop: anchors for loop, anchors in having.items() if anchors}
        if not having:
            raise RuntimeError(f"expected a loop with {opcode}, found none: tools/predict.py is older than the kernels")
        best = max(having, key=lambda loop: (len(having[loop]) <= total, len(having[loop])))
        trips |= dict.fromkeys(having, 0)
        trips[best] = ceil_div(total, len(having[best]))
        lines = {i.places[0] for i in having[best]}
        dropped |= {i for i in some if i.places[0] in lines and not best[0] <= i.address <= best[1]}
    trace, done = [], set()
    for i in some:
        loop = next((loop for loop in inner if loop[0] <= i.address <= loop[1]), None)
        if loop not in trips:
            trace += [] if i in dropped else [i]
        elif loop not in done:
            done.add(loop)
            trace += bodies[loop] * trips[loop]
    return trace
