"""A text that is to be encoded: its files, and all that decides which ids they give."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cuchar.errors import TextError
from cuchar.id_stream import Alphabet
from cuchar.reading import Block, Reading, blocks
from cuchar.tally import Tally
from cuchar.text_files import TextFile, absolute
from cuchar.unreadable import left_out_notes
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option

VERSION = 1  # of how texts become ids: what another version has encoded is not used
Stamp = tuple[str, int, int]  # how a file looks from outside: its path, size and time of change


@dataclass(frozen=True)
class Source:
    """A text.

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
            TextError: there are no, too few or too many distinct characters, or one is not in the vocabulary to use.
        """
        if self.vocabulary is None:
            if not tally.characters:
                names = ", ".join(str(file.path) for file in self.files)
                raise TextError(f"{names}: expected text, found an empty file")
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
                    raise self._changed()
                yield number, block
        if done != tally.characters:
            raise self._changed()

    def key(self, tally: Tally) -> str:
        """The key by which a cache knows the text: a digest of its content and of all that decides about the ids."""
        sizes = [(file.size, file.has_bom) for file in tally.files]
        return _digest([VERSION, tally.sha256, sizes, self.options()])

    def look(self, stamps: Sequence[Stamp]) -> str:
        """By what a cache knows files without reading them: a digest of how they look from outside and are to be read."""
        return _digest([VERSION, stamps, self.options(), self.skip_unreadable])

    def known(self, key: str, tally: Tally, vocabulary: Vocabulary) -> dict[str, Any]:
        """What a cache remembers of the files (`text_cache.KNOWN`)."""
        files = [str(self.files[file.number].path) for file in tally.files]
        return {"key": key, "files": files, "left_out": tally.left_out, "notes": self.notes(tally, vocabulary)}

    def expect_unchanged(self, stamps: Sequence[Stamp]) -> None:
        """Check that the files look as they did.

        Raises:
            TextError: they do not.
        """
        if self.stamps() != stamps:
            raise self._changed()

    def _changed(self) -> TextError:
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


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
