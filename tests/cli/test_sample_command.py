"""`cuchar sample`: options, JSON, lines of a file, beam search, temperatures, a session in a terminal, and mistakes."""

import json
import re
import signal
import subprocess

import pexpect
import pytest
from support.checkpoints import made
from support.process import CUCHAR, environment, start

import cuchar
from cuchar.checkpoint import write_checkpoint
from cuchar.vocabulary import Vocabulary

LINES = "the q\n\nfox jumps\nlazy"


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text(LINES)
    return path


@pytest.fixture
def sampled(cli, trained):
    """Sample with the seed 1, unless there is another, and give what was written."""

    def run(*options):
        result = cli("sample", trained, "--seed", 1, *options)  # of two seeds the last one counts
        assert (result.status, result.stderr) == (0, "")
        return result.stdout.decode()

    return run


def objects(text):
    return [json.loads(line) for line in text.splitlines()]


def test_short_names(sampled):
    short = sampled("-n", 30, "--temp", 0.5, "-p", "the ")
    assert short == sampled("--length", 30, "--temperature", 0.5, "--prime", "the ") != sampled("-n", 30, "-p", "the ")


def test_samples_as_json(sampled, trained):
    options = ("-n", 30, "-p", "the ", "--count", 3, "--temp", 1.5)
    found = objects(sampled(*options, "--json"))
    assert "\n\n".join(one["prime"] + one["text"] for one in found) + "\n" == sampled(*options)
    model = cuchar.load(trained)
    for number, one in enumerate(found):
        assert list(one) == ["seed", "number", "prime", "text", "log_probability"]
        assert (one["seed"], one["number"], one["prime"]) == (1, number, "the ")
        losses = model.score("the " + one["text"]).per_char[4:]
        assert one["log_probability"] == pytest.approx(-losses.sum(), rel=1e-12)


def test_bytes_as_json(cli, tmp_path):
    """What is not UTF-8 is replaced, and nothing but ASCII is written."""
    text = tmp_path / "text.bin"
    text.write_bytes("é€".encode() * 50)
    options = "--bytes --hidden 4 --layers 1 --window 6 --batch 2 --max-steps 2 --sample-every 0 --out".split()
    assert cli("train", text, *options, tmp_path / "run").status == 0
    arguments = ("sample", tmp_path / "run", "--seed", 1, "-n", 40, "-p", "é")
    written, result = cli(*arguments).stdout, cli(*arguments, "--json").stdout
    (one,) = objects(result.decode("ascii"))
    assert one["prime"] == "é" and "\ufffd" in one["text"]
    assert one["prime"] + one["text"] + "\n" == written.decode("utf-8", "replace")


def test_lines_are_completed(sampled, lines, cli, trained):
    """Each to its line's end, an empty one not at all, and each as if it were alone."""
    done = sampled("--complete", lines).split("\n")
    assert len(done) == 5 and done[1] == done[4] == ""
    assert all(whole.startswith(line) for whole, line in zip(done, LINES.split("\n"), strict=False))
    for number in (0, 2, 3):
        alone = objects(sampled("-p", LINES.split("\n")[number], "--stop", "\n", "--count", number + 1, "--json"))[-1]
        assert done[number] == alone["prime"] + alone["text"].removesuffix("\n")
    found = objects(sampled("--complete", lines, "--json"))
    assert [one["prime"] + one["text"].removesuffix("\n") for one in found] == done[:4]
    assert [one["number"] for one in found] == [0, 1, 2, 3] and found[1]["log_probability"] == 0
    assert all(
        len(one["text"]) == 7
        for one in objects(sampled("--complete", lines, "--json", "-n", 7, "--stop", ""))
        if one["prime"]
    )
    assert all("e" not in one["text"][:-1] for one in objects(sampled("--complete", lines, "--json", "--stop", "e")))
    piped = subprocess.run([*CUCHAR, "sample", trained, "--complete", "-", "--seed", "1"], input=LINES.encode(), capture_output=True, env=environment())  # fmt: skip
    assert piped.stdout.decode().split("\n") == done and piped.stderr == b""


