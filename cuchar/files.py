"""Files that are written whole or not at all."""

import os
import re
from contextlib import suppress
from pathlib import Path

from cuchar.errors import OutputError

TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")  # what `write_file` calls a file until it is whole


def write_file(path: Path, data: bytes, folder: int | None = None) -> None:
    """Replace `path` by `data` at once or not at all.

    Args:
        folder: a descriptor of the folder that `path` is in, for a writer who must not mistake another folder of the
            same name for it; None opens the folder that has the name now.
    Raises:
        OutputError: it could not be written; no temporary file is left.
    """
    temporary = f".{path.name}.{os.getpid()}.tmp"
    held = folder
    try:
        if held is None:
            held = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o666, dir_fd=held), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path.name, src_dir_fd=held, dst_dir_fd=held)
        os.fsync(held)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=held)
        kept = f"; {path.name} there is the one before" if path.exists() else ""
        raise OutputError(f"{path}: expected to write {len(data):,} bytes, found: {error.strerror}{kept}") from None
    finally:
        if folder is None and held is not None:
            os.close(held)
