"""compute-sanitizer's four tools over one_step.py, where it is installed."""

import shutil
import subprocess
import sys

from benchmarks.gpu_stages.device import dry_run, environment
from benchmarks.gpu_stages.report import Report

TOOLS = ("memcheck", "initcheck", "synccheck", "racecheck")
PLACES = ("compute-sanitizer", "/usr/local/cuda/bin/compute-sanitizer")
FOUND = 86  # the exit status that we ask for


def run_stage(report: Report) -> None:
    script = [sys.executable, "-m", "benchmarks.gpu_stages.one_step"]
    if dry_run():  # the script alone
        watch(report, "no tool: one_step.py", script)
        return
    sanitizer = next(filter(None, map(shutil.which, PLACES)), None)
    if sanitizer is None:
        report.add("compute-sanitizer", None, note=f"not there: neither {' nor '.join(PLACES)}")
        return
    watch(report, "no tool: one_step.py", script)  # compiles, so that the tools need not watch that
    for tool in TOOLS:
        watch(report, tool, [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), *script])


def watch(report: Report, name: str, command: list[str]) -> None:
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines() or ["printed nothing"]
    passed = done.returncode == 0
    summary = next((line.strip("= ") for line in reversed(lines) if "SUMMARY" in line), "")
    facts = {} if passed else {"output": lines[:60]}
    report.add(name, passed, status=done.returncode, note=(summary or ("" if passed else lines[-1]))[:200], **facts)
