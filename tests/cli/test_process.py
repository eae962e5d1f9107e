"""What can only be seen of a process: signals, pipes, full disks, how long it takes to start."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
from support.process import environment, start

from cuchar.checkpoint import read_checkpoint


def wait_for_line(run, count=1):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    raise AssertionError("no metrics within 30 s")


@pytest.mark.parametrize("signum,status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("carry", [[], ["--carry-state"]])
def test_signals_save_and_the_resumed_run_is_the_whole_one(text, tmp_path, signum, status, carry):
    options = "--hidden 16 --window 8 --batch 4 --epochs 30 --log-every 10 --sample-every 50 --sample-length 20".split()
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert start("train", text, *options, *carry, "--out", whole).wait(60) == 0
    process = start("train", text, *options, *carry, "--out", run)
    wait_for_line(run)
    process.send_signal(signum)
    stderr = process.communicate(timeout=30)[1].decode()
    assert process.returncode == status
    assert f"cuchar: stopped by {signum.name}; what was done is saved" in stderr and "Traceback" not in stderr
    assert f"; to go on: cuchar train --resume {run}\n" in stderr
    stopped = read_checkpoint(run).run["position"]["step"]
    assert 10 <= stopped < read_checkpoint(whole).run["position"]["step"]
    assert start("train", "--resume", run).wait(60) == 0
    first, second = read_checkpoint(whole), read_checkpoint(run)
    assert first.parameters.flat.tobytes() == second.parameters.flat.tobytes()
    assert first.adam.v.tobytes() == second.adam.v.tobytes() and first.state.c.tobytes() == second.state.c.tobytes()
    assert (whole / "samples.txt").read_bytes() == (run / "samples.txt").read_bytes()

    def lines(folder):
        read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{**line, "chars_per_s": 0, "elapsed_s": 0} for line in read]

    assert lines(whole) == lines(run)


def test_a_hangup_that_nohup_ignores_ends_nothing(text, tmp_path):
    options = "--hidden 16 --window 8 --batch 4 --epochs 30 --log-every 10".split()
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = start("train", text, *options, "--out", tmp_path / "run", **ignoring)
    wait_for_line(tmp_path / "run")
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 0 and read_checkpoint(tmp_path / "run").run["position"]["epoch"] == 30


def test_second_interrupt_ends_at_once(text, tmp_path):
    """The first interrupt waits for a sample that takes minutes."""
    options = "--batch 4 --window 8 --sample-every 2 --sample-length 10000000 --log-every 1".split()
    process = start("train", text, *options, "--out", tmp_path / "run")
    wait_for_line(tmp_path / "run", 2)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    process.communicate()
    assert not (tmp_path / "run/last.safetensors").exists()


def test_killed_run_frees_its_folder_and_starts_again(text, tmp_path):
    run = tmp_path / "run"
    options = "--hidden 16 --window 8 --batch 4 --epochs 100000 --log-every 10 --save-every 100000".split()
    process = start("train", text, *options, "--out", run)
    wait_for_line(run)
    second = start("train", "--resume", run)
    assert b"found another training at work" in second.communicate(timeout=30)[1] and second.returncode == 1
    process.kill()
    process.communicate()
    for checkpoint in run.glob("*.safetensors"):  # one may have been saved at an epoch's end
        checkpoint.unlink()
    done = start("train", "--resume", run, "--max-steps", 15)
    assert b"starting again" in done.communicate(timeout=30)[1] and done.returncode == 0
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [10, 15]


def test_sampling_streams_and_ctrl_c_ends_it_cleanly(trained):
    process = start("sample", trained, "--length", 0, "--seed", 1)
    assert len(process.stdout.read(100)) == 100  # comes while it still runs
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=10)[1] == b"" and process.returncode == 130


def test_after_ctrl_c_the_shells_prompt_has_a_line_of_its_own(trained):
    master, slave = os.openpty()
    process = start("sample", trained, "--length", 0, "--seed", 1, stderr=slave)
    os.close(slave)
    assert len(process.stdout.read(100)) == 100
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130 and os.read(master, 100) == b"\r\n"
    os.close(master)


@pytest.mark.parametrize("command", ["sample", "train"])
def test_closed_pipe_ends_cleanly(trained, text, tmp_path, command):
    options = "--hidden 8 --sample-every 1 --batch 4 --window 8 --out".split()
    arguments = {
        "sample": [trained, "--length", 0, "--seed", 1],
        "train": [text, *options, tmp_path / "run"],
    }[command]
    process = start(command, *arguments)
    process.stdout.read(10)
    process.stdout.close()
    stderr = process.stderr.read()
    assert process.wait(30) == 0
    assert b"Traceback" not in stderr and b"Exception ignored" not in stderr
    if command == "train":  # nothing is lost: it goes on, with its samples in the folder
        assert stderr.count(b"nobody reads standard output any more") == 1
        assert (tmp_path / "run/samples.txt").read_bytes().endswith(b"\n\n")
        assert read_checkpoint(tmp_path / "run").run["position"]["epoch"] == 4


def test_full_disk_is_one_line_and_keeps_the_checkpoint(text, tmp_path):
    """A limit on file size stands in for the disk: config.json fits, the larger checkpoint does not."""
    run = tmp_path / "run"
    options = "--hidden 16 --window 8 --batch 4 --max-steps 40 --save-every 10 --sample-every 0".split()
    assert start("train", text, *options, "--out", run).wait(30) == 0
    before = (run / "last.safetensors").read_bytes()

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))

    process = start("train", "--resume", run, "--max-steps", 80, preexec_fn=limit)
    stderr = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 1 and "Traceback" not in stderr
    assert re.search(r"cuchar: .*last\.safetensors: expected to write [\d,]+ bytes, found: File too large", stderr)
    assert (run / "last.safetensors").read_bytes() == before
    assert not list(run.glob(".*"))
    fresh = start("train", text, *options, "--out", tmp_path / "fresh", preexec_fn=limit)
    assert b"File too large" in fresh.communicate(timeout=30)[1] and fresh.returncode == 1


@pytest.mark.parametrize("words", ["--help", "info", "info RUN", "eval RUN TEXT --json", "export RUN -"])
def test_reports_into_a_closed_pipe_end_cleanly(trained, text, words):
    reading, writing = os.pipe()
    os.close(reading)
    process = start(*({"RUN": trained, "TEXT": text}.get(word, word) for word in words.split()), stdout=writing)
    os.close(writing)
    assert process.communicate(timeout=30)[1] == b"" and process.returncode == 0


@pytest.mark.parametrize("command", ["sample", "eval"])
def test_full_standard_output_is_one_line(trained, text, command):
    options = ["--length", 10, "--seed", 1] if command == "sample" else [text]
    with open("/dev/full", "wb") as full:
        process = start(command, trained, *options, stdout=full)
        stderr = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 1
    assert stderr.splitlines() == ["cuchar: standard output: expected to read or write, found: No space left on device"]


def test_help_is_quick_and_import_takes_no_cupy():
    def seconds(*code):
        """The least of five runs, in processors' time, since other tests may be running beside this one."""
        taken = []
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *code], check=True, capture_output=True, env=environment())
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return min(taken)

    assert seconds("-m", "cuchar", "--help") < 0.4
    assert seconds("-c", "import cuchar") < 0.15
    loaded = "import cuchar, sys; assert not {'numpy', 'cupy', 'rich', 'typer', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True, env=environment())
    loaded = "import cuchar.cli.main, sys; assert not {'numpy', 'cupy', 'rich', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True, env=environment())


