"""Makes a text's ids, to train or to validate on.

A text is read twice, in blocks. The first pass counts its characters, which gives the vocabulary; the second one makes
the ids. Those of a small text are kept in memory. Those of a large one go to a cache, and are mapped from there.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.errors import OutputError, TextError
from cuchar.id_stream import Alphabet
from cuchar.messages import Messages
from cuchar.reading import AS_UTF8, Block, Reading, blocks
from cuchar.tally import Tally, count
from cuchar.text_cache import TextCache, seen
from cuchar.text_files import TextFile, absolute, text_files
from cuchar.unfinished import Unfinished
from cuchar.unreadable import left_out_notes
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option

IN_MEMORY = 1 << 26  # bytes of text, at most, whose ids are made anew each time and kept in memory
VERSION = 1  # of how texts become ids: what another version has encoded is not used
SILENT = Messages()
Stamp = tuple[str, int, int]  # how a file looks from outside: its path, size and time of change


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


@dataclass(frozen=True)
class Source:
    """A text that is to be encoded: its files, and all that decides which ids they give.

    Args:
        skip_unreadable: leave out files that are not UTF-8 or that may not be read, instead of raising.
        max_vocab: how large the vocabulary may be (`Vocabulary.of_counts`), or None.
        vocabulary: the vocabulary to use; None makes the text's own.
    """

    files: Sequence[TextFile]
    reading: Reading
    skip_unreadable: bool
    max_vocab: int | None
    vocabulary: Vocabulary | None

    def stamps(self) -> list[Stamp]:
        """How each file looks from outside; size and time are -1 if they cannot be found out."""
        found = []
        for file in self.files:
            try:
                with file.opened() as descriptor:
                    status = os.fstat(descriptor)
                found.append((absolute(file.path), status.st_size, status.st_mtime_ns))
            except TextError:
                found.append((absolute(file.path), -1, -1))
        return found

    def options(self) -> dict[str, Any]:
        """All that decides about the ids besides the files, as JSON."""
        vocabulary = None if self.vocabulary is None else self.vocabulary.to_json()
        return {"reading": asdict(self.reading), "max_vocab": self.max_vocab, "vocabulary": vocabulary}

    def vocabulary_for(self, tally: Tally) -> Vocabulary:
        """The vocabulary that the text is encoded with.

        Raises:
            TextError: there are too few or too many distinct characters, or one is not in the vocabulary to use.
        """
        if self.vocabulary is None:
            return Vocabulary.of_counts(tally.counts, self.reading.as_bytes, self.max_vocab)
        found = np.flatnonzero(tally.counts)
        if not self.vocabulary.has(found).all():
            alphabet, hint = Alphabet(self.reading, self.vocabulary), "; the vocabulary is the training text's"
            for counted in tally.files:
                alphabet.expect_all(self.files[counted.number], f"{option('val')}: ", hint)
        return self.vocabulary

    def blocks(self, tally: Tally, first: int = 0, offset: int = 0, done: int = 0) -> Iterator[tuple[int, Block]]:
        """Read the text again after it was counted, from a place on.

        Args:
            first, offset: the place: which of the files that were read, and the bytes in it.
            done: how many characters come before it.
        Yields:
            blocks, each with the number of its file among those that were read.
        Raises:
            TextError: the text has not as many characters any more as were counted.
        """
        for number in range(first, len(tally.files)):
            file = self.files[tally.files[number].number]
            for block in blocks(file, self.reading, offset if number == first else 0):
                done += len(block.codes)
                if done > tally.characters:
                    raise self.changed()
                yield number, block
        if done != tally.characters:
            raise self.changed()

    def key(self, tally: Tally) -> str:
        """The key by which a cache knows the text: a digest of its content and of all that decides about the ids."""
        sizes = [(file.size, file.has_bom) for file in tally.files]
        return _digest([VERSION, tally.sha256, sizes, self.options()])

    def known(self, key: str, tally: Tally, vocabulary: Vocabulary) -> dict[str, Any]:
        """What a cache remembers of the files (`text_cache.KNOWN`)."""
        files = [str(self.files[file.number].path) for file in tally.files]
        return {"key": key, "files": files, "left_out": tally.left_out, "notes": self.notes(tally, vocabulary)}

    def changed(self) -> TextError:
        names = ", ".join(str(file.path) for file in self.files[:3])
        return TextError(f"{names}: expected a text that stays as it is while it is read, found it changed")

    def notes(self, tally: Tally, vocabulary: Vocabulary) -> list[str]:
        """Lines for the user: what was left out, and what was replaced."""
        lines = left_out_notes(tally.left_out, len(tally.files))
        marked = [self.files[file.number].path for file in tally.files if file.has_bom]
        if marked:
            others = f" and of {len(marked) - 1:,} more" if len(marked) > 1 else ""
            lines.append(f"left out the byte order mark of {marked[0]}{others}")
        found = np.flatnonzero(tally.counts)
        replaced = found[~np.isin(found, vocabulary.codes)]
        if len(replaced):
            name = "text" if self.vocabulary is None else "validation text"
            lines.append(
                f"{tally.counts[replaced].sum():,} of the {name}'s {tally.characters:,} characters, "
                f"{len(replaced):,} distinct ones, became U+FFFD, the unknown symbol"
            )
        return lines


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
    return _cached(source, stamps, size, TextCache(cache, messages), messages)


def _in_memory(source: Source, stamps: list[Stamp]) -> Corpus:
    tally = Tally()
    count(tally, source.files, source.reading, source.skip_unreadable)
    vocabulary = _vocabulary(source, tally)
    ids, done = np.empty(tally.characters, vocabulary.dtype), 0
    for _, block in source.blocks(tally):
        end = done + len(block.codes)
        ids[done:end], done = vocabulary.ids_of_known(block.codes), end
    if source.stamps() != stamps:
        raise source.changed()
    files = tuple(source.files[file.number].path for file in tally.files)
    notes = tuple(source.notes(tally, vocabulary))
    return Corpus(ids, vocabulary, tally.sha256, files, tuple(tally.left_out), notes)


def _vocabulary(source: Source, tally: Tally) -> Vocabulary:
    if not tally.characters and source.vocabulary is None:
        raise TextError(f"{', '.join(str(file.path) for file in source.files)}: expected text, found an empty file")
    return source.vocabulary_for(tally)


def _cached(source: Source, stamps: list[Stamp], size: int, cache: TextCache, messages: Messages) -> Corpus:
    """The text's ids from the cache, into which they are written first if they are not there."""
    known = _digest([VERSION, stamps, source.options(), source.skip_unreadable])
    found = cache.find(known)
    if found is None and cache.is_read_only:
        found = _find_by_content(source, stamps, size, cache, messages)
    if found is None:
        with cache.locked():
            found = cache.find(known)  # another process may have encoded it while this one waited
            if found is None:
                _encode(source, stamps, size, known, cache, messages)
                found = cache.find(known)
    if found is None:
        raise OutputError(f"{cache.folder}: expected the ids that were just written, found none")
    record, facts, ids = found
    return Corpus(
        ids, Vocabulary.from_json(facts["vocabulary"]), facts["sha256"], tuple(map(Path, record["files"])),
        tuple(record["left_out"]), tuple(record["notes"]),
    )  # fmt: skip


