"""What arguments a kernel takes: its parameter list is read from its source, and every launch is checked against it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from cuchar.errors import DeviceError, ShapeError

NULL = np.uint64(0)  # the argument for a null pointer
NUMBERS: dict[str, type[np.number]] = {
    "float": np.float32, "double": np.float64, "int": np.int32, "unsigned": np.uint32, "long long": np.int64,
    "unsigned long long": np.uint64, "unsigned char": np.uint8, "unsigned short": np.uint16,
}  # fmt: skip
_KERNEL = re.compile(r'extern "C" __global__ void(?:\s+__\w+__\([^)]*\)|\s+[A-Z_]+\b)*\s+(\w+)\(([^{;]*?)\)\s*{')
_ALIAS = re.compile(r"^(?:#define (\w+) +(\w[\w ]*?)|using (\w+) = (\w[\w ]*);) *(?://.*)?$", re.MULTILINE)
_PARAMETER = re.compile(r"(?:const )?(\w[\w ]*?)\s*(\*?)\s*(\w+)")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a kernel: a number, or a pointer to numbers; `number` is None for a pointer to structs."""

    name: str
    number: type[np.number] | None
    is_pointer: bool

    def expect(self, value: Any) -> None:
        """Check an argument.

        Raises:
            ShapeError: the kernel would misread `value` as this parameter.
        """
        number, is_array, found = self.number, bool(getattr(value, "shape", ())), repr(value)
        if is_array:
            found = f"an array of {value.dtype}"
        if self.is_pointer and value is not None:
            of_numbers = "" if number is None else f" of {np.dtype(number)}"
            if not is_array or (number is not None and value.dtype != number):
                raise ShapeError(f"{self.name}: expected an array{of_numbers}, found {found}")
            if not value.flags.c_contiguous:
                raise ShapeError(f"{self.name}: expected a C-ordered array, found strides {value.strides}")
        elif number is not None and not self.is_pointer:
            try:
                number(exactly(number)(value))
            except (TypeError, ValueError, OverflowError):
                raise ShapeError(f"{self.name}: expected {np.dtype(number)}, found {found}") from None


def exactly(number: type[np.number]) -> Callable[[Any], Any]:
    """A conversion that accepts only what the type holds exactly: for an integer type, 2.5 raises a TypeError."""
    return index if issubclass(number, np.integer) else float


class Signature:
    """A kernel's name and its parameters, as its source declares them."""

    def __init__(self, kernel: str, declarations: str, aliases: Mapping[str, str]):
        self.kernel, self.declarations = kernel, " ".join(declarations.split())
        self._parameters: list[Parameter] = []
        for declaration in self.declarations.split(","):
            found = _PARAMETER.fullmatch(declaration.strip())
            type_, star, name = found.groups() if found else (declaration.strip(), "", "")
            while type_ in aliases:
                type_ = aliases[type_]
            number = NUMBERS.get(type_)
            if number is None and not star:
                raise DeviceError(f"{kernel}: expected parameters that are pointers or numbers, found {type_} {name}")
            self._parameters.append(Parameter(name, number, bool(star)))
        # The same in the form in which `bind` reads it quickly at every launch: for an array its type, for a number the
        # function that checks it and the type that it is converted to.
        self._in_order = [
            (one.name, one.number and np.dtype(one.number), None, None) if one.is_pointer or one.number is None
            else (one.name, None, exactly(one.number), one.number)
            for one in self._parameters
        ]  # fmt: skip

    def bind(self, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
        """A launch's arguments in the parameters' order, numbers with the parameter's width, None as a null pointer.

        Raises:
            ShapeError: a parameter has no argument, or an argument no parameter; an array is not C-ordered or does not
                have the type that the kernel reads; a parameter cannot hold a number.
        """
        bound: list[Any] = []
        try:
            for name, dtype, exact, number in self._in_order:
                value = arguments[name]
                if exact is not None and number is not None:
                    value = number(exact(value))
                elif value is None:
                    value = NULL
                elif not (value.ndim and value.flags.c_contiguous and (dtype is None or value.dtype == dtype)):
                    break
                bound.append(value)
        except (KeyError, AttributeError, TypeError, ValueError, OverflowError):
            pass
        if not len(bound) == len(arguments) == len(self._in_order):
            self._complain(arguments)
        return tuple(bound)

    def _complain(self, arguments: Mapping[str, Any]) -> None:
        names = [one.name for one in self._parameters]
        if set(names) != set(arguments):
            given = ", ".join(arguments) or "none"
            raise ShapeError(f"{self.kernel}: expected arguments {', '.join(names)}, found {given}")
        for one in self._parameters:
            try:
                one.expect(arguments[one.name])
            except ShapeError as error:
                raise ShapeError(f"{self.kernel}: {error}") from None


def signatures(source: str) -> dict[str, Signature]:
    """The signatures of all kernels that a source text defines, by name, in the text's order."""
    aliases: dict[str, str] = {}
    for macro, value, name, type_ in _ALIAS.findall(source):
        aliases.setdefault(macro or name, value or type_)  # the first definition holds: defaults in headers come later
    return {name: Signature(name, parameters, aliases) for name, parameters in _KERNEL.findall(source)}