def test_lines_of_a_model_without_line_ends(cli, tmp_path):
    (tmp_path / "text.txt").write_text("abc" * 50)
    options = "--hidden 4 --layers 1 --window 6 --batch 2 --max-steps 2 --sample-every 0 --out".split()
    assert cli("train", tmp_path / "text.txt", *options, tmp_path / "run").status == 0
    (tmp_path / "lines.txt").write_text("ab\nc\n")
    result = cli("sample", tmp_path / "run", "--complete", tmp_path / "lines.txt", "-n", 5, "--seed", 1)
    assert re.fullmatch(rb"ab[abc]{5}\nc[abc]{5}\n", result.stdout)
    checkpoint = made("ab\ufffd")  # where the unknown symbol stands for a newline
    checkpoint.vocabulary = Vocabulary(checkpoint.vocabulary.codes, has_unknown=True)
    write_checkpoint(tmp_path / "made.safetensors", checkpoint)
    result = cli("sample", tmp_path / "made.safetensors", "--complete", tmp_path / "lines.txt", "-n", 50, "--seed", 1)
    assert [len(line) for line in result.stdout.decode().splitlines()] == [52, 51]


def test_beam(cli, trained):
    found = cuchar.load(trained).beam("the ", 30, width=6)
    arguments = ("sample", trained, "--beam", 6, "-n", 30, "-p", "the ")
    result = cli(*arguments)
    assert result.stdout.decode() == f"the {found.text}\n" and result.stderr == ""
    assert objects(cli(*arguments, "--json").stdout) == [
        {"prime": "the ", "text": found.text, "log_probability": found.log_probability}
    ]


def test_beam_goes_on_from_what_a_sample_goes_on_from(cli, tmp_path):
    """Once an unknown character is left out, an accent may follow a letter. The two are not composed again."""
    checkpoint = made("\neé\u0301", normalize="nfc")
    checkpoint.parameters.flat *= 20
    write_checkpoint(tmp_path / "made.safetensors", checkpoint)
    options = ("-p", "eX\u0301", "--unknown", "skip", "-n", 9)
    written = [cli("sample", tmp_path / "made.safetensors", *options, *how) for how in (["--beam", 1], ["--argmax"])]
    assert written[0].stdout == written[1].stdout != b""


def test_a_probability_that_is_no_number_is_null(cli, tmp_path):
    checkpoint = made("abcd")
    checkpoint.parameters["head.bias"][:] = [3e38, -3e38, 3e38, -3e38]
    write_checkpoint(tmp_path / "made.safetensors", checkpoint)
    result = cli("sample", tmp_path / "made.safetensors", "-p", "a", "-n", 20, "--temp", 1e300, "--seed", 1, "--json")
    assert json.loads(result.stdout, parse_constant=pytest.fail)["log_probability"] is None


def test_a_sweep_has_the_same_seed_at_each_temperature(sampled):
    options = ("-n", 30, "--count", 2)
    each = {temperature: sampled(*options, "--temp", temperature) for temperature in (0.2, 1.1)}
    assert each[0.2] != each[1.1]
    swept = sampled(*options, "--sweep-temperature", "0.2,1.1")
    assert swept == "".join(f"--- temperature {temperature} ---\n{text}\n" for temperature, text in each.items())
    found = objects(sampled(*options, "--sweep-temperature", "0.2,1.1", "--json"))
    alone = [
        {"temperature": temperature, **one}
        for temperature in each
        for one in objects(sampled(*options, "--temp", temperature, "--json"))
    ]
    assert found == alone


