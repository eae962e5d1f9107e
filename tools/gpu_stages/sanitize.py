"""compute-sanitizer's four tools over one_step.py, where it is installed.

Source: NVIDIA, Compute Sanitizer user manual, "Command Line Options", "Specifying Filters", "Racecheck Severity Levels";
its release notes: 2023.3 has renamed --kernel-regex to --kernel-name.
"""

import shutil
import subprocess
import sys

from cuchar.devices.kernel_sources import kernel_folder
from cuchar.devices.signatures import signatures
from tools.gpu_stages.device import dry_run, environment
from tools.gpu_stages.report import Report

TOOLS = {  # and what each is told
    "memcheck": ["--report-api-errors", "no"],  # CuPy tries calls that may fail, and deals with it
    "initcheck": [],
    "synccheck": [],
    "racecheck": ["--racecheck-detect-level", "error"],  # a warning may be meant: lanes of a warp that work in step
}
UNFILTERED = ("initcheck",)  # it has to see whatever writes: cuBLAS's kernels too
PLACES = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
BARRIERS = ["--num-cuda-barriers", "4096"]  # synccheck's room for mbarriers: a block of lstm_step has 32
FOUND = 86  # the exit status that we ask for
SCRIPT = [sys.executable, "-m", "tools.gpu_stages.one_step"]


def run_stage(report: Report) -> None:
    if dry_run():  # the script alone
        watch(report, "no tool: one_step.py", SCRIPT)
        return
    sanitizer = next(filter(None, map(shutil.which, PLACES)), None)
    if sanitizer is None:
        report.add("compute-sanitizer", None, note=f"not there: neither {' nor '.join(PLACES)}")
        return
    watch(report, "no tool: one_step.py", SCRIPT)
    told = subprocess.run([sanitizer, "--help"], capture_output=True, text=True).stdout
    only = only_ours("--kernel-name" if "--kernel-name" in told else "--kernel-regex")
    barriers = BARRIERS if BARRIERS[0] in told else []  # an older tool finds room by itself
    for tool in TOOLS:
        watch(report, tool, command(sanitizer, tool, [*(barriers if tool == "synccheck" else []), *only]))


def command(sanitizer: str, tool: str, only: list[str]) -> list[str]:
    filters = [] if tool in UNFILTERED else only
    return [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), *TOOLS[tool], *filters, *SCRIPT]


def only_ours(option: str) -> list[str]:
    """A filter for each kernel of kernels/: a tool looks at those that pass any."""
    files = sorted(kernel_folder().rglob("*.cu"))
    return [part for file in files for name in signatures(file.read_text("utf-8")) for part in (option, f"kne={name}")]


def watch(report: Report, name: str, command: list[str]) -> None:
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines() or ["printed nothing"]
    passed = done.returncode == 0
    summary = next((line.strip("= ") for line in reversed(lines) if "SUMMARY" in line), "")
    facts = {} if passed else {"output": lines[:60]}
    report.add(name, passed, status=done.returncode, note=(summary or ("" if passed else lines[-1]))[:200], **facts)
