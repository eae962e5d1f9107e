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
    was_given,
)
from cuchar.errors import OptionError
from cuchar.wording import option

QUANTILE = 0.999  # of the lines of a clean text, where no other one is given
ANOMALY_FOUND = 3  # the exit status
NOT_PER_LINE = "json window exact dynamic tune save per_char unknown skip_unreadable".split()
ONLY_PER_LINE = "calibrate quantile threshold".split()


def evaluate(
    context: typer.Context,
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
    per_line: Annotated[bool, typer.Option("--per-line", help="Score every line by itself, as it comes: a JSON object a line.")] = False,
    calibrate: Annotated[Path | None, typer.Option(metavar="CLEAN", help="Lines that surprise more than those of this text are anomalies.")] = None,
    quantile: Annotated[float | None, typer.Option(help="The share of the lines of CLEAN that are no anomalies.", show_default=str(QUANTILE))] = None,
    threshold: Annotated[float | None, typer.Option(metavar="BITS", help="Lines with more bits per character are anomalies.")] = None,
    unknown: Unknown = "error",
    glob: Glob = None,
    skip_unreadable: SkipUnreadable = False,
) -> int:  # fmt: skip
    """Score TEXT: nats and bits per character, perplexity."""
    from contextlib import redirect_stdout

    if per_line:
        _expect_absent(context, NOT_PER_LINE, "it or --per-line, found both")
        return _evaluate_lines(checkpoint, texts, device, precision, calibrate, quantile, threshold, glob)
    _expect_absent(context, ONLY_PER_LINE, "--per-line with it, found none")

    from functools import partial

    from cuchar.dynamic import settings_file
    from cuchar.dynamic_tuning import expect_another_text, settings_for
    from cuchar.file_scores import score_files
    from cuchar.files import STREAM, expect_output
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
    files, model = text_files(texts, glob), Model(checkpoint, device, precision)
    if tune is not None:
        expect_another_text(tune, files)
    if save:
        expect_output("--save", settings_file(model.file), [])
    if per_char is not None:
        others = [settings_file(model.file), *([] if tune is None else [tune])]
        expect_new_output("--per-char", per_char, checkpoint, [*files, *others])
    settings = partial(settings_for, model, tune, save, unknown) if dynamic else None
    score = score_files(model, files, unknown, skip_unreadable, window, exact, per_char, settings)
    with redirect_stdout(sys.stderr if per_char == STREAM else sys.stdout):
        print_score(score, json)
    return 0


def _expect_absent(context: typer.Context, names: list[str], expected: str) -> None:
    """Check that none of these options was given."""
    for name in names:
        if was_given(context, name):
            raise OptionError(f"{option(name)}: expected {expected}")


def _evaluate_lines(
    checkpoint: Path,
    texts: list[Path],
    device: str,
    precision: str,
    clean: Path | None,
    quantile: float | None,
    threshold: float | None,
    glob: str | None,
) -> int:
    """Print a JSON object for every line, and return the exit status."""
    from cuchar.config import check_option
    from cuchar.files import say
    from cuchar.kinds import Optional, number
    from cuchar.log_lines import calibrate, scored_lines
    from cuchar.model import Model
    from cuchar.reports import print_lines
    from cuchar.text_files import text_files

    if clean is not None and threshold is not None:
        raise OptionError("--calibrate: expected it or --threshold, found both")
    if clean is None and quantile is not None:
        raise OptionError("--quantile: expected --calibrate with it, found none")
    check_option("threshold", Optional(number()), threshold)
    text_files([*texts, *([] if clean is None else [clean])], glob)  # complains also where `-` is named twice
    model = Model(checkpoint, device, precision)
    if clean is not None:
        quantile = QUANTILE if quantile is None else quantile
        threshold, lines_of_clean = calibrate(model, text_files([clean], glob), quantile)
        say(
            f"--threshold {threshold}: bits per character, the quantile {quantile} of the {lines_of_clean:,} lines of {clean}"
        )
    status = 0
    for lines in scored_lines(model, text_files(texts, glob)):
        if print_lines(lines, threshold):
            status = ANOMALY_FOUND
    return status
