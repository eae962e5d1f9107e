"""Where results may go, and texts come from: never over what is read or a run keeps; links, pipes, devices and `-`."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import threading

import pytest
from safetensors.numpy import load, load_file
from support.process import start
from support.small_runs import TEXT

import cuchar
from cuchar import files
from cuchar.bench.results import write_results
from cuchar.checkpoint import read_checkpoint
from cuchar.errors import OutputError

SMALL = "--hidden 5 --layers 1 --window 6 --batch 3 --max-steps 4 --sample-every 0".split()
OTHER_USE = "expected a file of its own, found one that it reads or the run keeps: "


def contents(folder):
    """Digests of all files in a folder and below it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture
def room(trained, tmp_path, monkeypatch):
    """The current folder, with a run, a text and other names of that text.

    No test names a file in /dev that a process may replace: a mistake here must not cost the machine its /dev/null.
    """
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/fox.txt").write_text(TEXT[:200])
    (tmp_path / "link").symlink_to("texts/fox.txt")
    (tmp_path / "circle").symlink_to("circle")
    os.link(tmp_path / "texts/fox.txt", tmp_path / "hard")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def stdin(monkeypatch):
    """Give the command a text on standard input."""

    def give(text):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    return give


@pytest.mark.parametrize(
    "words",
    [
        "eval run texts/fox.txt --per-char texts/fox.txt",
        "eval run texts/fox.txt --per-char texts/../run/../texts/fox.txt",
        "eval run texts/fox.txt --per-char link",
        "eval run texts/fox.txt --per-char hard",
        "eval run link --per-char texts/fox.txt",
        "eval run texts --per-char texts/fox.txt",
        "eval run texts/fox.txt --per-char run/last.safetensors",
        "eval run texts/fox.txt --per-char run/metrics.jsonl",
        "eval run/last.safetensors texts/fox.txt --per-char run/config.json",
        "export run run/last.safetensors",
        "export run/last.safetensors run/config.json",
        "export run run/best.safetensors",  # there is none yet; it would be taken for the run's best model
        "export run run/samples.txt",
    ],
)
def test_an_output_is_none_of_the_inputs(room, fails, words):
    before = contents(room)
    assert OTHER_USE in fails(1, *words.split())
    assert contents(room) == before


@pytest.mark.parametrize(
    "words,expected",
    [
        ("export run texts", "OUT texts: expected a file to write, found a folder"),
        ("export run no/weights", "OUT no/weights: expected a file in a folder that is there, found no "),
        ("eval run link --per-char texts", "--per-char texts: expected a file to write, found a folder"),
        ("export run circle", "OUT circle: expected a file, found links in a circle"),
        ("bench --plot texts/", "--plot texts: expected a file to write, found a folder"),
        ("bench --out link", "--out link: expected to make a folder, found: File exists"),
    ],
)
def test_a_place_where_nothing_can_be_written(room, fails, words, expected):
    before = contents(room)
    assert expected in fails(1, *words.split())
    assert contents(room) == before


def test_a_folder_that_may_not_be_written_to_is_found_before_any_work(room, fails, cli, monkeypatch):
    (room / "locked").mkdir()
    shutil.copy(room / "run/last.safetensors", room / "locked/model.safetensors")
    (room / "other").write_text(TEXT[200:400])
    before = contents(room)
    monkeypatch.setattr(os, "access", lambda path, *_, **__: path.name != "locked")  # to root, nothing is locked
    for words, name in (
        ("export run locked/weights", "OUT locked/weights"),
        ("eval run link --per-char locked/rows", "--per-char locked/rows"),
        ("eval locked/model.safetensors link --dynamic --tune other --save", "--save locked/model.dynamic.json"),
    ):
        found = fails(1, *words.split())  # no line about tuning or scoring before it
        assert found == f"cuchar: {name}: expected a folder that may be written to, found: Permission denied\n"
    assert contents(room) == before
    (room / "locked/pipe").symlink_to("/proc/self/fd/1")  # through it nothing is made in the folder
    assert cli("eval", "run", "link", "--per-char", "locked/pipe").status == 0


