"""From CUDA source to functions: the host's C++ compiler, and a cache of what it made."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

from cuchar.errors import DeviceError

Sanitize = Literal["address", "undefined", "thread"]

HERE = Path(__file__).resolve().parent
# A frame that is too large would leave its stack, which is the runtime's 64 KiB.
FLAGS = "-std=c++20 -fPIC -shared -pthread -Wl,-Bsymbolic -fno-gnu-unique -Werror=frame-larger-than=32768".split()
FAST = "-O2 -march=native -fno-math-errno -fno-trapping-math".split()
CHECKED = "-O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all".split()
PRELOADED = {"address": "libasan.so", "thread": "libtsan.so"}  # these replace malloc, so they must come first
OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=0"},
    "undefined": {"UBSAN_OPTIONS": "print_stacktrace=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=1"},
}


def load(source: str, sanitize: Sanitize | None, notice: Callable[[], None] = lambda: None) -> ctypes.CDLL:
    """The library that a source text makes, from the cache if it has been made before.

    Args:
        source: CUDA C++, `#line` and all, with EMULATE(name, parameters) for every kernel.
        notice: called before something is compiled.
    Raises:
        DeviceError: no compiler, an error in the source, no room for the cache, or a sanitizer that is not preloaded.
    """
    if sanitize in PRELOADED and PRELOADED[sanitize] not in os.environ.get("LD_PRELOAD", ""):
        raise DeviceError(
            f"expected {PRELOADED[sanitize]} in LD_PRELOAD for sanitize={sanitize!r}; see sanitizer_environment"
        )
    flags = [*FLAGS, *([*CHECKED, f"-fsanitize={sanitize}"] if sanitize else FAST)]
    runtime_flags = [*FLAGS, "-O2", *([f"-DSANITIZE_{sanitize.upper()}"] if sanitize else [])]
    runtime = _build((HERE / "runtime.cpp").read_text("utf-8"), runtime_flags, [])
    return ctypes.CDLL(str(_build(source, ["-include", "cuda.hpp", *flags], [runtime], notice)))


def sanitizer_environment(sanitize: Sanitize) -> dict[str, str]:
    """The environment that a process needs to use a sanitizer, besides its own. A finding ends it with a report."""
    environment = dict(OPTIONS[sanitize])
    if sanitize in PRELOADED:
        found = _run([*_compiler(), f"-print-file-name={PRELOADED[sanitize]}"]).stdout.strip()
        environment["LD_PRELOAD"] = str(Path(found).resolve())
    return environment


def _build(source: str, flags: list[str], libraries: list[Path], notice: Callable[[], None] = lambda: None) -> Path:
    headers = [path.read_text("utf-8") for path in sorted(HERE.glob("*.[hc]*")) if path.name != "runtime.cpp"]
    whole = "\0".join([_identity(), *flags, *map(str, libraries), *headers, source])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "cuchar", "emulator")
    library = folder / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.so"
    if library.exists():
        return library
    notice()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(suffix=".so", dir=folder)
    except OSError as error:
        raise DeviceError(f"expected to write to {folder}, found: {error.strerror}; set XDG_CACHE_HOME") from None
    os.close(handle)
    try:
        # By its own name beside the kernels' library, the runtime is found wherever the cache is.
        command = [*_compiler(), *flags, f"-I{HERE}", f"-Wl,-soname,{library.name}", "-Wl,-rpath,$ORIGIN"]
        made = _run([*command, "-o", unfinished, "-x", "c++", "-", "-x", "none", *map(str, libraries)], source)
        if made.returncode:
            lines = made.stderr.splitlines() or [f"exit status {made.returncode}"]
            raise DeviceError(next((line for line in lines if "error" in line), lines[-1]))
        os.replace(unfinished, library)  # at once, for who else may be looking
    finally:
        Path(unfinished).unlink(missing_ok=True)
    return library


def _compiler() -> list[str]:
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if shutil.which(command[0]):
            return command
    raise DeviceError(
        f"expected a C++20 compiler for --device emulate, found no {', '.join(candidates)}; install g++ 12 or set CXX"
    )


@cache
def _identity_of(compiler: str) -> str:
    return _run([*shlex.split(compiler), "-march=native", "-dM", "-E", "-x", "c++", "-"], "").stdout


def _identity() -> str:
    """What this compiler predefines for this processor: the version of the one, the instructions of the other."""
    return _identity_of(shlex.join(_compiler()))


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.run(command, input=text, capture_output=True, text=True, env=environment | {"LC_ALL": "C"})
