"""The prediction of a training step's time: the script runs, says what it is, and still finds what was committed."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import predict
import predict_large
import pytest
from architectures import ARCHITECTURES
from listing import Listing
from machine_code import nvrtc_version
from multiprocessor import BARRIER, Multiprocessor
from sass import Code, Instruction, source_lines
from support.process import ROOT
from support.tensor_library import TensorLibrary

from cuchar.bench.configurations import Configuration
from cuchar.bench.cuchar_contender import CucharContender
from cuchar.bench.kernel_times import Recorder
from cuchar.devices.device import Limits
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.persistent import Division
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.target import Target, Window

COMMITTED = ROOT / "benchmarks/results/prediction-h100.json"


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
    advice = f"run python tools/predict.py --out {COMMITTED.name} in benchmarks/results and commit it"
    assert committed["compiler"] == f"NVRTC {nvrtc_version()}", advice
    totals, now = ({form: content["us_a_step"] for form, content in of["forms"].items()} for of in (committed, found))
    assert now == pytest.approx(totals, rel=0.01), advice
    totals, now = ({of["configuration"]: of["us_a_step"] for of in all_["larger"]} for all_ in (committed, found))
    assert len(now) == 5 and now == pytest.approx(totals, rel=0.01), advice


def test_larger_configurations_add_up_and_count_what_blocks_read_of_each_other(predicted):
    for sizes, of in zip(predict_large.CONFIGURATIONS, predicted[1]["larger"], strict=True):
        assert of["us_a_step"] >= sum(part["us"] for part in of["parts"]) - 0.5
        found = [part for part in of["parts"] if "traffic_mb_a_step" in part]
        assert len(found) == (2 if of["regime"] == "persistent" else 0)
        if not found:
            continue
        target = Listing("", ARCHITECTURES[90].limits).target(sizes.model, sizes.precision)
        plan = plan_window(target, Window(sizes.T, sizes.B))
        H, stages = sizes.model.hidden, 2 * sizes.model.layers - 1
        for part, launch, width in zip(found, (plan.forward, plan.backward), (H, 4 * H), strict=True):  # h; da
            readers = launch.blocks / launch.groups / stages  # every block of a stage reads its group's rows
            expected = 4 * width * sizes.B * readers * stages
            assert part["traffic_mb_a_step"] == pytest.approx(expected / 1e6, abs=0.05)
            assert part["items"] == sizes.T * launch.parts


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("regime", ["persistent", "stepwise"])
@pytest.mark.parametrize("L", [1, 2])
def test_launches_are_those_of_a_step(L, regime, precision):
    V, H, B, T = 12, 84, 2, 3
    sizes, rounded = Configuration("", V, H, L, B, T, precision), []

    class Device(TensorLibrary):
        def kernels(self, *arguments, **options):
            kernels = dict(super().kernels(*arguments, **options))
            if round_numbers := kernels.get("round_numbers"):

                def launch(*sizes, numbers, **arguments):
                    rounded.append(numbers.size)
                    round_numbers(*sizes, numbers=numbers, **arguments)

                kernels["round_numbers"] = launch
            return kernels

    device = Device(limits=Limits(90, 6, 232_448 if regime == "persistent" else 0))
    target = Target(device, sizes.model, np.dtype("f4"), precision)
    assert type(plan_window(target, Window(T, B))).__name__.lower() == regime
    recorder = Recorder(device)
    CucharContender(CudaEngine(sizes.model, recorder, precision=precision), sizes).train(1)
    launches = [name for name, _ in recorder.launches if name != "cut_windows"]  # that one is of a chunk of steps
    expected = predict_large.launches_and_rounded(sizes.model, T, B, precision, regime == "persistent")
    assert (len(launches), sum(rounded)) == expected


def test_loops_of_an_item_are_repeated_as_its_sizes_say():
    """The code is made up: loops that copy rows, what remains of them, the table, and a thread's own numbers, one of
    them unrolled; the product; and what a projection and a recurrent stage do for their rows.
    """
    in_rows = ("persistent/persistent.cuh", source_lines("persistent/persistent.cuh", r"void fetch_rows\(").start + 4)
    elsewhere = ("persistent/persistent_forward.cu", 1)
    bodies = {
        "rows": ["LDGSTS"] * 4, "remainder": ["LDGSTS"], "table": ["LD.E", *["LDGSTS"] * 4], "own": ["LDGSTS"] * 5,
        "unrolled": ["LDGSTS"] * 4, "product": ["FFMA"] * 8, "projection": ["FADD", "STG"], "recurrent": ["MUFU", "STG"],
    }  # fmt: skip
    found, loops = [Instruction(0, "IADD3", "outer", (), 1, 7, 7, 0)], []
    for name, opcodes in bodies.items():
        place = in_rows if name in ("rows", "remainder") else elsewhere
        first = len(found)
        found += [Instruction(16 * (first + n), of, name, (place,), 1, 7, 7, 0) for n, of in enumerate(opcodes)]
        loops.append((16 * first, 16 * (len(found) - 1)))
    found.append(Instruction(16 * len(found), "BAR.SYNC", "outer", (), 1, 7, 7, 0))
    code = Code(found, [*loops, (0, found[-1].address)])
    launch = Division(groups=2, units=24, parts=1, rows=25, blocks=132, threads=384, shared_bytes=0, flags=0)
    for precision, product in (("fp32", 13), ("bf16", 4)):
        trace = predict_large.item_trace(code, launch, 512, precision, fetched=5)
        counts = Counter(i.target for i in trace)  # 9 copies of a thread by 4s; 16 rows of the block at a time
        assert counts == {
            "outer": 2, "rows": 3 * 4, "own": 2 * 5, "product": product * 8, "recurrent": 2 * 2,
        }  # fmt: skip
        assert [i.target for i in trace][-1] == "outer"


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
    """Four warps on four schedulers each make 10 loads of two passes: the last result is there after all 80 passes."""
    trace = [instruction("LDS.128", sets=0)] * 10
    assert Multiprocessor([[trace] * 4]).run() == 80 + 29


def test_a_barrier_waits_for_the_slowest_warp_of_its_block():
    fast = [instruction("BAR.SYNC"), instruction("FFMA")]
    slow = [instruction("FFMA", stall=10)] * 10 + fast
    assert Multiprocessor([[fast, slow]]).run() == 100 + BARRIER + 1
    assert Multiprocessor([[fast], [fast]]).run() < 100
