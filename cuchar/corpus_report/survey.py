"""Reads a text once, in blocks, and gathers all that `cuchar corpus` says about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuchar.corpus_report.characters import Characters
from cuchar.corpus_report.faults import Decomposed, Mojibake
from cuchar.corpus_report.lines import Lines
from cuchar.corpus_report.repeats import RepeatFinder, Repeats
from cuchar.corpus_report.spans import Span, spans
from cuchar.errors import TextError
from cuchar.reading import Reading
from cuchar.text_files import TextFile
from cuchar.unreadable import expect_one_read, leave_out

SAMPLE = 10_000_000  # bytes from the text's beginning, in whole blocks, that n-grams are counted in


@dataclass(frozen=True)
class Survey:
    """What was found in a text.

    Args:
        files: the files that were read.
        left_out: a line for each file that could not be read, saying why.
        marked: the files that begin with a byte order mark.
        size: bytes of all files.
        sample: [n] uint16, the text's first characters as `Characters.ids` numbers them, all of a text that is not large.
    """

    reading: Reading
    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    marked: tuple[Path, ...]
    size: int
    characters: Characters
    lines: Lines
    repeats: Repeats
    mojibake: Mojibake
    decomposed: Decomposed
    sample: np.ndarray


class _Gatherer:
    """What is found as blocks come."""

    def __init__(self) -> None:
        self.characters, self.lines, self.repeats = Characters(), Lines(), RepeatFinder()
        self.mojibake, self.decomposed = Mojibake(), Decomposed()
        self.size = 0
        self.sample: list[np.ndarray] = []

    def add(self, span: Span) -> None:
        if self.size < SAMPLE:
            self.sample.append(span.codes)
        self.size += len(span.raw)
        for part in (self.characters, self.lines, self.repeats):
            part.add(span)
        if not span.as_bytes:
            self.mojibake.add(span)
            self.decomposed.add(span)

    def end_file(self, name: str) -> None:
        self.lines.end_file()
        self.repeats.end_file(name)


def survey(
    paths: Sequence[Path],
    reading: Reading,
    skip_unreadable: bool = False,
    advance: Callable[[int], None] = lambda size: None,
) -> Survey:
    """Look at files that are read as one text.

    Args:
        skip_unreadable: leave out files that are not UTF-8 or that may not be read, instead of raising; each file is then
            read twice.
        advance: is called with the number of bytes that were read since the call before.
    Raises:
        TextError: a file cannot be read, or none can; or the text is empty.
    """
    gatherer, files, left_out, marked = _Gatherer(), [], [], []
    for path in paths:
        try:
            file = TextFile(path)
            if skip_unreadable:
                for _ in spans(file, reading):
                    pass
            for span in spans(file, reading):
                gatherer.add(span)
                advance(len(span.raw))
                if span.has_bom:
                    marked.append(path)
        except TextError as error:
            left_out.append(leave_out(error, skip_unreadable, len(paths)))
            continue
        gatherer.end_file(str(path))
        files.append(path)
    expect_one_read(files, left_out)
    if not gatherer.characters.counts.any():
        raise TextError(f"{', '.join(map(str, paths))}: expected text, found an empty file")
    return Survey(
        reading, tuple(files), tuple(left_out), tuple(marked), gatherer.size, gatherer.characters, gatherer.lines,
        gatherer.repeats.repeats(), gatherer.mojibake, gatherer.decomposed,
        gatherer.characters.ids(gatherer.sample),
    )  # fmt: skip
