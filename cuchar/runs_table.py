"""Compares runs in one table, the best first."""

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cuchar.checkpoint import read_position
from cuchar.config import TrainConfig
from cuchar.errors import CheckpointError
from cuchar.files import escape, say
from cuchar.position import Position
from cuchar.run_folder import CHECKPOINTS
from cuchar.run_logs import RunLog
from cuchar.terminal import clock
from cuchar.wording import option

IN_OTHER_COLUMNS = ("hidden", "layers", "epochs", "max_steps")
ORDER = "best validation loss first, then runs without validation by their last training loss; nats per character"
# Columns that a narrow terminal does without, beginning with the one that is missed least.
LEFT_OUT_FIRST = ("written", "text", "took", "epochs", "steps", "options", "model", "loss")
MAY_WRAP = ("run", "options")
NARROWEST = 20  # columns that these have at least, if they need as many
GAP = 2  # columns between two of the table's
DEFAULTS = TrainConfig().to_json()


def compare_runs(logs: Sequence[RunLog], complain: Callable[[str], None]) -> list[dict[str, Any]]:
    """What is known of each run, the best first: as ORDER says, and then runs without any loss.

    Args:
        complain: is called with a line of text for each last.safetensors that cannot be read.
    Returns:
        JSON values for each run: `path`, `name`, `state` ("running"; "finished", all that was asked for is done; or
        "stopped", so that --resume goes on), `hidden`, `layers`, `texts`, `characters`, `step`, `max_steps`, `epoch`
        (passes that are complete), `epochs`, `loss` (of the last line, in training), `best_val_loss`, `last_written`
        (local time with its offset: when the last line of metrics was written), `elapsed_s` and `options` (all of them).
        None where something is not known.
    """
    rows = []
    for log in logs:
        position, facts, config = _position(log, complain), log.facts or {}, log.config
        rows.append(
            {
                "path": str(log.path),
                "name": log.name,
                "state": _state(log, position),
                "hidden": config and config.hidden,
                "layers": config and config.layers,
                "texts": facts.get("texts"),
                "characters": facts.get("characters"),
                "step": int(_furthest(log, position, "step") or 0),
                "max_steps": config and config.max_steps,
                "epoch": int(_furthest(log, position, "epoch") or 0),
                "epochs": config and config.epochs,
                "loss": _known(log.last("loss")),
                "best_val_loss": _known(log.best_validation_loss()),
                "last_written": _time(log.written),
                "elapsed_s": _furthest(log, position, "elapsed_s"),
                "options": config and asdict(config),
            }
        )
    return sorted(rows, key=_rank)


def print_runs(logs: Sequence[RunLog], as_json: bool) -> None:
    """Print the comparison on standard output: JSON, or a table that fits the terminal, or whole lines elsewhere."""
    for complaint in (complaint for log in logs for complaint in log.complaints):
        say(complaint)
    runs = compare_runs(logs, say)
    if as_json:
        print(json.dumps(runs))
        return
    differing, common = _options(runs)
    cells = [_cells(run, differing) for run in runs]
    names = [name for name in cells[0] if any(row[name] for row in cells)]
    columns = os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else 0
    console = Console(width=columns or sys.maxsize, highlight=False)
    left_out = []
    for name in LEFT_OUT_FIRST:
        if not columns or sum(_narrowest(name, cells) + GAP for name in names) - GAP <= columns:
            break
        if name in names:
            names.remove(name)
            left_out.append(name)
    console.print(_table(names, cells))
    notes = [ORDER]
    if common:
        notes.append(f"options of all: {' '.join(common)}")
    if left_out:
        notes.append(f"no room for: {', '.join(left_out)} (a wider terminal, a pipe or --json has all)")
    for note in notes:
        console.print(Text(escape(note)))


def _position(log: RunLog, complain: Callable[[str], None]) -> Position | None:
    """How far the run had come at its last checkpoint; None if there is none, or none that can be read."""
    file = log.path / CHECKPOINTS[0]
    try:
        return read_position(file) if file.exists() else None
    except (CheckpointError, OSError) as error:
        complain(str(error))
        return None


def _state(log: RunLog, position: Position | None) -> str:
    """A run is finished if all of its steps are done and the line about the last one, which comes last, is written."""
    if log.training:
        return "running"
    done = position is not None and log.config is not None and position.finished(log.config)
    return "finished" if position and done and log.last("step") == position.step else "stopped"


def _furthest(log: RunLog, position: Position | None, name: str) -> float | None:
    """How far a run has come by its last line of metrics or by its last checkpoint, whichever says more."""
    logged, saved = _known(log.last(name)), getattr(position, name, None)
    return max((value for value in (logged, saved) if value is not None), default=None)


def _rank(run: dict[str, Any]) -> tuple[int, float, str]:
    for place, loss in enumerate((run["best_val_loss"], run["loss"])):
        if loss is not None:
            return place, loss, run["path"]
    return 2, 0.0, run["path"]


def _time(seconds: float) -> str | None:
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # a file's time can be set to any year
        return None


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _options(runs: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The names of options that differ between runs, and those that all have and that are not the defaults, as given."""
    known = [run["options"] for run in runs if run["options"]]
    names = [name for name in DEFAULTS if name not in IN_OTHER_COLUMNS] if known else []
    differing = [name for name in names if any(options[name] != known[0][name] for options in known)]
    common = [name for name in names if name not in differing and known[0][name] != DEFAULTS[name]]
    return differing, [_given(name, known[0][name]) for name in common]


def _given(name: str, value: Any) -> str:
    """An option as it is given on the command line, or how it is said that it is not given."""
    if value is None or value is False:
        return f"no {option(name)}"
    return f"{option(name)} {value:g}" if isinstance(value, float) else option(name, value)


def _cells(run: dict[str, Any], differing: Sequence[str]) -> dict[str, str]:
    """The columns' names and one run's cells, which are empty where nothing is known."""
    options, texts = run["options"] or {}, run["texts"] or []
    more = f" +{len(texts) - 1:,}" if len(texts) > 1 else ""
    return {
        "run": run["name"],
        "state": run["state"],
        "model": f"{run['layers']}x{run['hidden']}" if options else "",
        "text": f"{Path(texts[0]).name}{more}" if texts else "",
        "steps": _of(run["step"], run["max_steps"]),
        "epochs": _of(run["epoch"], run["epochs"]),
        "loss": "" if run["loss"] is None else f"{run['loss']:.4f}",
        "best val": "" if run["best_val_loss"] is None else f"{run['best_val_loss']:.4f}",
        "written": (run["last_written"] or "")[:16].replace("T", " "),
        "took": "" if run["elapsed_s"] is None else clock(run["elapsed_s"]),
        "options": " ".join(_given(name, options[name]) for name in differing if options),
    }


def _of(done: int, total: int | None) -> str:
    return f"{done:,}" if total is None else f"{done:,}/{total:,}"


def _narrowest(name: str, cells: Sequence[dict[str, str]]) -> int:
    """How many columns of the terminal a column of the table needs."""
    widest = max(cell_len(escape(row[name])) for row in cells)
    return max(len(name), min(widest, NARROWEST) if name in MAY_WRAP else widest)


def _table(names: Sequence[str], cells: Sequence[dict[str, str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for name in names:
        right = name in ("steps", "epochs", "loss", "best val", "took")
        table.add_column(
            name, justify="right" if right else "left", min_width=_narrowest(name, cells),
            no_wrap=name not in MAY_WRAP, overflow="fold",
        )  # fmt: skip
    for row in cells:
        table.add_row(*(Text(escape(row[name])) for name in names))
    return table
