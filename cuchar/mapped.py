"""Arrays that lie in a file: the system reads what of them is used, and is told when it may forget it again."""

import mmap
from typing import Any

import numpy as np


def map_file(descriptor: int, dtype: np.dtype) -> np.ndarray:
    """All of an open file as an array that cannot be written to."""
    return np.frombuffer(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ), dtype)


def drop_pages(array: Any) -> None:
    """Let the system take back the memory that a mapped file has come into; it comes again when it is read.

    Args:
        array: an array, or what has one as its `base`. Unless it is mapped from a file, nothing is dropped.
    """
    base = array
    while not (base is None or isinstance(base, mmap.mmap)):
        base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
    if base is not None:
        base.madvise(mmap.MADV_DONTNEED)
