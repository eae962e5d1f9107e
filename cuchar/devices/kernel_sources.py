"""From kernels/*.cu to one source text: CuPy's cache does not see what `#include` brings, so it is brought here."""

import re
from collections.abc import Mapping
from pathlib import Path

from cuchar.errors import DeviceError

_INCLUDE = re.compile(r'^#include "([^"]+)"$')
_KERNEL = re.compile(r'extern "C" __global__ void(?:\s+__\w+__\([^)]*\)|\s+[A-Z_]+\b)*\s+(\w+)\(')


def kernel_folder() -> Path:
    """kernels/ in the installed package, else in the checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "kernels", package.parent / "kernels"):
        if (folder / "common/hardware.cuh").is_file():
            return folder
    raise DeviceError(f"expected the CUDA sources in {package / 'kernels'}, found none; reinstall cuchar")


def join(file: str, macros: Mapping[str, int | str], overlay: Path | None = None) -> str:
    """A file of kernels/ with its own headers in place, each once, and `#line` before each piece.

    Args:
        file: "training/adam.cu", say.
        macros: defined before everything else.
        overlay: a folder whose files stand in for those of the same name, whatever folder they are in.
    """
    folder, seen = kernel_folder(), set()

    def expand(name: str) -> list[str]:
        seen.add(name)
        path = _replacement(name, overlay) or folder / name
        lines = [f'#line 1 "{name}"']
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            included = _INCLUDE.match(line)
            if not included:
                lines.append("" if line == "#pragma once" else line)
            elif included[1] not in seen:
                lines += [*expand(included[1]), f'#line {number + 1} "{name}"']
            else:
                lines.append("")
        return lines

    defined = [f"#define {name} {value}" for name, value in macros.items()]
    return "\n".join([*defined, *expand(file)]) + "\n"


def _replacement(name: str, overlay: Path | None) -> Path | None:
    path = overlay / Path(name).name if overlay else None
    return path if path and path.is_file() else None


def kernel_names(source: str) -> list[str]:
    """The kernels that a source text defines, in its order."""
    return _KERNEL.findall(source)
