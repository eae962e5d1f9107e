"""Options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.config import TrainConfig

DEFAULT = TrainConfig()
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N | emulate, the CUDA kernels on the CPU.")]
Window = Annotated[
    int, typer.Option(help="Characters in a window: the sequence length of truncated back-propagation through time.")
]
FormerWindow = Annotated[int | None, typer.Option("--steps", hidden=True)]
Batch = Annotated[int, typer.Option(help="Rows of text side by side in a window: the batch size.")]
Precision = Annotated[str, typer.Option(help="Of matrix products, on a GPU: fp32 | tf32 | bf16 | fp16.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="A checkpoint file or a run folder.")]
Glob = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="Of folders, read the files so named, such as '*.txt'.",
        show_default="all but hidden ones",
    ),
]
Encoding = Annotated[str, typer.Option(help="Of texts: utf-8 | latin-1.")]
Normalize = Annotated[
    str | None,
    typer.Option(help="nfc: a letter and its accent become one character.", show_default="not at all"),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out files that are not text or may not be read.")
]
Unknown = Annotated[str, typer.Option(help="A character outside the vocabulary: error | skip.")]


def was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
