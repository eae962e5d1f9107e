"""The host's C++ compiler, and a cache of the libraries that it made."""

import atexit
import ctypes
import errno
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path

from cuchar.errors import DeviceError

# The compiler's flag for every instruction that this processor has.
NATIVE = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
Notice = Callable[[str], AbstractContextManager[object]]
DIGEST = ".sha256"  # the suffix of the file beside a library that holds the library's SHA-256


def load(library: Path) -> ctypes.CDLL:
    """Load a library into this process.

    Raises:
        DeviceError: it cannot be loaded, for instance because it lies on a file system that forbids running programs.
    """
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise DeviceError(f"expected to load {library}, found: {error}; set XDG_CACHE_HOME") from None


def build(
    source: str,
    flags: Sequence[str],
    folder: str,
    headers: Path | None = None,
    libraries: Sequence[Path] = (),
    notice: Notice = nullcontext,
) -> Path:
    """Compile a source text to a shared library, or find it in the cache if it was compiled before and is undamaged.

    If the cache cannot be written, a temporary folder of this process takes its place.

    Args:
        source: C++.
        flags: flags for the compiler, besides those that make a shared library.
        folder: the cache's folder for this kind of library.
        headers: a folder that the source includes from.
        libraries: libraries to link. Either the process has loaded them, or they lie in the same folder of the cache.
        notice: makes the context in which something is compiled, from a text that says whether the next run will find it.
    Returns:
        The library's path.
    Raises:
        DeviceError: there is no compiler, the source has an error, or the library cannot be written.
    """
    flags = ["-fPIC", "-shared", "-pthread", *flags]
    included = [path.read_text("utf-8") for path in sorted(headers.glob("*.[hc]*"))] if headers else []
    whole = "\0".join([identity(), *flags, *map(str, libraries), *included, source])
    name = f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.so"
    # A library that others are linked to gets its file name as its soname, so that they find it wherever the cache is.
    command = [*compiler(), *flags, *([f"-I{headers}"] if headers else [])]
    command += [f"-Wl,-soname,{name}", "-Wl,-rpath,$ORIGIN"] if libraries or headers else []
    try:
        place, kept = _place(folder, name)
        if _is_sound(place / name):
            return place / name
        with tempfile.TemporaryDirectory(dir=place) as unfinished:
            made = Path(unfinished, name)
            with notice(kept):
                done = run([*command, "-o", str(made), "-x", "c++", "-", "-x", "none", *map(str, libraries)], source)
            if done.returncode:
                lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
                raise DeviceError(next((line for line in lines if "error:" in line), lines[-1]))
            digest = made.with_suffix(DIGEST)
            digest.write_text(_digest(made))
            for file in (digest, made):  # each appears at once and whole, since other processes may be looking
                os.replace(file, place / file.name)
    except OSError as error:
        raise DeviceError(f"expected room for what is compiled, found: {error}; set XDG_CACHE_HOME or TMPDIR") from None
    return place / name


def _place(folder: str, name: str) -> tuple[Path, str]:
    """A folder that holds the library `name` or can be written to, and in words, whether the next run will find it."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        place = (base if base.is_absolute() else Path("~/.cache").expanduser()) / "cuchar" / folder
        if not _is_sound(place / name):
            place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=place).close()
        if place.stat().st_uid not in (0, os.getuid()):  # another user could put any program there for us to run
            raise PermissionError(errno.EPERM, "it is another user's")
        return place, "the next run finds them compiled"
    except RuntimeError:
        trouble = "there is no home directory"
    except OSError as error:
        trouble = f"{place} cannot be used ({error.strerror})"
    place = _own_folder() / folder
    place.mkdir(exist_ok=True)
    return place, f"every run will, since {trouble}: set XDG_CACHE_HOME"


@cache
def _own_folder() -> Path:
    """A temporary folder of this process, which other users cannot read and which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="cuchar-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _is_sound(library: Path) -> bool:
    """Whether a library is there and is what the compiler made. Loading a damaged one can kill the process."""
    with suppress(OSError):
        return library.with_suffix(DIGEST).read_bytes() == _digest(library).encode()
    return False


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def compiler() -> list[str]:
    """The compiler's command: that in the environment variable CXX, or the first of the usual names that is found.

    Raises:
        DeviceError: there is no compiler.
    """
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


def identity() -> str:
    """The macros that the compiler predefines: they name its version and the instructions that the processor has."""
    return _identity_of(shlex.join(compiler()))


def run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command and return its output, in English, without the libraries that are preloaded into this process."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment | {"LC_ALL": "C"})
