"""Scores the lines of files and pipes as they come, and learns from a clean text which of them are anomalies.

Of a text, however long it or one of its lines is, no more is held than was read at once.
"""

import codecs
import math
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuchar.bars import bar
from cuchar.config import check_option
from cuchar.errors import DivergedError, TextError
from cuchar.files import STREAM, opened_stdin
from cuchar.kinds import number
from cuchar.line_scores import LineScore
from cuchar.model import Model
from cuchar.text_files import unreadable

AT_ONCE = 1 << 18  # bytes that are read at once, at most
LONGEST = 1 << 16  # bytes of a line that are scored as one; what comes after them is scored as if it were another line
SCORED_AT_ONCE = 4096  # lines, at most: very short ones take more memory than they have bytes


@dataclass(frozen=True)
class ScoredLine:
    """A line of a file, with its number, counted from 1; the parts of a very long line have one number."""

    path: Path
    number: int
    score: LineScore


def scored_lines(model: Model, paths: Sequence[Path]) -> Iterator[list[ScoredLine]]:
    """Score the lines of files, as many at a time as are there: lines that are yet to come are not waited for.

    A byte order mark at a file's beginning is left out.

    Raises:
        TextError: a file cannot be read, or the model knows no newline.
    """
    mark = b"" if model.reading.has_single_bytes else codecs.BOM_UTF8
    for path in paths:
        for ready in _ready_lines(path):
            for first in range(0, len(ready), SCORED_AT_ONCE):
                lines = ready[first : first + SCORED_AT_ONCE]
                scores = model.score_lines(line if at > 1 else line.removeprefix(mark) for at, line in lines)
                yield [ScoredLine(path, at, score) for (at, _), score in zip(lines, scores, strict=True)]


def calibrate(model: Model, clean: Sequence[Path], quantile: float) -> tuple[float, int]:
    """The threshold, in bits per character, above which a line is an anomaly, and how many lines the clean files have.

    The threshold is a quantile of these lines' scores: the lowest one that at most the share 1 - `quantile` of all lines
    exceed, rounded up to four decimals.

    Raises:
        OptionError: the quantile is not from 0 to 1.
        TextError: a file cannot be read, or there is no line; or the model knows no newline.
        DivergedError: the quantile is that of a line whose score is not finite.
    """
    check_option("quantile", number("from 0 to 1", lambda value: 0 <= value <= 1), quantile)
    found = array("d")
    with bar("calibrating", total=None) as advance:
        for lines in scored_lines(model, clean):
            found.extend(line.score.bits_per_char for line in lines)
            advance(len(lines))
    if not found:
        raise TextError(f"{', '.join(map(str, clean[:3]))}: expected at least one line, found none")
    threshold = float(np.quantile(found, quantile, method="inverted_cdf"))
    if not math.isfinite(threshold):
        raise DivergedError("expected finite scores of lines, found others: the model's weights are too large")
    return math.ceil(threshold * 1e4) / 1e4, len(found)


def _ready_lines(path: Path) -> Iterator[list[tuple[int, bytes]]]:
    """The lines of a file or pipe with their numbers, without their newlines, as many at a time as are there.

    Raises:
        TextError: the file cannot be read.
    """
    ended, rest = 0, b""  # how many lines have ended, and what is there of the next one
    try:
        with opened_stdin() if path == STREAM else path.open("rb") as source:
            while data := os.read(source.fileno(), AT_ONCE):
                *whole, rest = (rest + data).split(b"\n")
                lines = [(at, part) for at, line in enumerate(whole, ended + 1) for part in _parts(line)]
                ended += len(whole)
                *parts, rest = _parts(rest)
                lines += [(ended + 1, part) for part in parts]
                if lines:
                    yield lines
    except OSError as error:
        raise unreadable(path, error) from None
    if rest:
        yield [(ended + 1, rest)]


def _parts(line: bytes) -> list[bytes]:
    """A line in parts of at most LONGEST bytes, which do not begin within a character of UTF-8."""
    parts = []
    while len(line) > LONGEST:
        end = LONGEST
        while end > LONGEST - 3 and line[end] & 0xC0 == 0x80:
            end -= 1
        parts.append(line[:end])
        line = line[end:]
    return [*parts, line]
