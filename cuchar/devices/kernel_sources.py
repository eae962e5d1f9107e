"""Where the kernels' sources are, and how one becomes a single text.

CuPy's cache of compiled kernels does not see what `#include` brings, so `join` brings it.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from cuchar.errors import DeviceError

_INCLUDE = re.compile(r'^#include "([^"]+)"$')


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
        overlay: a folder whose files stand in for those of the same name, whatever room they are in.
    """
    folder, seen = kernel_folder(), set()

    def path_of(name: str) -> Path:
        stand_in = overlay / Path(name).name if overlay else None
        return stand_in if stand_in and stand_in.is_file() else folder / name

    def expand(name: str) -> list[str]:
        seen.add(name)
        lines = [f'#line 1 "{name}"']
        for number, line in enumerate(path_of(name).read_text("utf-8").splitlines(), 1):
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
