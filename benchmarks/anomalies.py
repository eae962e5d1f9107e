"""Does a line's surprise find what is wrong in a log? Precision and recall of `cuchar eval --per-line --calibrate`.

    python benchmarks/anomalies.py [--gdb check.log.gz] [--folder KEPT] [--out benchmarks/results/NAME.json]

It makes a synthetic log with a seed, trains a small model on its clean lines, calibrates on other clean lines, and scores
further clean lines among which anomalies of several kinds are planted. With `--gdb` it does the same with a real log: that
of GDB's own tests, /usr/share/doc/gdb/check.log.gz of the Debian package gdb. There, lines that begin with PASS or Running
are the clean ones. It is scored twice, with the word before the first colon (PASS, FAIL, ...) and without it.

A line is found if its bits per character exceed the 0.999 quantile of the clean lines that were set aside. Beside this
criterion stand two others with the same quantile: all bits of a line, and the bits of its most surprising character.
"""

import argparse
import gzip
import json
import random
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np

import cuchar
from cuchar.bench.machine import processor, versions
from cuchar.line_scores import LineScore

SEED = 20
QUANTILE = 0.999
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


def synthetic(each: int = 40) -> tuple[list[str], list[str], list[Labelled]]:
    """Lines to train on, to calibrate on, and to test with, among them `each` anomalies of every kind."""
    rng, seconds = random.Random(SEED), iter(range(0, 10**9, 3))
    train, clean = ([clean_line(rng, next(seconds)) for _ in range(count)] for count in (30_000, 10_000))
    kinds = [""] * 10_000 + KINDS * each
    rng.shuffle(kinds)
    tested = [
        (kind, planted_line(kind, rng, next(seconds)) if kind else clean_line(rng, next(seconds))) for kind in kinds
    ]
    return train, clean, tested


def gdb_log(path: Path, with_label: bool) -> tuple[list[str], list[str], list[Labelled]]:
    """The lines of GDB's test log: of ten clean ones six to train on, two to calibrate on, two to test with; all others.

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
    """Train, calibrate and score, and say what was found by each criterion."""
    folder.mkdir(parents=True)
    train, clean, tested = lines
    for name, part in (("train", train), ("clean", clean), ("tested", [line for _, line in tested])):
        (folder / f"{name}.log").write_text("".join(f"{line}\n" for line in part))
    began = perf_counter()
    model = cuchar.train(
        folder / "train.log", out=folder / "run", max_steps=steps, epochs=1000, sample_every=0, **TRAINING
    )
    trained = perf_counter()
    of_clean, of_tested = model.score_lines(clean), model.score_lines(line for _, line in tested)
    scored = perf_counter()
    kinds = np.array([kind for kind, _ in tested])
    return {
        "steps": steps, "training_seconds": trained - began,
        "lines_per_second": (len(clean) + len(tested)) / (scored - trained),
        "lines": {"train": len(train), "calibrate": len(clean), "tested": len(tested), "anomalies": int((kinds != "").sum())},
        "criteria": {
            name: judged(np.array([*map(criterion, of_clean)]), np.array([*map(criterion, of_tested)]), kinds)
            for name, criterion in CRITERIA.items()
        },
        "examples": dict(examples(kinds, tested, of_clean, of_tested)),
    }  # fmt: skip


def judged(clean: np.ndarray, tested: np.ndarray, kinds: np.ndarray) -> dict[str, object]:
    """Precision, recall and the area under the ROC curve of a criterion, with the clean lines' quantile as threshold."""
    threshold = float(np.quantile(clean, QUANTILE, method="inverted_cdf"))
    is_anomaly, is_found = kinds != "", tested > threshold
    found, right = int(is_found.sum()), int((is_found & is_anomaly).sum())
    ranks = np.argsort(np.argsort(tested)) + 1
    positives, negatives = int(is_anomaly.sum()), int((~is_anomaly).sum())
    area = (int(ranks[is_anomaly].sum()) - positives * (positives + 1) / 2) / (positives * negatives)
    return {
        "threshold": threshold, "found": found, "right": right, "precision": right / found if found else None,
        "recall": right / positives, "false_alarms_per_clean_line": (found - right) / negatives, "roc_area": area,
        "by_kind": {
            kind: {"lines": int((kinds == kind).sum()), "found": int((is_found & (kinds == kind)).sum())}
            for kind in dict.fromkeys(kinds.tolist())
            if kind
        },
    }  # fmt: skip


def examples(
    kinds: np.ndarray, tested: list[Labelled], clean: list[LineScore], scores: list[LineScore]
) -> Iterator[tuple[str, list[str]]]:
    """The highest false alarms, and the highest of the lines of each kind that were missed."""
    values = np.array([score.bits_per_char for score in scores])
    threshold = np.quantile([score.bits_per_char for score in clean], QUANTILE, method="inverted_cdf")
    for kind in dict.fromkeys(kinds.tolist()):
        wrong = np.flatnonzero((kinds == kind) & ((values > threshold) == (kind == "")))
        best = wrong[np.argsort(-values[wrong])][:3]
        yield kind or "false alarms", [f"{values[at]:.2f} {tested[at][1][:160]}" for at in best]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--gdb", type=Path, help="check.log.gz of the Debian package gdb")
    arguments.add_argument("--steps", type=int, default=2000)
    arguments.add_argument("--folder", type=Path, help="keep logs and runs here")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    logs = {"synthetic": lambda: synthetic()}
    if options.gdb:
        logs["gdb, with labels"] = lambda: gdb_log(options.gdb, with_label=True)
        logs["gdb, without labels"] = lambda: gdb_log(options.gdb, with_label=False)
    result: dict[str, object] = {
        "date": str(date.today()), "processor": processor(), "versions": versions(), "training": TRAINING,
        "quantile": QUANTILE, "logs": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        for name, lines in logs.items():
            found = trial(
                (options.folder or Path(temporary)) / name.replace(", ", "-").replace(" ", "-"), lines(), options.steps
            )
            result["logs"][name] = found
            print(
                f"{name}: {found['lines']}, trained in {found['training_seconds']:.0f} s, "
                f"{found['lines_per_second']:,.0f} lines/s"
            )
            for criterion, values in found["criteria"].items():
                print(
                    f"  {criterion}: precision {values['precision']:.3f}, recall {values['recall']:.3f}, "
                    f"false alarms {values['false_alarms_per_clean_line']:.5f}, ROC area {values['roc_area']:.4f}"
                )
                for kind, counts in values["by_kind"].items():
                    print(f"    {kind}: {counts['found']} of {counts['lines']}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
