"""Makes a text's ids, to train or to validate on.

A text is read twice, in blocks. The first pass counts its characters, which gives the vocabulary; the second one makes
the ids. Those of a small text are kept in memory. Those of a large one go to a cache, and are mapped from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cuchar.cached_text import cached
from cuchar.messages import Messages
from cuchar.reading import AS_UTF8, Reading
from cuchar.tally import Tally, count
from cuchar.text_cache import TextCache
from cuchar.text_files import TextFile, text_files
from cuchar.text_source import Source, Stamp
from cuchar.vocabulary import Vocabulary

IN_MEMORY = 1 << 26  # bytes of text, at most, whose ids are made anew each time and kept in memory
SILENT = Messages()


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids.

    ids: [n], in the smallest unsigned type; those of a large text are mapped from a file, and cannot be written to.
    sha256: the hash of the bytes of all files, in order.
    files: the files that were read.
    left_out: a line for each file that could not be read, saying why.
    notes: lines for the user: what was left out, and what was replaced.
    """

    ids: np.ndarray
    vocabulary: Vocabulary
    sha256: str
    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def load_corpus(
    paths: Sequence[str | Path],
    reading: Reading = AS_UTF8,
    *,
    glob: str | None = None,
    skip_unreadable: bool = False,
    max_vocab: int | None = None,
    vocabulary: Vocabulary | None = None,
    cache: Path | None = None,
    messages: Messages = SILENT,
) -> Corpus:
    """Read files and folders, join them to one text, and make its ids.

    Args:
        glob: a pattern that the names of files in folders must match; None takes all.
        skip_unreadable, max_vocab, vocabulary: as for `Source`.
        cache: the folder in which the ids of a large text are kept; None keeps those of any text in memory.
    Raises:
        TextError: there is no file, a file cannot be read or is not UTF-8, or a folder is that of a run; the text is
            empty, has too few or too many distinct characters, or one that is not in `vocabulary`.
        OutputError: the cache cannot be written to.
    """
    files = [TextFile(path) for path in text_files(paths, glob)]
    source = Source(files, reading, skip_unreadable, max_vocab, vocabulary)
    stamps = source.stamps()
    size = sum(max(0, size) for _, size, _ in stamps)
    if cache is None or size <= IN_MEMORY:
        return _in_memory(source, stamps)
    record, facts, ids = cached(source, stamps, size, TextCache(cache, messages), messages)
    return Corpus(
        ids, Vocabulary.from_json(facts["vocabulary"]), facts["sha256"], tuple(map(Path, record["files"])),
        tuple(record["left_out"]), tuple(record["notes"]),
    )  # fmt: skip


def _in_memory(source: Source, stamps: list[Stamp]) -> Corpus:
    tally = Tally()
    count(tally, source.files, source.reading, source.skip_unreadable)
    vocabulary = source.vocabulary_for(tally)
    ids, done = np.empty(tally.characters, vocabulary.dtype), 0
    for _, block in source.blocks(tally):
        end = done + len(block.codes)
        ids[done:end], done = vocabulary.ids_of_known(block.codes), end
    source.expect_unchanged(stamps)
    files = tuple(source.files[file.number].path for file in tally.files)
    notes = tuple(source.notes(tally, vocabulary))
    return Corpus(ids, vocabulary, tally.sha256, files, tuple(tally.left_out), notes)
