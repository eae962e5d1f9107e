"""Draws results as bars."""

from io import BytesIO
from pathlib import Path
from typing import Any

from cuchar.bench.contender import PEERS
from cuchar.errors import DeviceError, OptionError
from cuchar.files import write_output


def expect_plottable(file: Path) -> None:
    """Check that a plot can be written to `file`.

    Raises:
        DeviceError: matplotlib is not installed.
        OptionError: matplotlib does not write files of this kind.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError:
        raise DeviceError("--plot: expected matplotlib, found none; pip install 'cuchar[plots]'") from None
    kinds = sorted(FigureCanvasAgg.get_supported_filetypes())
    if kind(file) not in kinds:
        raise OptionError(f"--plot: expected a file that ends with one of {', '.join(kinds)}, found {file}")


def kind(file: Path) -> str:
    """The kind of a file, which the end of its name says; png if the name has no ending, like that of a pipe."""
    return file.suffix[1:].lower() or "png"


def plot_results(results: dict[str, Any], file: Path) -> None:
    """Draw every peer's time as a multiple of cuchar's, with its 95 % interval; each configuration has its bars."""
    from matplotlib.figure import Figure

    entries = results["configurations"]
    peers = [peer for peer in PEERS if any(peer in entry["peers"] for entry in entries)]
    figure = Figure(figsize=(max(6, 1.6 * len(entries)), 4.5), layout="constrained")
    axes, width = figure.subplots(), 0.8 / max(1, len(peers))
    for number, peer in enumerate(peers):
        there = [(at, entry["peers"][peer]["ratio"]) for at, entry in enumerate(entries) if peer in entry["peers"]]
        bars = axes.bar(
            [at + (number - (len(peers) - 1) / 2) * width for at, _ in there],
            [ratio["value"] for _, ratio in there], width, label=PEERS[peer], capsize=3,
            yerr=[[ratio["value"] - ratio["low"] for _, ratio in there], [ratio["high"] - ratio["value"] for _, ratio in there]],
        )  # fmt: skip
        axes.bar_label(bars, fmt="%.2f")
    axes.axhline(1, color="black", linewidth=1, label="cuchar")
    labels = [f"{entry['configuration']['name']}\n{entry['ours']['ms']:.3g} ms" for entry in entries]
    axes.set_xticks(range(len(entries)), labels)
    axes.set_ylabel("time of a training step / cuchar's")
    axes.set_title(
        f"{results['device']}, {results['threads']} threads, cuchar {results['versions']['cuchar']}, {results['date'][:10]}",
        fontsize=9,
    )
    axes.legend()
    drawn = BytesIO()
    figure.savefig(drawn, format=kind(file))
    write_output(file, drawn.getvalue())
