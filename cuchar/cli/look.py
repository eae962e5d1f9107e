"""`cuchar look`: shows what a model's cells do on a text, as a page for a browser."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import CheckpointArgument, Unknown


def look(
    checkpoint: CheckpointArgument,
    texts: Annotated[list[Path], typer.Argument(metavar="TEXT...", readable=False, help="Text files or folders; - is standard input.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PAGE.html", help="Where the page goes; - is standard output.")],
    chars: Annotated[int, typer.Option(help="Characters that the page shows, from the text's beginning; all of it ranks the cells.")] = 20_000,
    unknown: Unknown = "error",
) -> None:  # fmt: skip
    """Show what the model's cells do on TEXT: one HTML page."""
    from cuchar.bars import bar
    from cuchar.checkpoint import read_checkpoint
    from cuchar.files import STREAM, say, write_output
    from cuchar.look.page import make_page
    from cuchar.outputs import expect_new_output
    from cuchar.reading import Reading
    from cuchar.text import read_text
    from cuchar.text_files import text_files

    expect_new_output("--out", out, checkpoint, text_files(texts), binary=True)
    read = read_checkpoint(checkpoint)
    vocabulary = read.vocabulary
    text = read_text(texts, Reading.of(read.run["train"]))
    ids = vocabulary.encode(text.codes, unknown, text.place)
    names = ", ".join(file.name if file != STREAM else "standard input" for file in text.files[:3])
    title = f"{names}{' and others' if len(text.files) > 3 else ''}, as {checkpoint.name or checkpoint} reads it"
    with bar("reading", len(ids)) as advance:
        page = make_page(read.scaled_parameters, vocabulary, ids, title, chars, advance)
    write_output(out, page)
    say(f"wrote {out} ({len(page) / 1e6:.1f} MB): open it in a browser")
