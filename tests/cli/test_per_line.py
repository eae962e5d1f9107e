"""cuchar eval --per-line: objects, anomalies, exit statuses, and a pipe that never ends."""

import json
import select
import signal

import pytest
from support.checkpoints import made
from support.process import start

import cuchar
from cuchar.checkpoint import write_checkpoint

NORMAL = "the quick brown fox jumps over the lazy dog\n"
ODD = "the quick ÉÖ brown\n"


@pytest.fixture
def logs(tmp_path):
    (tmp_path / "clean.log").write_text(NORMAL * 20)
    (tmp_path / "new.log").write_text(NORMAL + ODD + NORMAL)
    return tmp_path


def objects(printed: bytes):
    return [json.loads(line) for line in printed.splitlines()]


def test_a_json_object_for_each_line(cli, trained, logs):
    result = cli("eval", trained, logs, "--glob", "*.log", "--per-line")
    assert (result.status, result.stderr) == (0, "")
    found = objects(result.stdout)
    files = [("clean.log", at) for at in range(1, 21)] + [("new.log", 1), ("new.log", 2), ("new.log", 3)]
    assert [(one["file"], one["line"]) for one in found] == [(str(logs / name), at) for name, at in files]
    (score,) = cuchar.load(trained).score_lines([ODD])
    del found[21]["file"]
    assert found[21] == {
        "line": 2, "text": "the quick ÉÖ brown", "length": 18,
        "bits": round(score.bits, 4), "bits_per_char": round(score.bits / 19, 4),
        "most_surprising": [
            {"position": 10, "character": "É", "bits": 20.0875},
            {"position": 11, "character": "Ö", "bits": 20.0875},
            {
                "position": score.most_surprising[2].position, "character": score.most_surprising[2].character,
                "bits": round(score.most_surprising[2].bits, 4),
            },
        ],
    }  # fmt: skip


def test_anomalies_are_marked_and_give_the_exit_status(cli, trained, logs):
    calibrated = cli("eval", trained, logs / "new.log", "--per-line", "--calibrate", logs / "clean.log")
    assert calibrated.status == 3
    assert [one["anomaly"] for one in objects(calibrated.stdout)] == [False, True, False]
    words = calibrated.stderr.split()
    assert words[0] == "--threshold" and "the quantile 0.999 of the 20 lines of" in calibrated.stderr
    typed = cli("eval", trained, logs / "new.log", "--per-line", "--threshold", words[1].rstrip(":"))
    assert (typed.status, typed.stdout, typed.stderr) == (3, calibrated.stdout, "")
    clean = cli("eval", trained, logs / "clean.log", "--per-line", "--threshold", words[1].rstrip(":"))
    assert clean.status == 0 and not any(one["anomaly"] for one in objects(clean.stdout))
    (logs / "both.log").write_text(NORMAL * 9 + ODD)
    for quantile, anomalies in ((0.9, 1), (1, 0)):
        options = ["--calibrate", logs / "both.log", "--quantile", quantile]
        found = objects(cli("eval", trained, logs / "both.log", "--per-line", *options).stdout)
        assert sum(one["anomaly"] for one in found) == anomalies


def test_a_score_that_is_not_finite_is_an_anomaly(cli, tmp_path, logs):
    checkpoint = made("".join(sorted(set(NORMAL))))
    checkpoint.parameters.flat[:] = 3e38
    write_checkpoint(tmp_path / "made.safetensors", checkpoint)
    result = cli("eval", tmp_path / "made.safetensors", logs / "clean.log", "--per-line", "--threshold", 5)
    assert result.status == 3
    assert {(one["bits"], one["anomaly"]) for one in objects(result.stdout)} == {(None, True)}


@pytest.mark.parametrize(
    "options,expected",
    [
        ("--per-line --window 8", "--window: expected it or --per-line, found both"),
        ("--per-line --json", "--json: expected it or --per-line, found both"),
        ("--per-line --unknown skip", "--unknown: expected it or --per-line, found both"),
        ("--per-line --unknown error", "--unknown: expected it or --per-line, found both"),
        ("--per-line --tune LOG", "--tune: expected it or --per-line, found both"),
        ("--per-line --save", "--save: expected it or --per-line, found both"),
        ("--threshold 2", "--threshold: expected --per-line with it, found none"),
        ("--calibrate LOG", "--calibrate: expected --per-line with it, found none"),
        ("--per-line --quantile 0.5", "--quantile: expected --calibrate with it, found none"),
        ("--per-line --calibrate LOG --threshold 2", "--calibrate: expected it or --threshold, found both"),
        ("--per-line --calibrate LOG --quantile 2", "--quantile: expected from 0 to 1, found 2.0"),
        ("--per-line --threshold nan", "--threshold: expected a finite number, found nan"),
    ],
)
def test_options_that_do_not_go_together(fails, trained, logs, options, expected):
    words = [logs / "new.log" if word == "LOG" else word for word in options.split()]
    assert fails(2, "eval", trained, logs / "new.log", *words) == f"cuchar: {expected}\n"


def test_standard_input_is_not_read_twice(fails, trained):
    error = fails(1, "eval", trained, "-", "--per-line", "--calibrate", "-")
    assert error == "cuchar: -: expected standard input to be named once, found it twice\n"


def test_a_line_of_an_endless_pipe_is_scored_as_soon_as_it_is_complete(trained):
    """tail -f log | cuchar eval RUN - --per-line"""
    process = start("eval", trained, "-", "--per-line", "--threshold", 5, stdin=-1, bufsize=0)
    for number, line in enumerate([NORMAL, ODD, NORMAL], 1):
        process.stdin.write(line.encode()[:9])
        if number > 1:
            assert not select.select([process.stdout], [], [], 0.1)[0]  # the line has no end yet
        process.stdin.write(line.encode()[9:])
        found = json.loads(process.stdout.readline())
        assert (found["file"], found["line"], f"{found['text']}\n") == ("-", number, line)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10) == (b"", b"") and process.returncode == 130


def test_a_closed_pipe_ends_it_quietly(trained, logs):
    process = start("eval", trained, "-", "--per-line", stdin=-1)
    process.stdin.write(NORMAL.encode())
    process.stdin.flush()
    process.stdout.readline()
    process.stdout.close()
    process.stdin.write(NORMAL.encode())
    process.stdin.flush()
    assert process.wait(10) == 0 and process.stderr.read() == b""