def test_what_does_not_go_together(fails, trained, lines):
    for words, expected in (
        ("--interactive --json", "--interactive: expected it or --json, found both"),
        ("--interactive -p a", "--interactive: expected it or --prime, found both"),
        ("--interactive --complete LINES", "--interactive: expected it or --complete, found both"),
        ("--complete LINES --prime-file b", "--complete: expected it or --prime-file, found both"),
        ("--complete LINES --count 2", "--complete: expected it or --count, found both"),
        ("--complete LINES --length 0 --stop=", "--complete: expected samples that end, by --length or --stop"),
        ("--beam 2 -p a --temp 2", "--beam: expected it or --temperature, found both"),
        ("--beam 2 -p a --argmax", "--beam: expected it or --argmax, found both"),
        ("--beam 2 -p a --stop x", "--beam: expected it or --stop, found both"),
        ("--beam 2 -p a --seed 1", "--beam: expected it or --seed, found both"),
        ("--beam 2 -p a -n 0", "--beam: expected a --length of at least 1 with it, found 0"),
        ("--beam 0 -p a", "--beam: expected from 1 to 4096, found 0"),
        ("--beam 2", "--beam: expected --prime or --prime-file with it, found none"),
        ("--sweep-temperature 1,2 --temp 2", "--sweep-temperature: expected it or --temperature, found both"),
        ("--sweep-temperature 1,2 --argmax", "--sweep-temperature: expected it or --argmax, found both"),
        ("--argmax --temp 0.5", "--argmax: expected it or --temperature, found both"),
        ("--argmax --min-p 0.5", "--argmax: expected it or --min-p, found both"),
        ("--sweep-temperature 1,x", "--sweep-temperature: expected numbers, with commas between them, found '1,x'"),
        ("--sweep-temperature 1,0", "--sweep-temperature: expected a number above 0 (argmax is its limit), found 0.0"),
        ("--sweep-temperature 1,2 -n 0", "--sweep-temperature: expected samples that end, by --length or --stop"),
        ("--json -n 0", "--json: expected samples that end, by --length or --stop"),
        ("-n many", ", found many"),
        ("--temp hot", ", found hot"),
    ):
        options = [lines if word == "LINES" else word for word in words.split()]
        assert expected in fails(2, "sample", trained, *options)
    lines.write_text("the\n\nfÉ")
    unknown = f"cuchar: {lines}:3:2: character 'É' (U+00C9) is not among the model's 28; --unknown skip"
    assert unknown in fails(1, "sample", trained, "--complete", lines)
    assert "no such file" in fails(1, "sample", trained, "--complete", lines.parent / "no")


# --- sessions


def test_a_session_in_a_pipe(trained, sampled):
    """An answer comes before the next prime is given. What cannot be a prime is one line, and takes no seed."""
    pipe = start("sample", trained, "--interactive", "-n", 30, "--seed", 1, stdin=subprocess.PIPE)
    for seed, prime in ((1, "the "), (2, ""), (3, "the ")):
        pipe.stdin.write(b"f\xff\n" + "fÉ\n".encode() + prime.encode() + b"\n")
        pipe.stdin.flush()
        expected = sampled("-n", 30, "-p", prime, "--seed", seed)
        assert pipe.stdout.read(len(expected)).decode() == expected
    output, error = pipe.communicate(timeout=30)
    assert (output, pipe.returncode) == (b"", 0)
    mistakes = ["text:1:2: expected UTF-8, found byte 0xff", "position 1: character 'É' (U+00C9) is not among"]
    expected = [f"line {first + place}: {mistakes[place]}" for first in (1, 4, 7) for place in (0, 1)]
    assert all(line.startswith(mistake) for line, mistake in zip(error.decode().splitlines(), expected, strict=True))


