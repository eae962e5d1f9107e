"""Kernels with one sign changed: where a file has signs to change, and a folder in which one of them is changed."""

import re
import shutil
from pathlib import Path

from support.process import ROOT

KERNELS = ROOT / "kernels"
SIGN = re.compile(r"(?<=[\w)\]] )([+-])(?==? )")  # a binary plus or minus
OF_EACH_FILE = 1  # to change every sign takes hours, which was done by hand
HARMLESS = [  # signs that may be either, because nothing that is computed depends on them
    "parameters + weight_ih_at(0)",  # adds 0
    "min(t, T - 1)", "id, t + AHEAD", "step + AHEAD",  # beyond the last time step; slots that are the same
    "min(lane + 32 * j, H - 1)", "32 * j, M - 1)", "min(at, P - 1)", "min(n, end - 1)", "count - 1)]",  # unused loads
    "min(of, H - 1)", "first_unit + n < H",  # a unit that no thread has
    "first + 1 < count",  # half a word that is read by test_tensor_gemm.py alone
    "N - block_row, begin", "T - t, 0)", "biases[j] = lane + 32 * j < V", "min(n + 1, DEPTH - 1)",
    "end - begin + TEAMS - 1",  # fronts at which no stage works
    "(L > 1 ? L - 1 : 1)", "layer + 1, time_step, column",  # channels that nobody uses; those of other parity are the same
    "THREADS_OF_BLOCK - 1) / THREADS_OF_BLOCK", "SUM_COLUMNS - 1) / SUM_COLUMNS",  # trips and tiles that nobody asks for
    "bit = bits - 1", "bits = 32 - __clz(V - 1)",  # bits that no key has
]  # fmt: skip


def sites(file: Path) -> list[tuple[int, int]]:
    """Line and column of every binary plus and minus outside comments and what is HARMLESS."""
    text = re.sub(
        r"/\*.*?\*/|//[^\n]*", lambda comment: re.sub(r"[^\n]", " ", comment[0]), file.read_text(), flags=re.S
    )
    for harmless in HARMLESS:
        text = text.replace(harmless, re.sub("[+-]", " ", harmless))
    return [(number, at.start()) for number, line in enumerate(text.splitlines()) for at in SIGN.finditer(line)]


def chosen(file: Path) -> list[tuple[int, int]]:
    """OF_EACH_FILE sites, spread evenly over the file."""
    found = sites(file)
    count = min(OF_EACH_FILE, len(found))
    return [found[(2 * index + 1) * len(found) // (2 * count)] for index in range(count)]


def mutant(file: str, site: tuple[int, int], folder: Path) -> Path:
    """A copy of kernels/ in which the sign at `site` is the other one."""
    shutil.copytree(KERNELS, folder)
    lines = (folder / file).read_text().splitlines(keepends=True)
    number, column = site
    line = lines[number]
    lines[number] = line[:column] + {"+": "-", "-": "+"}[line[column]] + line[column + 1 :]
    (folder / file).write_text("".join(lines))
    return folder
