"""`cuchar plot`: draws how runs went."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.errors import OptionError


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="A picture, as .png or .svg; - is standard output.", show_default="the terminal")] = None,
    x: Annotated[str, typer.Option("--x", help="Compare runs by step | chars | seconds.")] = "step",
    watch: Annotated[bool, typer.Option("--watch", help="Draw again as runs go on, until none is training or Ctrl-C.")] = False,
) -> None:  # fmt: skip
    """Draw the losses, learning rate, gradient norm and speed of runs."""
    from cuchar.files import STREAM
    from cuchar.outputs import expect_new_output
    from cuchar.plots.command import plot_to_file, plot_to_terminal
    from cuchar.plots.files import expect_drawable
    from cuchar.plots.panels import AXES
    from cuchar.run_folder import FILES
    from cuchar.run_logs import run_folders

    if x not in AXES:
        raise OptionError(f"--x: expected {' | '.join(AXES)}, found {x}")
    if out is None:
        plot_to_terminal(runs, x, watch)
        return
    if watch and out == STREAM:
        raise OptionError("--watch: expected --out with a file, which can be replaced, found -")
    expect_drawable("--out", out)
    kept = [folder / name for folder in run_folders(runs) for name in FILES]
    expect_new_output("--out", out, None, kept, binary=True)
    plot_to_file(runs, out, x, watch)
