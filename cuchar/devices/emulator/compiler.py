"""From CUDA source to functions, by the host's C++ compiler."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cuchar.devices import host_compiler
from cuchar.devices.host_compiler import NATIVE, build, compiler, run
from cuchar.errors import DeviceError

Sanitize = Literal["address", "thread"]
SANITIZERS = {"address": "address,undefined", "thread": "thread"}  # one build for the two that go together

HERE = Path(__file__).resolve().parent
FLAGS = "-std=c++20 -ffp-contract=off -Wl,-Bsymbolic".split()  # contraction off: the same bits, whatever the compiler
# A frame that is too large would leave its stack, which is the runtime's 64 KiB. Unique symbols, which clang does not make,
# would make one variable of those that templates of two libraries have.
OF_GCC = "-Werror=frame-larger-than=32768 -fno-gnu-unique".split()
OF_CLANG = "-Wframe-larger-than=32768 -Werror=frame-larger-than".split()
FAST = ["-O2", NATIVE, *"-fno-math-errno -fno-trapping-math".split()]
CHECKED = "-O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all".split()
PRELOADED = {"address": "libasan.so", "thread": "libtsan.so"}  # these replace malloc, so they must come first
OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=1"},
}


def load(source: str, sanitize: Sanitize | None, notice: Callable[[str], None] = lambda kept: None) -> ctypes.CDLL:
    """The library that a source text makes, from the cache if it has been made before.

    Args:
        source: CUDA C++, `#line` and all, with EMULATE(name, parameters) for every kernel.
        notice: called before something is compiled, with what becomes of it.
    Raises:
        DeviceError: no compiler, an error in the source, no room for the cache, or a sanitizer that is not preloaded.
    """
    if sanitize and PRELOADED[sanitize] not in os.environ.get("LD_PRELOAD", ""):
        raise DeviceError(
            f"expected {PRELOADED[sanitize]} in LD_PRELOAD for sanitize={sanitize!r}; see sanitizer_environment"
        )
    common = [*FLAGS, *(OF_CLANG if "__clang__" in host_compiler.identity() else OF_GCC)]
    flags = [*common, *([*CHECKED, f"-fsanitize={SANITIZERS[sanitize]}"] if sanitize else FAST)]
    runtime_flags = [*common, "-O2", *([f"-DSANITIZE_{sanitize.upper()}"] if sanitize else [])]
    runtime = build((HERE / "runtime.cpp").read_text("utf-8"), runtime_flags, "emulator", HERE)
    host_compiler.load(runtime)  # which may lie in another folder than what is linked to it: see host_compiler.build
    return host_compiler.load(build(source, ["-include", "cuda.hpp", *flags], "emulator", HERE, [runtime], notice))


def sanitizer_environment(sanitize: Sanitize) -> dict[str, str]:
    """The environment that a process needs to use a sanitizer, besides its own. A finding ends it with a report."""
    found = run([*compiler(), f"-print-file-name={PRELOADED[sanitize]}"]).stdout.strip()
    return {**OPTIONS[sanitize], "LD_PRELOAD": str(Path(found).resolve())}
