"""`cuchar runs`: compares runs in a table."""

from pathlib import Path
from typing import Annotated

import typer


def runs(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER...]", help="Folders of runs, or run folders.", show_default="runs/")] = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON list of objects.")] = False,
) -> None:  # fmt: skip
    """Compare runs in a table: model, text, losses, when and how long."""
    from cuchar.run_logs import read_logs, run_folders
    from cuchar.runs_table import print_runs

    print_runs(read_logs(run_folders(folders or [Path("runs")])), json)
