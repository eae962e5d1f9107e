"""A sign changed anywhere in a kernel must change what the emulator computes, or make it fail."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.fingerprint import WORKLOADS
from support.mutants import HARMLESS, KERNELS, chosen, mutant, sites
from support.process import ROOT, environment
from support.targets import target_of

from cuchar.config import ModelConfig
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.resident import Resident
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.target import Window

RESIDENT, FP16 = ("cluster", "block"), ("stepwise fp16", "stepwise fp16 overflow")
JUDGES = {  # by file: workloads that run it, one of which must notice a changed sign
    **dict.fromkeys(
        "common/block_sum.cuh common/four.cuh common/philox.cuh common/real.cuh common/shape.cuh "
        "resident/lstm_backward.cuh resident/lstm_forward.cuh resident/matvec.cuh resident/wavefront.cuh "
        "sampling/lstm_sample.cu training/windows.cu".split(),
        RESIDENT,
    ),
    **dict.fromkeys(["resident/lstm_resident.cu", "resident/weight_gradients.cu"], (*RESIDENT, "block without dropout")),
    **dict.fromkeys(["common/sum.cuh", "common/softmax.cuh", "head/row_softmax.cuh"], (*RESIDENT, "large vocabulary")),
    "head/head.cuh": (*RESIDENT, "stepwise", "stepwise, many rows"),
    "training/sums.cuh": (*RESIDENT, "stepwise", "stepwise, many rows"),
    "training/begin_window.cu": ("stepwise", "persistent"),
    "common/dropout.cuh": ("block", "stepwise", "persistent"),
    **dict.fromkeys(["stepwise/cell.cu", "stepwise/dropout.cu", "head/head.cu", "training/sums.cu"], ("stepwise", "stepwise, many rows")),
    "common/cell.cuh": ("stepwise", "persistent"),
    "persistent/persistent.cuh": ("persistent", "persistent deep"),
    **dict.fromkeys(
        ["persistent/persistent_forward.cu", "persistent/persistent_backward.cu"], ("persistent", "persistent deep", "persistent bf16")
    ),
    "persistent/tile.cuh": ("persistent", "persistent, many rows", "persistent bf16", "persistent tf32"),
    "training/weigh.cu": ("block, shared",),
    "training/weight_dropout.cu": ("block", "stepwise"),
    "training/adam.cu": (*RESIDENT, *FP16),
    "training/gradient_norm.cu": (*RESIDENT, *FP16, "stepwise, many parameters"),
    "head/softmax.cu": ("large vocabulary", "stepwise fp16"),
    "gemm/tensor_gemm.cu": ("stepwise tf32", *FP16),
    "gemm/round.cu": ("persistent bf16 library",),
    "sampling/draw.cuh": (*RESIDENT, "large vocabulary"),
    "sampling/draw.cu": ("stepwise", "large vocabulary"),
}  # fmt: skip
# The emulator has its own hardware.cuh; the other one has no sign that could be changed.
NO_SIGNS = {"common/hardware.cuh", "common/step.cuh"}


def digest(folder: Path, workload: str) -> str:
    """A workload's fingerprint with a folder's kernels, or how it failed. Compiled kernels are kept beside them."""
    command = [sys.executable, ROOT / "tests/support/fingerprint.py", folder, workload]
    env = environment() | {"XDG_CACHE_HOME": str(folder.parent / "cache")}
    try:
        run = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    except subprocess.TimeoutExpired:
        return "failed: endless"
    return run.stdout if run.returncode == 0 else f"failed: {run.returncode} {run.stderr[-200:]}"


def survivors(files: list[str], pick, tmp_path: Path) -> list[str]:
    """The places, among those that `pick` gives, where a changed sign went unnoticed."""
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
    assert {str(path.relative_to(KERNELS)) for path in KERNELS.rglob("*.cu*")} == JUDGES.keys() | NO_SIGNS
    assert not any(sites(KERNELS / file) for file in NO_SIGNS - {"common/hardware.cuh"})
    assert {workload for judges in JUDGES.values() for workload in judges} <= WORKLOADS.keys()
    sources = "".join(path.read_text() for path in KERNELS.rglob("*.cu*"))
    assert all(harmless in sources for harmless in HARMLESS)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_workload_runs_what_it_is_called_for(workload, monkeypatch):
    V, H, L, B, T, limits = WORKLOADS[workload]
    if "persistent" in workload:
        monkeypatch.setattr("cuchar.engines.cuda.resident.ONE_PASS_VOCABULARY", V - 1)  # as fingerprint.py does
    plan = plan_window(target_of(ModelConfig(V, H, L), limits), Window(T, B))
    regimes = {"cluster": (Resident, 2), "block": (Resident, 1), "persistent": (Persistent, None)}
    expected = next((regime for name, regime in regimes.items() if name in workload), (Stepwise, None))
    assert (type(plan), getattr(plan, "cluster", None)) == expected
    if workload in JUDGES["persistent/persistent.cuh"]:  # its blocks have to wait for each other, and parts take turns
        launches = plan.forward, plan.backward
        assert all(launch.blocks > launch.groups * (2 * L - 1) and launch.parts > 1 for launch in launches)


def test_no_changed_sign_goes_unnoticed(tmp_path):
    assert survivors(sorted(JUDGES), chosen, tmp_path) == []
