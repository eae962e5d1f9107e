"""Looks for races between blocks: kernels under ThreadSanitizer, each case of flag_cases.py with many seeds.

    python tools/flags.py [--seeds 1000] [--bugs] [--out FILE]

A seed decides in which order the emulator runs threads, and which of them it delays at flags and mbarriers. The seeds
are 0, 1, 2, ..., so that every run is the same. With --bugs, instead, each bug of BUGS is planted in a copy of the
kernels, and each seed tries by itself whether it notices the bug. Needs g++ with ThreadSanitizer, and no GPU.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cuchar.bench.machine import processor, versions
from cuchar.devices.emulator import sanitizer_environment

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.flag_cases import CASES  # noqa: E402

SUMMARY = re.compile(r"SUMMARY: ThreadSanitizer: (.*)")
SHARED = "persistent/persistent.cuh"
FORWARD, BACKWARD = "persistent/persistent_forward.cu", "persistent/persistent_backward.cu"
WAVEFRONT, RESIDENT = "resident/wavefront.cuh", "resident/lstm_resident.cu"
SIGNAL = "if (threadIdx.x == 0) add_release(of(own.stage, item.part), 1);"
WAIT = "if (!all_flags.wait(own, item)) return false;"
BLOCKS, WARPS, CLUSTER = "three stages of two blocks", "blocks of several warps", "a cluster"


@dataclass(frozen=True)
class Bug:
    """`wrong` takes the place of `right` in a file of kernels/, which `case` must notice."""

    case: str
    file: str
    right: str
    wrong: str


BUGS = {
    "a signal that is relaxed": Bug(
        BLOCKS, SHARED, SIGNAL,
        "if (threadIdx.x == 0) std::atomic_ref(*of(own.stage, item.part)).fetch_add(1, std::memory_order_relaxed);",
    ),
    "a signal before the barrier": Bug(WARPS, SHARED, f"__syncthreads();\n        {SIGNAL}", SIGNAL),
    "a signal before the work": Bug(
        BLOCKS, SHARED, "        work(item);\n        flags.signal(own, item);",
        "        flags.signal(own, item);\n        work(item);",
    ),
    "an epoch too few of the stage before": Bug(
        BLOCKS, SHARED, "BLOCKS * (item.time_step + 1), stopped)", "BLOCKS * item.time_step, stopped)"
    ),
    "an epoch too few of the own stage": Bug(
        BLOCKS, SHARED, "BLOCKS * item.time_step, stopped)", "BLOCKS * (item.time_step - 1), stopped)"
    ),
    "a block too few of the own stage": Bug(
        BLOCKS, SHARED, "BLOCKS * item.time_step, stopped)", "BLOCKS * item.time_step - 1, stopped)"
    ),
    "a projection that does not wait for itself": Bug(
        BLOCKS, SHARED, "if (item.time_step) came", "if (own.recurrent && item.time_step) came"
    ),
    "a wait for the group's first part": Bug(
        BLOCKS, SHARED, "wait_flag(of(own.stage - 1, item.part),", "wait_flag(of(own.stage - 1, item.part / PARTS * PARTS),"
    ),
    "no wait forward": Bug(BLOCKS, FORWARD, WAIT, ""),
    "no wait backward": Bug(BLOCKS, BACKWARD, WAIT, ""),
    "no wait for a channel": Bug(
        CLUSTER, WAVEFRONT, "    mbarrier_wait(&exchange.full[time_step % CHANNEL_SLOTS], time_step / CHANNEL_SLOTS % 2);\n", ""
    ),
    "a channel that expects half": Bug(
        CLUSTER, WAVEFRONT, "mbarrier_expect(&exchange.full[threadIdx.x], bytes)", "mbarrier_expect(&exchange.full[threadIdx.x], bytes / 2)"
    ),
    "slots used again without a meeting": Bug(CLUSTER, WAVEFRONT, "if (begin) sync_row();", ""),
    "mbarriers used before the other block has them": Bug(
        CLUSTER, WAVEFRONT, "mbarrier_init(&exchange.full[threadIdx.x], 1);\n    cluster_sync();", "mbarrier_init(&exchange.full[threadIdx.x], 1);\n    __syncthreads();"
    ),
    "no barrier between time steps": Bug(
        "five teams in a block", WAVEFRONT, "if (index < count) work(begin + index);\n            __syncthreads();", "if (index < count) work(begin + index);"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What a case's run came to."""

    division: dict[str, Any]  # how the case's launches are divided
    seeds: int  # that began, of which the last one ended with the finding, if there is one
    finding: str | None  # one line; None if every seed was clean
    report: str  # all that was written about it


