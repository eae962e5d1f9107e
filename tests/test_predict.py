"""The prediction of a step's time: the script runs, says what it is, and still finds what was committed."""

import json
import subprocess
import sys
from pathlib import Path

import predict
import pytest
import registers
from multiprocessor import BARRIER, Multiprocessor
from sass import Instruction

COMMITTED = Path(__file__).parent.parent / "benchmarks/results/prediction-h100.json"


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """The script's output and its file."""
    out = tmp_path_factory.mktemp("predict") / "prediction.json"
    command = [sys.executable, predict.__file__, "--out", out]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout, json.loads(out.read_text())


def test_a_prediction_calls_itself_one(predicted):
    text, found = predicted
    assert "no GPU was used" in text
    assert "no GPU was used" in found["what"]


def test_the_phases_add_up(predicted):
    for form in predicted[1]["forms"].values():
        assert form["us_a_step"] == pytest.approx(sum(row["us"] for row in form["phases"]), abs=0.05)
        assert all(row["us"] > 0 for row in form["phases"])


def test_the_committed_prediction_is_of_these_kernels(predicted):
    committed, found = json.loads(COMMITTED.read_text()), predicted[1]
    advice = f"run python benchmarks/predict.py --out {COMMITTED.name} in benchmarks/results and commit it"
    assert committed["compiler"] == f"NVRTC {registers.nvrtc_version()}", advice
    totals, now = ({form: content["us_a_step"] for form, content in of["forms"].items()} for of in (committed, found))
    assert now == pytest.approx(totals, rel=0.01), advice
    totals, now = ({of["configuration"]: of["us_a_step"] for of in all_["larger"]} for all_ in (committed, found))
    assert len(now) == 5 and now == pytest.approx(totals, rel=0.01), advice


def test_larger_configurations_add_up_and_count_what_blocks_read_of_each_other(predicted):
    for of in predicted[1]["larger"]:
        assert of["us_a_step"] >= sum(part["us"] for part in of["parts"]) - 0.5
        traffic = [part["traffic_mb_a_step"] for part in of["parts"] if "traffic_mb_a_step" in part]
        assert len(traffic) == (2 if of["regime"] == "persistent" else 0)
        if traffic:
            assert traffic[1] == pytest.approx(4 * traffic[0], rel=0.02)  # da is four times as wide as h


def instruction(opcode, stall=1, sets=7, waits=0):
    return Instruction(0, opcode, "", (("some.cu", 1),), stall, sets, 7, waits)


@pytest.mark.parametrize(
    ("trace", "clocks"),
    [
        ([instruction("FFMA", stall=4)] * 10, 40),  # dependent
        ([instruction("FFMA")] * 10, 10),
        ([instruction("IADD3")] * 10, 19),  # every second clock, the last one issued at 18
        ([instruction("LDS", sets=0), instruction("FFMA", waits=1)], 1 + 29 + 1),  # a pass, then its latency
        ([instruction("MUFU.EX2")] * 3, 17),  # at 0, 8 and 16
    ],
)
def test_one_warp(trace, clocks):
    assert Multiprocessor([[trace]]).run() == clocks


def test_warps_of_a_scheduler_share_it_and_others_do_not():
    trace = [instruction("FFMA")] * 100
    assert Multiprocessor([[trace] * 4]).run() == 100
    assert Multiprocessor([[trace] * 8]).run() == 200


def test_shared_memory_is_the_whole_multiprocessors():
    """Four warps on four schedulers, 10 loads of two passes each: the last result is there after all 80 passes."""
    trace = [instruction("LDS.128", sets=0)] * 10
    assert Multiprocessor([[trace] * 4]).run() == 80 + 29


def test_a_barrier_waits_for_the_slowest_warp_of_its_block():
    fast = [instruction("BAR.SYNC"), instruction("FFMA")]
    slow = [instruction("FFMA", stall=10)] * 10 + fast
    assert Multiprocessor([[fast, slow]]).run() == 100 + BARRIER + 1
    assert Multiprocessor([[fast], [fast]]).run() < 100
