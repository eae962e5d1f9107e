"""What a person sees of training: a live bar on a terminal, plain lines elsewhere.

Both go to standard error; standard output carries samples only.
"""

from time import perf_counter
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cuchar.streams import ReaderGone, TextOutput, escape, say, silence_stdout
from cuchar.training import Listener

REFRESH_S = 0.1


class TerminalListener(Listener):
    """Samples to standard output, for as long as it takes them."""

    def __init__(self) -> None:
        self.output = TextOutput()

    def sample(self, text: bytes) -> None:
        try:
            self.output.write(text)
        except ReaderGone:
            self.note("nobody reads standard output any more; samples.txt has the samples")
        except OSError as error:
            silence_stdout()
            self.note(f"standard output takes no more ({error.strerror}); samples.txt has the samples")


class PlainListener(TerminalListener):
    """A line for every line of metrics.jsonl."""

    def start(self, step: int, total_steps: int) -> None:
        self.first_step, self.total_steps, self.began = step, total_steps, perf_counter()

    def line(self, metrics: dict[str, Any]) -> None:
        step = metrics["step"]
        per_step = (perf_counter() - self.began) / max(1, step - self.first_step)
        remaining = max(0, self.total_steps - step) * per_step
        self.note(
            f"step {step}/{self.total_steps}  epoch {metrics['epoch']}  loss {metrics['loss']:.4f}  "
            f"{1 / per_step:.1f} steps/s  {metrics['chars_per_s']:,} chars/s  ETA {clock(remaining)}"
        )

    def note(self, text: str) -> None:
        say(text)


class BarListener(TerminalListener):
    """A bar with steps/s, chars/s, loss and the time that is left."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console
        self.bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:.1f} steps/s  {task.fields[chars]:,.0f} chars/s  ETA"),
            TimeRemainingColumn(),
            console=console, transient=True, expand=True, redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip

    def start(self, step: int, total_steps: int) -> None:
        self.task = self.bar.add_task("", total=total_steps, completed=step, loss=float("nan"), rate=0.0, chars=0.0)
        self.shown, self.shown_at = step, perf_counter()
        self.bar.start()

    def step(self, step: int, loss: float, chars: int) -> None:
        now = perf_counter()
        if now - self.shown_at < REFRESH_S:
            return
        rate = (step - self.shown) / (now - self.shown_at)
        self.bar.update(self.task, completed=step, loss=loss, rate=rate, chars=rate * chars)
        self.shown, self.shown_at = step, now

    def note(self, text: str) -> None:
        self.bar.console.print(escape(text), highlight=False, markup=False, soft_wrap=True)

    def sample(self, text: bytes) -> None:
        self.bar.stop()
        super().sample(text)
        self.bar.start()

    def stop(self) -> None:
        self.bar.stop()


def terminal_listener() -> Listener:
    console = Console(stderr=True)
    return BarListener(console) if console.is_terminal else PlainListener()


def clock(seconds: float) -> str:
    """H:MM:SS."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