def look(case: str, seeds: range, kernels: Path = ROOT / "kernels") -> Found:
    """Run a case with a folder's kernels until a seed has a finding, or all are clean."""
    command = [sys.executable, ROOT / "tools/flag_cases.py", case, kernels, str(seeds.start), str(seeds.stop)]
    env = {**os.environ, **sanitizer_environment("thread"), "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    division, *begun = run.stdout.splitlines() or ["{}"]
    finding = None
    if run.returncode:
        summary = SUMMARY.search(run.stderr)
        finding = summary[1] if summary else (run.stderr.strip() or f"exit status {run.returncode}").splitlines()[-1]
    return Found(json.loads(division), len(begun), finding, run.stderr)


def plant(bug: Bug, folder: Path) -> Path:
    """A copy of kernels/ with the bug."""
    copy = shutil.copytree(ROOT / "kernels", folder / "kernels")
    source = (copy / bug.file).read_text("utf-8")
    if source.count(bug.right) != 1:
        raise SystemExit(f"{bug.file}: expected once {bug.right!r}, found it {source.count(bug.right)} times")
    (copy / bug.file).write_text(source.replace(bug.right, bug.wrong), "utf-8")
    return copy


def clean_cases(seeds: int) -> tuple[dict[str, Any], bool]:
    """Run every case; returns what is recorded of each, and whether all seeds were clean."""
    record = {}
    for name in CASES:
        began, found = time.monotonic(), look(name, range(seeds))
        seconds = round(time.monotonic() - began, 1)
        print(f"{name}: {found.seeds} seeds in {seconds} s: {found.finding or 'clean'}", flush=True)
        if found.finding:
            print(found.report[:3000], file=sys.stderr)
        record[name] = {**found.division, "seeds": found.seeds, "seconds": seconds, "finding": found.finding}
    return record, not any(of["finding"] for of in record.values())


def noticed_bugs(seeds: int) -> tuple[dict[str, Any], bool]:
    """Try each seed by itself on every bug; returns what is recorded of each, and whether some seed noticed each."""
    record = {}
    for name, bug in BUGS.items():
        with TemporaryDirectory() as folder:
            kernels = plant(bug, Path(folder))
            findings = [look(bug.case, range(seed, seed + 1), kernels).finding for seed in range(seeds)]
        noticed = [seed for seed, finding in enumerate(findings) if finding]
        finding = findings[noticed[0]] if noticed else None
        print(f"{name}: noticed by {len(noticed)} of {seeds} seeds: {finding}", flush=True)
        record[name] = {"case": bug.case, "seeds": seeds, "noticed by": len(noticed), "finding": finding}
    return record, all(of["finding"] for of in record.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000, help="of each case, or of each bug")
    parser.add_argument("--bugs", action="store_true", help="plant bugs, and say how many seeds notice each")
    parser.add_argument("--out", type=Path, help="where the record is written, as JSON")
    options = parser.parse_args()
    record, is_right = noticed_bugs(options.seeds) if options.bugs else clean_cases(options.seeds)
    if options.out:
        machine = {"date": datetime.now(UTC).date().isoformat(), "processor": processor(), **versions()}
        command = f"python tools/flags.py --seeds {options.seeds}{' --bugs' * options.bugs}"
        options.out.write_text(json.dumps({"command": command, **machine, "found": record}, indent=1) + "\n")
    sys.exit(not is_right)


if __name__ == "__main__":
    main()
