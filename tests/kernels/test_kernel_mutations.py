"""A sign changed anywhere in a kernel must change what the emulator computes, or make it fail."""

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, environment
from support.fingerprint import WORKLOADS

from cuchar.config import ModelConfig
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import Resident, Stepwise, make_plan

KERNELS = ROOT / "kernels"
SIGN = re.compile(r"(?<=[\w)\]] )([+-])(?==? )")  # a binary one, and not in a comment
OF_EACH_FILE = 1  # all of them take hours, and were tried by hand
RESIDENT, FP16 = ("cluster", "block"), ("stepwise fp16", "stepwise fp16 overflow")
JUDGES = {  # of each file: the workloads that run it, one of which must notice
    **dict.fromkeys(
        "block_sum.cuh dropout.cuh four.cuh lstm_backward.cuh lstm_forward.cuh lstm_sample.cu matvec.cuh philox.cuh "
        "real.cuh shape.cuh wavefront.cuh windows.cu".split(), RESIDENT
    ),
    **dict.fromkeys(["resident/lstm_resident.cu", "resident/weight_gradients.cu"], (*RESIDENT, "block without dropout")),
    "head/head.cuh": (*RESIDENT, "stepwise", "stepwise, many rows"),
    "training/sums.cuh": (*RESIDENT, "stepwise", "stepwise, many rows"),
    "training/begin_window.cu": ("stepwise", "persistent"),
    **dict.fromkeys(["stepwise/cell.cu", "stepwise/dropout.cu", "head/head.cu", "training/sums.cu"], ("stepwise", "stepwise, many rows")),
    "persistent/persistent.cuh": ("persistent", "persistent deep"),
    **dict.fromkeys(
        ["persistent/persistent_forward.cu", "persistent/persistent_backward.cu"], ("persistent", "persistent deep", "persistent bf16")
    ),
    "persistent/tile.cuh": ("persistent", "persistent bf16", "persistent tf32"),
    "training/adam.cu": (*RESIDENT, *FP16),
    "training/gradient_norm.cu": (*RESIDENT, *FP16, "stepwise, many parameters"),
    "head/softmax.cu": ("large vocabulary", "stepwise fp16"),
    "gemm/tensor_gemm.cu": ("stepwise tf32", *FP16),
    "gemm/round.cu": ("persistent bf16 library",),
    "sampling/draw.cuh": (*RESIDENT, "large vocabulary"),
    "sampling/draw.cu": ("stepwise", "large vocabulary"),
}  # fmt: skip
NO_SIGNS = {
    "common/hardware.cuh",
    "common/step.cuh",
}  # the emulator has its own of the first; declarations only in the second
HARMLESS = [  # signs that may be either, as what they lead to is not used
    "parameters + weight_ih_at(0)",  # plus nothing
    "min(t, T - 1)", "id, t + AHEAD", "step + AHEAD",  # what is fetched ahead of the last step; slots that are the same
    "min(lane + 32 * j, H - 1)", "32 * j, M - 1)", "min(at, P - 1)", "min(n, end - 1)", "count - 1)]",  # a number that nobody has
    "min(of, H - 1)", "first_unit + n < H",  # a unit that nobody has
    "first + 1 < count",  # half a word that nobody reads, but test_tensor_gemm.py
    "N - first, begin", "T - t, 0)", "biases[j] = lane + 32 * j < V", "min(n + 1, DEPTH - 1)",
    "end - begin + GROUPS - 1",  # fronts at which no stage works
    "(L > 1 ? L - 1 : 1)", "layer + 1, step, column",  # channels that nobody uses; those of other parity are the same
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
    """Some sites, evenly through the file."""
    found = sites(file)
    count = min(OF_EACH_FILE, len(found))
    return [found[(2 * index + 1) * len(found) // (2 * count)] for index in range(count)]


def digest(folder: Path, workload: str) -> str:
    """The fingerprint, or how it failed. What is compiled stays beside the folder."""
    command = [sys.executable, ROOT / "tests/fingerprint.py", folder, workload]
    env = environment() | {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
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


def survivors(files: list[str], pick, tmp_path: Path) -> list[str]:
    """Where a changed sign went unnoticed."""
    workloads = sorted({workload for file in files for workload in JUDGES[file]})
    unchanged = shutil.copytree(KERNELS, tmp_path / "unchanged")
    originals = {workload: digest(unchanged, workload) for workload in workloads}
    assert not any(original.startswith("failed") for original in originals.values()), originals

    def survives(job: tuple[int, str, tuple[int, int]]) -> str | None:
        number, file, site = job
        folder = mutant(file, site, tmp_path / f"{number}")
        unnoticed = all(digest(folder, workload) == originals[workload] for workload in JUDGES[file])
        return f"{file}:{site[0] + 1}:{site[1] + 1}" if unnoticed else None

    jobs = [(file, site) for file in files for site in pick(KERNELS / file)]
    with ThreadPoolExecutor(2) as pool:
        return [found for found in pool.map(survives, [(n, *job) for n, job in enumerate(jobs)]) if found]


def test_every_file_is_judged():
    assert {path.name for path in KERNELS.glob("*.cu*")} == JUDGES.keys() | NO_SIGNS
    assert not sites(KERNELS / "common/step.cuh")
    assert {workload for judges in JUDGES.values() for workload in judges} <= WORKLOADS.keys()
    sources = "".join(path.read_text() for path in KERNELS.glob("*.cu*"))
    assert all(harmless in sources for harmless in HARMLESS)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_runs_what_it_is_called_for(workload, monkeypatch):
    V, H, L, B, T, limits = WORKLOADS[workload]
    if "persistent" in workload:
        monkeypatch.setattr("cuchar.engines.cuda.regimes.ONE_PASS_VOCABULARY", V - 1)  # as fingerprint.py does
    plan = make_plan(ModelConfig(V, H, L), T, B, "f4", limits)
    regimes = {"cluster": (Resident, 2), "block": (Resident, 1), "persistent": (Persistent, None)}
    expected = next((regime for name, regime in regimes.items() if name in workload), (Stepwise, None))
    assert (type(plan), getattr(plan, "cluster", None)) == expected
    if workload in JUDGES["persistent/persistent.cuh"]:  # blocks that wait for each other, and parts that take turns
        launches = plan.forward, plan.backward
        assert all(launch.blocks > launch.groups * (2 * L - 1) and launch.parts > 1 for launch in launches)


def test_no_changed_sign_goes_unnoticed(tmp_path):
    assert survivors(sorted(JUDGES), chosen, tmp_path) == []
