"""`make gpu` without a GPU: a dry run of every stage, stops, failures, and what it says where there is no GPU."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from support.process import ROOT, environment

from cuchar.devices.kernel_sources import join, kernel_folder
from cuchar.devices.signatures import signatures

STAGES = ("compile", "tests", "parity", "sanitize", "speed", "run")
NO_GPU = {**environment(), "CUDA_VISIBLE_DEVICES": "-1"}
TIMED = {"times", "seconds", "ms", "us"}


def gpu(*arguments, env=NO_GPU, **options):
    command = [sys.executable, "tools/gpu.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def dry(tmp_path_factory, worker_id):
    """A whole dry run and its folder. It is made once for all processes that tests run in."""
    room = tmp_path_factory.getbasetemp()
    room = room if worker_id == "master" else room.parent
    folder, outcome = room / "dry", room / "dry.json"
    with open(room / "dry.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not outcome.exists():
            done = gpu("--dry-run", "--out", folder)
            outcome.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
    return subprocess.CompletedProcess("make gpu", *json.loads(outcome.read_text())), folder


def stage_of(folder, stage):
    return json.loads((folder / f"{stage}.json").read_text())


def keys(value):
    if isinstance(value, dict):
        return set(value) | set().union(*map(keys, value.values()))
    return set().union(*map(keys, value)) if isinstance(value, list) else set()


def test_every_stage_passes(dry):
    done, folder = dry
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        values = stage_of(folder, stage)
        assert (values["stage"], values["status"]) == (stage, "passed")
        assert values["results"] and all(result["passed"] is not False for result in values["results"])


def test_eight_files_at_most(dry):
    names = sorted(path.name for path in dry[1].iterdir())
    assert names == sorted([*(f"{stage}.json" for stage in STAGES), "log.txt", "summary.txt"])


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_of_a_dry_run_can_be_taken_for_a_gpus(stage, dry):
    values = stage_of(dry[1], stage)
    assert values["dry_run"] is True and values["machine"]["device"] == "emulator"
    assert not keys(values) & TIMED and "cupy" not in values["machine"]
    for result in values["results"]:
        assert result["dry_run"] is True and result["device"] == "emulator"


def test_every_kernel_is_compiled_before_anything_else(dry):
    results = stage_of(dry[1], "compile")["results"]
    assert {result["name"] for result in results} == {
        str(path.relative_to(ROOT / "kernels")) for path in (ROOT / "kernels").rglob("*.cu")
    }
    assert all(result["builds"] >= 1 for result in results)


def test_results_say_what_was_found(dry):
    parity, speed, run = (
        {r["name"]: r for r in stage_of(dry[1], name)["results"]} for name in ("parity", "speed", "run")
    )
    losses = parity["losses: notebook, carried, every option"]
    assert losses["worst_relative_difference"] <= losses["bound"] == 1e-4 and losses["config"]["carry_state"]
    assert parity["same bytes twice: notebook"]["passed"]
    assert parity["gradients: V5 H4 L2 B3 T3"]["tensors"]["head.bias"][0] > 0
    launches = speed["kernels: V9 H8 L2 B3 T4"]["launches"]
    assert launches == {"cut_windows": 1, "lstm_step": 1, "weight_gradients": 1, "gradient_norm": 1, "adam": 1}
    assert speed["kernels: V9 H81 L2 B2 T2"]["launches"]["persistent_backward"] == 1
    assert speed["kernels: V9 H260 L2 B2 T2"]["launches"]["cell_forward"] == 2 * 2
    assert run["train"]["step"] == 6 and set(run["eval"]["nats_per_char"]) == {"emulate", "cpu"}


def test_summary_is_marked_and_names_every_stage(dry):
    summary = (dry[1] / "summary.txt").read_text()
    assert summary.count("DRY RUN: no GPU was used") == len(STAGES) and " ms" not in summary
    assert dry[0].stdout.endswith(summary + "\n")


def test_without_a_gpu_it_says_so_in_one_line_with_status_2(tmp_path):
    done = gpu("--out", tmp_path / "no")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("make gpu: no GPU to work with: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "no").exists()


def test_unknown_stage(tmp_path):
    done = gpu("--stage", "test", "--out", tmp_path / "no")
    assert done.returncode == 2 and "invalid choice: 'test'" in done.stderr


def test_a_failed_test_fails_the_stage_and_not_the_next(tmp_path):
    """Without a compiler, every test on the emulator fails, with its reason."""
    env = {**NO_GPU, "CXX": "no-such-compiler"}
    done = gpu("--dry-run", "--stage", "sanitize", "parity", "--out", tmp_path / "out", env=env)
    assert done.returncode == 1
    parity, sanitize = (stage_of(tmp_path / "out", stage) for stage in ("parity", "sanitize"))
    assert parity["status"] == "crashed" and "set CXX" in parity["error"]
    assert sanitize["status"] == "failed" and sanitize["results"][0]["passed"] is False
    assert "set CXX" in (tmp_path / "out/summary.txt").read_text()


def test_a_stop_keeps_what_was_found_and_leaves_nothing_running(tmp_path):
    command = [sys.executable, "tools/gpu.py", "--dry-run", "--stage", "parity", "--out", tmp_path]
    process = subprocess.Popen(command, cwd=ROOT, env=NO_GPU, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not (tmp_path / "parity.json").exists() or not stage_of(tmp_path, "parity")["results"]:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    finally:
        process.kill()
        process.wait()
    values = stage_of(tmp_path, "parity")
    assert values["status"] == "stopped" and values["results"][0]["passed"]
    assert "parity: stopped" in (tmp_path / "summary.txt").read_text()
    time.sleep(0.2)
    count = len(values["results"])
    assert len(stage_of(tmp_path, "parity")["results"]) == count


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only there a process can ask to die with its starter")


def marked(mark):
    """The processes with this word in their environment, without this process and those that have ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another's, or gone
            if mark.encode() in (folder / "environ").read_bytes() and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@on_linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_whoever_works_for_a_stage_dies_with_it(number, tmp_path):
    """The stage compiles into an empty cache: it has worker processes, and these run compilers."""
    mark = f"CUCHAR_MARK={tmp_path}"
    env = NO_GPU | {"CUCHAR_MARK": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env["TMPDIR"] = str(tmp_path)  # where a compiler that is killed leaves its files
    command = [sys.executable, "tools/gpu.py", "--dry-run", "--stage", "compile", "--out", tmp_path / "out"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: len(marked(mark)) >= 5 and any((tmp_path / "cache").rglob("*")))  # a stage, workers, compilers
        process.send_signal(number)
        process.wait(30)
        until(lambda: not marked(mark), 30)
    finally:
        process.kill()
        for one in marked(mark):
            with suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


@on_linux
def test_a_process_that_begins_after_its_starter_has_ended_ends_too():
    code = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(0.5); " + (
        "from cuchar.bench.processes import die_with_the_starter; die_with_the_starter(int(sys.argv[1])); time.sleep(60)"
    )
    start = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1], str(os.getpid())])"
    starter = subprocess.Popen(
        [sys.executable, "-c", start, code], env=environment(), stdout=subprocess.PIPE, text=True
    )
    late = int(starter.stdout.readline())
    starter.wait()
    try:
        until(lambda: has_ended(late), 20)
    finally:
        with suppress(ProcessLookupError):
            os.kill(late, signal.SIGKILL)
        starter.stdout.close()


