"""`cuchar import`: makes a checkpoint of a PyTorch model."""

from pathlib import Path
from typing import Annotated

import typer


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="Weights under PyTorch's names: one LSTM and one linear layer.")],
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="The checkpoint; - is standard output.")],
    vocabulary: Annotated[Path | None, typer.Option(metavar="FILE.json", help="A JSON list of the characters in the order of their ids.", show_default="the file's metadata")] = None,
) -> None:  # fmt: skip
    """Make a checkpoint of a PyTorch model, to sample, score and go on training."""
    from cuchar.files import say
    from cuchar.outputs import expect_new_output
    from cuchar.pytorch_import import import_pytorch

    expect_new_output("OUT", out, None, [file] if vocabulary is None else [file, vocabulary], binary=True)
    for line in import_pytorch(file, out, vocabulary):
        say(line)
    say(f"wrote {out}")
