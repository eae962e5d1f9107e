"""What has been done of a text that is being encoded, on disk, so that the next process can go on after a kill.

unfinished.ids has the ids so far, and unfinished.json says how many of them count: it has the tally, and the place in
the text up to which the ids go. A power cut may have damaged either. So the ids are hashed when they are gone on with.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO

import numpy as np

from cuchar.kinds import SHA256, Record, integer
from cuchar.messages import Messages
from cuchar.second_thread import SecondThread
from cuchar.tally import TALLY, Tally
from cuchar.text_cache import read_signed, write_signed
from cuchar.text_files import pieces

SAVED_S = 1.0  # seconds between two saves
NOTHING = {"file": 0, "offset": 0, "size": 0}
JOURNAL = Record(
    {"source": SHA256, "tally": TALLY},
    optional={"encoded": Record({"file": integer(), "offset": integer(), "size": integer(), "sha256": SHA256})},
)


class Unfinished:
    """The unfinished text of a cache's folder, which must be locked.

    Args:
        source: says which text it is; what there is of another text is not used.
    """

    def __init__(self, folder: Path, source: str, messages: Messages):
        self.ids, self._journal = folder / "unfinished.ids", folder / "unfinished.json"
        self._messages, self._saved_at = messages, monotonic()
        stored = read_signed(self._journal, JOURNAL)
        self._stored: dict[str, Any] = stored if stored and stored["source"] == source else {"source": source}

    @property
    def tally(self) -> dict[str, Any] | None:
        """The tally so far, as JSON."""
        return self._stored.get("tally")

    def save_tally(self, tally: Tally, at_once: bool = False) -> None:
        """Save the tally, unless it was saved within the last second; with another tally, ids do not count any more."""
        if at_once or self._is_due():
            found = tally.to_json()
            if found != self.tally:
                self._save({"source": self._stored["source"], "tally": found})

    @contextmanager
    def writing(self) -> Iterator["Writer"]:
        """A context in which ids are written, after those that are there already."""
        encoded = self._stored.get("encoded", NOTHING)
        digest = hashlib.sha256()
        with open(os.open(self.ids, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
            if encoded["size"]:
                with self._messages.counted("checking", encoded["size"]) as advance:
                    for piece in pieces(file.fileno(), encoded["size"]):
                        digest.update(piece)
                        advance(len(piece))
                if digest.hexdigest() != encoded["sha256"]:
                    digest, encoded = hashlib.sha256(), NOTHING
            file.truncate(encoded["size"])
            file.seek(encoded["size"])
            yield Writer(file, digest, encoded, self._save_encoded)

    def _save_encoded(self, encoded: Callable[[], dict[str, Any]]) -> None:
        if self._is_due():
            self._save({**self._stored, "encoded": encoded()})

    def _is_due(self) -> bool:
        return monotonic() - self._saved_at >= SAVED_S

    def _save(self, stored: dict[str, Any]) -> None:
        self._stored = stored
        write_signed(self._journal, stored)
        self._saved_at = monotonic()

    def remove(self) -> None:
        for file in (self._journal, self.ids):
            file.unlink(missing_ok=True)


class Writer:
    """Writes the ids of a text.

    file, offset: the place in the text up to which there are ids: the file's number, and the bytes in it.
    """

    def __init__(self, ids: BinaryIO, digest: Any, encoded: dict[str, Any], save: Callable[..., None]):
        self.file, self.offset, self.size = encoded["file"], encoded["offset"], encoded["size"]
        self._ids, self._digest, self._save, self._thread = ids, digest, save, SecondThread()

    def write(self, ids: np.ndarray, file: int, offset: int) -> None:
        """Write the next ids, which go up to this place in the text."""
        self._thread.begin(self._ids.write, ids.data)
        self._digest.update(ids.data)
        self.file, self.offset, self.size = file, offset, self.size + ids.nbytes
        self._save(self._encoded)

    @property
    def sha256(self) -> str:
        """The hash of all ids."""
        return str(self._digest.hexdigest())

    def status(self) -> os.stat_result:
        """How the file looks once all ids are in it."""
        self._thread.wait()
        self._ids.flush()
        return os.fstat(self._ids.fileno())

    def _encoded(self) -> dict[str, Any]:
        self._thread.wait()
        self._ids.flush()
        return {"file": self.file, "offset": self.offset, "size": self.size, "sha256": self.sha256}
