"""Writes matplotlib's figures to files; the same figure gives the same bytes."""

from io import BytesIO
from pathlib import Path
from typing import Any

from cuchar.errors import DeviceError, OptionError
from cuchar.files import write_output

DATES = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # metadata that would differ each time


def expect_drawable(option: str, file: Path) -> None:
    """Check that a figure can be written to `file`, which `option` named on the command line.

    Raises:
        DeviceError: matplotlib is not installed.
        OptionError: matplotlib does not write files of this kind.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise DeviceError(f"{option}: expected matplotlib, found none; pip install 'cuchar[plots]'") from None
    kinds = sorted(FigureCanvasAgg.get_supported_filetypes())
    if _kind(file) not in kinds:
        raise OptionError(f"{option}: expected a file that ends with one of {', '.join(kinds)}, found {file}")


def write_figure(figure: Any, file: Path) -> None:
    """Write a matplotlib figure.

    Raises:
        OutputError: the file could not be written.
    """
    import warnings

    from matplotlib import style

    drawn, kind = BytesIO(), _kind(file)
    with style.context(["default", {"svg.hashsalt": "cuchar"}]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name may have characters that matplotlib's font lacks
        figure.savefig(drawn, format=kind, metadata=DATES.get(kind))
    write_output(file, drawn.getvalue())


def _kind(file: Path) -> str:
    """The kind of a file, which the end of its name says; png if the name has no ending, like that of a pipe."""
    return file.suffix[1:].lower() or "png"
