"""`cuchar import`: makes a checkpoint of a PyTorch model."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import expect_new_output


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="Weights under PyTorch's names: one LSTM and one linear layer.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The checkpoint; - is standard output.")],
    vocabulary: Annotated[Path | None, typer.Option(metavar="FILE.json", help="A JSON list of the characters in the order of their ids.", show_default="the file's metadata")] = None,
) -> None:  # fmt: skip
    """Make a checkpoint of a PyTorch model, to sample, score and go on training."""
    from cuchar.checkpoint import expect_regular
    from cuchar.files import say
    from cuchar.pytorch_import import KIND, import_pytorch

    expect_regular(file, KIND)
    expect_new_output("OUT", out, file, [] if vocabulary is None else [vocabulary], binary=True)
    for line in import_pytorch(file, out, vocabulary):
        say(line)
    say(f"wrote {out}")
