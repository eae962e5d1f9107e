"""Standard input, output and error as terminals and pipes; closed from the start, and lost on the way."""

import os
import pty
import re
import signal
import subprocess

import pexpect
import pytest
from support.process import CUCHAR, environment, start

from cuchar.checkpoint import read_checkpoint
from cuchar.files import escape

# Escape sequences, the C1 control that begins one, delete, and an override of text's direction.
CONTROLS = "abé€\x1b[31m\x9b\x7f\u202e\u2066\r\t\n"
ASCII = [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}]
SAMPLE = ("--length", 80, "--seed", 3)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose text is full of control characters, and its text's name too."""
    folder = tmp_path_factory.mktemp("hostile")
    text = folder / "\x1b[31mred\u202e.txt"
    text.write_text(CONTROLS * 20, newline="")
    options = "--hidden 4 --layers 1 --window 3 --batch 2 --max-steps 3 --sample-every 0 --out".split()
    assert start("train", text, *options, folder / "run").wait(60) == 0
    return folder / "run"


def piped(*arguments, env=None):
    output, error = start(*arguments, env=env).communicate(timeout=30)
    assert error == b""
    return output


def in_terminal(*arguments, env=None):
    """What a terminal gets from a command, with plain newlines."""
    child = pexpect.spawn(CUCHAR[0], [*CUCHAR[1:], *map(str, arguments)], env={**environment(), **(env or {})})
    shown = child.read()
    child.close()
    assert child.exitstatus == 0, shown
    return shown.replace(b"\r\n", b"\n")


def test_escape():
    assert escape("\x1b[1m\x00\x9b\x7f\u202eé\n\t\r", keep="\n\t") == "\\x1b[1m\\x00\\x9b\\x7f\\u202eé\n\t\\r"
    assert escape("two\nlines\udcff \u2069") == "two\\nlines\\udcff \\u2069"
    harmless = "".join(map(chr, range(32, 127))) + "éя中\u200d👩"
    assert escape(harmless) == harmless


def test_a_terminal_gets_control_characters_escaped(hostile):
    text = piped("sample", hostile, *SAMPLE)
    assert set(CONTROLS) == set(text.decode())  # the seed was chosen so
    assert in_terminal("sample", hostile, *SAMPLE) == escape(text.decode(), keep="\n\t").encode()
    assert in_terminal("sample", hostile, *SAMPLE, "--raw") == text.replace(b"\r\n", b"\n")


@pytest.mark.parametrize("env", ASCII)
def test_ascii_terminals_get_escapes_and_pipes_utf_8(hostile, env):
    text = piped("sample", hostile, *SAMPLE)
    assert piped("sample", hostile, *SAMPLE, env=env) == text
    shown = in_terminal("sample", hostile, *SAMPLE, env=env)
    assert shown == escape(text.decode(), keep="\n\t").encode("ascii", "backslashreplace") and b"\\u20ac" in shown
    assert b"\\u20ac" in in_terminal("info", hostile, env=env)
    assert "€".encode() in piped("info", hostile, env=env) and "┃".encode() in piped("info", hostile, env=env)


def test_characters_that_arrive_in_pieces_are_whole_on_a_terminal(tmp_path):
    """A model of bytes makes characters byte by byte. Bytes that are no character's are shown as escapes."""
    text = tmp_path / "text.bin"
    text.write_bytes("é€".encode() * 50)
    options = (
        "--bytes --hidden 16 --layers 1 --window 6 --batch 2 --epochs 150 --lr 0.05 --sample-every 0 --out".split()
    )
    assert start("train", text, *options, tmp_path / "run").wait(60) == 0
    options = ("--argmax", "--length", 20, "--prime", "é€")
    text = piped("sample", tmp_path / "run", *options)
    assert text == "é€é€é€é€é€".encode() + b"\n"
    assert in_terminal("sample", tmp_path / "run", *options) == text
    cut = in_terminal("sample", tmp_path / "run", "--argmax", "--length", 1, "--prime", "é")
    assert cut == "é\\xe2\n".encode()


def test_samples_on_the_way_are_escaped_too(hostile, tmp_path):
    (text,) = hostile.parent.glob("*.txt")
    options = "--hidden 4 --layers 1 --window 3 --batch 2 --max-steps 4 --sample-every 4 --sample-length 60".split()
    shown = in_terminal("train", text, *options, "--out", tmp_path / "run").decode()
    sampled = (tmp_path / "run/samples.txt").read_bytes().decode()
    assert "\x1b" in sampled and all(line in shown for line in escape(sampled, keep="\n\t").split("\n"))


def test_info_and_errors_escape_what_is_in_files(hostile):
    shown = piped("info", hostile).decode()
    assert "/\\x1b[31mred\\u202e.txt (" in "".join(line.strip() for line in shown.splitlines())
    assert "\\x9b" in shown and not set("\x1b\x9b\x7f\u202e\u2066") & set(shown)
    for path, expected in (("no\x1b[31m\nfile", "no\\x1b[31m\\nfile"), (b"\xff", "\\udcff")):
        path = os.fsencode(path)
        error = subprocess.run([*CUCHAR, "info", path], capture_output=True, env=environment()).stderr
        assert error.decode() == f"cuchar: {expected}: expected a checkpoint or a run folder, found nothing there\n"


