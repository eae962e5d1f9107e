"""Shows a person how training goes: by a progress bar on a terminal and in a notebook, by plain lines elsewhere.

Samples go to standard output. All else goes to standard error, but in a notebook to the output of the cell.
"""

import math
import os
import sys
from contextlib import ExitStack
from time import perf_counter
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.text import Text

from cuchar.bars import bar
from cuchar.callbacks import Callback, Run
from cuchar.files import ReaderGone, TextOutput, escape, say, silence_stdout

REFRESH_S = 0.1  # seconds between two updates of the bar
NARROWEST_BAR = 5  # columns


class TerminalProgress(Callback):
    """What all three callbacks have in common: they write samples to standard output and make lines of text about progress.

    If standard output takes no more, training goes on without it.
    """

    def __init__(self) -> None:
        self.output = TextOutput()
        self.read: str | None = None  # what is being done with a large text

    def reading(self, what: str, done: int, total: int) -> None:
        """Say once that something is done with a large text, which takes a while."""
        if what != self.read:
            self.note(of_text(what, total))
        self.read = None if done == total else what

    def start(self, run: Run) -> None:
        self.first_step, self.total_steps, self.began = run.step, run.total_steps, perf_counter()

    def lines(self, step: int, loss: str, rate: float, chars: float) -> list[tuple[str, str]]:
        """Lines about `step`, from the longest to the shortest, in which what matters least is left out first.

        Each line is two halves, between which there is room for a bar.
        """
        of_total, alone, loss = f"step {step}/{self.total_steps}", f"step {step}", f"loss {loss}"
        without_pace = [(of_total, loss), (alone, loss), (alone, "")]
        if step == self.first_step:
            return without_pace
        left_s = (perf_counter() - self.began) / (step - self.first_step) * max(0, self.total_steps - step)
        rates, eta = f"{rate:.1f} steps/s  {chars:,.0f} chars/s", f"ETA {clock(left_s)}"
        with_pace = [(of_total, f"{loss}  {rates}  {eta}"), (of_total, f"{loss}  {eta}"), (alone, f"{loss}  {eta}")]
        return with_pace + without_pace[1:]

    def sample(self, text: bytes) -> None:
        try:
            self.output.write(text)
        except ReaderGone:
            self.note("nobody reads standard output any more; samples.txt has the samples")
        except OSError as error:
            silence_stdout()
            self.note(f"standard output takes no more ({error.strerror}); samples.txt has the samples")


class ProgressLines(TerminalProgress):
    """Prints a line of text for every line of metrics.jsonl; on a terminal, a line that fits its width."""

    def line(self, metrics: dict[str, Any]) -> None:
        step = metrics["step"]
        rate = (step - self.first_step) / (perf_counter() - self.began)
        lines = self.lines(step, f"{metrics['loss']:.4f}", rate, metrics["chars_per_s"])
        longest = (lines[0][0], f"epoch {metrics['epoch']}  {lines[0][1]}")
        columns = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else 0
        self.note("  ".join(longest_that_fits([longest, *lines], columns or sys.maxsize)).rstrip())

    def note(self, text: str) -> None:
        say(text)


class BarProgress(TerminalProgress):
    """What bars have in common: they know where the run is now, and how fast it was in the last moment."""

    def start(self, run: Run) -> None:
        super().start(run)
        self.done, self.loss, self.rate, self.chars = run.step, math.nan, 0.0, 0
        self.timed, self.timed_at = run.step, perf_counter()

    def step(self, step: int, loss: float, chars: int) -> None:
        self.done, self.loss, self.chars = step, loss, chars
        now = perf_counter()
        if now - self.timed_at >= REFRESH_S:
            self.rate = (step - self.timed) / (now - self.timed_at)
            self.timed, self.timed_at = step, now

    def present_lines(self) -> list[tuple[str, str]]:
        """Lines about the present step, as `lines` makes them."""
        lines = self.lines(self.done, f"{self.loss:.3f}", self.rate, self.rate * self.chars)
        return lines[-1:] if math.isnan(self.loss) else lines  # the first step may not be done yet

    def last_lines(self) -> list[tuple[str, str]]:
        """Lines that say at the end how far training has come; none if it has done no step."""
        if math.isnan(self.loss):
            return []
        step, loss = f"step {self.done}", f"loss {self.loss:.4f}"
        after = f"{loss}  {clock(perf_counter() - self.began)}"
        return [(f"{step}/{self.total_steps}", after), (step, after), (step, loss), (step, "")]