def test_streams_are_inputs_and_outputs_too(room):
    """cuchar eval run - --per-char fox.txt < fox.txt; cuchar export run - >> run/last.safetensors"""
    before = contents(room)
    with open("texts/fox.txt", "rb") as text:
        process = start("eval", "run", "-", "--per-char", "texts/fox.txt", stdin=text)
        assert OTHER_USE.encode() + b"-\n" in process.communicate(timeout=30)[1] and process.returncode == 1
    with open("run/last.safetensors", "ab") as checkpoint:
        process = start("export", "run", "-", stdout=checkpoint)
        assert f"{OTHER_USE}run/last.safetensors\n" in process.communicate(timeout=30)[1].decode()
    assert contents(room) == before


def test_a_checkpoint_that_is_in_no_run_shares_its_folder(room, cli):
    (room / "last.safetensors").write_bytes((room / "run/last.safetensors").read_bytes())
    assert cli("export", "last.safetensors", "best.safetensors").status == 0
    assert len(load_file("best.safetensors")) == 10


# --- links, pipes, devices


def test_links_stay_links(room, cli):
    (room / "old.tsv").write_text("old")
    (room / "to_old").symlink_to("old.tsv")
    (room / "to_new").symlink_to("texts/new.tsv")
    for name, target in (("to_old", "old.tsv"), ("to_new", "texts/new.tsv")):
        assert cli("eval", "run", "link", "--per-char", name).status == 0
        assert (room / name).is_symlink() and (room / target).read_text().count("\n") == 200


def test_pipes_and_devices_are_written_through(room, cli):
    os.mkfifo("fifo")
    read = []
    reader = threading.Thread(target=lambda: read.append((room / "fifo").read_bytes()), daemon=True)
    reader.start()
    assert cli("export", "run", "fifo").status == 0
    reader.join(10)
    assert cli("export", "run", "file").status == 0
    assert read == [(room / "file").read_bytes()] and (room / "fifo").is_fifo()
    (room / "short").write_text("the")
    master, slave = os.openpty()
    assert cli("eval", "run", "short", "--per-char", os.ttyname(slave)).status == 0
    shown = b""
    while shown.count(b"\n") < 3:  # a terminal hands on what is written in pieces
        shown += os.read(master, 1000)
    header, *rows = shown.split(b"\r\n")
    assert header.startswith(b"position\tcharacter\tnats")
    assert [row[:6] for row in rows] == [b'1\t"h"\t', b'2\t"e"\t', b""]
    os.close(slave)
    os.close(master)


def test_a_descriptor_that_cannot_be_written(room, fails):
    with open("link", "rb") as read_only:
        name = f"/dev/fd/{read_only.fileno()}"
        error = fails(1, "export", "run", name)
    assert re.fullmatch(rf"cuchar: {name}: expected to write [\d,]+ bytes, found: Bad file descriptor\n", error)


def test_process_substitution(room):
    """cuchar eval run TEXT --per-char >(cat > rows), and the same with a reader that stops after a line"""
    for command in ("cat > rows", "head -1 > row"):
        reader = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE)
        end = reader.stdin.fileno()
        process = start("eval", "run", "link", "--per-char", f"/dev/fd/{end}", pass_fds=[end])
        reader.stdin.close()
        output, error = process.communicate(timeout=30)
        assert process.returncode == 0 and output.startswith(b"nats per character") and error == b""
        reader.wait(10)
    assert (room / "rows").read_text().count("\n") == 200
    assert (room / "row").read_text() == "position\tcharacter\tnats\tfile\n"


