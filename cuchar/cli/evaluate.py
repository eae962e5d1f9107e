"""`cuchar eval`: scores a text."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import (
    DEFAULT,
    CheckpointArgument,
    Device,
    Glob,
    Precision,
    SkipUnreadable,
    Unknown,
)
from cuchar.errors import OptionError


def evaluate(
    checkpoint: CheckpointArgument,
    texts: Annotated[list[Path], typer.Argument(metavar="TEXT...", readable=False, help="Text files or folders; - is standard input.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    device: Device = "auto",
    precision: Precision = DEFAULT.precision,
    window: Annotated[int | None, typer.Option(help="Characters in a window; every window begins from a zero state, as the notebook's do.", show_default="one stream")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Read even a long text as one stream, not in chunks side by side.")] = False,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Go on learning from what was just scored, in one stream.")] = False,
    tune: Annotated[Path | None, typer.Option(metavar="TEXT", readable=False, help="Find the settings of --dynamic that fit this other text best.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Keep what --tune found, for every later --dynamic.")] = False,
    per_char: Annotated[Path | None, typer.Option(metavar="OUT.TSV", help="Every character's loss; to -, standard output, the score then to standard error.")] = None,
    unknown: Unknown = "error",
    glob: Glob = None,
    skip_unreadable: SkipUnreadable = False,
) -> None:  # fmt: skip
    """Score TEXT: nats and bits per character, perplexity."""
    from contextlib import redirect_stdout

    from cuchar.dynamic import write_settings
    from cuchar.dynamic_tuning import tuned_on_file
    from cuchar.file_scores import score_files
    from cuchar.files import STREAM, say
    from cuchar.model import Model
    from cuchar.outputs import expect_new_output
    from cuchar.reports import print_score
    from cuchar.text_files import text_files

    if window is not None and window < 1:
        raise OptionError(f"--window: expected at least 1, found {window}")
    if window is not None and exact:
        raise OptionError("--window: expected it or --exact, found both")
    if window is not None and dynamic:
        raise OptionError("--window: expected it or --dynamic, found both")
    if tune is not None and not dynamic:
        raise OptionError("--tune: expected it with --dynamic, found it alone")
    if save and tune is None:
        raise OptionError("--save: expected it with --tune, found it alone")
    if per_char is not None:
        expect_new_output("--per-char", per_char, checkpoint, text_files(texts, glob))
    model = Model(checkpoint, device, precision)
    config = model.dynamic_config(dynamic)
    if tune is not None:
        config = tuned_on_file(model, tune, text_files(texts, glob), unknown)
        if save:
            say(f"wrote {write_settings(model.file, config)}")
    score = score_files(model, text_files(texts, glob), unknown, skip_unreadable, window, exact, per_char, config)
    with redirect_stdout(sys.stderr if per_char == STREAM else sys.stdout):
        print_score(score, json)
