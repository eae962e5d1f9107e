"""Records the run that README's pictures show: `python tools/record_run.py [--out FILE]`.

It trains with the default settings on data/shakespeare.txt, on a pretended terminal of 92 columns, and draws one sample
from the model. FILE receives the losses, and those lines of the terminal that a reader wants to see;
tools/figures/learning.py draws both. This takes a minute or two on a processor.
"""

import argparse
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from datetime import date
from pathlib import Path
from typing import Any

from figures.learning import RECORD

from cuchar.bench.machine import processor

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 92, 30
TRAIN = "cuchar train data/shakespeare.txt --out run"
SAMPLE = "cuchar sample run --seed 1 --temperature 0.6 --length 200"
EVERY = 100  # training steps from one line of metrics.jsonl to the next
SHOWN = 5 / 8  # how much of the run is done in the state of the bar that is shown
NOTEBOOK = {
    "about": "The 2017 notebook's figures, each the loss of a single batch of its slightly different text.",
    "steps": [1000, 2000, 3000, 4000],
    "losses": [2.4792, 2.2721, 2.1461, 2.1046],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "data").symlink_to(ROOT / "data")
        on_terminal(f"{TRAIN} --max-steps 1", folder)  # the C++ engine is compiled now, and not while the run is timed
        shutil.rmtree(Path(folder) / "run")
        lines = on_terminal(TRAIN, folder)
        metrics = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
        drawn = subprocess.run(words(SAMPLE), cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    sample = [
        line[at : at + COLUMNS].rstrip()
        for line in drawn.stdout.splitlines()
        for at in range(0, len(line) or 1, COLUMNS)
    ]
    kept = [line for line in metrics if line["step"] % EVERY == 0]
    record = {
        "about": "One run of cuchar with the default settings, as tools/record_run.py records it: its losses, each the mean of "
        f"{EVERY} training steps; lines of its terminal, {COLUMNS} columns wide; the first lines of a sample.",
        "date": date.today().isoformat(),
        "processor": processor(),
        "text": "data/shakespeare.txt",
        "mean_of": EVERY,
        "steps": [line["step"] for line in kept],
        "losses": [round(line["loss"], 4) for line in kept],
        "notebook": NOTEBOOK,
        "session": [
            *training_lines(lines),
            {"text": ""},
            {"text": f"$ {SAMPLE}"},
            *({"text": line} for line in sample),
        ],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\n([-\d.,\s]+)\]", lambda match: f"[{' '.join(match[1].split())}]", text)
    options.out.write_text(text + "\n", encoding="utf-8", newline="\n")


def words(command: str) -> list[str]:
    return [sys.executable, "-m", *command.split()]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}


def on_terminal(command: str, folder: str) -> list[str]:
    """Run a command on a terminal, and return the lines that it prints; each state of an overwritten line is a line."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(words(command), cwd=folder, env=environment(), stdin=its, stdout=its, stderr=its)
    os.close(its)
    output = b""
    while True:
        try:
            some = os.read(ours, 65536)
        except OSError:  # on Linux this means that the other end of the terminal is closed
            break
        if not some:
            break
        output += some
    os.close(ours)
    if status := process.wait():
        raise SystemExit(f"{command}: exit status {status}")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.decode().replace("\r", "\n"))
    return [line.rstrip() for line in plain.split("\n") if line.strip()]


def last(lines: list[str], start: str) -> str:
    return [line for line in lines if line.startswith(start)][-1]


def training_lines(lines: list[str]) -> list[dict[str, Any]]:
    """The lines of a training that the picture shows. The bar's line also has the bar's length and how much is done."""
    states = [line for line in lines if "━" in line]
    done = {line: int(step) / int(of) for line in states for step, of in re.findall(r"^step (\d+)/(\d+)", line)}
    shown = min(states, key=lambda line: abs(done[line] - SHOWN))
    bar = re.sub("[╸╺]", "━", shown)
    before = lines.index(states[0])
    first = [line for line in lines[:before] if not line.startswith("compiling")]
    end = [last(lines, "epoch "), lines[-2], lines[-1]]
    return [
        {"text": f"$ {TRAIN}"},
        *({"text": line} for line in first),
        {"text": bar, "bar": bar.count("━"), "done": round(done[shown], 4)},
        {"text": "..."},
        *({"text": line} for line in end),
    ]


if __name__ == "__main__":
    main()
