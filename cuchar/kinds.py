"""Kinds of values: they describe what an option, or a value in a file, must be.

A kind has one method, `check(value, where)`, which returns the value or raises `Mismatch`. `where` is what
the error's message calls the value: `--hidden`, or its place in a file, such as `run.position.step`.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

MOST = 2**53  # the largest count: it is far beyond any run, and up to it a float counts exactly
LONGEST_SHOWN = 120  # characters of a value that a message shows, at most


class Mismatch(ValueError):
    """A value is not of its kind. The caller of `check` turns this into the CucharError that fits."""

    def __init__(self, where: str, expected: str, found: str):
        super().__init__(f"{where}: expected {expected}, found {found}")


class Kind(Protocol):
    def check(self, value: Any, where: str) -> Any:
        """Check a value and return it; a NumPy scalar is returned as Python's number.

        Raises:
            Mismatch: the value is not of this kind.
        """


@dataclass(frozen=True)
class Value:
    """Any value that meets all requirements. Each is a test, and what the test expects in words."""

    requirements: tuple[tuple[str, Callable[[Any], bool]], ...]

    def check(self, value: Any, where: str) -> Any:
        # NumPy is not imported here, so that `--help` does without it: whoever has a NumPy scalar has imported it.
        numpy = sys.modules.get("numpy")
        if numpy is not None and isinstance(value, numpy.generic):
            value = value.item()
        for expected, meets in self.requirements:
            if not meets(value):
                raise Mismatch(where, expected, describe(value))
        return value


@dataclass(frozen=True)
class Choice:
    """One of a few words; `respell` brings other spellings of a word to it."""

    words: tuple[str, ...]
    respell: Callable[[str], str] = str

    def check(self, value: Any, where: str) -> str:
        if isinstance(value, str) and (word := self.respell(value)) in self.words:
            return word
        is_word = isinstance(value, str) and value.isidentifier() and len(value) <= LONGEST_SHOWN
        raise Mismatch(where, " | ".join(self.words), value if is_word else describe(value))


@dataclass(frozen=True)
class Optional:
    """None, or a value of the kind."""

    kind: Kind

    def check(self, value: Any, where: str) -> Any:
        return None if value is None else self.kind.check(value, where)


@dataclass(frozen=True)
class ListOf:
    kind: Kind

    def check(self, value: Any, where: str) -> list[Any]:
        if type(value) is not list:
            raise Mismatch(where, "a list", describe(value))
        return [self.kind.check(item, f"{where}[{at}]") for at, item in enumerate(value)]


@dataclass(frozen=True)
class OneOrMore:
    """A list of values, or a single value as older files have it, for which a list of one is returned."""

    kind: Kind

    def check(self, value: Any, where: str) -> list[Any]:
        if type(value) is list:
            return ListOf(self.kind).check(value, where)
        return [self.kind.check(value, where)]


@dataclass(frozen=True)
class Record:
    """A dict with all of `fields`, any of `optional`, and nothing else.

    An older file may have a field by its former name. `former_names` maps such names to the present ones, and the
    returned dict has the present ones. A field that is there by both names is an error, as any unknown name is.
    """

    fields: Mapping[str, Kind]
    optional: Mapping[str, Kind] = field(default_factory=dict)
    former_names: Mapping[str, str] = field(default_factory=dict)

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if type(value) is not dict:
            raise Mismatch(where, "an object", describe(value))
        former = {new: old for old, new in self.former_names.items() if old in value and new not in value}
        kinds = {**self.fields, **{name: kind for name, kind in self.optional.items() if name in value}}
        names = {former.get(name, name): name for name in kinds}  # from the names in `value` to the present ones
        for name in names:
            if name not in value:
                raise Mismatch(f"{where}.{name}".lstrip("."), "a value", "none")
        checked = {
            present: kinds[present].check(value[name], f"{where}.{name}".lstrip(".")) for name, present in names.items()
        }
        for name in value:
            if name not in names:
                raise Mismatch(where, f"no more than {', '.join(kinds)}", describe(name))
        return checked


def integer(low: int = 0, high: int | None = None, note: str = "", most: float = MOST) -> Value:
    """An integer of at least `low`; True and 16.0 are not integers.

    Args:
        high: the largest value; messages say "from `low` to `high`". None means `most` instead.
        note: is added to what messages say is expected.
        most: the largest value that is allowed where `high` is None; messages name it only if a value exceeds it.
    """
    is_integer = ("an integer", lambda value: type(value) is int)
    if high is not None:
        return Value((is_integer, (f"from {low} to {high}{note}", lambda value: low <= value <= high)))
    at_least = (f"at least {low}{note}", lambda value: low <= value)
    return Value((is_integer, at_least, (f"at most {most}", lambda value: value <= most)))


def number(expected: str = "a finite number", meets: Callable[[float], bool] = lambda value: True) -> Value:
    """A finite number, integer or not, that passes the test `meets`; `expected` says in words what that tests."""
    largest = sys.float_info.max
    return Value(
        (
            ("a number", lambda value: type(value) in (int, float)),
            (expected, lambda value: -largest <= value <= largest and meets(value)),
        )
    )


def text(*requirements: tuple[str, Callable[[str], bool]]) -> Value:
    return Value((("text", lambda value: type(value) is str), *requirements))


def _is_file_name(value: str | os.PathLike[str]) -> bool:
    try:
        return b"\0" not in os.fspath(value).encode("utf-8", "surrogateescape")  # in every locale alike
    except UnicodeEncodeError:  # a lone surrogate that does not stand for an undecodable byte
        return False


FILE_NAME = text(("a file's name", _is_file_name))
PATH = Value(
    (("a path", lambda value: isinstance(value, str | os.PathLike)), ("a path that a file can have", _is_file_name))
)
FLAG = Value((("true or false", lambda value: type(value) is bool),))
TEXT_OR_BYTES = Value((("text or bytes", lambda value: isinstance(value, str | bytes)),))
SHA256 = text(("64 hexadecimal digits", lambda value: re.fullmatch(r"[0-9a-f]{64}", value) is not None))


def describe(value: Any) -> str:
    """A short printable description of any value, for a message."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, str | bytes):
        shown = ascii(value[:LONGEST_SHOWN])
        return shown if len(value) <= LONGEST_SHOWN else f"{shown} ..."
    return f"a {type(value).__name__}"
