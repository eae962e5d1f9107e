"""Files that are written whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from cuchar.errors import OutputError


def write_file(path: Path, data: bytes) -> None:
    """Replace `path` by `data` at once or not at all.

    Raises:
        OutputError: it could not be written; no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        kept = f"; {path.name} there is the one before" if path.exists() else ""
        raise OutputError(f"{path}: expected to write {len(data):,} bytes, found: {error.strerror}{kept}") from None
