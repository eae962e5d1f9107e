"""What training shows in terminals: wide ones, narrow ones, and those that cannot move the cursor."""

import re
import sys

import pexpect
import pyte
import pytest
from support.process import environment

from cuchar.callbacks import Run
from cuchar.terminal import terminal_progress

PACE = """
import time
from cuchar.callbacks import Run
from cuchar.terminal import terminal_progress

progress = terminal_progress()
progress.start(Run(None, None, None, step=1000, total_steps=123456, best=None, gradients=None))
time.sleep(0.15)  # the first step takes its time
for step in range(1001, 1031):
    progress.step(step, 1.25, 1024)
    time.sleep(0.02)
progress.line({"step": 1030, "epoch": 3, "loss": 2.5, "chars_per_s": 51200})
progress.stop(True)
"""


class Terminal:
    """A Python program in a terminal of its own. `seen` has every row but blank ones that was ever on the screen."""

    def __init__(self, columns, *arguments, **variables):
        rows = 40
        self.screen = pyte.HistoryScreen(columns or 100, rows, history=10_000)
        self.stream, self.seen = pyte.ByteStream(self.screen), set()
        inherited = {name: value for name, value in environment().items() if name != "COLUMNS"}
        self.child = pexpect.spawn(
            sys.executable, list(map(str, arguments)), dimensions=(rows, columns), timeout=60,
            env={**inherited, "TERM": "xterm-256color", **variables},
        )  # fmt: skip

    def read(self):
        """Read what the program writes next; False at its end."""
        try:
            self.stream.feed(self.child.read_nonblocking(4096, timeout=30))
        except pexpect.EOF:
            self.child.close()
            assert self.child.exitstatus == 0
            return False
        self.seen |= {line.rstrip() for line in self.screen.display} - {""}
        return True

    def resize(self, columns):
        self.child.setwinsize(self.screen.lines, columns)
        self.screen.resize(columns=columns)

    def lines(self):
        """The rows that are left when the program has ended, also those that have left the screen at its top."""
        while self.read():
            pass
        history = ["".join(cell.data for _, cell in sorted(line.items())) for line in self.screen.history.top]
        lines = [line.rstrip() for line in history + self.screen.display]
        return [line for line in lines if line]


def test_bar_in_a_terminal(text, tmp_path):
    """Step, loss, speed and time left are on the screen while training runs; samples stand whole above it."""
    # Long enough for more than three refreshes of the bar on a machine ten times as fast.
    options = (
        "--hidden 64 --batch 8 --window 32 --epochs 240 --sample-every 300 --sample-length 30 --log-every 100".split()
    )
    command = ["-c", "from cuchar.cli.main import main; main()", "train", text, *options, "--out", tmp_path / "run"]
    terminal = Terminal(100, *command)
    lines = terminal.lines()
    bar = re.compile(r"step (\d+)/(\d+)  .*  loss \d\.\d{3}  [\d.]+ steps/s  [\d,]+ chars/s  ETA \d:\d\d:\d\d")
    seen = [match for line in terminal.seen if (match := bar.fullmatch(line))]
    assert len({match[1] for match in seen}) > 3
    assert not any(bar.search(line) for line in lines)  # the bar removes itself, and leaves one line
    last = re.compile(rf"step {seen[0][2]}/{seen[0][2]}  loss \d\.\d{{4}}  0:\d\d:\d\d")
    assert sum(bool(last.fullmatch(line)) for line in lines) == 1
    assert "engine: C++" in lines[0]
    shown, sampled = "\n".join(lines), (tmp_path / "run/samples.txt").read_text()
    for block in sampled.split("\n\n"):
        for line in filter(None, block.split("\n")):
            assert line.rstrip() in shown


LAST = r"step 1030/123456  loss 1\.2500  0:00:\d\d"
LOSS, PACES, ETA = r"loss 1\.250", r"[\d.]+ steps/s  [\d,]+ chars/s", r"ETA \d+:\d\d:\d\d"


@pytest.mark.parametrize(
    "columns,bar,last",
    [
        (100, rf"step 10\d\d/123456  \S{{25,}} *  {LOSS}  {PACES}  {ETA}", LAST),
        (60, rf"step 10\d\d/123456  \S{{10,}} *  {LOSS}  {ETA}", LAST),
        (40, rf"step 10\d\d  {LOSS}  {ETA}", LAST),
        (20, r"step 10\d\d  \S{5,} *", r"step 1030"),
        (10, r"step 10\d\d", r"step 1030"),
    ],
)
def test_a_terminal_has_what_fits_in_one_row(columns, bar, last):
    terminal = Terminal(columns, "-c", PACE)
    (left,) = terminal.lines()
    assert re.fullmatch(last, left)
    drawn = {line for line in terminal.seen if re.fullmatch(bar, line)}
    others = {re.sub(r"\W+$", "", line) for line in terminal.seen - drawn}
    assert drawn and others <= {"step 1000", left}  # no row was wrapped or cut


