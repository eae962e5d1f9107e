"""Scores files that are read as one text: the whole, each file, and each character. A text may be of any size."""

import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from pathlib import Path

import numpy as np

from cuchar.bars import bar, bytes_of
from cuchar.dynamic import DynamicConfig
from cuchar.evaluation import CHUNK, LONG_TEXT, WARM_UP, LossSum, Score, expect_scorable
from cuchar.files import STREAM, say, write_output
from cuchar.id_stream import Alphabet, CountedFile, CountedText, count_text
from cuchar.model import Model
from cuchar.unreadable import left_out_notes
from cuchar.wording import option

ROWS_AT_ONCE = 1 << 14  # bytes of text whose rows of the table are made at once


@dataclass(frozen=True)
class FilesScore:
    """How well a model predicts files that are read as one text: the score of the whole text, and of each file."""

    total: Score
    files: list[tuple[Path, Score]]
    left_out: tuple[str, ...]


def score_files(
    model: Model,
    files: Sequence[Path],
    unknown: str = "error",
    skip_unreadable: bool = False,
    window: int | None = None,
    exact: bool = False,
    per_char: Path | None = None,
    settings: Callable[[], DynamicConfig] | None = None,
) -> FilesScore:
    """Score files that are read as one text.

    The first character of a file is predicted from the end of the file before it; the first character of the first file
    is not predicted.

    Args:
        unknown: "error" or "skip", for characters outside the vocabulary.
        skip_unreadable: leave out files that are not UTF-8 or that may not be read, instead of raising.
        window: characters after which the state becomes zero again, or None for never.
        exact: whether even a long text is scored as one stream, not in chunks.
        per_char: a file that receives a row for every character, or None.
        settings: what returns the settings with which to learn from the text while it is scored, as one stream. It may
            take long, and is called once all files have been found to be right. None does not learn.
    Raises:
        TextError: a file cannot be read, a character is unknown, or there are fewer than two known ones.
        OutputError: the table cannot be written.
    """
    with bar("reading", bytes_of(files)) as advance:
        text = count_text(files, Alphabet(model.reading, model.vocabulary), unknown, skip_unreadable, advance)
    for line in left_out_notes(text.left_out, len(text.files)):
        say(line)
    expect_scorable(text.ids(), str(files[0]) if len(files) == 1 else f"{len(files):,} files")
    chunked = window is None and not exact and settings is None and text.known > LONG_TEXT
    if chunked:
        say(
            f"scored in chunks of at most {CHUNK:,} characters, each after the {WARM_UP} before it, which warm its state; "
            f"{option('exact', True)} reads one stream"
        )
    dynamic = None if settings is None else settings()
    sums = _Sums(text)
    rows_are_shown = per_char == STREAM and sys.stdout.isatty()
    with bar("scoring", text.known - 1, is_shown=not rows_are_shown) as advance:

        def added_up() -> Iterator[np.ndarray]:
            for block in model.losses(text.ids(), window, chunked, dynamic):
                sums.add(block)
                advance(len(block))
                yield block

        losses = added_up()
        if per_char is not None:
            write_output(per_char, _table(text, losses))
        deque(losses, maxlen=0)  # to the end, also where a reader of the table has gone

    def score_of(counted: CountedText | CountedFile, added: LossSum) -> Score:
        replaced = counted.replaced if model.vocabulary.has_unknown else None
        return Score.of_sum(added, counted.unknown, replaced, dynamic)

    scores = [(file.file.path, score_of(file, part)) for file, part in zip(text.files, sums.of_files, strict=True)]
    return FilesScore(score_of(text, sums.total), scores, text.left_out)


class _Sums:
    """The losses of a text and of each of its files, added up as they come."""

    def __init__(self, text: CountedText):
        self.total, self.of_files = LossSum(), [LossSum() for _ in text.files]
        self._ends = list(accumulate(file.known for file in text.files))  # where each file's characters end in the text
        self._file = 0

    def add(self, losses: np.ndarray) -> None:
        """Add the next losses, [n], each of one character of the text; its first character has none."""
        place = 1 + self.total.count
        self.total.add(losses)
        while len(losses):
            while place >= self._ends[self._file]:
                self._file += 1
            part, losses = np.split(losses, [self._ends[self._file] - place])
            self.of_files[self._file].add(part)
            place += len(part)


def _table(text: CountedText, losses: Iterator[np.ndarray]) -> Iterator[bytes]:
    """A table in tab-separated values with a row for every character but the first known one, which is not predicted.

    Args:
        losses: nats of each known character but the first, in blocks.
    """
    yield b"position\tcharacter\tnats\tfile\n"
    nats, has_begun = chain.from_iterable(block.tolist() for block in losses), False
    for file in text.files:
        name, at = _quoted(str(file.file.path)), 0
        for codes, known in file.blocks(ROWS_AT_ONCE):
            rows = []
            for code, is_known in zip(codes.tolist(), known.tolist(), strict=True):
                if has_begun or not is_known:
                    loss = f"{next(nats):.6f}" if is_known else ""
                    rows.append(f"{at}\t{_quoted(chr(code))}\t{loss}\t{name}\n")
                has_begun, at = has_begun or is_known, at + 1
            yield "".join(rows).encode()


@cache
def _quoted(value: str) -> str:
    """`value` as a JSON string without quotation marks inside, since a reader of tables would take them for its end."""
    inside = json.dumps(value)[1:-1].replace('\\"', "\\u0022")
    return f'"{inside}"'
