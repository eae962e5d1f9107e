"""`cuchar corpus` on the command line."""

import json
import signal

import pytest
from support.process import ROOT, start
from support.small_runs import TEXT


def test_people_read_lines(cli, text):
    shown = cli("corpus", text)
    assert (shown.status, shown.stderr) == (0, "")
    lines = shown.stdout.decode().splitlines()
    assert lines[:3] == [
        f"text           {text}",
        "size           1,760 bytes, 1,760 characters, 1 file",
        "distinct       28 characters",
    ]
    assert lines[3].startswith("most frequent  ' ' ")
    header = lines.index("context  bits per character  nats")
    assert "n-grams counted in 1,584 characters and scored on the text's last 176" in lines[header - 1]
    assert [line.split()[0] for line in lines[header + 1 : header + 8]] == ["none", *"012345"]
    assert lines[header + 1].split()[1:] == ["4.8074", "3.3322"]  # log2 28 and ln 28


def test_programs_read_json(cli, fails, text, tmp_path):
    (tmp_path / "not.txt").write_bytes(b"\xff")
    assert "not.txt:1:1: expected UTF-8" in fails(1, "corpus", text, tmp_path / "not.txt")
    shown = cli("corpus", tmp_path, "--glob", "*.txt", "--skip-unreadable", "--json")
    found = json.loads(shown.stdout)
    assert shown.stderr.endswith("left out 1 of 2 files\n") and len(found["left_out"]) == 1
    assert found["files"] == [str(text)] and (found["bytes"], found["characters"]) == (1760, 1760)
    assert sum(row["count"] for row in found["distinct"]) == 1760 and len(found["distinct"]) == 28
    assert {row["code"]: row["first"] for row in found["distinct"]}[ord(TEXT[0])] == f"{text}:1:1"
    assert len(found["entropies"]["bits"]) == 6 and found["lines"]["lf"] == TEXT.count("\n")
    assert [finding["name"] for finding in found["findings"]] == [] or found["findings"][0]["advice"]


def test_options_say_how_a_text_is_read(cli, fails, tmp_path):
    file = tmp_path / "latin"
    file.write_bytes("é".encode("latin-1") * 50 + b"\n" * 50)
    assert "--encoding latin-1" in fails(1, "corpus", file)
    assert b"\xc3\xa9 U+00E9 50.0 %" in cli("corpus", file, "--encoding", "latin-1").stdout
    shown = cli("corpus", file, "--bytes").stdout.decode()
    assert "0xe9 50.0 %" in shown and "bits per byte" in shown
    assert "--encoding: expected utf-8 | latin-1, found ascii" in fails(2, "corpus", file, "--encoding", "ascii")
    assert "--normalize nfc: expected it or --bytes, found both" in fails(
        2, "corpus", file, "--bytes", "--normalize", "nfc"
    )
    file.write_text("e\u0301" * 100)
    assert "size           300 bytes, 100 characters" in cli("corpus", file, "--normalize", "nfc").stdout.decode()


def test_a_text_without_long_lines_has_no_place_of_one(cli, tmp_path):
    for text, lines in (("\n\n\n", 3), ("\r", 0)):
        (tmp_path / "a").write_text(text, newline="")
        shown = cli("corpus", tmp_path / "a").stdout.decode()
        assert f"lines          {lines}; half of them have at most 0 characters, the longest 0\n" in shown


def test_standard_input_twice_is_no_file_to_leave_out(fails):
    expected = "cuchar: -: expected standard input to be named once, found it twice\n"
    assert fails(1, "corpus", "-", "-") == fails(1, "corpus", "-", "-", "--skip-unreadable") == expected


def test_hostile_texts_and_names_are_escaped(cli, tmp_path):
    file = tmp_path / "\x1b[2J\u202e"
    file.write_text("\x1b]0;title\x07\u202e\u0301 text\n" * 9)
    shown = cli("corpus", file).stdout.decode()
    assert not set(shown) & {"\x1b", "\x07", "\u202e", "\u0301"} and "\\x1b[2J\\u202e" in shown
    assert "U+0301" in shown and "'\\x1b'" in shown


@pytest.mark.parametrize("command", ["corpus", "eval"])
def test_ctrl_c_ends_it_without_a_word(command, trained, tmp_path):
    file = tmp_path / "endless"
    with file.open("wb") as endless:
        endless.truncate(20 << 30)  # zeros, of which the file system stores none
    options = ["--unknown", "skip"] if command == "eval" else []
    process = start(command, *([trained] if command == "eval" else []), file, *options)
    with pytest.raises(Exception, match="timed out"):
        process.communicate(timeout=2)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == (b"", b"") and process.returncode == 130


def test_the_tutorial_shows_what_is_printed(cli, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = cli("corpus", "data/shakespeare.txt").stdout.decode()
    assert printed.strip() in (ROOT / "docs/tutorial.md").read_text("utf-8")