def test_a_bar_follows_the_terminals_width():
    terminal = Terminal(100, "-c", PACE)
    while not any("chars/s" in line for line in terminal.seen):
        assert terminal.read()
    terminal.resize(40)
    terminal.seen.clear()
    terminal.lines()
    assert any(re.fullmatch(rf"step 10\d\d  {LOSS}  {ETA}", line) for line in terminal.seen)


@pytest.mark.parametrize(
    "columns,line",
    [
        (100, rf"step 1030/123456  epoch 3  loss 2\.5000  [\d.]+ steps/s  51,200 chars/s  {ETA}"),
        (60, rf"step 1030/123456  loss 2\.5000  {ETA}"),
        (40, rf"step 1030  loss 2\.5000  {ETA}"),
        (20, r"step 1030"),
        (0, rf"step 1030/123456  epoch 3  .*  {ETA}"),  # the terminal does not say how wide it is
    ],
)
def test_a_dumb_terminal_has_lines(columns, line):
    terminal = Terminal(columns, "-c", PACE, TERM="dumb")
    (found,) = terminal.lines()
    assert re.fullmatch(line, found) and terminal.seen == {found}


def test_without_colours_there_is_a_bar():
    terminal = Terminal(60, "-c", PACE, NO_COLOR="1")
    terminal.lines()
    assert any(re.fullmatch(rf"step 10\d\d/123456  .*  {LOSS}  {ETA}", line) for line in terminal.seen)


def test_a_log_has_whole_lines(capfd, monkeypatch):
    """How narrow the terminal is from which training was started does not matter."""
    monkeypatch.setenv("COLUMNS", "20")
    progress = terminal_progress()
    progress.start(Run(None, None, None, step=0, total_steps=10, best=None, gradients=None))
    progress.line({"step": 5, "epoch": 0, "loss": 2.5, "chars_per_s": 51200})
    progress.stop(True)
    line = r"step 5/10  epoch 0  loss 2\.5000  [\d.]+ steps/s  51,200 chars/s  ETA 0:00:00\n"
    assert re.fullmatch(line, capfd.readouterr().err)


def test_a_run_that_went_back_has_a_pace(capfd):
    """It is told of a start again, from which steps and time are counted."""
    progress = terminal_progress()
    for step in (20, 10):
        progress.start(Run(None, None, None, step=step, total_steps=30, best=None, gradients=None))
    progress.line({"step": 11, "epoch": 0, "loss": 2.5, "chars_per_s": 51200})
    progress.stop(True)
    pace = re.search(r"  ([\d.-]+) steps/s  .*  ETA (.*)\n", capfd.readouterr().err)
    assert float(pace[1]) > 0 and re.fullmatch(r"\d:\d\d:\d\d", pace[2])


READING = """
import time
from cuchar.terminal import terminal_progress

progress = terminal_progress()
for done in range(0, 40):
    progress.reading("counting", done * 10**8, 4 * 10**9)
    if done == 20:
        progress.note("half of it")
    time.sleep(0.02)
progress.reading("counting", 4 * 10**9, 4 * 10**9)
progress.note("read")
"""


@pytest.mark.parametrize("columns", [20, 100])
def test_a_large_text_has_a_bar_that_goes(columns):
    terminal = Terminal(columns, "-c", READING)
    assert terminal.lines() == ["half of it", "read"]
    shown = [line for line in terminal.seen if line.startswith("counting 4.0 GB ")]
    if columns == 100:
        line = re.compile(r"counting 4\.0 GB of text [━╸╺]+ +(\d+)% [-\d]:[-\d]{2}:[-\d]{2}")
        assert len({line.fullmatch(one)[1] for one in shown}) > 2
    assert shown and not terminal.screen.cursor.hidden


def test_a_large_text_is_one_plain_line_elsewhere(capfd):
    progress = terminal_progress()
    for done in (0, 10**6, 2 * 10**6):
        progress.reading("encoding", done, 2 * 10**6)
    assert capfd.readouterr().err == "encoding 2 MB of text\n"


COMPILING = """
from cuchar.config import ModelConfig
from cuchar.engines.choose import choose_engine
from cuchar.engines.cpu import library

library.FLAGS = ["-std=c++20", "-O0"]
choose_engine("cpu", ModelConfig(2, 1, 1))
"""


def test_a_line_moves_while_kernels_are_compiled(tmp_path):
    terminal = Terminal(100, "-c", COMPILING, XDG_CACHE_HOME=str(tmp_path))
    assert terminal.lines() == ["compiling the kernels; the next run finds them compiled"]
    assert any(line.startswith("compiling ━") for line in terminal.seen) and not terminal.screen.cursor.hidden


BENCH = """
from cuchar.bench.contender import OURS
from cuchar.bench.processes import Worker
from cuchar.bench.tables import status

with status() as notice:
    notice("starting")
    Worker(OURS, "cpu", 1).close()
"""


def test_one_line_moves_while_a_process_of_the_benchmark_compiles(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nsleep 0.5\nexit 1\n")
    compiler.chmod(0o755)
    terminal = Terminal(100, "-c", BENCH, XDG_CACHE_HOME=str(tmp_path), CXX=str(compiler))
    terminal.lines()
    assert any(line.endswith(" starting") for line in terminal.seen)
    assert not any(line.startswith("compiling ━") for line in terminal.seen)