# --- closed ones


def closing(*descriptors):
    def close():
        for descriptor in descriptors:
            os.close(descriptor)

    return close


@pytest.mark.parametrize(
    "words", ["--help", "--version", "info", "info RUN", "sample RUN", "eval RUN TEXT --json", "export RUN -"]
)
def test_closed_standard_output_is_one_line(trained, text, words):
    arguments = [{"RUN": trained, "TEXT": text}.get(word, word) for word in words.split()]
    process = start(*arguments, stdout=None, preexec_fn=closing(1))
    error = process.communicate(timeout=30)[1].decode()
    *seed, line = error.splitlines()
    assert process.returncode == 1 and not [word for word in seed if not word.startswith("--seed ")]
    assert line == "cuchar: standard output: expected to read or write, found: Bad file descriptor"


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_training_with_closed_streams_keeps_its_files_clean(text, tmp_path, closed):
    """No file of the run gets the descriptor of a closed stream: what is written to the stream would go into it."""
    options = "--hidden 4 --layers 1 --window 6 --batch 3 --max-steps 20 --sample-every 5 --log-every 5".split()
    open_, run = tmp_path / "open", tmp_path / "run"
    assert start("train", text, *options, "--out", open_).wait(60) == 0
    process = start("train", text, *options, "--out", run, stdout=None, preexec_fn=closing(*closed))
    error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0
    assert (run / "samples.txt").read_bytes() == (open_ / "samples.txt").read_bytes()
    assert re.fullmatch(rb'(\{"step": \d+, [^}\n]*\}\n)+', (run / "metrics.jsonl").read_bytes())
    flats = [read_checkpoint(folder).parameters.flat.tobytes() for folder in (open_, run)]
    assert flats[0] == flats[1]
    said = "standard output takes no more (Bad file descriptor); samples.txt has the samples\n"
    assert error.count(said) == (1 if closed == (1,) else 0)


def test_closed_standard_input_and_error(trained, text):
    process = start("eval", trained, "-", stdin=None, preexec_fn=closing(0))
    assert process.communicate(timeout=30)[1] == b"cuchar: -: expected a readable file, found: Bad file descriptor\n"
    assert process.returncode == 1
    process = start("sample", trained, "--seed", 1, "--length", 5, stdin=None, preexec_fn=closing(0, 2))
    assert len(process.communicate(timeout=30)[0]) == 6 and process.returncode == 0
    assert start("sample", text, preexec_fn=closing(2)).wait(30) == 1


# --- lost ones


def test_losing_standard_error_does_not_end_training(text, tmp_path):
    """cuchar train ... 2>&1 | head -1"""
    run = tmp_path / "run"
    options = "--hidden 4 --batch 4 --window 8 --log-every 1 --sample-every 10 --sample-length 5".split()
    process = start("train", text, *options, "--out", run, stderr=subprocess.STDOUT)
    assert process.stdout.readline().startswith(b"engine: ")
    process.stdout.close()
    assert process.wait(60) == 0
    assert read_checkpoint(run).run["position"]["epoch"] == 4
    assert b"--- step 100 ---" in (run / "samples.txt").read_bytes()


def test_losing_the_terminal_does_not_end_training(text, tmp_path):
    """It is as under nohup: SIGHUP is ignored, and from then on writing to the terminal fails with EIO."""
    run, (master, slave) = tmp_path / "run", pty.openpty()

    def ignore():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    options = "--hidden 16 --batch 4 --window 8 --epochs 40 --log-every 10 --sample-every 50 --sample-length 5".split()
    process = start(
        "train", text, *options, "--out", run, stdin=slave, stdout=slave, stderr=slave, preexec_fn=ignore,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown = b""
    while b"step 50" not in shown:
        shown += os.read(master, 1000)
    os.close(master)
    assert process.wait(60) == 0
    assert read_checkpoint(run).run["position"]["epoch"] == 40


def test_a_full_disk_under_standard_output_does_not_end_training(text, tmp_path):
    options = "--hidden 4 --batch 4 --window 8 --sample-every 10 --sample-length 5 --max-steps 40".split()
    with open("/dev/full", "wb") as full:
        process = start("train", text, *options, "--out", tmp_path / "run", stdout=full)
        error = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 0
    assert error.count("standard output takes no more (No space left on device); samples.txt has the samples") == 1
    assert b"--- step 40 ---" in (tmp_path / "run/samples.txt").read_bytes()


def test_a_checkpoint_is_as_good_in_every_locale(tmp_path):
    """A checkpoint has its text's name in it, which the locale may have no characters for."""
    text = tmp_path / "€.txt"
    text.write_text("ab€" * 50)
    options = "--hidden 4 --layers 1 --window 3 --batch 2 --max-steps 3 --sample-every 0 --out".split()
    assert start("train", text, *options, tmp_path / "run").wait(60) == 0
    assert piped("sample", tmp_path / "run", *SAMPLE, env=ASCII[0]) == piped("sample", tmp_path / "run", *SAMPLE)
