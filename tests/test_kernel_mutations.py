"""A sign changed anywhere in a kernel must change what the emulator computes, or make it fail."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, environment
from fingerprint import WORKLOADS

KERNELS = ROOT / "kernels"
SIGN = re.compile(r"(?<=[\w)\]] )([+-])(?==? )")  # a binary one, and not in a comment
OF_EACH_FILE = 3
USED_BY = {  # which workload runs a file; the first one that does judges it
    "cluster": {
        "adam.cu", "block_sum.cuh", "gradient_norm.cu", "head.cuh", "lstm_backward.cuh", "lstm_forward.cuh",
        "lstm_resident.cu", "matvec.cuh", "philox.cuh", "real.cuh", "shape.cuh", "sums.cuh", "wavefront.cuh",
        "weight_gradients.cu", "windows.cu",
    },
    "stepwise": {"begin_window.cu", "cell.cu", "dropout.cu", "head.cu", "sums.cu"},
    "large vocabulary": {"softmax.cu"},
}  # fmt: skip
NO_SIGNS = {"hardware.cuh", "step.cuh"}  # the emulator has its own of the first; declarations only in the second


def sites(file: Path) -> list[tuple[int, int]]:
    """Line and column of every binary plus and minus outside comments."""
    text = re.sub(
        r"/\*.*?\*/|//[^\n]*", lambda comment: re.sub(r"[^\n]", " ", comment[0]), file.read_text(), flags=re.S
    )
    return [(number, at.start()) for number, line in enumerate(text.splitlines()) for at in SIGN.finditer(line)]


def chosen(file: Path) -> list[tuple[int, int]]:
    """Some sites, evenly through the file."""
    found = sites(file)
    count = min(OF_EACH_FILE, len(found))
    return [found[(2 * index + 1) * len(found) // (2 * count)] for index in range(count)]


def digest(folder: Path, workload: str) -> str:
    """The fingerprint, or how it failed."""
    command = [sys.executable, ROOT / "tests/fingerprint.py", folder, workload]
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=60)
    except subprocess.TimeoutExpired:
        return "failed: endless"
    return run.stdout if run.returncode == 0 else f"failed: {run.returncode} {run.stderr[-200:]}"


def mutant(file: str, site: tuple[int, int], folder: Path) -> Path:
    """A copy of kernels/ in which the sign at `site` is the other one."""
    shutil.copytree(KERNELS, folder)
    lines = (folder / file).read_text().splitlines(keepends=True)
    number, column = site
    line = lines[number]
    lines[number] = line[:column] + {"+": "-", "-": "+"}[line[column]] + line[column + 1 :]
    (folder / file).write_text("".join(lines))
    return folder


def survivors(files: list[tuple[str, str]], pick, tmp_path: Path) -> list[str]:
    """Where a changed sign went unnoticed."""
    originals = {workload: digest(KERNELS, workload) for workload in {workload for _, workload in files}}
    assert not any(original.startswith("failed") for original in originals.values()), originals

    def survives(job: tuple[int, str, str, tuple[int, int]]) -> str | None:
        number, file, workload, site = job
        found = digest(mutant(file, site, tmp_path / f"{number}"), workload)
        return f"{file}:{site[0] + 1}:{site[1] + 1}" if found == originals[workload] else None

    jobs = [(file, workload, site) for file, workload in files for site in pick(KERNELS / file)]
    with ThreadPoolExecutor(2) as pool:
        return [found for found in pool.map(survives, [(n, *job) for n, job in enumerate(jobs)]) if found]


def test_every_file_is_judged():
    judged = set().union(*USED_BY.values()) | NO_SIGNS
    assert {path.name for path in KERNELS.glob("*.cu*")} == judged
    assert all(not sites(KERNELS / name) for name in NO_SIGNS - {"hardware.cuh"})
    assert set(USED_BY) <= set(WORKLOADS)


@pytest.mark.parametrize("workload", USED_BY)
def test_no_changed_sign_goes_unnoticed(workload, tmp_path):
    assert survivors([(file, workload) for file in sorted(USED_BY[workload])], chosen, tmp_path) == []
