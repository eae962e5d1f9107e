"""Options and checks that several commands have in common."""

import os
from collections.abc import Iterable
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
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out files that are not text or may not be read.")
]
Unknown = Annotated[str, typer.Option(help="A character outside the vocabulary: error | skip.")]


def was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def expect_new_output(
    option: str, output: Path, checkpoint: Path | None, inputs: Iterable[Path] = (), binary: bool = False
) -> None:
    """Check that `output` is a place for a result.

    Args:
        checkpoint: what the command reads, if it reads one.
        inputs: other files that it reads.
        binary: whether the result is bytes, which are not for a terminal.
    Raises:
        OutputError: it would replace an input, the checkpoint, or a file of the checkpoint's run or of another run.
    """
    from cuchar.checkpoint import checkpoint_file
    from cuchar.files import expect_output
    from cuchar.run_folder import FILES

    read = [] if checkpoint is None else [checkpoint_file(checkpoint)]
    parents = {file.parent for file in read} | {Path(os.path.realpath(output)).parent}
    kept = [folder / name for folder in parents if (folder / "config.json").is_file() for name in FILES]
    expect_output(option, output, [*inputs, *read, *kept], binary)
