"""Where the kernels' sources are, and how a source and its headers become a single text.

CuPy looks up compiled kernels by their source text, which does not show a change in an included file. So `join` puts
the included files into the text.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from cuchar.errors import DeviceError

_INCLUDE = re.compile(r'^#include "([^"]+)"$')


def kernel_folder() -> Path:
    """The folder kernels/ of the installed package, else that of the checkout.

    Raises:
        DeviceError: neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "kernels", package.parent / "kernels"):
        if (folder / "common/hardware.cuh").is_file():
            return folder
    raise DeviceError(f"expected the CUDA sources in {package / 'kernels'}, found none; reinstall cuchar")


def join(file: str, macros: Mapping[str, int | str], overlay: Path | None = None) -> str:
    """A file of kernels/ as one text, with each of its headers in place once, and `#line` before each piece.

    Args:
        file: the file's path in kernels/, such as "training/adam.cu".
        macros: are defined before everything else.
        overlay: a folder whose files replace those of the same name, whatever folder of kernels/ these are in.
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
