"""Does a line's surprise find what is wrong in a log? Precision and recall of `cuchar eval --per-line --calibrate`.

    python benchmarks/anomalies.py [--gdb check.log.gz] [--out benchmarks/results/NAME.json]

It makes a synthetic log with a seed, trains a small model on its clean lines, calibrates on other clean lines, and scores
further clean lines among which anomalies of several kinds are planted, once with the time with which lines begin and once
without. With `--gdb` it does the same with a real log: that of GDB's own tests, /usr/share/doc/gdb/check.log.gz of the
Debian package gdb. There, lines that begin with PASS or Running are the clean ones, and the word before the first colon
(PASS, FAIL, ...) is kept once and once not.

A line is found if its bits per character exceed a quantile of the clean lines that were set aside. Beside this criterion
stand two others: all bits of a line, and the bits of its most surprising character.
"""

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np

import cuchar
from cuchar.bench.machine import processor, versions
from cuchar.line_scores import LineScore

SEED = 20
QUANTILES = (0.999, 0.99)
TRAINING = {
    "hidden": 64,
    "layers": 2,
    "window": 64,
    "batch": 32,
    "lr": 0.004,
    "clip": 1,
    "schedule": "cosine",
    "seed": SEED,
}
CRITERIA: dict[str, Callable[[LineScore], float]] = {
    "bits_per_char": lambda score: score.bits_per_char,
    "bits": lambda score: score.bits,
    "most_surprising_character": lambda score: score.most_surprising[0].bits,
}
Labelled = tuple[str, str]  # the kind of an anomaly, or "" for a clean line, and the line

USERS = "alice bob carol dave erin frank grace heidi ivan judy".split()
PAGES = "index.html about.html api/items api/users static/site.css static/app.js images/logo.png login search".split()
TABLES = "users items orders sessions invoices".split()


def clean_line(rng: random.Random, second: int) -> str:
    """A line that a server might log."""
    time = f"2026-11-{1 + second // 86400 % 28:02} {second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
    address = f"10.0.{rng.randrange(4)}.{rng.randrange(1, 255)}"
    user, milliseconds = rng.choice(USERS), rng.randrange(1, 400)
    message = rng.choice(
        [
            f"INFO web: {address} GET /{rng.choice(PAGES)} 200 {rng.randrange(200, 60_000)} {milliseconds}ms",
            f"INFO web: {address} GET /{rng.choice(PAGES)} 304 0 {milliseconds}ms",
            f"INFO web: {address} POST /login 302 0 {milliseconds}ms",
            f"INFO auth: session opened for {user} from {address} port {rng.randrange(32768, 61000)}",
            f"INFO auth: session closed for {user}",
            f"WARN auth: wrong password for {user} from {address}",
            f"INFO db: SELECT on {rng.choice(TABLES)} took {milliseconds}ms, {rng.randrange(1000)} rows",
            f"INFO db: checkpoint complete, {rng.randrange(1, 90)} buffers written in {milliseconds}ms",
            f"DEBUG cache: hit ratio 0.{rng.randrange(80, 99)}, {rng.randrange(1000, 9999)} entries",
            f"INFO cron: job backup-{rng.choice(TABLES)} finished with status 0",
        ]
    )
    return f"{time} {message}"


