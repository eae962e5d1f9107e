"""`cuchar export`: writes a model for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import CheckpointArgument


def export(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where to write; - is standard output.")],
    format: Annotated[str | None, typer.Option(help="safetensors, under PyTorch's names | onnx | web, a page that samples | json.", show_default="by the name's ending")] = None,
    weights: Annotated[str | None, typer.Option(help="Of a web page: float32 | int8, a quarter of the size.", show_default="float32")] = None,
    text: Annotated[Path | None, typer.Option(help="For a web page: measure on this text what int8 weights cost.", show_default="the model's own writing")] = None,
) -> None:  # fmt: skip
    """Write the model for other programs: OUT.safetensors, OUT.onnx, OUT.html or OUT.json."""
    from cuchar.checkpoint import read_checkpoint
    from cuchar.export import export_model, format_of
    from cuchar.files import say
    from cuchar.outputs import expect_new_output
    from cuchar.reading import Reading

    expect_new_output("OUT", out, checkpoint, [] if text is None else [text], binary=True)
    format = format_of(out, format)  # before the checkpoint is read, which takes a while
    read = read_checkpoint(checkpoint)
    reading = Reading.of(read.run["train"])
    export_model(read.scaled_parameters, read.vocabulary, reading, out, format, weights=weights, text=text)
    say(f"wrote {out}")
