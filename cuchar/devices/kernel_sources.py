"""Where the kernels' sources are, how one becomes a single text, and what arguments its kernels take.

CuPy's cache of compiled kernels does not see what `#include` brings, so `join` brings it. A kernel's own parameter list,
read from that text, is what a launch is held against: `Signature.bind`.
"""

import re
from collections.abc import Callable, Mapping
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.errors import DeviceError, ShapeError

_INCLUDE = re.compile(r'^#include "([^"]+)"$')
_KERNEL = re.compile(r'extern "C" __global__ void(?:\s+__\w+__\([^)]*\)|\s+[A-Z_]+\b)*\s+(\w+)\(([^{;]*?)\)\s*{')
_ALIAS = re.compile(r"^(?:#define (\w+) +(\w[\w ]*?)|using (\w+) = (\w[\w ]*);) *(?://.*)?$", re.MULTILINE)
_PARAMETER = re.compile(r"(?:const )?(\w[\w ]*?)\s*(\*?)\s*(\w+)")
NULL = np.uint64(0)  # as an argument, a pointer to nothing
NUMBERS: dict[str, type[np.number]] = {
    "float": np.float32, "double": np.float64, "int": np.int32, "unsigned": np.uint32, "long long": np.int64,
    "unsigned long long": np.uint64, "unsigned char": np.uint8, "unsigned short": np.uint16,
}  # fmt: skip


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


class Signature:
    """A kernel's name and its parameters, as its source declares them."""

    def __init__(self, kernel: str, parameters: str, aliases: Mapping[str, str]):
        self.kernel, self.parameters = kernel, " ".join(parameters.split())
        self._conversions: dict[str, Callable[[Any], Any]] = {}
        for declaration in self.parameters.split(","):
            found = _PARAMETER.fullmatch(declaration.strip())
            if not found:
                raise DeviceError(f"{kernel}: expected parameters that are pointers or numbers, found {declaration}")
            type_, is_pointer, name = found.groups()
            while type_ in aliases:
                type_ = aliases[type_]
            convert = _array_conversion if is_pointer else _number_conversion
            self._conversions[name] = convert(f"{kernel}: {name}", type_)

    def bind(self, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
        """The arguments in the parameters' order: numbers with the parameter's width, for None a pointer to nothing.

        Raises:
            ShapeError: a name is missing or is none of the parameters'; an array is not C-ordered, or not of the type
                that the kernel reads; a number is none that the parameter can hold.
        """
        try:
            bound = tuple([convert(arguments[name]) for name, convert in self._conversions.items()])
        except KeyError:
            bound = ()
        if len(bound) != len(arguments):
            expected, found = ", ".join(self._conversions), ", ".join(arguments) or "none"
            raise ShapeError(f"{self.kernel}: expected arguments {expected}, found {found}")
        return bound


def _array_conversion(what: str, type_: str) -> Callable[[Any], Any]:
    dtype = np.dtype(NUMBERS[type_]) if type_ in NUMBERS else None  # None: a struct, whose bytes come in any array

    def convert(value: Any) -> Any:
        if value is None:
            return NULL
        if not getattr(value, "shape", ()):
            raise ShapeError(f"{what}: expected an array, found {value!r}")
        if dtype is not None and value.dtype != dtype:
            raise ShapeError(f"{what}: expected an array of {dtype}, found {value.dtype}")
        if not value.flags.c_contiguous:
            raise ShapeError(f"{what}: expected a C-ordered array, found strides {value.strides}")
        return value

    return convert


def _number_conversion(what: str, type_: str) -> Callable[[Any], Any]:
    if type_ not in NUMBERS:
        raise DeviceError(f"{what}: expected one of {', '.join(NUMBERS)}, found {type_}")
    number = NUMBERS[type_]
    exact: Callable[[Any], Any] = index if issubclass(number, np.integer) else float

    def convert(value: Any) -> Any:
        try:
            return number(exact(value))
        except (TypeError, ValueError, OverflowError):
            found = f"an array of {value.dtype}" if getattr(value, "shape", ()) else repr(value)
            raise ShapeError(f"{what}: expected {np.dtype(number)}, found {found}") from None

    return convert


def signatures(source: str) -> dict[str, Signature]:
    """The kernels that a source text defines, in its order."""
    aliases: dict[str, str] = {}
    for macro, value, name, type_ in _ALIAS.findall(source):
        aliases.setdefault(macro or name, value or type_)  # a default comes after what it is the default for
    return {name: Signature(name, parameters, aliases) for name, parameters in _KERNEL.findall(source)}