def planted_line(kind: str, rng: random.Random, second: int) -> str:
    """A line of a kind of anomaly."""
    line = clean_line(rng, second)
    time, at = line[:19], rng.randrange(25, len(line) - 5)
    address, user = f"10.0.{rng.randrange(4)}.{rng.randrange(1, 255)}", rng.choice(USERS)
    if kind == "new message":
        return time + rng.choice(
            [
                " ERROR db: deadlock detected, transaction rolled back",
                " FATAL kernel: Out of memory: killed process 4312 (postgres)",
                f" ERROR auth: certificate of {address} has expired",
                " ERROR disk: I/O error on sda1, sector 81922, retrying",
                ' Traceback: File "/srv/app/views.py", line 88, in render: KeyError: cart',
            ]
        )
    if kind == "attack":
        query = rng.choice(
            ["search?q=1'%20OR%20'1'='1", "../../../../etc/passwd", "search?q=<script>alert(1)</script>"]
        )
        return f"{time} INFO web: {address} GET /{query} 200 {rng.randrange(200, 60_000)} {rng.randrange(1, 400)}ms"
    if kind == "truncated":
        return line[:at]
    if kind == "damaged bytes":
        return line[:at] + "".join(chr(rng.randrange(33, 127)) for _ in range(4)) + line[at + 4 :]
    if kind == "unknown user":
        return (
            f"{time} INFO auth: session opened for {rng.choice(['root', 'admin', 'oracle'])} from {address} port 40022"
        )
    if kind == "foreign address":
        address = f"{rng.randrange(60, 220)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}"
        return f"{time} INFO auth: session opened for {user} from {address} port {rng.randrange(32768, 61000)}"
    if kind == "wrong status":
        return f"{time} INFO cron: job backup-{rng.choice(TABLES)} finished with status {rng.randrange(1, 128)}"
    if kind == "slow":
        return f"{time} INFO db: SELECT on {rng.choice(TABLES)} took {rng.randrange(10_000, 900_000)}ms, 17 rows"
    if kind == "at the wrong time":  # only its neighbours, or the clock, would tell that it is one
        return f"{time} INFO auth: session closed for {user}"
    raise ValueError(kind)


KINDS = [
    "new message", "attack", "truncated", "damaged bytes", "unknown user", "foreign address", "wrong status", "slow",
    "at the wrong time",
]  # fmt: skip


def synthetic(with_time: bool) -> tuple[list[str], list[str], list[Labelled]]:
    """Lines to train on, to calibrate on, and to test with, among them 40 anomalies of every kind.

    Args:
        with_time: whether lines keep the date and time with which they begin.
    """
    rng, seconds = random.Random(SEED), iter(range(0, 10**9, 37))
    train, clean = ([clean_line(rng, next(seconds)) for _ in range(count)] for count in (30_000, 10_000))
    kinds = [""] * 10_000 + KINDS * 40
    rng.shuffle(kinds)
    tested = [
        (kind, planted_line(kind, rng, next(seconds)) if kind else clean_line(rng, next(seconds))) for kind in kinds
    ]
    if with_time:
        return train, clean, tested
    without = len("2026-11-01 00:00:00 ")
    return (
        [line[without:] for line in train],
        [line[without:] for line in clean],
        [(kind, line[without:]) for kind, line in tested],
    )


def gdb_log(path: Path, with_label: bool) -> tuple[list[str], list[str], list[Labelled]]:
    """The lines of GDB's test log to train on, to calibrate on and to test with.

    Clean ones are dealt out by the last digit of their number in the file: 0 to 5 to train on, 6 and 7 to calibrate on, 8
    and 9 to test with. All others are tested.

    Args:
        with_label: whether lines keep the word before their first colon.
    """
    train: list[str] = []
    clean: list[str] = []
    tested: list[Labelled] = []
    with gzip.open(path, "rt", errors="replace") as lines:
        for number, line in enumerate(map(str.rstrip, lines)):
            label, colon, rest = line.partition(": ")
            is_label = bool(colon) and label.isupper()
            text = rest if is_label and not with_label else line
            is_clean = line.startswith(("PASS: ", "Running /"))
            kind = "" if is_clean else label if is_label else "no label"
            if kind or number % 10 >= 8:
                tested.append((kind, text))
            else:
                (train if number % 10 < 6 else clean).append(text)
    return train, clean, tested