def _find_by_content(
    source: Source, stamps: list[Stamp], size: int, cache: TextCache, messages: Messages
) -> tuple[dict[str, Any], dict[str, Any], np.ndarray] | None:
    """What `TextCache.find` returns, for a text whose files look different; it is counted, and nothing is written."""
    tally = Tally()
    with messages.counted("counting", size) as advance:
        count(tally, source.files, source.reading, source.skip_unreadable, advance)
    vocabulary = _vocabulary(source, tally)
    key = source.key(tally)
    found = cache.open(key)
    if source.stamps() != stamps:
        raise source.changed()
    return (source.known(key, tally, vocabulary), *found) if found else None


def _encode(source: Source, stamps: list[Stamp], size: int, known: str, cache: TextCache, messages: Messages) -> None:
    """Encode a text into the cache, which is locked; what a killed process has done of it is gone on with."""
    unfinished = Unfinished(cache.folder, known, messages)
    try:
        tally = _count(source, size, unfinished, messages)
        vocabulary = _vocabulary(source, tally)
        key = source.key(tally)
        if cache.open(key) is None:
            cache.remove_unused()
            with unfinished.writing() as writer, messages.counted("encoding", size) as advance:
                advance(sum(file.size for file in tally.files[: writer.file]) + writer.offset)
                done = writer.size // vocabulary.dtype.itemsize
                for file, block in source.blocks(tally, writer.file, writer.offset, done):
                    writer.write(vocabulary.ids_of_known(block.codes), file, block.end)
                    advance(len(block.raw))
                written = seen(writer.sha256, writer.status())
            if source.stamps() != stamps:
                raise source.changed()
            facts = {"vocabulary": vocabulary.to_json(), "sha256": tally.sha256, "characters": tally.characters}
            cache.keep(unfinished.ids, {"key": key, **facts, "ids": written})
            messages.note(f"encoded {size:,} bytes of text into {cache.folder}, where the next run finds them")
        cache.remember(known, source.known(key, tally, vocabulary))
        unfinished.remove()
    except OSError:
        unfinished.remove()  # a full disk gets back what was taken
        raise


def _count(source: Source, size: int, unfinished: Unfinished, messages: Messages) -> Tally:
    with messages.counted("counting", size) as advance:
        tally = Tally() if unfinished.tally is None else Tally.from_json(unfinished.tally, source.files, advance)
        count(
            tally, source.files, source.reading, source.skip_unreadable,
            advance, lambda: unfinished.save_tally(tally),
        )  # fmt: skip
    unfinished.save_tally(tally, at_once=True)
    return tally


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
