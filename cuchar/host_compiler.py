"""The host's C++ compiler, and a cache of what it made."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from cuchar.errors import DeviceError

NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"  # all that the processor has


def load(library: Path) -> ctypes.CDLL:
    """
    Raises:
        DeviceError: it cannot be loaded: a file that was cut off, say.
    """
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise DeviceError(f"expected to load {library}, found: {error}; remove it") from None


def build(
    source: str,
    flags: Sequence[str],
    folder: str,
    headers: Path | None = None,
    libraries: Sequence[Path] = (),
    notice: Callable[[], None] = lambda: None,
) -> Path:
    """The shared library that a source text makes, from the cache if it has been made before.

    Args:
        source: C++.
        flags: the compiler's, besides those that make a shared library.
        folder: of the cache.
        headers: a folder that the source includes from.
        libraries: to link; they lie in the same folder of the cache.
        notice: called before something is compiled.
    Raises:
        DeviceError: no compiler, an error in the source, or no room for the cache.
    """
    flags = ["-fPIC", "-shared", "-pthread", *flags]
    included = [path.read_text("utf-8") for path in sorted(headers.glob("*.[hc]*"))] if headers else []
    whole = "\0".join([_identity(), *flags, *map(str, libraries), *included, source])
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "cuchar", folder)
    library = cached / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.so"
    try:
        if library.exists():
            return library
        notice()
        cached.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(suffix=".so", dir=cached)
    except OSError as error:
        raise DeviceError(f"expected to write to {cached}, found: {error.strerror}; set XDG_CACHE_HOME") from None
    os.close(handle)
    try:
        # By its own name, a library that others are linked to is found wherever the cache is.
        command = [*compiler(), *flags, *([f"-I{headers}"] if headers else [])]
        command += [f"-Wl,-soname,{library.name}", "-Wl,-rpath,$ORIGIN"] if libraries or headers else []
        made = run([*command, "-o", unfinished, "-x", "c++", "-", "-x", "none", *map(str, libraries)], source)
        if made.returncode:
            lines = made.stderr.splitlines() or [f"exit status {made.returncode}"]
            raise DeviceError(next((line for line in lines if "error" in line), lines[-1]))
        os.chmod(unfinished, 0o755)  # mkstemp's are for one user alone
        os.replace(unfinished, library)  # at once, for who else may be looking
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return library


def compiler() -> list[str]:
    """CXX, or the first of the usual names that is there."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for candidate in candidates:
        with suppress(ValueError):  # a quotation mark that is not closed
            command = shlex.split(candidate)
            if command and shutil.which(command[0]):
                return command
    raise DeviceError(f"expected a C++20 compiler, found no {', '.join(candidates)}; install g++ 12 or set CXX")


@cache
def _identity_of(command: str) -> str:
    return run([*shlex.split(command), NATIVE, "-dM", "-E", "-x", "c++", "-"], "").stdout


def _identity() -> str:
    """What this compiler predefines for this processor: the version of the one, the instructions of the other."""
    return _identity_of(shlex.join(compiler()))


def run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """A command's output, in English, and without what is preloaded into this process."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment | {"LC_ALL": "C"})
