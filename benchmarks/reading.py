"""What does the start of a training cost, by the text's size? Times it, and measures its memory.

    python benchmarks/reading.py [--sizes 10 100 1000 10000] [--folder FOLDER] [--out benchmarks/results/NAME.json]

For each size, in megabytes, there is a text in ASCII (data/shakespeare.txt over and over) and one of mixed UTF-8. A process
each starts a training on it, does one step, and ends: once when the text has not been seen before, and once again, when it
lies encoded in the cache. The script prints seconds from the process's start to its end, seconds of processor time, the
most memory that was resident, and how many megabytes of text a second the first start got through. The
peer, up to 100 MB, is the usual way: `open().read()`, then `numpy.unique` for vocabulary and ids, in a process of its own.
It grows to 15 to 40 bytes of memory a character, and beyond that size has no room here.

FOLDER needs room for twice the largest text; everything is removed again. The text has just been written, so much of it is
read from memory rather than from the disk. The results are added to the file's, each with the machine's load in the last
minute and whether the processes had a real-time priority: `chrt -r 1 python benchmarks/reading.py ...`, as root, measures
as if other work on the machine were not there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any

from cuchar.bench.machine import processor, versions

SHAKESPEARE = Path(__file__).parent.parent / "data/shakespeare.txt"
# Letters of one to three bytes: some 1.6 bytes a character.
MIXED = "Привет, мир! Это текст на русском языке, with words in English. 漢字かな交じり文です。 é ü ñ\n" * 20_000
SIZES = (10, 100, 1000, 10_000)
MOST_OF_PEER = 100
PEER = """
import sys
import numpy as np
text = open(sys.argv[1], encoding="utf-8", newline="").read()
codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
vocabulary, ids = np.unique(codes, return_inverse=True)
print(len(vocabulary), len(ids))
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    arguments.add_argument("--folder", type=Path)
    arguments.add_argument("--out", type=Path)
    options, rows = arguments.parse_args(), []
    for kind, piece in (("ASCII", SHAKESPEARE.read_bytes()), ("mixed UTF-8", MIXED.encode())):
        for megabytes in options.sizes:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                row = {"text": kind, **measure(Path(folder), piece, megabytes * 10**6)}
            print(describe(row), flush=True)
            rows.append(row)
    if options.out:
        earlier = json.loads(options.out.read_text())["starts"] if options.out.exists() else []
        result = {
            "date": str(date.today()), "device": processor(), "versions": versions(), "starts": earlier + rows,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path, piece: bytes, size: int) -> dict[str, Any]:
    """Start a training twice on a text of this size, which is made of `piece` over and over."""
    text = folder / "text"
    with text.open("wb") as file:
        while file.tell() < size:
            file.write(piece)
    train = [
        sys.executable,
        "-m",
        "cuchar",
        "train",
        text,
        *"--max-steps 1 --sample-every 0 --device cpu --out".split(),
    ]
    is_first = os.sched_getscheduler(0) != os.SCHED_OTHER
    row: dict[str, Any] = {"bytes": text.stat().st_size, "load": os.getloadavg()[0], "real_time": is_first}
    row["first"] = run([*train, folder / "runs/first"])
    row["again"] = run([*train, folder / "runs/again"])
    if size <= MOST_OF_PEER * 10**6:
        row["usual"] = run([sys.executable, "-c", PEER, text])
    return row


def run(command: list[Any]) -> dict[str, float]:
    """What a process took: seconds, those of them on a processor, and the most memory that was resident."""
    began = perf_counter()
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[:4]}: expected exit status 0, found {process.returncode}")
    peak = used.ru_maxrss * 1024  # Linux counts it in KiB
    return {"seconds": seconds, "processor_seconds": used.ru_utime + used.ru_stime, "peak_bytes": peak}


def describe(row: dict[str, Any]) -> str:
    parts = [f"{row['text']}, {row['bytes'] / 1e6:,.0f} MB:"]
    for name in ("first", "again", "usual"):
        if found := row.get(name):
            parts.append(
                f"{name} {found['seconds']:.1f} s ({found['processor_seconds']:.1f} s of processor time), "
                f"{found['peak_bytes'] / 1e6:,.0f} MB;"
            )
    parts.append(f"{row['bytes'] / 1e6 / row['first']['seconds']:,.0f} MB a second")
    return " ".join(parts)


if __name__ == "__main__":
    main()
