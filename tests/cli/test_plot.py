"""cuchar plot: what is drawn in figures and in terminals, files that are written, and following runs that train."""

import json
import os
import re
import signal
import sys
import time
from collections import Counter

import numpy as np
import pexpect
import pyte
import pytest
from support.logged_runs import line, log_run, write_lines
from support.process import CUCHAR, environment, start
from support.terminals import in_terminal

from cuchar.plots import watch
from cuchar.plots.figure import DASHES, draw, look
from cuchar.plots.panels import panels
from cuchar.run_folder import RunFolder
from cuchar.run_logs import read_logs, run_folders


def validated(step, loss, val_loss, **others):
    return line(step, loss, val_loss=val_loss, **others)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """The current folder, with runs/first and runs/second."""
    monkeypatch.chdir(tmp_path)
    first = [line(10, 4.0, lr=0.004), validated(20, 3.0, 3.5, lr=0.003), validated(30, 2.0, 2.5, lr=0.002)]
    log_run(tmp_path / "runs/first", first, batch=2, window=5)
    log_run(tmp_path / "runs/second", [line(10, 5.0), line(40, 1.0)], batch=4, window=5)
    return tmp_path / "runs"


def logs_of(*paths):
    return read_logs(run_folders(paths))


def drawn(axes):
    """The points of every line on an axes."""
    return [[tuple(map(float, point)) for point in line.get_xydata()] for line in axes.lines]


# --- figures


def test_the_figure_has_the_runs_values(runs):
    loss, rate, norm, speed = draw(logs_of(runs), "step").axes
    assert drawn(loss) == [[(10, 4), (20, 3), (30, 2)], [(20, 3.5), (30, 2.5)], [(10, 5), (40, 1)]]
    assert drawn(rate) == [[(10, 0.004), (20, 0.003), (30, 0.002)], [(10, 0.001), (40, 0.001)]]
    assert drawn(norm) == [[(10, 0.5), (20, 0.5), (30, 0.5)], [(10, 0.5), (40, 0.5)]]
    assert drawn(speed) == [[(10, 1000), (20, 1000), (30, 1000)], [(10, 1000), (40, 1000)]]
    titles = [axes.get_title("left") for axes in (loss, rate, norm, speed)]
    assert titles == ["loss, nats per character", "learning rate", "gradient norm", "characters per second"]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["first", "second"]


@pytest.mark.parametrize(
    "x,first,second,name",
    [
        ("step", [10, 20, 30], [10, 40], "training step"),
        ("chars", [100, 200, 300], [200, 800], "characters trained on"),
        ("seconds", [1, 2, 3], [1, 4], "seconds of training"),
    ],
)
def test_what_runs_are_compared_by(runs, x, first, second, name):
    loss = draw(logs_of(runs), x).axes[0]
    assert [[at for at, _ in points] for points in drawn(loss)] == [first, first[1:], second]
    assert loss.get_xlabel() == name


def test_validation_has_marks_and_runs_differ_without_colour(runs):
    training, validation, other = draw(logs_of(runs), "step").axes[0].lines
    assert training.get_marker() == other.get_marker() == "None" and validation.get_marker() == "o"
    assert training.get_color() == validation.get_color() != other.get_color()
    assert training.get_linestyle() == validation.get_linestyle() != other.get_linestyle()
    assert len({str(look(run)) for run in range(28)}) == 28
    assert len({str(look(run)["linestyle"]) for run in range(4)}) == 4 == len(DASHES)


def test_one_point_is_seen(tmp_path):
    (only,) = draw(logs_of(log_run(tmp_path / "run", [line(10)])), "step").axes[0].lines
    assert only.get_marker() == "o"


@pytest.mark.parametrize("losses,scale", [((4.0, 0.3), "log"), ((4.0, 0.4), "linear"), ((4.0, 0.0), "linear")])
def test_losses_that_differ_tenfold_have_a_logarithmic_axis(tmp_path, losses, scale):
    folder = log_run(tmp_path / "run", [line(10 * at + 10, loss, lr=loss) for at, loss in enumerate(losses)])
    loss, rate, *_ = draw(logs_of(folder), "step").axes
    assert loss.get_yscale() == scale and rate.get_yscale() == "linear"
    shown = start("plot", folder).communicate(timeout=60)[0].decode()
    assert ("(logarithmic)" in shown) == (scale == "log")


