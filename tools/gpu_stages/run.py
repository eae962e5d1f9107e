"""Does the notebook's whole run from the command line, then samples and scores on the device and on the processor."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from cuchar.config import TrainConfig
from tools.gpu_stages.device import ROOT, device_option, dry_run, environment
from tools.gpu_stages.report import Report

STEPS, CHARS = 17_864, 32 * 32  # training steps of the notebook's run; characters of a step
SCORED = 20_000  # how many characters of shakespeare_10K.txt are scored
CONFIG = TrainConfig(hidden=8, window=8, batch=4) if dry_run() else TrainConfig()
TINY = "--max-steps 6 --hidden 8 --window 8 --batch 4 --log-every 2 --sample-every 3 --sample-length 5".split()
SMALL_TEXT = ROOT / "data/shakespeare_10K.txt"


def run_stage(report: Report) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder, device = Path(scratch, "run"), device_option()
        text = SMALL_TEXT if dry_run() else ROOT / "data/shakespeare.txt"
        options = TINY if dry_run() else ["--max-steps", str(STEPS)]
        status, output, seconds = cuchar("train", text, "--device", device, *options, "--out", folder)
        if status:
            report.add("train", False, note=output.strip().splitlines()[-1])
            return
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        steps = [line["step"] for line in lines]
        times = {
            "seconds": seconds, "steps_per_s": steps[-1] / seconds,
            "training_alone_s": sum(
                (step - before) * CHARS / line["chars_per_s"] for before, step, line in zip([0, *steps[:-1]], steps, lines, strict=True)
            ),
        }  # fmt: skip
        loss, done = lines[-1]["loss"], steps[-1] == (6 if dry_run() else STEPS)
        report.add("train", done, times, step=steps[-1], last_loss=loss, note=f"loss {loss:.4f} at step {steps[-1]}")
        check_samples(report, folder, device)
        check_scores(report, folder, device, Path(scratch, "scored.txt"))


def check_samples(report: Report, folder: Path, device: str) -> None:
    options = ["--prime", "The ", "--length", 40 if dry_run() else 300, "--seed", 1]
    found = {name: cuchar("sample", folder, "--device", name, *options)[:2] for name in (device, "cpu")}
    status, text = found[device]
    report.add("sample", status == 0 and text.startswith("The "), text=text, same_as_on_cpu=found["cpu"][1] == text)


def check_scores(report: Report, folder: Path, device: str, scored: Path) -> None:
    scored.write_text(SMALL_TEXT.read_text("utf-8")[: 200 if dry_run() else SCORED], "utf-8")
    found = {name: cuchar("eval", folder, scored, "--json", "--device", name)[:2] for name in (device, "cpu")}
    if any(status for status, _ in found.values()):
        report.add("eval", False, note=str(found)[:1000])
        return
    nats = {name: json.loads(output)["nats_per_char"] for name, (_, output) in found.items()}
    difference = abs(nats[device] - nats["cpu"])
    report.add("eval", difference <= 1e-5 * nats["cpu"], nats_per_char=nats, note=f"differs by {difference:.1e}")


def cuchar(*arguments: object) -> tuple[int, str, float]:
    """Run a cuchar command, and return its status, standard output (standard error if it failed) and seconds."""
    command = [sys.executable, "-m", "cuchar", *map(str, arguments)]
    began = perf_counter()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    seconds = perf_counter() - began
    print("$ cuchar", *arguments)
    print(done.stderr[-4000:], flush=True)
    return done.returncode, done.stderr if done.returncode else done.stdout, seconds
