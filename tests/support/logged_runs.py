"""Run folders that were never trained: a configuration, and lines of metrics that a test chooses."""

import json
from pathlib import Path
from typing import Any

from cuchar.config import TrainConfig


def line(step: int, loss: float = 2.0, **others: Any) -> dict[str, Any]:
    """One line's values, of which elapsed_s is a tenth of the step."""
    common = {"epoch": 0, "lr": 0.001, "grad_norm": 0.5, "chars_per_s": 1000, "elapsed_s": step / 10}
    return {"step": step, "loss": loss, **common, **others}


def write_lines(folder: Path, lines: list[dict[str, Any]], end: bytes = b"") -> None:
    """Replace metrics.jsonl by these lines, and `end` after them."""
    data = b"".join(json.dumps(values).encode() + b"\n" for values in lines)
    (folder / "metrics.jsonl").write_bytes(data + end)


def log_run(folder: Path, lines: list[dict[str, Any]], end: bytes = b"", **options: Any) -> Path:
    """Make a run folder with these options and lines, and return it."""
    folder.mkdir(parents=True)
    facts = {"texts": ["/books/fox.txt"], "sha256": "0" * 64, "characters": 1760, "val": None, "val_sha256": None}
    (folder / "config.json").write_text(json.dumps({**facts, "train": TrainConfig(**options).to_json()}))
    write_lines(folder, lines, end)
    return folder