@on_linux
def test_a_contender_that_is_busy_dies_with_whoever_started_it(tmp_path):
    """A contender leads a session of its own, so that a signal to its starter's process group does not reach it."""
    code = """
import json, sys, time
from cuchar.bench.configurations import NAMED
from cuchar.bench.contender import OURS
from cuchar.bench.processes import Worker
worker = Worker(OURS, "cpu", 1)
worker.prepare(NAMED["a"])
print(json.dumps({"what": "train", "steps": 10**9}), file=worker._process.stdin, flush=True)
print(worker._process.pid, flush=True)
time.sleep(600)
"""
    starter = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True)
    contender = int(starter.stdout.readline())
    try:
        time.sleep(0.5)
        assert not has_ended(contender)
        starter.kill()
        starter.wait()
        until(lambda: has_ended(contender), 20)
    finally:
        with suppress(ProcessLookupError):
            os.kill(contender, signal.SIGKILL)
        starter.stdout.close()


def has_ended(process):
    """Whether a process has ended, even if its parent has not asked for its status yet."""
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_hanging_stage_ends_at_its_limit_with_its_children(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    from tools import gpu as runner

    began = time.monotonic()
    reading, writing = os.pipe()
    sleeps = "import time; time.sleep(60)"
    with os.fdopen(writing, "w") as log:
        code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{sleeps}'])"
        assert runner.run_process([sys.executable, "-c", code], log, 2) == "timed out"
    with os.fdopen(reading) as log:
        assert log.read() == ""  # comes once nobody, child or grandchild, can write any more
    assert time.monotonic() - began < 30


def report_in(folder, monkeypatch):
    """A report as on a GPU, not of a dry run; the machine is made up."""
    monkeypatch.syspath_prepend(ROOT)
    from tools.gpu_stages.report import Report

    return Report.begin(folder, "sanitize", {"device": "made up", "cupy": "14"})


def test_times_of_a_gpu_are_kept_and_shown(tmp_path, monkeypatch):
    report = report_in(tmp_path, monkeypatch)
    from tools.gpu_stages.summary import summary

    report.add("step", True, {"cuchar": {"ms": 0.0412345, "chars_per_s": 24_900_000.0}, "seconds": 2.5})
    report.end("passed", 12.34)
    assert stage_of(tmp_path, "sanitize")["results"][0]["times"]["cuchar"]["ms"] == 0.0412345
    lines = [" ".join(line.split()) for line in summary(tmp_path).splitlines()]
    assert lines[0] == "== sanitize: passed, 12.3 s"
    assert lines[2:5] == ["ok step", "cuchar ms 0.04123 chars_per_s 2.49e+07", "seconds 2.5"]


def test_sanitizers_verdicts(tmp_path, monkeypatch):
    """A script stands in for compute-sanitizer: as racecheck it reports a race, as another tool no error."""
    report = report_in(tmp_path, monkeypatch)
    from tools.gpu_stages import sanitize

    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        '#!/bin/sh\nif [ "$1" = --help ]; then exit; fi\n[ "$1 $3 $4" = "--tool --error-exitcode 86" ] || exit 1\n'
        'if [ $2 = racecheck ]; then echo "========= Error: Race reported"; echo "========= RACECHECK SUMMARY: 1 hazard"; exit 86; fi\n'
        'echo "========= ERROR SUMMARY: 0 errors"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setattr(sanitize, "PLACES", (str(tool),))
    monkeypatch.setattr(sanitize, "SCRIPT", [sys.executable, "-c", ""])  # what the tools run is not their verdict
    monkeypatch.setattr(sanitize, "dry_run", lambda: False)
    sanitize.run_stage(report)
    plain, *found = report.values["results"]
    assert plain["passed"] and [result["name"] for result in found] == list(sanitize.TOOLS)
    assert [result["passed"] for result in found] == [True, True, True, False]
    assert found[0]["note"] == "ERROR SUMMARY: 0 errors" and found[3]["note"] == "RACECHECK SUMMARY: 1 hazard"
    assert found[3]["output"][0] == "========= Error: Race reported" and found[3]["status"] == 86
    assert not report.all_passed


@pytest.mark.parametrize("option", ["--kernel-name", "--kernel-regex"])
def test_sanitizers_are_told_what_to_look_at(option, tmp_path, monkeypatch):
    report = report_in(tmp_path, monkeypatch)
    from tools.gpu_stages import sanitize

    tool = tmp_path / "compute-sanitizer"
    tool.write_text(f"#!/bin/sh\necho {option}\n")
    tool.chmod(0o755)
    commands = {}
    monkeypatch.setattr(sanitize, "PLACES", (str(tool),))
    monkeypatch.setattr(sanitize, "dry_run", lambda: False)
    monkeypatch.setattr(sanitize, "watch", lambda report, name, command: commands.update({name: command}))
    sanitize.run_stage(report)
    files = [file.relative_to(kernel_folder()).as_posix() for file in kernel_folder().rglob("*.cu")]
    names = {name for file in files for name in signatures(join(file, {}))}
    assert {"lstm_step", "persistent_backward", "adam"} <= names
    filters = {f"{option} kne={name}" for name in names}
    own = {"memcheck": "--report-api-errors no", "racecheck": "--racecheck-detect-level error"}
    for name in ("memcheck", "initcheck", "synccheck", "racecheck"):
        begin, end = [str(tool), "--tool", name, "--error-exitcode", "86"], sanitize.SCRIPT
        found = commands[name]
        assert found[:5] == begin and found[-len(end) :] == end
        pairs = found[5 : -len(end)]
        expected = (filters if name != "initcheck" else set()) | ({own[name]} if name in own else set())
        assert sorted(map(" ".join, zip(pairs[::2], pairs[1::2], strict=True))) == sorted(expected)


def test_no_sanitizer_is_no_failure(tmp_path, monkeypatch):
    report = report_in(tmp_path, monkeypatch)
    from tools.gpu_stages import sanitize

    monkeypatch.setattr(sanitize, "PLACES", (str(tmp_path / "none"),))
    monkeypatch.setattr(sanitize, "dry_run", lambda: False)
    sanitize.run_stage(report)
    assert report.values["results"][0]["passed"] is None and report.all_passed
    assert report.values["results"][0]["note"].startswith("not there")
