"""`cuchar corpus`: looks at a text before a model is trained on it."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import DEFAULT, Encoding, Glob, Normalize, SkipUnreadable, was_given


def corpus(
    context: typer.Context,
    texts: Annotated[list[Path], typer.Argument(metavar="TEXT...", readable=False, help="Text files or folders; - is standard input.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    bytes_: Annotated[bool, typer.Option("--bytes", help="Look at bytes, as train does with --bytes.")] = False,
    encoding: Encoding = DEFAULT.encoding,
    normalize: Normalize = None,
    glob: Glob = None,
    skip_unreadable: SkipUnreadable = False,
) -> None:  # fmt: skip
    """Look at TEXT: characters, lines, what to clean, and what a model has to beat."""
    from cuchar.bars import bar, bytes_of
    from cuchar.config import TrainConfig, expect_bytes_alone
    from cuchar.corpus_report.entropy import LONGEST, counted, entropies
    from cuchar.corpus_report.printing import print_json, print_survey
    from cuchar.corpus_report.survey import survey
    from cuchar.files import say
    from cuchar.reading import Reading
    from cuchar.text_files import text_files
    from cuchar.unreadable import left_out_notes

    if was_given(context, "encoding"):
        expect_bytes_alone({"bytes": bytes_, "encoding": encoding})
    reading = Reading.of(TrainConfig(bytes=bytes_, encoding=encoding, normalize=normalize).to_json())
    files = text_files(texts, glob)
    with bar("reading", bytes_of(files)) as advance:
        found = survey(files, reading, skip_unreadable, advance)
    for line in left_out_notes(found.left_out, len(found.files)):
        say(line)
    with bar("counting n-grams", counted(len(found.sample)) * (LONGEST + 1)) as advance:
        bits = entropies(found.sample, len(found.characters.by_frequency), advance)
    (print_json if json else print_survey)(found, bits)
