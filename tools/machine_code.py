"""Compiles CUDA C++ to machine code by NVRTC, for any architecture, without a GPU or a CUDA toolkit.

Machine code is kept in ~/.cache/cuchar/cubins, under the hash of all that it depends on. This needs cupy-cuda12x,
nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12 (`pip install 'cuchar[test]'`).
"""

import hashlib
import json
import os
import re
import struct
import tempfile
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path

OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")  # as CuPy's RawModule has them
MAX_THREADS = b"\x04\x05\x0c\x00"  # the beginning of the attribute in which machine code has __launch_bounds__


def compile_source(source: str, capability: int, more: tuple[str, ...] = ()) -> tuple[bytes, str]:
    """Compile a source text, or find it in the cache.

    Args:
        capability: the architecture; 90 is sm_90.
        more: further options for NVRTC.
    Returns:
        the machine code, which is an ELF file, and the compiler's log.
    Raises:
        RuntimeError: NVRTC is missing, or rejects the source.
    """
    options = (f"-arch=sm_{capability}", "--ptxas-options=-v", *OPTIONS, *more)
    key = hashlib.sha256(json.dumps([source, options, nvrtc_version()]).encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cuchar/cubins"
    cubin, log = folder / f"{key}.cubin", folder / f"{key}.log"
    if not log.is_file():
        from cupy.cuda import compiler

        text = StringIO()
        try:
            code, _ = compiler._NVRTCProgram(source, "kernels.cu", method="cubin").compile(options, text)
        except compiler.CompileException as error:
            raise RuntimeError(f"sm_{capability}: {error}") from None
        folder.mkdir(parents=True, exist_ok=True)
        _write(cubin, code + b"\0")  # CuPy drops the last byte, as if it were the end of a string
        _write(log, text.getvalue().encode())
    return cubin.read_bytes(), log.read_text()


def _write(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)


@cache
def nvrtc_version() -> str:
    """The version of the NVRTC that CuPy finds, which it states in what it compiles.

    Raises:
        RuntimeError: there is no NVRTC.
    """
    try:
        from cupy.cuda import compiler

        code, _ = compiler._NVRTCProgram("", "empty.cu", method="ptx").compile(("-arch=compute_75",))
    except Exception as error:
        raise RuntimeError(f"expected NVRTC for CuPy, found: {error}; pip install 'cuchar[test]'") from None
    found = re.search(r"release [\d.]+, V([\d.]+)", code.decode())
    if not found:
        raise RuntimeError("expected NVRTC to name its version in what it compiles, found none")
    return found[1]


@dataclass(frozen=True)
class Usage:
    """What a kernel needs of a multiprocessor."""

    registers: int  # registers of a thread
    spill_bytes: int  # bytes that a thread stores to and loads from memory for lack of registers
    stack_bytes: int  # stack of a thread
    shared_bytes: int  # static shared memory of a block
    threads: int  # threads of the largest block that the kernel may be launched with


_USAGE = re.compile(
    r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    r".*?Used (\d+) registers([^\n]*)",
    re.DOTALL,
)


def usages(cubin: bytes, log: str) -> dict[str, Usage]:
    """What each kernel needs, by its name, from what `compile_source` returned."""
    found, threads = {}, _launch_bounds(cubin)
    for name, stack, stores, loads, registers, rest in _USAGE.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        spill = int(stores) + int(loads)
        found[name] = Usage(int(registers), spill, int(stack), int(shared[1]) if shared else 0, threads[name])
    return found


def _launch_bounds(cubin: bytes) -> dict[str, int]:
    """The threads of the largest block that each kernel is compiled for, as the ELF section .nv.info.KERNEL says."""
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, of_names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, headers + size * index) for index in range(count)]
    found = {}
    for name_at, _, _, _, begin, length in sections:
        name = cubin[sections[of_names][4] + name_at :].partition(b"\0")[0].decode()
        if name.startswith(".nv.info."):
            content = cubin[begin : begin + length]
            at = content.find(MAX_THREADS)
            found[name.removeprefix(".nv.info.")] = struct.unpack_from("<I", content, at + 4)[0] if at >= 0 else 1024
    return found