def test_version_is_the_packages():
    from importlib.metadata import version

    import cuchar

    assert cuchar.__version__ == version("cuchar")


def test_a_program_that_trains_is_stopped_by_ctrl_c_after_a_save(text, tmp_path):
    """Interrupted is a KeyboardInterrupt: `except Exception` does not catch it, but a program can, by its name."""
    run = tmp_path / "run"
    program = f"""
import cuchar
try:
    try:
        cuchar.train({str(text)!r}, out={str(run)!r}, hidden=16, window=8, batch=4, epochs=1000, log_every=10)
    except Exception:
        print("an error")
except cuchar.Interrupted as interrupted:
    print(interrupted, interrupted.exit_status, issubclass(cuchar.Interrupted, KeyboardInterrupt))
"""
    process = subprocess.Popen([sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE, text=True)
    wait_for_line(run)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "SIGINT 130 True\n"
    assert read_checkpoint(run).run["position"]["step"] >= 10


def test_api_trains_samples_and_scores(text, tmp_path, monkeypatch):
    import cuchar

    monkeypatch.chdir(tmp_path)
    model = cuchar.train(text, hidden=16, window=8, batch=4, epochs=6, lr=0.02, sample_every=0)
    assert model.score("the quick brown fox").nats_per_char < 2.5
    assert len(model.sample(25, seed=1)) == 25
    (run,) = (tmp_path / "runs").iterdir()
    assert cuchar.load(run).sample(25, seed=1) == model.sample(25, seed=1)
    with pytest.raises(cuchar.CucharError, match=r"^hidden: expected from 1"):
        cuchar.train(text, hidden=0)
