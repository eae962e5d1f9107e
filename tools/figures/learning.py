"""README's figures: a session on a terminal, and how the loss falls. Both show one recorded run."""

import json
from pathlib import Path
from typing import Any

from figures.drawing import Drawing

RECORD = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "learning-curve-amd-epyc-2026-11-26.json"


def record() -> dict[str, Any]:
    """The recorded run, one `cuchar train data/shakespeare.txt` on a processor: its losses and its terminal's lines."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


# ---- The learning curve ----

LEFT, RIGHT, TOP, BOTTOM = 62, 766, 54, 350
LOWEST, HIGHEST = 1.6, 3.6  # nats per character at the lower and at the upper end of the axis


def learning_curve() -> Drawing:
    run = record()
    steps, losses, notebook = run["steps"], run["losses"], run["notebook"]
    points = ", ".join(
        f"{loss} at step {step}" for step, loss in zip(notebook["steps"], notebook["losses"], strict=True)
    )
    picture = Drawing(
        800, 420, "The training loss of a model of the notebook's size on Shakespeare",
        f"Nats per character against training steps. cuchar's loss, the mean of {run['mean_of']} training steps at "
        f"each point, falls from {losses[0]:.2f} at step {steps[0]} to {losses[-1]:.2f} at step {steps[-1]}, after "
        f"four passes over {run['text']}. Beside it the four figures of the 2017 notebook, each of a single batch of "
        f"its slightly different text: {points}.",
    )  # fmt: skip

    def place(step: float, loss: float) -> tuple[float, float]:
        return LEFT + (RIGHT - LEFT) * step / 20_000, BOTTOM - (BOTTOM - TOP) * (loss - LOWEST) / (HIGHEST - LOWEST)

    picture.text(LEFT - 42, 28, "Training loss, nats per character", bold=True)
    for tenths in range(16, 37, 4):
        y = place(0, tenths / 10)[1]
        picture.line((LEFT, y), (RIGHT, y), kind="grid", stroke=1)
        picture.text(LEFT - 10, y + 4.5, f"{tenths / 10:.1f}", anchor="end", size=12, faint=True)
    for step in range(0, 20_001, 4000):
        x = place(step, 0)[0]
        picture.line((x, BOTTOM), (x, BOTTOM + 6), kind="faint", stroke=1)
        picture.text(x, BOTTOM + 22, f"{step:,}", anchor="middle", size=12, faint=True)
    picture.text((LEFT + RIGHT) / 2, BOTTOM + 48, "training steps", anchor="middle", size=12, faint=True)
    drawn = [place(step, loss) for step, loss in zip(steps, losses, strict=True)]
    picture.line(*drawn, kind="recurrent", stroke=2.4)
    for step, loss in zip(notebook["steps"], notebook["losses"], strict=True):
        x, y = place(step, loss)
        picture.diamond(x, y, 6, "f", step=step, loss=loss)
    picture.line((300, 72), (330, 72), kind="recurrent", stroke=2.4)
    picture.text(342, 76.5, f"cuchar, mean of {run['mean_of']} training steps", bold=True)
    picture.diamond(315, 94, 6, "f")
    picture.text(342, 98.5, "the 2017 notebook, single batches of a slightly different text")
    x, y = drawn[-1]
    picture.text(x, y + 22, f"{losses[-1]:.2f}", anchor="end", bold=True)
    return picture


# ---- The terminal ----

LETTER = 7.83  # pixels from one letter to the next, at this size
SIZE, LINE = 13, 19


def terminal() -> Drawing:
    """The terminal's lines as they were, but with a drawn bar; `...` stands where the record leaves lines out."""
    session = record()["session"]
    picture = Drawing(
        800, 76 + LINE * len(session), "A terminal session: cuchar train, then cuchar sample",
        "The first command trains the notebook's model on Shakespeare. It shows the engine, the run's folder, the text's size, a bar "
        "with loss, speed and the time that is left, and the mean loss at the end. The second command writes with the model. The text is:\n"
        + "\n".join(line["text"] for line in session),
    )  # fmt: skip
    picture.rectangle(8, 8, 784, 60 + LINE * len(session), radius=8)
    for place, kind in enumerate(("f", "projection", "g")):
        picture.rectangle(24 + 20 * place, 20, 12, 12, kind, radius=6)
    for row, line in enumerate(session):
        y = 58 + LINE * row
        style = {"code": True, "size": SIZE}
        if line["text"].startswith("$ "):
            picture.text(24, y, "$", faint=True, **style)
            picture.text(24 + 2 * LETTER, y, line["text"][2:], bold=True, **style)
        elif "done" in line:
            before, after = line["text"].split("━━", 1)
            after = after.lstrip("━")
            picture.text(24, y, before.rstrip(), **style)
            x, width = 24 + LETTER * len(before), line["bar"] * LETTER
            picture.line((x, y - 4.5), (x + width, y - 4.5), kind="grid", stroke=5)
            picture.line((x, y - 4.5), (x + width * line["done"], y - 4.5), kind="recurrent", stroke=5)
            picture.text(x + width + LETTER, y, after.strip(), **style)
        elif line["text"]:
            picture.text(24, y, line["text"], faint=line["text"] == "...", **style)
    return picture