class LiveProgress(BarProgress):
    """Shows a bar with as many of loss, steps/s, chars/s and remaining time as the terminal has room for."""

    def __init__(self, console: Console):
        super().__init__()
        self.bar = Live(
            self, console=console, transient=True, refresh_per_second=1 / REFRESH_S,
            redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        self.reading_bar = ExitStack()  # it has the bar of what is being done with a large text

    def start(self, run: Run) -> None:
        super().start(run)
        self.bar.start()

    def reading(self, what: str, done: int, total: int) -> None:
        """Show a bar, and remove it at the end."""
        if what != self.read:
            self.read, self.read_to = what, done
            shown = bar(of_text(what, total), total, done=done, console=self.bar.console)
            self.advance = self.reading_bar.enter_context(shown)
        self.advance(done - self.read_to)
        self.read_to = done
        if done == total:
            self.read = None
            self.reading_bar.close()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the line for rich: the bar is between the line's halves, if there is room for one."""
        first, second = longest_that_fits(self.present_lines(), options.max_width)
        room = options.max_width - len(f"{first}    {second}")
        if room < NARROWEST_BAR:
            yield Text(f"{first}  {second}".rstrip(), end="")
            return
        yield Text(f"{first}  ", end="")
        yield ProgressBar(self.total_steps, self.done, width=room)
        yield Text(f"  {second}", end="")

    def note(self, text: str) -> None:
        self.bar.console.print(escape(text), highlight=False, markup=False, soft_wrap=True)

    def sample(self, text: bytes) -> None:
        self.bar.stop()
        super().sample(text)
        self.bar.start()

    def stop(self, finished: bool) -> None:
        """Remove the bar, and print in its place how far training has come."""
        self.bar.stop()
        if lines := self.last_lines():
            self.note("  ".join(longest_that_fits(lines, self.bar.console.width)).rstrip())


class NotebookProgress(BarProgress):
    """Shows a bar in the output of a notebook's cell; what comes after its start, samples and notes, appears below it.

    It is one display that is replaced in its place. (rich would draw its bars by the package ipywidgets.)
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar: Any = None

    def start(self, run: Run) -> None:
        from IPython.display import display

        super().start(run)
        if self.bar is None:
            self.bar = display(self._drawn(self.present_lines()), raw=True, display_id=True)

    def step(self, step: int, loss: float, chars: int) -> None:
        super().step(step, loss, chars)
        if self.timed == step:
            self.bar.update(self._drawn(self.present_lines()), raw=True)

    def note(self, text: str) -> None:
        print(escape(text), flush=True)

    def stop(self, finished: bool) -> None:
        if lines := self.last_lines():
            self.bar.update(self._drawn(lines), raw=True)

    def _drawn(self, lines: list[tuple[str, str]]) -> dict[str, str]:
        """What Jupyter shows, by its kind: HTML where that is possible, else text."""
        line = "  ".join(lines[0]).rstrip()
        bar = f'<progress aria-label="training" max="{self.total_steps}" value="{self.done}"></progress>'
        return {"text/html": f"{bar} <code>{line}</code>", "text/plain": line}


def terminal_progress() -> Callback:
    """The callback that suits where this process's messages go: to a notebook, a terminal, or a file."""
    console = Console(stderr=True)
    if console.is_jupyter:
        return NotebookProgress()
    return LiveProgress(console) if console.is_interactive else ProgressLines()


def longest_that_fits(lines: list[tuple[str, str]], columns: int) -> tuple[str, str]:
    """The first of ever shorter lines that fits so many columns, or the last one if none does."""
    return next((line for line in lines if len("  ".join(line).rstrip()) <= columns), lines[-1])


def of_text(what: str, total: int) -> str:
    """What is done with a text of so many bytes, in words."""
    return f"{what} {f'{total / 1e9:.1f} GB' if total >= 1e9 else f'{total / 1e6:.0f} MB'} of text"


def clock(seconds: float) -> str:
    """A duration as H:MM:SS."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