def test_names_are_text_and_nothing_else(tmp_path):
    names = ["$x^2$", "_under", "a\nb\x1b[31m", "n" * 100]
    logs = logs_of(*(log_run(tmp_path / name, [line(10)]) for name in names))
    figure = draw(logs, "step")
    texts = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts] == ["$x^2$", "_under", "a\\nb\\x1b[31m", f"{'n' * 19}…{'n' * 20}"]
    assert not any(text.get_parse_math() for text in texts)


# --- files


@pytest.mark.parametrize("name,begins", [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_the_same_runs_give_the_same_bytes(runs, cli, name, begins):
    done = cli("plot", "runs", "--out", name)
    assert (done.status, done.stdout, done.stderr) == (0, b"", f"wrote {name}\n")
    first = (runs.parent / name).read_bytes()
    assert start("plot", "runs", "-o", f"again-{name}", env={"PYTHONHASHSEED": "5"}).wait(30) == 0
    assert first == (runs.parent / f"again-{name}").read_bytes() and first.startswith(begins)
    if name == "a.svg":
        assert b"dc:date" not in first
        assert cli("plot", "runs/first", "-o", name).status == 0 and (runs.parent / name).read_bytes() != first


def test_standard_output_and_other_runs_files(runs, cli, fails):
    assert cli("plot", "runs", "-o", "-").stdout.startswith(b"\x89PNG")
    os.link("runs/first/metrics.jsonl", "hard.png")
    before = (runs / "first/metrics.jsonl").read_bytes()
    assert "expected a file of its own" in fails(1, "plot", "runs", "-o", "hard.png")
    assert (runs / "first/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "words,status,expected",
    [
        ("plot", 2, "RUN"),
        ("plot gone", 1, "gone: expected a run folder or a folder of runs, found: No such file or directory"),
        ("plot runs gone", 1, "gone: expected a run folder"),
        ("plot empty", 1, "empty: expected lines of metrics to draw, found none yet"),
        ("plot runs --x epochs", 2, "--x: expected step | chars | seconds, found epochs"),
        ("plot runs -o a.doc", 2, "--out: expected a file that ends with one of"),
        ("plot runs -o no/a.png", 1, "--out no/a.png: expected a file in a folder that is there"),
        ("plot runs -o - --watch", 2, "--watch: expected --out with a file, which can be replaced, found -"),
        ("plot runs --watch", 1, "--watch: expected a terminal that can move its cursor, or --out FILE, found neither"),
    ],
)
def test_mistakes_are_one_line(runs, fails, words, status, expected):
    log_run(runs.parent / "empty", [])
    assert expected in fails(status, *words.split())


def test_a_picture_needs_matplotlib_and_the_terminal_does_not(runs, cli, fails, monkeypatch):
    for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "--out: expected matplotlib, found none; pip install 'cuchar[plots]'" in fails(
        1, "plot", "runs", "-o", "a.png"
    )
    assert cli("plot", "runs").status == 0


def test_what_cannot_be_read_is_said_and_the_rest_drawn(runs, cli):
    write_lines(runs / "second", [line(10, 5.0)], b'{"step": 20, "epoch": 0, "loss": NaN}\n')
    done = cli("plot", "runs", "-o", "a.png")
    assert done.status == 0 and done.stderr == (
        "runs/second/metrics.jsonl:2: loss: expected a finite number, found nan: the line is left out\nwrote a.png\n"
    )


# --- the terminal


def plotted(rows, margin):
    """Positions (column, row) of the rows' characters right of the axis, but blanks."""
    return {(at, number) for number, row in enumerate(rows) for at, sign in enumerate(row[margin:]) if sign != " "}


def test_the_chart_shows_the_values(tmp_path, cli):
    """A loss that rises steadily is a diagonal; a rate that jumps is in two rows."""
    lines = [line(step, 1 + step / 100, lr=0.5 if step > 100 else 0.25) for step in range(0 + 1, 201)]
    rows = cli("plot", log_run(tmp_path / "run", lines)).stdout.decode().split("\n")
    assert rows[0] == "loss, nats per character" and rows[14] == "learning rate"
    assert [row.split("│")[0].strip() for row in rows[1:14]] == ["3", *[""] * 5, "2.005", *[""] * 5, "1.01"]
    room = 80 - rows[1].index("│") - 1
    for column, row in plotted(rows[1:14], 80 - room):
        assert abs((column + 0.5) / room - (1 - (row + 0.5) / 13)) <= 0.5 / room + 0.5 / 13 + 0.02
    assert len(plotted(rows[1:14], 80 - room)) > room
    rate = Counter(row for _, row in plotted(rows[15:19], 80 - room))
    assert min(rate[0], rate[3]) > 0.4 * room and rows[15].startswith("  0.5 │") and rows[18].startswith(" 0.25 │")
    assert rows[30].split() == ["1", "training", "step", "200"]
    assert rows[31] == "a 3.0000  run"


def test_runs_have_letters_and_validation_has_capitals(runs, cli):
    shown = cli("plot", "runs").stdout.decode()
    rows = shown.split("\n")
    assert rows[0] == "loss, nats per character; capital letters: validation"
    letters = {letter: [number for number, row in enumerate(rows[1:14]) if letter in row] for letter in "aAbB"}
    assert letters["A"] == [4, 8] and not letters["B"]  # 3.5 and 2.5 of 5 to 1, in rows of 4 / 13
    assert letters["a"] == [3, 6, 9] and (letters["b"][0], letters["b"][-1]) == (0, 12)
    assert rows[-3:-1] == ["a 2.0000  A 2.5000  first", "b 1.0000  second"]


@pytest.mark.parametrize("environment", [{}, {"COLUMNS": "40", "TERM": "xterm-256color", "LC_ALL": "C"}])
def test_pipes_get_80_columns_of_plain_text(runs, environment):
    output, error = start("plot", "runs", env=environment).communicate(timeout=60)
    rows = output.decode().split("\n")
    assert error == b"" and b"\x1b" not in output and max(map(len, rows)) == 80 and "⠀" not in output.decode()


@pytest.mark.parametrize("columns", [40, 100])
def test_a_terminal_gets_colours_and_its_own_width(runs, columns):
    shown, rows = in_terminal(columns, "plot", "runs")
    axes = [row for row in rows if "└" in row]
    assert b"\x1b[3" in shown and [len(row) for row in axes] == [columns]
    assert sum("│" in row for row in rows) == 13 + 3 * 4  # no row was wrapped
    assert rows[31:33] == ["a 2.0000  A 2.5000  first", "b 1.0000  second"]


def test_no_color_and_ascii(runs):
    shown, _ = in_terminal(60, "plot", "runs", NO_COLOR="1")
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]", shown)
    shown, rows = in_terminal(60, "plot", "runs", PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert rows[1].startswith("     5 |") and b"\\u" not in shown and any("+-----" in row for row in rows)
    shown, rows = in_terminal(40, "plot", "runs", TERM="dumb")
    assert b"\x1b" not in shown and max(map(len, rows)) == 40


def test_names_are_escaped_and_cut(tmp_path, cli):
    folder = log_run(tmp_path / ("a\x1b[31m\n" + "n" * 200), [line(10)])
    output = cli("plot", folder).stdout.decode()
    last = output.split("\n")[-2]
    assert last.startswith("a 2.0000  a\\x1b[31m\\nnnn") and len(last) == 80 and last.endswith("…")


def test_a_long_log_is_drawn_quickly_with_its_extremes(tmp_path, cli):
    lines = [line(step, 2 + (step == 20_000) - (step == 30_001) * 0.5) for step in range(1, 50_001)]
    logs = logs_of(log_run(tmp_path / "run", lines))
    (only,) = panels(logs, "step")[0].lines
    assert len(only.x) == 50_000
    began = time.process_time()
    rows = cli("plot", tmp_path / "run").stdout.decode().split("\n")
    assert time.process_time() - began < 1
    margin = rows[1].index("│") + 1
    spikes = plotted([rows[1], rows[13]], margin)
    assert {round(column / (80 - margin), 1) for column, row in spikes if row == 0} == {0.4}
    assert {round(column / (80 - margin), 1) for column, row in spikes if row == 1} == {0.6}


# --- following runs


class Watched:
    """cuchar plot --watch in a terminal of 80 columns."""

    def __init__(self, *arguments, rows=40):
        inherited = {name: value for name, value in environment().items() if name not in ("COLUMNS", "LINES")}
        self.screen = pyte.Screen(80, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.child = pexpect.spawn(
            CUCHAR[0], [*CUCHAR[1:], "plot", *map(str, arguments), "--watch"], dimensions=(rows, 80), timeout=60,
            env={**inherited, "TERM": "xterm-256color"},
        )  # fmt: skip

    def wait_for(self, text):
        deadline = time.monotonic() + 60
        while text not in "\n".join(self.screen.display):
            assert time.monotonic() < deadline, "\n".join(self.screen.display)
            self.read()

    def read(self):
        try:
            self.stream.feed(self.child.read_nonblocking(4096, timeout=1))
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            self.child.close()
            return False
        return True

    def end(self):
        while self.read():
            pass
        assert not self.screen.cursor.hidden
        return self.child.exitstatus


def test_a_growing_run_is_followed_until_it_ends(runs):
    training = RunFolder.reopen(runs / "first")
    watched = Watched(runs / "first", rows=24)
    watched.wait_for("a 2.0000  A 2.5000  first")
    assert watched.screen.cursor.hidden
    grown = [line(10, 4.0), line(20, 3.0), validated(30, 1.5, 1.75)]
    for values in grown:
        training.append(training.metrics, json.dumps({**values, "step": values["step"] + 100}).encode() + b"\n")
    watched.wait_for("a 1.5000  A 1.7500  first")
    rows = "\n".join(watched.screen.display)
    assert "130" in rows and rows.count("loss, nats") == 1 and "…" not in rows  # redrawn, in its place, and whole
    training.close()
    assert watched.end() == 0
    assert "a 1.5000  A 1.7500  first" in "\n".join(watched.screen.display)  # the last one stays


def test_ctrl_c_ends_it_with_130_and_a_cursor(runs):
    training = RunFolder.reopen(runs / "first")
    watched = Watched("runs")
    watched.wait_for("b 1.0000  second")
    watched.child.sendintr()
    assert watched.end() == 130 and "Traceback" not in "\n".join(watched.screen.display)
    training.append(training.metrics, b"")  # nothing has happened to the run
    training.close()


def test_a_file_is_written_again_while_a_run_goes_on(runs):
    training = RunFolder.reopen(runs / "first")
    process = start("plot", "runs/first", "-o", "a.svg", "--watch")

    def wait_for_another(than):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (runs.parent / "a.svg").exists() and (data := (runs.parent / "a.svg").read_bytes()) != than:
                assert data.endswith(b"</svg>\n")  # never half a file
                return data
            time.sleep(0.02)
        raise AssertionError("no new picture within 60 s")

    first = wait_for_another(b"")
    training.append(training.metrics, json.dumps(line(200, 1.25)).encode() + b"\n")
    wait_for_another(first)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and b"Traceback" not in process.stderr.read()
    assert sorted(path.name for path in runs.parent.iterdir()) == ["a.svg", "runs"]
    training.close()


def test_runs_are_shown_only_when_something_is_new(runs, monkeypatch):
    """Looks one to three find nothing new; then come a line, another terminal's size, another run, and the end."""
    training = RunFolder.reopen(runs / "first")
    shown, size = [], [80]
    events = [None, None, None, lambda: training.append(training.metrics, json.dumps(line(99)).encode() + b"\n")]
    events += [lambda: size.append(40), lambda: log_run(runs / "third", []), training.close]
    happen = iter(events)

    def pause(_):
        event = next(happen)
        shown.append("pause")
        if event:
            event()

    monkeypatch.setattr(watch, "sleep", pause)
    watch.follow([runs], lambda logs: shown.append([log.last("step") for log in logs]), look=lambda: size[-1])
    first, grown, more = [30, 40], [99, 40], [99, 40, pytest.approx(float("nan"), nan_ok=True)]
    assert shown == [first, *["pause"] * 4, grown, "pause", grown, "pause", more, "pause", more]


def test_runs_that_have_ended_are_drawn_once(runs):
    watched = Watched("runs")
    assert watched.end() == 0 and "b 1.0000  second" in "\n".join(watched.screen.display)


def test_a_low_terminal_has_the_loss_alone(runs):
    watched = Watched("runs", rows=14)
    assert watched.end() == 0
    rows = "\n".join(watched.screen.display)
    assert "loss, nats" in rows and "learning rate" not in rows and "b 1.0000  second" in rows


def test_numbers_of_any_size_are_drawn(tmp_path, cli):
    lines = [line(1, 1e-300, lr=-1e30), line(2, 1e30, lr=1e30), line(2**53, 0.0, elapsed_s=0)]
    log_run(tmp_path / "run", lines, batch=2**53, window=2**53)
    for x in ("step", "chars", "seconds"):
        assert cli("plot", tmp_path / "run", "--x", x).status == 0
        assert cli("plot", tmp_path / "run", "--x", x, "-o", tmp_path / "a.png").status == 0
    assert np.isfinite(panels(logs_of(tmp_path / "run"), "chars")[0].lines[0].x).all()
