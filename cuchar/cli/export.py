"""`cuchar export`: writes the weights for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import CheckpointArgument, expect_new_output


def export(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="Where to write; - is standard output.")],
) -> None:
    """Write the weights under PyTorch's names."""
    from cuchar.checkpoint import read_checkpoint
    from cuchar.export import export_pytorch
    from cuchar.files import say

    expect_new_output("OUT", out, checkpoint, binary=True)
    export_pytorch(read_checkpoint(checkpoint), out)
    say(f"wrote {out}")
