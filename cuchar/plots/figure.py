"""Draws runs as a matplotlib figure: the losses large, and below them what explains them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cuchar.files import escape
from cuchar.plots.panels import AXES, Panel, panels
from cuchar.run_logs import RunLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Runs differ by colour, by dashes and by the marks of their validation losses, so that they can be told apart without
# colours too. The colours are those of Okabe and Ito (2008), which colour-blind people can tell apart, but for yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKS = ("o", "s", "^", "D", "v")
LONGEST_NAME = 40  # characters of a run's name, at most


def draw(logs: Sequence[RunLog], x: str) -> "Figure":
    """A figure of what `panels` gives: an axes for every panel, in its order.

    The user's own settings of matplotlib do not change it.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with style.context(["default", {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}]):
        figure = Figure(figsize=(9, 5.6 + 0.12 * max(0, len(logs) - 12)), layout="constrained")
        grid = figure.add_gridspec(2, 3, height_ratios=(2, 1))
        loss, *others = panels(logs, x)
        for panel, place in zip((loss, *others), (grid[0, :], *(grid[1, column] for column in range(3))), strict=True):
            axes = figure.add_subplot(place)
            _draw_panel(axes, panel)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8 if panel is loss else 3))
            axes.xaxis.set_major_formatter(FuncFormatter(_count if x != "chars" else _millions))
        figure.axes[0].set_xlabel(AXES[x])
        _add_legend(figure, logs, loss)
    return figure


def look(run: int) -> dict[str, Any]:
    """How the lines of a run are drawn."""
    return {
        "color": COLOURS[run % len(COLOURS)],
        "linestyle": DASHES[(run % len(COLOURS) + run // len(COLOURS)) % len(DASHES)],
    }


def _draw_panel(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for line in panel.lines:
        marked = line.validation or len(line.x) == 1  # a line of one point would not be seen
        mark = {"marker": MARKS[line.run % len(MARKS)], "markersize": 4.5, "markevery": 0.03} if marked else {}
        width = 1.6 if line.validation else 1.1
        axes.plot(line.x, line.y, **look(line.run), **mark, linewidth=width)
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.measure != "loss" and all((line.y >= 0).all() for line in panel.lines):
        axes.set_ylim(bottom=0)
    if panel.measure == "chars_per_s":
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _add_legend(figure: "Figure", logs: Sequence[RunLog], loss: Panel) -> None:
    """Name the runs, and say which lines are validation losses."""
    from matplotlib.lines import Line2D

    validated = {line.run for line in loss.lines if line.validation}
    handles, names = [], []
    for run, log in enumerate(logs):
        handles.append(Line2D([], [], **look(run), marker=MARKS[run % len(MARKS)] if run in validated else ""))
        names.append(shortened(log.name))
    title = "with marks: validation" if validated else None
    # The names are set afterwards, since matplotlib leaves out labels that begin with an underscore.
    place = {"loc": "upper right"} if len(logs) <= 4 else {"loc": "outside right upper"}
    owner = figure.axes[0] if len(logs) <= 4 else figure
    legend = owner.legend(handles, [str(run) for run in range(len(logs))], title=title, handlelength=4, **place)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def shortened(name: str) -> str:
    """A run's name without control characters, its middle left out if it is long."""
    shown = escape(name)
    half = LONGEST_NAME // 2
    return shown if len(shown) <= LONGEST_NAME else f"{shown[: half - 1]}…{shown[-half:]}"


def _count(value: float, _: int) -> str:
    return f"{value:,.10g}"


def _millions(value: float, _: int) -> str:
    return f"{value / 1e6:,.4g} M"
