"""`make gpu`: everything that needs a GPU, in stages, in under ten minutes.

    python tools/gpu.py [--stage compile tests parity sanitize speed run] [--out gpu-results]

Each stage is a process with a time limit, so that neither a failure nor a hang of one stops
the next. A stage writes its results to STAGE.json as it goes; log.txt has what the stages
printed, summary.txt a table of all results. The exit status is 0, or 1 if a stage failed, or
2 without a GPU. --dry-run does the same on the emulator, with tiny sizes and without timings.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PACKAGES = "numpy pytest typer rich safetensors".split()


def main() -> int:
    from tools.gpu_stages import LIMITS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", nargs="+", choices=list(LIMITS), default=list(LIMITS))
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--dry-run", action="store_true", help="on the emulator; gives no timings")
    options = parser.parse_args()
    os.environ.pop("CUCHAR_GPU_DRY_RUN", None)
    if options.dry_run:
        os.environ["CUCHAR_GPU_DRY_RUN"] = "1"
    machine = describe()
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    patience = 10 if options.dry_run else 1
    passed = [run_stage(stage, folder, machine, patience * LIMITS[stage]) for stage in LIMITS if stage in options.stage]
    print((folder / "summary.txt").read_text("utf-8"))
    return 0 if all(passed) else 1


def describe() -> dict[str, str]:
    """Describe the machine. A process of its own asks the GPU, so that this one does not hold it.

    If there is no GPU or a package is missing, this ends the program with status 2.
    """
    missing = [name for name in PACKAGES if not _importable(name)]
    if missing:
        fail(f"expected the packages {', '.join(PACKAGES)}, found no {', '.join(missing)} in {sys.executable}")
    from tools.gpu_stages.device import environment

    command = [sys.executable, "-m", "tools.gpu_stages", "--describe"]
    found = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    if found.returncode:
        reason = (found.stderr.strip().splitlines() or [f"exit status {found.returncode}"])[-1]
        fail(f"no GPU to work with: {reason}")
    return json.loads(found.stdout.splitlines()[-1])


def run_stage(stage: str, folder: Path, machine: dict[str, str], limit: int) -> bool:
    from tools.gpu_stages.report import Report, utc
    from tools.gpu_stages.summary import summary

    Report.begin(folder, stage, machine)
    print(f"{stage}, at most {limit} s ...", end=" ", flush=True)
    status, began = "stopped", perf_counter()
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        begin = log.tell()
        print(f"==== {stage}, on {machine['device']}, {utc()}", file=log, flush=True)
        try:
            command = [sys.executable, "-m", "tools.gpu_stages", stage, str(folder), str(os.getpid())]
            status = run_process(command, log, limit)
        finally:
            report = Report(folder, stage)
            if status == "passed" and not report.all_passed:
                status = "failed"
            if status in ("crashed", "timed out"):
                report.fact("error", last_line(folder / "log.txt", begin))
            report.end(status, perf_counter() - began)
            (folder / "summary.txt").write_text(summary(folder), "utf-8")
            print(status)
    return status == "passed"


def run_process(command: list[str], log: IO[str], limit: float) -> str:
    """Run a command, and return "passed", "crashed" or "timed out". None of its processes is left running."""
    from tools.gpu_stages.device import environment

    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        return "crashed" if process.wait(limit) else "passed"
    except subprocess.TimeoutExpired:
        return "timed out"
    finally:
        kill_group(process.pid)
        process.wait()


def kill_group(number: int) -> None:
    with suppress(ProcessLookupError):  # all processes of the group have ended
        os.killpg(number, signal.SIGKILL)


def last_line(file: Path, begin: int) -> str:
    with open(file, encoding="utf-8", errors="replace") as log:
        log.seek(begin)
        return [line.strip() for line in log if line.strip()][-1][:500]


def fail(message: str) -> None:
    print(f"make gpu: {message}", file=sys.stderr)
    sys.exit(2)


def _importable(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
