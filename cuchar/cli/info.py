"""`cuchar info`: describes this machine, or a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer


def info(
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint file or a run folder.")] = None,
) -> None:
    """Describe this machine, or a checkpoint."""
    from cuchar.reports import print_checkpoint, print_machine

    if checkpoint is None:
        print_machine()
    else:
        print_checkpoint(checkpoint)
