"""Carries a model to other programs: a table of formats, each with the function that makes its files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cuchar.config import check_option
from cuchar.errors import OptionError
from cuchar.export.json import json_file
from cuchar.export.onnx import onnx_file
from cuchar.export.pytorch import pytorch_file
from cuchar.export.web import web_file
from cuchar.files import STREAM, write_output
from cuchar.kinds import Choice
from cuchar.parameters import Parameters
from cuchar.reading import Reading
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option


@dataclass(frozen=True)
class Format:
    """A kind of file that a model is exported to.

    ending: how the names of such files end.
    make: returns a file's bytes for parameters and a vocabulary; of further `options` it takes those named.
    """

    ending: str
    make: Callable[..., bytes]
    options: tuple[str, ...] = ()


FORMATS = {
    "safetensors": Format(".safetensors", pytorch_file),
    "onnx": Format(".onnx", onnx_file),
    "web": Format(".html", web_file, ("weights", "text", "reading")),
    "json": Format(".json", json_file),
}


def format_of(out: Path, asked: str | None) -> str:
    """The name of the format in which `out` is to be written: what was asked for, or else what the name's ending says.

    Standard output and a name without an ending get safetensors.

    Raises:
        OptionError: there is no format of that name, or the ending is of none.
    """
    if asked is not None:
        return str(check_option("format", Choice(tuple(FORMATS)), asked))
    ending = out.suffix.lower()
    if out == STREAM or not ending:
        return "safetensors"
    for name, format in FORMATS.items():
        if format.ending == ending:
            return name
    endings = ", ".join(format.ending for format in FORMATS.values())
    raise OptionError(f"{out}: expected a name that ends with one of {endings}, or {option('format')}, found another")


def export_model(
    parameters: Parameters,
    vocabulary: Vocabulary,
    reading: Reading,
    out: Path,
    format: str | None = None,
    **options: Any,
) -> None:
    """Write a model for other programs.

    Args:
        reading: how the model's texts are read.
        out: a file, or `-` for standard output.
        format: a name in FORMATS; None goes by the file's ending.
        options: for "web" `weights` and `text`, as in `web.web_file`; those that are None are as if not given.
    Raises:
        OptionError: the format or an option is wrong, or the option is not one of the format's.
        OutputError: the file could not be written.
        CucharError: what the format's function raises.
    """
    name = format_of(out, format)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in FORMATS[name].options:
            raise OptionError(
                f"{option(key)}: expected {option('format', 'web')} with it, found {option('format', name)}"
            )
    if "reading" in FORMATS[name].options:
        given["reading"] = reading
    write_output(out, FORMATS[name].make(parameters, vocabulary, **given))
