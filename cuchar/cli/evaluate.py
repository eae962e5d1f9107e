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
    per_char: Annotated[Path | None, typer.Option(metavar="OUT.TSV", help="Every character's loss; to -, standard output, the score then to standard error.")] = None,
    unknown: Unknown = "error",
    glob: Glob = None,
    skip_unreadable: SkipUnreadable = False,
) -> None:  # fmt: skip
    """Score TEXT: nats and bits per character, perplexity."""
    from contextlib import redirect_stdout

    from cuchar.files import STREAM
    from cuchar.model import Model
    from cuchar.outputs import expect_new_output
    from cuchar.reports import print_score, score_files
    from cuchar.text import read_text
    from cuchar.text_files import text_files

    if window is not None and window < 1:
        raise OptionError(f"--window: expected at least 1, found {window}")
    if window is not None and exact:
        raise OptionError("--window: expected it or --exact, found both")
    if per_char is not None:
        expect_new_output("--per-char", per_char, checkpoint, text_files(texts, glob))
    model = Model(checkpoint, device, precision)
    text = read_text(texts, model.reading, glob, skip_unreadable)
    score = score_files(model, text, unknown, window, exact, per_char)
    with redirect_stdout(sys.stderr if per_char == STREAM else sys.stdout):
        print_score(score, json)
