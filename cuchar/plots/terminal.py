"""Draws runs in a terminal, with dots of braille; without colours they are told apart by letters on their lines."""

from collections.abc import Sequence

import numpy as np
from plotille import Canvas
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from cuchar.files import escape
from cuchar.plots.panels import AXES, Line, Panel, panels
from cuchar.run_logs import RunLog

COLOURS = ("blue", "red", "green", "magenta", "cyan", "yellow")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
LOSS_ROWS, FEWEST_LOSS_ROWS, MOST_LOSS_ROWS, OTHER_ROWS = 13, 5, 25, 4
LETTERS_A_LINE = 5
COLUMNS_BETWEEN_LETTERS = 4
TO_ASCII = {**{code: "." for code in range(0x2801, 0x2900)}, ord("│"): "|", ord("└"): "+", ord("─"): "-"}
BLANK = {0x2800: " "}


class Chart:
    """What rich prints for runs: the panels one above the other, and below them a line for each run.

    Args:
        fill: whether the chart should have as many rows as the terminal. Panels other than the loss are then left out
            where there is no room for them.
    """

    def __init__(self, logs: Sequence[RunLog], x: str, fill: bool = False):
        self.logs, self.x, self.fill = logs, x, fill
        self.panels = panels(logs, x)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = max(options.max_width, 20)
        shown, loss_rows = self._fitting(console.height - 1 if self.fill else None)
        limits = _limits([line.x for panel in self.panels for line in panel.lines])
        ranges = [_limits([_scaled(panel, line.y) for line in panel.lines]) for panel in shown]
        labels = [
            [_label(panel, value) for value in (high, (low + high) / 2, low)]
            for panel, (low, high) in zip(shown, ranges, strict=True)
        ]
        margin = max(len(label) for of_panel in labels for label in of_panel)
        rows = []
        for number, panel in enumerate(shown):
            rows.append(_cut(Text(_title(panel)), columns))
            canvas = _canvas(columns - margin - 2, OTHER_ROWS if number else loss_rows, limits, ranges[number])
            _draw(canvas, panel)
            drawn = canvas.plot("\n").split("\n")
            for label, row in zip(_spread(labels[number], len(drawn)), drawn, strict=True):
                rows.append(Text(f"{label:>{margin}} │").append_text(Text.from_ansi(row)))
        rows += _horizontal_axis(limits, AXES[self.x], margin, columns)
        rows += [_cut(_summary(number, log), columns) for number, log in enumerate(self.logs)]
        for row in rows:
            plain = row.plain.translate(BLANK)
            row.plain = plain if options.encoding.startswith("utf") else plain.translate(TO_ASCII)
            row.rstrip()
            yield row

    def _fitting(self, rows: int | None) -> tuple[list[Panel], int]:
        """The panels that are shown in so many rows, and how many rows the loss has."""
        if rows is None:
            return self.panels, LOSS_ROWS
        count = len(self.panels)
        while True:
            loss_rows = rows - len(self.logs) - 2 - count - (count - 1) * OTHER_ROWS
            if loss_rows >= FEWEST_LOSS_ROWS or count == 1:
                odd = loss_rows - 1 + loss_rows % 2  # so that there is a middle row, which gets a label
                return self.panels[:count], min(max(odd, FEWEST_LOSS_ROWS), MOST_LOSS_ROWS)
            count -= 1


def _title(panel: Panel) -> str:
    logarithmic = " (logarithmic)" if panel.logarithmic else ""
    validated = "; capital letters: validation" if any(line.validation for line in panel.lines) else ""
    return f"{panel.title}{logarithmic}{validated}"


def _scaled(panel: Panel, values: np.ndarray) -> np.ndarray:
    return np.log10(values) if panel.logarithmic else values


def _label(panel: Panel, value: float) -> str:
    value = 10**value if panel.logarithmic else value
    return f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.4g}"


