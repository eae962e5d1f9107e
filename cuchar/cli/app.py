"""The command `cuchar` itself, and the commands it has; each is a function of a module here."""

from typing import Annotated

import typer

from cuchar import __version__
from cuchar.cli.bench import bench
from cuchar.cli.corpus import corpus
from cuchar.cli.evaluate import evaluate
from cuchar.cli.export import export
from cuchar.cli.import_ import import_
from cuchar.cli.info import info
from cuchar.cli.look import look
from cuchar.cli.plot import plot
from cuchar.cli.runs import runs
from cuchar.cli.sample import sample
from cuchar.cli.train import train

app = typer.Typer(
    help="Character-level LSTM language models: text in, a model that writes like it out.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def cuchar(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Print the version, or without a command the help."""
    if version:
        print(f"cuchar {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


app.command()(train)
app.command()(sample)
app.command("eval")(evaluate)
app.command()(corpus)
app.command()(look)
app.command()(plot)
app.command()(runs)
app.command()(info)
app.command()(export)
app.command("import")(import_)
app.command()(bench)