def trial(folder: Path, lines: tuple[list[str], list[str], list[Labelled]], steps: int) -> dict[str, object]:
    """Train, calibrate and score; return what was found by each criterion, and print what was not."""
    train, clean, tested = lines
    folder.mkdir(parents=True)
    (folder / "train.log").write_text("".join(f"{line}\n" for line in train))
    began = perf_counter()
    model = cuchar.train(
        folder / "train.log", out=folder / "run", max_steps=steps, epochs=1000, sample_every=0, **TRAINING
    )
    seconds = perf_counter() - began
    of_clean, of_tested = model.score_lines(clean), model.score_lines(line for _, line in tested)
    kinds = np.array([kind for kind, _ in tested])
    print_mistakes(kinds, of_clean, of_tested)
    return {
        "steps": steps, "training_seconds": seconds,
        "lines": {"train": len(train), "calibrate": len(clean), "tested": len(tested), "anomalies": int((kinds != "").sum())},
        "found": [
            {"criterion": name, "quantile": quantile, **judged(of_clean, of_tested, kinds, criterion, quantile)}
            for name, criterion in CRITERIA.items()
            for quantile in QUANTILES
        ],
    }  # fmt: skip


def judged(
    clean: list[LineScore],
    tested: list[LineScore],
    kinds: np.ndarray,
    criterion: Callable[[LineScore], float],
    quantile: float,
) -> dict[str, object]:
    """What a criterion finds with a quantile of the clean lines as threshold, and its area under the ROC curve (Mann and Whitney's U)."""
    threshold = float(np.quantile([*map(criterion, clean)], quantile, method="inverted_cdf"))
    values = np.array([*map(criterion, tested)])
    is_anomaly, is_found = kinds != "", values > threshold
    found, right = int(is_found.sum()), int((is_found & is_anomaly).sum())
    positives, negatives = int(is_anomaly.sum()), int((~is_anomaly).sum())
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(times) - (times - 1) / 2)[place]  # equal values share the mean of their ranks
    area = (float(ranks[is_anomaly].sum()) - positives * (positives + 1) / 2) / (positives * negatives)
    return {
        "threshold": threshold, "precision": right / found if found else None, "recall": right / positives,
        "false_alarms": found - right, "roc_area": area,
        "found_by_kind": {
            kind: f"{(is_found & (kinds == kind)).sum()} of {(kinds == kind).sum()}"
            for kind in dict.fromkeys(kinds.tolist())
            if kind
        },
    }  # fmt: skip


def print_mistakes(kinds: np.ndarray, clean: list[LineScore], tested: list[LineScore]) -> None:
    """Print, with the first quantile, the highest false alarms, and of each kind the highest of the lines that were missed."""
    threshold = np.quantile([score.bits_per_char for score in clean], QUANTILES[0], method="inverted_cdf")
    bits = np.array([score.bits_per_char for score in tested])
    for kind in dict.fromkeys(kinds.tolist()):
        wrong = np.flatnonzero((kinds == kind) & ((bits > threshold) == (kind == "")))
        print(f"{kind or 'clean'}: {len(wrong)} wrong; threshold {threshold:.2f}")
        for at in wrong[np.argsort(-bits[wrong])][:3]:
            print(f"    {bits[at]:.2f} {tested[at].text[:120]!r} {tested[at].most_surprising[0]}")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--gdb", type=Path, help="check.log.gz of the Debian package gdb")
    arguments.add_argument("--steps", type=int, default=4000, help="training steps for each log")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    logs = {
        "synthetic": lambda: synthetic(with_time=True),
        "synthetic-without-times": lambda: synthetic(with_time=False),
    }
    if options.gdb:
        logs["gdb"] = lambda: gdb_log(options.gdb, with_label=True)
        logs["gdb-without-labels"] = lambda: gdb_log(options.gdb, with_label=False)
    found = {"date": str(date.today()), "processor": processor(), "versions": versions(), "training": TRAINING}
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in logs.items():
            print(f"--- {name}")
            found[name] = result = trial(Path(folder) / name, lines(), options.steps)
            print(f"{result['lines']}, trained in {result['training_seconds']:.0f} s")
            for one in result["found"]:
                print(
                    f"{one['criterion']}, quantile {one['quantile']}: precision {one['precision']:.3f}, "
                    f"recall {one['recall']:.3f}, {one['false_alarms']} false alarms, ROC area {one['roc_area']:.4f}"
                )
                print("    " + ", ".join(f"{kind} {counts}" for kind, counts in one["found_by_kind"].items()))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
