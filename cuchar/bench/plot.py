"""Draws results as bars."""

from pathlib import Path
from typing import Any

from cuchar.bench.contender import PEERS
from cuchar.plots.files import write_figure


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
            [ratio["value"] for _, ratio in there], width, label=PEERS[peer].title, capsize=3,
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
    write_figure(figure, file)
