"""The command `cuchar` from start to end: help, version, what is imported when, Ctrl-C at any time."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.process import ROOT, environment, start

COMMANDS = ("train", "sample", "eval", "info", "look", "plot", "runs", "export", "import", "bench")
POINTS = 20
# A sitecustomize.py, which Python runs first: it writes a byte to the descriptor $READY once SIGINT has a handler.
SITE = """
import os, signal
handle = signal.signal
def announce(signum, handler):
    before = handle(signum, handler)
    if signum == signal.SIGINT and "READY" in os.environ:
        os.write(int(os.environ.pop("READY")), b"x")
    return before
signal.signal = announce
"""


def test_bare_command_is_help(cli):
    bare = cli()
    assert bare.status == 0 and bare.stderr == ""
    assert re.match(rb"Usage: cuchar \[OPTIONS\] \[?COMMAND", bare.stdout) and bare.stdout == cli("--help").stdout
    assert all(f"  {command} " in bare.stdout.decode() for command in COMMANDS)


def test_short_help_and_version(cli):
    for command in ([], *([name] for name in COMMANDS)):
        short = cli(*command, "-h")
        assert short.status == 0 and short.stderr == "" and b"-h, --help" in short.stdout
        assert short.stdout == cli(*command, "--help").stdout
    from cuchar import __version__

    assert cli("--version").stdout.decode() == f"cuchar {__version__}\n"


def test_installed_command_is_python_dash_m():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"cuchar": "cuchar.__main__:main"}
    done = subprocess.run([sys.executable, "-m", "cuchar", "--version"], capture_output=True, env=environment())
    assert done.stdout.decode() == f"cuchar {project['version']}\n" and done.returncode == 0


def test_public_names_come_when_they_are_asked_for():
    code = """
import sys, cuchar
assert "numpy" not in sys.modules and set(cuchar.__all__) <= set(dir(cuchar))
from cuchar import Model, Score, CucharError, load, train
assert "numpy" in sys.modules and cuchar.load is load and train.__module__ == "cuchar.api"
try:
    cuchar.lode
except AttributeError as error:
    assert str(error) == "module 'cuchar' has no attribute 'lode'"
from cuchar import *
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=environment())


def interruptible(tmp_path, *command):
    """Start a command with the sitecustomize.py in `tmp_path`; returns once the command handles SIGINT."""
    reading, writing = os.pipe()
    env = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "READY": str(writing)}
    process = start(*command, env=env, pass_fds=[writing])
    os.close(writing)
    with os.fdopen(reading, "rb") as ready:
        assert ready.read(1) == b"x", process.communicate()[1]
    return process


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "info",
        "info RUN",
        "sample RUN --seed 1 --length 20",
        "eval RUN TEXT --per-char OUT",
        "export RUN OUT",
        "train TEXT --hidden 8 --batch 4 --max-steps 200 --out OUT",
        "bench --peer none --hidden 4 --layers 1 --window 3 --batch 2 --device cpu",
    ],
)
def test_ctrl_c_at_any_time(trained, text, tmp_path, words):
    """At twenty points of the first 0.6 s, or of its whole time: status 130, no traceback, no temporary file."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "sitecustomize.py").write_text(SITE)

    def command(number):
        named = {"RUN": trained, "TEXT": text, "OUT": out / str(number)}
        return [named.get(word, word) for word in words.split()]

    def interrupt(number):
        process = interruptible(tmp_path, *command(number))
        time.sleep(seconds * (number + 0.5) / POINTS)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=60)[1].decode()
        return process.returncode, stderr

    whole = interruptible(tmp_path, *command("whole"))
    began = time.perf_counter()
    try:
        whole.communicate(timeout=0.6)
    except subprocess.TimeoutExpired:
        whole.send_signal(signal.SIGINT)
        whole.communicate(timeout=60)
    seconds = time.perf_counter() - began
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(interrupt, range(POINTS)))
    assert {status for status, _ in ends} <= {0, 130}
    assert ends[0][0] == 130  # a later one may have ended before it was interrupted
    for _, stderr in ends:
        assert not re.search("Traceback|Exception ignored|Error", stderr), stderr
    assert not list(out.rglob(".*"))  # no temporary file


@pytest.mark.parametrize(
    "body",
    [
        "signal.raise_signal(signal.SIGINT)",
        "import half",
        "Deleted()",
        "try:\n        signal.raise_signal(signal.SIGINT)\n    except KeyboardInterrupt:\n        raise ValueError from None",
        "try:\n        signal.raise_signal(signal.SIGINT)\n    except KeyboardInterrupt:\n        signal.raise_signal(signal.SIGINT)",
    ],
    ids=["anywhere", "importing", "deleting", "taken for another error", "twice"],
)
def test_ctrl_c_is_never_another_error(tmp_path, body):
    """Modules, `__del__` or libraries may turn KeyboardInterrupt into other errors or swallow it: 130 all the same."""
    (tmp_path / "half.py").write_text(
        "import signal\n"
        "try:\n    signal.raise_signal(signal.SIGINT)\nexcept KeyboardInterrupt:\n    raise ImportError('half') from None\n"
    )
    code = (
        "import signal, sys\nfrom cuchar import __main__ as entry\nfrom cuchar.cli import main as cli\n"
        "class Deleted:\n    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\n"
        f"def main():\n    {body}\n    print('went on')\n"
        "cli.main = main\nentry.main()\n"
    )
    env = {**environment(), "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_an_error_of_its_own_keeps_its_traceback():
    code = "from cuchar import __main__ as entry\nfrom cuchar.cli import main as cli\ncli.main = lambda: 1 / 0\nentry.main()\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment())
    assert done.returncode == 1 and b"ZeroDivisionError" in done.stderr


def test_too_little_memory_is_one_line(text, tmp_path, fails, monkeypatch):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    command = ("train", text, "--hidden", 60_000, "--out", tmp_path / "run")
    process = start(*command, env={"OPENBLAS_NUM_THREADS": "1"}, preexec_fn=limit)
    error = process.communicate(timeout=30)[1].decode()
    assert re.fullmatch(r"cuchar: expected enough memory, found too little: Unable to allocate [^\n]+\n", error)
    assert process.returncode == 1

    def fail():
        raise MemoryError

    monkeypatch.setattr("cuchar.reports.print_machine", fail)
    assert fails(1, "info") == "cuchar: expected enough memory, found too little\n"


def test_an_ignored_interrupt_stays_ignored(trained):
    """A script's background jobs ignore SIGINT, and so does `cuchar` among them."""

    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = start("sample", trained, "--length", 0, "--seed", 1, preexec_fn=ignore)
    process.stdout.read(100)
    process.send_signal(signal.SIGINT)
    assert len(process.stdout.read(100_000)) == 100_000 and process.poll() is None
    process.stdout.close()
    assert process.wait(30) == 0 and process.stderr.read() == b""