def _spread(labels: Sequence[str], rows: int) -> list[str]:
    """The three labels of an axis at the rows where they belong; the middle one only if there is a middle row."""
    spread = [""] * rows
    spread[0], spread[-1] = labels[0], labels[2]
    if rows % 2 and rows > 4:
        spread[rows // 2] = labels[1]
    return spread


def _limits(arrays: list[np.ndarray]) -> tuple[float, float]:
    """The smallest and the largest value, but never the same twice."""
    values = np.concatenate(arrays or [np.zeros(1)])
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        half = 0.05 * abs(low) or 0.5
        return low - half, high + half
    return low, high


def _canvas(columns: int, rows: int, x: tuple[float, float], y: tuple[float, float]) -> Canvas:
    """A canvas on whose first and last dots the limits lie; a Canvas' own upper limits are one dot beyond its last."""
    right = x[0] + (x[1] - x[0]) * 2 * columns / (2 * columns - 1)
    top = y[0] + (y[1] - y[0]) * 4 * rows / (4 * rows - 1)
    return Canvas(columns, rows, x[0], y[0], right, top)


def _draw(canvas: Canvas, panel: Panel) -> None:
    letters = []
    for line in panel.lines:
        x, y = line.x, _scaled(panel, line.y)
        kept = _outline(((x - canvas.xmin) / (canvas.xmax - canvas.xmin) * 2 * canvas.width).astype(int), y)
        colour = COLOURS[line.run % len(COLOURS)]
        points = list(zip(x[kept].tolist(), y[kept].tolist(), strict=True))
        for start, end in zip(points, points[1:] or points, strict=False):
            canvas.line(*start, *end, color=colour)
        letter = LETTERS[line.run % len(LETTERS)]
        places = _letter_places(line, canvas)
        letters += [(x[at], y[at], letter.upper() if line.validation else letter, colour) for at in places]
    for x_at, y_at, letter, colour in letters:  # on top of all lines
        canvas.point(float(x_at), float(y_at), color=colour, marker=letter)


def _outline(columns: np.ndarray, y: np.ndarray) -> list[int]:
    """Indices of the points that matter in the dots' columns: of each the first, lowest, highest and last one."""
    kept: list[int] = []
    for part in np.split(np.arange(len(y)), np.flatnonzero(np.diff(columns)) + 1):
        kept += sorted({int(part[0]), int(part[y[part].argmin()]), int(part[y[part].argmax()]), int(part[-1])})
    return kept


def _letter_places(line: Line, canvas: Canvas) -> list[int]:
    """Indices of the points that get a letter: a few of a training line, each run's elsewhere, and most of validation."""
    columns = ((line.x - canvas.xmin) / (canvas.xmax - canvas.xmin) * canvas.width).astype(int)
    if line.validation:
        places, free = [], -1
        for at, column in enumerate(columns.tolist()):
            if column >= free:
                places.append(at)
                free = column + COLUMNS_BETWEEN_LETTERS
        return places
    wanted = (np.arange(LETTERS_A_LINE) + 0.15 + 0.27 * line.run % 1) / LETTERS_A_LINE * canvas.width
    return sorted({int(abs(columns - column).argmin()) for column in wanted})


def _horizontal_axis(limits: tuple[float, float], name: str, margin: int, columns: int) -> list[Text]:
    first, last = (f"{value:,.6g}" for value in limits)
    room = columns - margin - 2
    between = name.center(room - len(first) - len(last)) if len(first + name + last) + 2 <= room else ""
    axis = f"{first}{between or ' ' * max(1, room - len(first) - len(last))}{last}"
    return [Text(f"{'':{margin}} └{'─' * room}"), _cut(Text(f"{'':{margin}}  {axis}"), columns)]


def _summary(number: int, log: RunLog) -> Text:
    """A run's letter, its last losses and its name, which comes last because it may be long."""
    letter, validation = LETTERS[number % len(LETTERS)], log.last("val_loss")
    text = Text(letter, style=COLOURS[number % len(COLOURS)])
    loss = f"{log.last('loss'):.4f}" if len(log.metrics["step"]) else "(no line of metrics yet)"
    text.append(f" {loss}", style="default")
    if not np.isnan(validation):
        text.append(f"  {letter.upper()} {validation:.4f}", style="default")
    return text.append(f"  {escape(log.name)}", style="default")


def _cut(text: Text, columns: int) -> Text:
    text.truncate(columns, overflow="ellipsis")
    return text
