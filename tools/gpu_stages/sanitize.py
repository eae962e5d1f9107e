"""Runs one_step.py under compute-sanitizer's four tools, if it is installed.

Source: NVIDIA, Compute Sanitizer user manual, "Command Line Options", "Specifying Filters", "Racecheck Severity Levels";
its release notes: 2023.3 has renamed --kernel-regex to --kernel-name.
"""

import shutil
import subprocess
import sys

from cuchar.devices.kernel_sources import join, kernel_folder
from cuchar.devices.signatures import signatures
from tools.gpu_stages.device import dry_run, environment
from tools.gpu_stages.report import Report

TOOLS = {  # the tools, with the options of each
    "memcheck": ["--report-api-errors", "no"],  # CuPy makes some calls that may fail, and handles that
    "initcheck": [],
    "synccheck": [],
    "racecheck": ["--racecheck-detect-level", "error"],  # it also warns of what lanes of a warp do at the same time
}
UNFILTERED = ("initcheck",)  # it has to see everything that writes to memory, so cuBLAS's kernels too
PLACES = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
BARRIERS = ["--num-cuda-barriers", "4096"]  # how many mbarriers synccheck has room for: a block of lstm_step has 32
FOUND = 86  # the exit status that compute-sanitizer is told to end with if it finds something
SCRIPT = [sys.executable, "-m", "tools.gpu_stages.one_step"]


def run_stage(report: Report) -> None:
    if dry_run():  # without compute-sanitizer
        watch(report, "no tool: one_step.py", SCRIPT)
        return
    sanitizer = next(filter(None, map(shutil.which, PLACES)), None)
    if sanitizer is None:
        report.add("compute-sanitizer", None, note=f"not there: neither {' nor '.join(PLACES)}")
        return
    watch(report, "no tool: one_step.py", SCRIPT)
    told = subprocess.run([sanitizer, "--help"], capture_output=True, text=True).stdout
    only = only_ours("--kernel-name" if "--kernel-name" in told else "--kernel-regex")
    barriers = BARRIERS if BARRIERS[0] in told else []  # older versions make room by themselves
    for tool in TOOLS:
        watch(report, tool, command(sanitizer, tool, [*(barriers if tool == "synccheck" else []), *only]))


def command(sanitizer: str, tool: str, only: list[str]) -> list[str]:
    filters = [] if tool in UNFILTERED else only
    return [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), *TOOLS[tool], *filters, *SCRIPT]


def only_ours(option: str) -> list[str]:
    """Options with a filter for each kernel of kernels/; a tool watches the kernels that pass any of the filters."""
    files = sorted(file.relative_to(kernel_folder()).as_posix() for file in kernel_folder().rglob("*.cu"))
    return [part for file in files for name in signatures(join(file, {})) for part in (option, f"kne={name}")]


def watch(report: Report, name: str, command: list[str]) -> None:
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines() or ["printed nothing"]
    passed = done.returncode == 0
    summary = next((line.strip("= ") for line in reversed(lines) if "SUMMARY" in line), "")
    facts = {} if passed else {"output": lines[:60]}
    report.add(name, passed, status=done.returncode, note=(summary or ("" if passed else lines[-1]))[:200], **facts)
