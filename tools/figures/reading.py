"""A figure for docs/benchmarks.md: what the start of a training costs, by the text's size."""

import json
from math import log10
from pathlib import Path
from typing import Any

from figures.drawing import Drawing

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "reading-amd-epyc-2026-11-26.json"
TOP, HEIGHT, WIDTH = 56, 250, 300
LEFTS = (62, 462)  # of the two panels
SERIES = {  # how each kind of start is drawn, and what it is called, by its name in the record and the kind of text
    ("usual", "ASCII"): ("f", True, "read whole, then np.unique: ASCII"),
    ("first", "mixed UTF-8"): ("o", False, "first start, mixed UTF-8"),
    ("first", "ASCII"): ("recurrent", False, "first start, ASCII"),
    ("again", "ASCII"): ("recurrent", True, "a start after that, ASCII"),
}


def starts() -> list[dict[str, Any]]:
    return json.loads(RECORD.read_text(encoding="utf-8"))["starts"]


def reading() -> Drawing:
    rows = starts()
    largest = max((row for row in rows if row["text"] == "ASCII"), key=lambda row: row["bytes"])
    picture = Drawing(
        800, 440, "What the start of a training costs, by the text's size",
        "Two charts with logarithmic axes, against the text's size from 10 megabytes to 10 gigabytes. On the left, seconds of processor time from a "
        "process's start to the end of its first training step: they grow with the text where it has not been seen before, "
        "and not at all once it lies in the cache. On the right, the most memory that was resident: the same for every size, "
        f"{largest['first']['peak_bytes'] / 1e6:.0f} megabytes for {largest['bytes'] / 1e9:.0f} gigabytes of ASCII. Reading "
        "the text whole takes tens of times its size.",
    )  # fmt: skip
    panel(picture, LEFTS[0], "Seconds of processor time to the first step", "processor_seconds", (0.1, 1000), "s", rows)
    panel(picture, LEFTS[1], "Most memory that was resident", "peak_bytes", (1e7, 1e11), "", rows)
    for place, (kind, dashed, name) in enumerate(SERIES.values()):
        x, y = LEFTS[place % 2], 382 + 24 * (place // 2)
        picture.line((x, y - 4.5), (x + 34, y - 4.5), kind=kind, stroke=2.4, dashed=dashed)
        picture.text(x + 44, y, name)
    return picture


def panel(
    picture: Drawing,
    left: float,
    title: str,
    value: str,
    ends: tuple[float, float],
    unit: str,
    rows: list[dict[str, Any]],
) -> None:
    """Draw one chart; its vertical axis goes from one end to the other, its horizontal one from 10 MB to 10 GB."""
    picture.text(left - 42, 28, title, bold=True)
    decades = round(log10(ends[1] / ends[0]))

    def place(size: float, found: float) -> tuple[float, float]:
        return left + WIDTH * log10(size / 1e7) / 3, TOP + HEIGHT * (1 - log10(found / ends[0]) / decades)

    for decade in range(decades + 1):
        found = ends[0] * 10**decade
        y = place(1e7, found)[1]
        picture.line((left, y), (left + WIDTH, y), kind="grid", stroke=1)
        picture.text(
            left - 8, y + 4.5, f"{found:g} {unit}" if unit else named(found), anchor="end", size=12, faint=True
        )
    for decade in range(4):
        x = place(1e7 * 10**decade, ends[0])[0]
        picture.line((x, TOP + HEIGHT), (x, TOP + HEIGHT + 6), kind="faint", stroke=1)
        picture.text(x, TOP + HEIGHT + 22, named(1e7 * 10**decade), anchor="middle", size=12, faint=True)
    picture.text(left + WIDTH / 2, TOP + HEIGHT + 42, "text", anchor="middle", size=12, faint=True)
    for (start, text), (kind, dashed, _) in SERIES.items():
        chosen = sorted((row for row in rows if row["text"] == text and start in row), key=lambda row: row["bytes"])
        drawn = [place(row["bytes"], row[start][value]) for row in chosen]
        picture.line(*drawn, kind=kind, stroke=2.4, dashed=dashed)
        for x, y in drawn:
            picture.diamond(x, y, 4, kind)


def named(size: float) -> str:
    return f"{size / 1e9:g} GB" if size >= 1e9 else f"{size / 1e6:g} MB"
