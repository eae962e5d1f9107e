"""Compiles CUDA source for the emulator by the host's C++ compiler."""

import ctypes
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from cuchar.devices import host_compiler
from cuchar.devices.host_compiler import NATIVE, Notice, build, compiler, run
from cuchar.errors import DeviceError

Sanitize = Literal["address", "thread"]
SANITIZERS = {"address": "address,undefined", "thread": "thread"}  # the compiler's -fsanitize

HERE = Path(__file__).resolve().parent
FLAGS = "-std=c++20 -ffp-contract=off -Wl,-Bsymbolic".split()  # without contraction every compiler gives the same bits
# A CUDA thread's stack is the runtime's 64 KiB, so what needs a large frame must not compile. With unique symbols,
# which only GCC makes, the static variables that templates have in two libraries would be one variable.
OF_GCC = "-Werror=frame-larger-than=32768 -fno-gnu-unique".split()
OF_CLANG = "-Wframe-larger-than=32768 -Werror=frame-larger-than".split()
FAST = ["-O2", NATIVE, *"-fno-math-errno -fno-trapping-math".split()]
CHECKED = "-O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all".split()
PRELOADED = {"address": "libasan.so", "thread": "libtsan.so"}  # they replace malloc, so they must be loaded first
OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=1"},
}


def load(source: str, sanitize: Sanitize | None, notice: Notice = nullcontext) -> ctypes.CDLL:
    """Compile a source text and load the library, or load it from the cache if it was compiled before.

    Args:
        source: CUDA C++ with its `#line` directives, and with EMULATE(name, parameters) for every kernel.
        sanitize: the sanitizer that watches the kernels, or None.
        notice: makes the context in which something is compiled, from a text that says whether the next run will find it.
    Raises:
        DeviceError: there is no compiler, the source has an error, the library cannot be written, or the sanitizer's
            library is not preloaded.
    """
    if sanitize and PRELOADED[sanitize] not in os.environ.get("LD_PRELOAD", ""):
        raise DeviceError(
            f"expected {PRELOADED[sanitize]} in LD_PRELOAD for sanitize={sanitize!r}; see sanitizer_environment"
        )
    common = [*FLAGS, *(OF_CLANG if "__clang__" in host_compiler.identity() else OF_GCC)]
    flags = [*common, *([*CHECKED, f"-fsanitize={SANITIZERS[sanitize]}"] if sanitize else FAST)]
    runtime_flags = [*common, "-O2", *([f"-DSANITIZE_{sanitize.upper()}"] if sanitize else [])]
    runtime = build((HERE / "runtime.cpp").read_text("utf-8"), runtime_flags, "emulator", HERE)
    host_compiler.load(runtime)  # before the library that is linked to it, which may lie in another folder
    return host_compiler.load(build(source, ["-include", "cuda.hpp", *flags], "emulator", HERE, [runtime], notice))


def sanitizer_environment(sanitize: Sanitize) -> dict[str, str]:
    """The variables that must be added to a process's environment so that it can use a sanitizer.

    A finding of the sanitizer ends the process with a report.
    """
    found = run([*compiler(), f"-print-file-name={PRELOADED[sanitize]}"]).stdout.strip()
    return {**OPTIONS[sanitize], "LD_PRELOAD": str(Path(found).resolve())}
