"""A folder in which large texts are kept as ids, so that a text is encoded once and then mapped into memory.

A text is known by its key, a digest of its content and of the options that it was read with. KEY.ids has the ids, each
in the smallest unsigned type, and KEY.json the facts about them. SOURCE.known names the key of files that look the same
from outside as those that were encoded: SOURCE is a digest of their paths, sizes and times of change, by which make and
git, too, know whether a file has changed. If only these differ, the text is counted again, and its key found.

A SOURCE.known's time of change says when it was last used. Before a text is encoded, what was not used for 30 days is
removed, with what killed processes have left; a process that has the ids mapped keeps them.

Nothing here is waited for to be on disk, since a text can be encoded again. So ids are trusted while the machine has not
been started again and their file looks the same from outside. Otherwise they are held against their SHA-256 and the
size of their vocabulary, once.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep, time
from typing import Any

import numpy as np

from cuchar.errors import OutputError
from cuchar.kinds import FILE_NAME, SHA256, ListOf, Mismatch, Record, integer, text
from cuchar.mapped import map_file
from cuchar.messages import Messages
from cuchar.schema import VOCABULARY, parse_json
from cuchar.text_files import CACHE_TAG, pieces
from cuchar.wording import option

BOOT = Path("/proc/sys/kernel/random/boot_id")  # another text each time the machine is started; Linux alone has it
WAIT_S = 0.1  # seconds between two looks whether another process has ended
UNUSED_DAYS = 30  # after which what nobody has used may be removed
NAME = re.compile(  # of a file that may be removed; `write_signed` has left the second kind, if it was killed
    r"[0-9a-f]{64}\.(known|json|ids)|\.([0-9a-f]{64}\.(known|json)|unfinished\.json)\.[0-9]+\.tmp"
)
EXPECTED = {  # where an error of the system ends the writing of ids
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "room for the ids of a text"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "a folder that may be written to, for the ids of a text"),
}
SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55\n# cuchar keeps encoded texts here; they can be made again.\n"

FACTS = Record(
    {
        "key": SHA256,
        "vocabulary": VOCABULARY,
        "sha256": SHA256,
        "characters": integer(1),
        "ids": Record({"sha256": SHA256, "changed_ns": integer(0, 2**63), "boot": text()}),
    }
)
KNOWN = Record({"key": SHA256, "files": ListOf(FILE_NAME), "left_out": ListOf(text()), "notes": ListOf(text())})

Found = tuple[dict[str, Any], dict[str, Any], np.ndarray]  # what is known of files, and the facts and ids of their text


class TextCache:
    """A folder with encoded texts; it is made when a text is to be encoded."""

    def __init__(self, folder: Path, messages: Messages):
        self.folder, self._messages = folder, messages

    @property
    def is_read_only(self) -> bool:
        """Whether the folder is there, but not to be written to, as somebody else's."""
        return os.path.isdir(self.folder) and not os.access(self.folder, os.W_OK)

    def find(self, source: str) -> Found | None:
        """What there is for files that look like `source` from outside.

        None if there are none, or they are damaged; the errors are those of `open`.
        """
        known = read_signed(self._known(source), KNOWN)
        with suppress(OSError):  # there is none, or the folder is not to be written to
            os.utime(self._known(source))
        found = self.open(known["key"]) if known else None
        return (known, *found) if found else None

    def open(self, key: str) -> tuple[dict[str, Any], np.ndarray] | None:
        """Facts and ids of a text by its key, or None if there are none or they are damaged.

        Raises:
            OutputError: they are damaged, and the folder may not be written to.
        """
        facts = read_signed(self._facts(key), FACTS)
        if facts is None or facts["key"] != key:
            return None
        dtype = np.min_scalar_type(len(facts["vocabulary"]["characters"]) - 1)
        try:
            with (self.folder / f"{key}.ids").open("rb") as file:
                status = os.fstat(file.fileno())
                is_sound = status.st_size == facts["characters"] * dtype.itemsize
                if is_sound and not _is_trusted(facts["ids"], status):
                    is_sound = self._is_undamaged(file.fileno(), facts, dtype)
                if is_sound:
                    return facts, map_file(file.fileno(), dtype)
        except OSError:
            return None
        damage = f"{self.folder / f'{key}.ids'}: expected the ids of a text, found damage"
        if self.is_read_only:
            raise OutputError(
                f"{damage}, in a folder that may not be written to; {option('cache')} names another folder"
            )
        self._messages.note(f"{damage}; it is encoded again")
        with suppress(OSError):  # so that nobody looks at them again
            self._facts(key).unlink()
        return None

    def _is_undamaged(self, descriptor: int, facts: dict[str, Any], dtype: np.dtype) -> bool:
        """Whether ids are those that were written, and all of the vocabulary; if so, this is noted."""
        digest, size, largest = hashlib.sha256(), os.fstat(descriptor).st_size, 0
        with self._messages.counted("checking", size) as advance:
            for piece in pieces(descriptor, size):
                digest.update(piece)
                largest = max(largest, int(np.frombuffer(piece, dtype).max()))
                advance(len(piece))
        if digest.hexdigest() != facts["ids"]["sha256"] or largest >= len(facts["vocabulary"]["characters"]):
            return False
        with suppress(OSError):  # somebody else's folder need not let us write to it
            self._write_facts({**facts, "ids": seen(facts["ids"]["sha256"], os.fstat(descriptor))})
        return True

    def keep(self, file: Path, facts: dict[str, Any]) -> None:
        """Take in a file with ids, by renaming it, and the facts about it.

        Raises:
            OSError: the folder cannot be written to.
        """
        os.replace(file, self.folder / f"{facts['key']}.ids")
        self._write_facts(facts)

    def remember(self, source: str, known: dict[str, Any]) -> None:
        """Note what is known (KNOWN) of files that look like `source` from outside.

        Raises:
            OSError: the folder cannot be written to.
        """
        write_signed(self._known(source), known)

    def remove_unused(self) -> None:
        """Remove what is known of files that nobody has used for long, and old texts of no known files.

        The folder must be locked.

        Raises:
            OSError: the folder cannot be read.
        """
        files = [file for file in self.folder.iterdir() if NAME.fullmatch(file.name)]
        old = {file for file in files if _is_old(file)}
        known = [read_signed(file, KNOWN) for file in files if file.suffix == ".known" and file not in old]
        used = {record["key"] for record in known if record}
        removed = [file for file in old if file.stem not in used]  # a SOURCE is no KEY
        for file in removed:
            with suppress(OSError):  # it is somebody else's
                file.unlink()
        texts = sum(file.suffix == ".ids" for file in removed)
        if texts:
            self._messages.note(
                f"removed from {self.folder} the ids of texts that nobody has used for {UNUSED_DAYS} days: {texts:,}"
            )

    def _facts(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _known(self, source: str) -> Path:
        return self.folder / f"{source}.known"

    def _write_facts(self, facts: dict[str, Any]) -> None:
        write_signed(self._facts(facts["key"]), facts)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which no other process encodes a text in this folder; if one does now, it is waited for.

        Raises:
            OutputError: the folder cannot be made or written to, or the disk is full.
        """
        descriptor = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY)
            self._lock(descriptor)
            (self.folder / CACHE_TAG).write_bytes(SIGNATURE)
            if self.is_read_only:  # the tag itself may be written to all the same
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            yield
        except OSError as error:
            expected = EXPECTED.get(error.errno or 0, "to write the ids of a text")
            raise OutputError(
                f"{self.folder}: expected {expected}, found: {error.strerror}; {option('cache')} names another folder"
            ) from None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        has_said_so = False
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not has_said_so:
                    self._messages.note(f"waiting for another process, which encodes a text in {self.folder}")
                has_said_so = True
                sleep(WAIT_S)


def _is_old(file: Path) -> bool:
    """Whether a file was not used for long; one that another process has just removed is not old."""
    try:
        return file.lstat().st_mtime < time() - UNUSED_DAYS * 24 * 3600
    except FileNotFoundError:
        return False


def seen(sha256: str, status: os.stat_result) -> dict[str, Any]:
    """What the facts say of the file of ids: what is in it, and how it looks from outside at this moment."""
    return {"sha256": sha256, "changed_ns": status.st_mtime_ns, "boot": _boot()}


def _is_trusted(ids: dict[str, Any], status: os.stat_result) -> bool:
    return ids["boot"] != "" and ids == seen(ids["sha256"], status)


def _boot() -> str:
    try:
        return BOOT.read_text().strip()
    except OSError:
        return ""


def write_signed(path: Path, value: Any) -> None:
    """Replace a file by a JSON value and its digest at once. A kill cannot damage it; a power cut can, which is noticed.

    Raises:
        OSError: it cannot be written.
    """
    data = json.dumps(value).encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_signed(path: Path, kind: Record) -> Any:
    """The value that `write_signed` has written, or None if there is none, it is damaged, or not of this kind."""
    try:
        digest, data = path.read_bytes().split(b"\n", 1)
        if hashlib.sha256(data).hexdigest().encode() == digest:
            return kind.check(parse_json(data.decode(), path.name), "")
    except (OSError, ValueError, Mismatch):
        pass
    return None