@pytest.mark.parametrize("name", ["stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_by_name_stays_where_it_was_sent(room, name):
    """cuchar eval run TEXT --per-char /dev/stdout > file, or by a link such as `stdout`: the file is added to."""
    with open("file", "wb") as file:
        file.write(b"before\n")
        file.flush()
        assert start("eval", "run", "link", "--json", "--per-char", name, stdout=file).wait(30) == 0
    lines = (room / "file").read_text().splitlines()
    assert lines[:2] == ["before", "position\tcharacter\tnats\tfile"] and len(lines) == 1 + 200 + 1
    assert json.loads(lines[-1])["chars"] == 199


def test_another_open_descriptor_is_written_where_it_stands(room):
    """exec 5> file; cuchar export run /dev/fd/5"""
    with open("file", "wb") as file:
        file.write(b"before")
        file.flush()
        five = file.fileno()
        assert start("export", "run", f"/dev/fd/{five}", pass_fds=[five]).wait(30) == 0
        file.write(b"after")
    data = (room / "file").read_bytes()
    assert data.startswith(b"before") and data.endswith(b"after") and len(load(data[6:-5])) == 10


def test_minus_is_standard_output(room, cli):
    assert cli("export", "run", "file").status == 0
    done = cli("export", "run", "-")
    assert done.stdout == (room / "file").read_bytes() and done.stderr == "wrote -\n" and not (room / "-").exists()
    assert cli("eval", "run", "link", "--per-char", "rows").stdout == (score := cli("eval", "run", "link").stdout)
    done = cli("eval", "run", "link", "--per-char", "-")
    assert done.stdout == (room / "rows").read_bytes() and done.stderr.encode() == score
    assert json.loads(cli("eval", "run", "link", "--per-char", "-", "--json").stderr)["chars"] == 199


def test_bytes_are_not_for_a_terminal(room, fails, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert "OUT -: expected a file or a pipe, found a terminal" in fails(1, "export", "run", "-")


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write_file(file, b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_a_result_in_pieces_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "file"

    def pieces(fails):
        yield b"one,"
        yield b"two"
        if fails:
            raise ValueError

    files.write_output(file, pieces(fails=False))
    with pytest.raises(ValueError):
        files.write_output(file, pieces(fails=True))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"one,two")]

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        OutputError, match=r"file: expected to write 7 bytes, found: No space left on device; file there"
    ):
        files.write_output(file, pieces(fails=False))


# --- texts on standard input


def test_minus_is_standard_input(room, cli, stdin):
    score = cli("eval", "run", "link").stdout
    stdin(TEXT[:200])
    assert cli("eval", "run", "-").stdout == score
    sample = ("sample", "run", "--seed", 1, "--length", 20)
    stdin("the ")
    assert cli(*sample, "--prime-file", "-").stdout == cli(*sample, "--prime", "the ").stdout
    stdin(TEXT)
    assert cli("train", "-", *SMALL, "--val", "link").status == 0
    (run,) = (room / "runs").iterdir()
    assert run.name.startswith("stdin-") and json.loads((run / "config.json").read_text())["texts"] == ["-"]
    (room / "whole.txt").write_text(TEXT)
    assert cli("train", "whole.txt", *SMALL, "--val", "link", "--out", "named").status == 0
    flats = [read_checkpoint(folder).parameters.flat.tobytes() for folder in (run, room / "named")]
    assert flats[0] == flats[1]


def test_minus_twice(room, cli, fails, stdin):
    twice = "-: expected standard input to be named once, found it twice"
    stdin(TEXT)
    assert twice in fails(1, "eval", "run", "-", "-")
    stdin(TEXT)
    assert twice in fails(1, "train", "-", *SMALL, "--val", "-")
    assert not (room / "runs").exists()


def test_a_run_from_standard_input_asks_for_its_text_again(room, cli, fails, stdin):
    (room / "whole.txt").write_text(TEXT)
    stdin(TEXT)
    assert cli("train", "-", *SMALL, "--out", "a").status == 0
    line = fails(1, "train", "--resume", "a", "--max-steps", 5)
    assert "TEXT: expected it again, as a file or as -, because it came from standard input, found none" in line
    stdin(TEXT)
    assert cli("train", "-", "--resume", "a", "--max-steps", 5).status == 0
    assert cli("train", "whole.txt", "--resume", "a", "--max-steps", 6).status == 0
    assert cli("train", "--resume", "a", "--max-steps", 7).status == 0  # it knows the file from now on
    stdin(TEXT)
    assert cli("train", "whole.txt", "--val", "-", *SMALL, "--out", "b").status == 0
    assert "--val: expected it again" in fails(1, "train", "--resume", "b", "--max-steps", 5)
    assert cli("train", "--resume", "b", "--val", "whole.txt", "--max-steps", 5).status == 0
    stdin(TEXT[1:])
    assert "expected the run's text" in fails(1, "train", "-", "--resume", "a", "--max-steps", 9)


def test_no_output_replaces_a_file_of_any_run(room, fails):
    shutil.copytree(room / "run", room / "other")
    before = contents(room)
    for name in ("last.safetensors", "metrics.jsonl", "config.json"):
        assert OTHER_USE in fails(1, "export", "run", f"other/{name}")
        assert OTHER_USE in fails(1, "eval", "run", "link", "--per-char", f"other/{name}")
    assert contents(room) == before


def test_who_may_read_a_file_stays_the_same_when_it_is_replaced(room, cli):
    (room / "out").write_text("")
    (room / "out").chmod(0o600)
    assert cli("eval", "run", "link", "--per-char", "out").status == 0
    assert (room / "out").stat().st_mode & 0o777 == 0o600 and (room / "out").stat().st_size > 0


def test_a_run_that_lies_among_its_texts_reads_none_of_its_own_files(room, fails, cli):
    assert cli("train", "texts", *SMALL, "--out", "texts/run").status == 0
    assert cli("train", "--resume", "texts/run", "--max-steps", 5).status == 0
    assert json.loads((room / "texts/run/config.json").read_text())["characters"] == 200
    before = contents(room)
    (room / "texts/metrics.jsonl").write_text(TEXT)
    assert "found a run in it (metrics.jsonl)" in fails(1, "train", "texts/metrics.jsonl", *SMALL, "--out", "texts")
    (room / "texts/metrics.jsonl").unlink()
    assert contents(room) == before


# --- bench


def test_results_of_one_day_stay(tmp_path):
    result = {"device": "A CPU", "date": "2026-11-25T01:02:03+00:00"}
    names = [write_results(tmp_path, {**result, "number": number}).name for number in range(3)]
    assert names == ["a-cpu-2026-11-25.json", "a-cpu-2026-11-25.2.json", "a-cpu-2026-11-25.3.json"]
    assert [json.loads((tmp_path / name).read_text())["number"] for name in names] == [0, 1, 2]


def test_a_plot_is_not_drawn_over_the_results_it_compares_with(room, fails):
    shutil.copy("texts/fox.txt", "old.png")
    assert OTHER_USE in fails(1, "bench", "--compare", "old.png", "--plot", "old.png")
    assert (room / "old.png").read_text() == TEXT[:200]


# --- from Python


def test_a_model_writes_over_nothing_that_it_or_a_run_keeps(room):
    model = cuchar.load("run")
    shutil.copy("run/last.safetensors", "alone.safetensors")
    alone, before = cuchar.load("alone.safetensors"), contents(room)
    for write, name in (
        (lambda: model.export(model.file), "path run/last.safetensors"),
        (lambda: model.export("run/metrics.jsonl", "json"), "path run/metrics.jsonl"),
        (lambda: model.export("link", "web", text="texts/fox.txt"), "path link"),
        (lambda: alone.export(room / "alone.safetensors"), f"path {room}/alone.safetensors"),
        (lambda: model.look(TEXT, model.file), "page run/last.safetensors"),
        (lambda: alone.look(TEXT, "run/config.json"), "page run/config.json"),
    ):
        with pytest.raises(cuchar.CucharError, match=f"^{name}: {OTHER_USE}"):
            write()
    assert contents(room) == before
    (room / "alone.safetensors").unlink()
    alone.export("again.safetensors")  # what was loaded is still there
    assert len(load_file("again.safetensors")) == 10