def test_a_session_in_a_terminal(trained, sampled):
    child = pexpect.spawn(
        CUCHAR[0], [*CUCHAR[1:], "sample", str(trained), "--interactive", "-n", "0", "--seed", "1"],
        timeout=30, encoding="utf-8", env={**environment(), "TERM": "dumb"},
    )  # fmt: skip
    child.expect_exact("Ctrl-C ends a sample, Ctrl-D the session\r\n> ")
    child.sendline("fÉ")
    child.expect_exact("position 1: character 'É' (U+00C9) is not among the model's 28; --unknown skip leaves such")
    child.expect_exact("> ")
    for seed in (1, 2):  # the first sample is endless, and Ctrl-C ends it; the second too
        child.sendline("the ")
        child.expect_exact("the ")  # what was typed
        child.expect_exact("\r\n")
        child.expect("(?s).{300}")
        expected = sampled("-n", 200, "-p", "the ", "--seed", seed)[:-1]
        assert child.match[0].replace("\r", "").startswith(expected)
        child.sendintr()
        child.expect_exact("> ")
    child.send("dropped")
    child.expect_exact("dropped")  # Python's readline misses a signal that comes while it takes in a key
    child.sendintr()
    child.expect_exact("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_ctrl_c_ends_a_session_in_a_pipe(trained):
    pipe = start("sample", trained, "--interactive", "-n", 0, "--seed", 1, stdin=subprocess.PIPE)
    pipe.stdin.write(b"the \n")
    pipe.stdin.flush()
    assert len(pipe.stdout.read(100)) == 100
    pipe.send_signal(signal.SIGINT)
    assert pipe.communicate(timeout=10)[1] == b"" and pipe.returncode == 130


def test_sample_options(cli, trained, tmp_path):
    def out(*options):
        result = cli("sample", trained, "--length", 30, "--seed", 1, *options)
        assert result.status == 0, result.stderr
        return result.stdout.decode()

    base = out()
    assert len(base) == 31 and base.endswith("\n") and out() == base
    assert out("--device", "cpu") == base
    assert out("--temperature", 3) != base and out("--law", "exp") != base and out("--repeat-penalty", 3) != base
    assert (
        out("--top-k", 1, "--prime", "the ")
        == out("--argmax", "--prime", "the ")
        == out("--top-p", 1e-9, "--prime", "the ")
        == out("--min-p", 1, "--prime", "the ")
    )
    assert out("--prime", "the ").startswith("the ") and len(out("--prime", "the ")) == 35
    prime = tmp_path / "prime.txt"
    prime.write_text("the ")
    assert out("--prime-file", prime) == out("--prime", "the ")
    assert out("--prime", "É", "--unknown", "skip") == base
    stopped = out("--stop", "e", "--length", 0)
    assert stopped.endswith("e\n") and stopped.count("e") == 1
    several = out("--count", 3).split("\n\n")
    joined = out("--count", 3)
    assert joined.startswith(base + "\n") and len(joined) == 3 * 30 + 2 * 2 + 1 and len(several) >= 3
    assert cli("sample", trained / "last.safetensors", "--length", 30, "--seed", 1).stdout.decode() == base


def test_sample_says_its_seed(cli, trained):
    first = cli("sample", trained, "--length", 40)
    seed = re.fullmatch(r"--seed (\d+)\n", first.stderr)[1]
    assert cli("sample", trained, "--length", 40, "--seed", seed).stdout == first.stdout


def test_sample_mistakes(fails, trained, tmp_path):
    for words, expected in (
        ("--temperature 0", "--temperature: expected a number above 0 (argmax is its limit), found 0"),
        ("--temperature nan", "--temperature: expected"),
        ("--length -1", "--length: expected at least 0"),
        ("--top-k -1", "--top-k: expected at least 0"),
        ("--top-p 0", "--top-p: expected above 0 and at most 1, found 0"),
        ("--top-p 1.1", "--top-p: expected"),
        ("--law cauchy", "--law: expected softmax | exp, found cauchy"),
        ("--count 0", "--count: expected at least 1"),
        ("--count 2 --length 0", "--count: expected samples that end, by --length or --stop, found the endless"),
        ("--seed -1", "--seed: expected from 0 to 9223372036854775807, found -1"),
        ("--unknown maybe", "--unknown: expected error | skip, found maybe"),
        ("--device tpu", "--device: expected auto | cpu | cuda | cuda:N | emulate, found tpu"),
        ("--prime a --prime-file b", "--prime: expected it or --prime-file"),
        ("--length many", "many"),
    ):
        assert expected in fails(2, "sample", trained, *words.split())
    unknown = "character 'É' (U+00C9) is not among the model's 28"
    assert f"--prime: position 1: {unknown}; --unknown skip" in fails(1, "sample", trained, "--prime", "tÉ")
    assert fails(1, "sample", trained, "--stop", "tÉ").endswith(f"--stop: position 1: {unknown}\n")
    prime = tmp_path / "prime.txt"
    prime.write_text("the\nfÉ")
    assert f"cuchar: {prime}:2:2: {unknown}; --unknown skip" in fails(1, "sample", trained, "--prime-file", prime)
    prime.write_bytes(b"the\nfox\xff")
    assert f"{prime}:2:4: expected UTF-8, found byte 0xff" in fails(1, "sample", trained, "--prime-file", prime)
    assert "expected a text file, found no such file" in fails(1, "sample", trained, "--prime-file", tmp_path / "no")
    assert "found nothing there" in fails(1, "sample", tmp_path / "no")
