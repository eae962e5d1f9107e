"""The parts of `cuchar bench` on times that are made up: arithmetic, turns, statistics, growth, files, comparison."""

import json
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
from support.process import environment

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.bench import worker
from cuchar.bench.arithmetic import bytes_held, bytes_moved, flops
from cuchar.bench.configurations import NAMED, WINDOWS, Configuration, named
from cuchar.bench.contender import Burst, Choice, reason_against
from cuchar.bench.cuchar_contender import CucharContender
from cuchar.bench.results import compare, configurations_of, peers_of, read_results, write_results
from cuchar.bench.sweep import configurations_along, growth
from cuchar.bench.timing import LEAST_ROUNDS, Timing, ratio, steps_a_burst, take_turns
from cuchar.engines.base import Example
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError, OptionError, ResultError
from cuchar.parameters import Parameters, initialise

SMALL = Configuration("small", 3, 2, 2, 5, 7)


def test_flops_are_a_hand_count():
    """V is 3, H and L are 2: a character takes three products by 8x2 and one by 3x2, two operations a weight."""
    forward = 2 * (3 * 8 * 2 + 3 * 2)
    assert flops(SMALL) == 3 * forward * 5 * 7
    for name, rounded, rel in (("a", 0.335e9, 0.01), ("b", 47.7e9, 0.01), ("c", 1.24e12, 0.01), ("d", 3.3e12, 0.02)):
        assert flops(NAMED[name]) == pytest.approx(rounded, rel=rel)  # by hand, to two or three digits


def test_bytes_are_a_hand_count():
    parameters = (8 * 3 + 8 * 2 + 8) + (8 * 2 + 8 * 2 + 8) + (3 * 2 + 3)
    kept = 5 * 7 * (2 * 6 * 2 + 3)  # by 35 characters: gates, h and c of two layers, three logits
    assert bytes_moved(SMALL) == 4 * (10 * parameters + 2 * kept)
    assert bytes_held(SMALL) == 4 * (4 * parameters + kept)


def test_names():
    assert [one.name for one in named(["a", "torch-rnn", "2x256"], None)] == ["a", "2x128", "2x256", "2x512", "3x512"]
    assert named(["c"], None)[0].precision == "bf16" and named(["c"], "fp32")[0].precision == "fp32"
    b, grid = named(["b", "2x512"], None)
    assert b.sizes == grid.sizes == "V68 H512 L2 B50 T50"
    with pytest.raises(OptionError, match=r"NAME: expected a \| b .* found e"):
        named(["e"], None)


def test_which_peers():
    assert Choice.of([]) == Choice(("eager", "graph", "stacked"), False)
    assert Choice.of(["compile", "eager", "eager"]) == Choice(("eager", "compile"), True)
    every = ("eager", "graph", "stacked", "compile", "jax", "onnxruntime", "openvino")
    assert Choice.of(["all"]) == Choice(every, False)
    assert Choice.of(["none"]) == Choice((), True)
    with pytest.raises(OptionError, match="--peer none: expected no other --peer with it, found none and eager"):
        Choice.of(["none", "eager"])
    assert reason_against("graph", "cpu", "fp32") == "needs a GPU" and reason_against("eager", "cpu", "fp32") is None
    assert reason_against("stacked", "cuda:0", "tf32") == "needs --precision fp16 or bf16"
    assert (
        reason_against("jax", "cuda:0", "fp32") == "needs --device cpu" and reason_against("jax", "cpu", "fp32") is None
    )
    assert reason_against("openvino", "cpu", "fp32") == "does not train; --sampling and --scoring time it"
    assert reason_against("openvino", "cpu", "fp32", ["train", "score"]) is None
    assert reason_against("stacked", "cuda:0", "bf16") is None and reason_against("eager", "emulate", "fp32")


def test_a_peer_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(worker, "find_spec", lambda package: None if package in ("onnx", "openvino") else package)
    with pytest.raises(DeviceError, match=r"^not installed; pip install onnx openvino$"):
        worker.peer_maker("openvino", "cpu", 1)
    with pytest.raises(DeviceError, match=r"^not installed; pip install onnx$"):
        worker.peer_maker("onnxruntime", "cpu", 1)


def test_ours_scores_a_stream_of_windows():
    """64 rows of 64 characters, which begin where the window before ended; scores are of the weights before training."""
    ours = CucharContender(NumpyEngine(SMALL.model), SMALL)
    ours.train(3)
    found = [ours.score(windows).loss for windows in (1, 2)]
    engine, text = NumpyEngine(SMALL.model), SMALL.scored()
    weights, state, losses = engine.fold(initialise(SMALL.model, 0)), engine.zero_state(64), []
    for window in range(3):
        rows = text.rows[:, 64 * window :].T
        each, state = engine.losses(weights, rows[:64], rows[1:65], state)
        losses.append(each.mean())
    assert found == pytest.approx([losses[0], losses[2]], rel=1e-6) and len(text) == 16 and len(set(losses)) == 3


def test_ours_trains_as_a_plain_loop_does():
    """Step k is trained on window k, and Adam follows each; losses are the same however many steps a call has."""
    ours, model = CucharContender(NumpyEngine(SMALL.model), SMALL), SMALL.model
    found = [ours.train(steps).loss for steps in (1, 2, 3)]
    engine, parameters, gradients = NumpyEngine(model), initialise(model, 0), Parameters(model)
    adam, windows, losses = Adam(parameters.flat.size), Windows(SMALL.ids(), 5, 7, 1), []
    assert len(windows) == WINDOWS
    for step in range(6):
        loss, _ = engine.loss_and_gradients(parameters, Example(*windows[step], engine.zero_state(5)), gradients)
        adam.update(parameters.flat, gradients.flat, step + 1, 1e-3)
        losses.append(loss)
    assert found == pytest.approx([losses[0], losses[2], losses[5]], rel=1e-6) and len(set(losses)) == 6


def test_windows_start_again_after_the_last(monkeypatch):
    tiny, windows = Configuration("tiny", 2, 1, 1, 1, 1), []
    ours = CucharContender(NumpyEngine(tiny.model), tiny)
    original = ours.learner.train

    def train(window, step, rates):
        windows.extend(range(window, window + len(rates)))
        return original(window, step, rates)

    monkeypatch.setattr(ours.learner, "train", train)
    assert ours.train(WINDOWS + 3).seconds > 0 and windows == [*range(WINDOWS), 0, 1, 2]


def test_host_profile_has_the_parts():
    sizes = Configuration("", 20, 24, 2, 8, 10)
    parts = CucharContender(NumpyEngine(sizes.model), sizes).profile()
    assert list(parts) == ["forward", "backward", "Adam and the rest"]
    assert parts["forward"]["us"] > 0 and parts["backward"]["us"] > 0
    assert all(part["launches"] == 1 for part in parts.values())


def test_profile_of_the_cpp_engine_has_what_its_library_does():
    sizes = Configuration("", 20, 24, 2, 8, 10)
    ours = CucharContender(CpuEngine(sizes.model), sizes)
    library = ours.engine.library
    parts = ours.profile()
    assert list(parts) == ["fold", "forward", "backward", "gradients", "Adam", "the rest"]
    assert ours.engine.library is library and all(part["us"] > 0 for part in parts.values())
    third = 8 * 10 * (8 * 24 * 24 * 3 + 2 * 24 * 20)
    assert [part.get("flops") for part in parts.values()] == [None, third, third, third, None, None]


def made_up(seconds_a_step, log=None, name=None):
    def turn(steps):
        if log is not None:
            log.append((name, steps))
        return Burst(steps * seconds_a_step)

    return turn


def test_turns_alternate_and_bursts_are_as_long_as_asked():
    log = []
    found = take_turns({"a": made_up(0.01, log, "a"), "b": made_up(0.05, log, "b")}, rounds=3, burst_s=0.2)
    assert steps_a_burst(made_up(0.01), 0.2) == 20 and steps_a_burst(made_up(7.0), 0.2) == 1
    assert log[-12:] == [("a", 5), ("a", 20), ("b", 1), ("b", 4)] * 3
    assert (found["a"].ms, found["b"].ms) == (pytest.approx(10), pytest.approx(50))
    assert len(found["a"].rounds) == len(found["b"].rounds) == 3


def test_rounds_end_when_the_time_is_spent(monkeypatch):
    monkeypatch.setattr("cuchar.bench.timing.BUDGET_S", -1)
    assert len(take_turns({"a": made_up(1.0)}, rounds=9)["a"].rounds) == LEAST_ROUNDS


def test_timing_of_bursts():
    bursts = [
        Burst(seconds, device, None, idle)
        for seconds, device, idle in ((5, 4, 0.1), (1, 1, 0.3), (3, 2, 0), (2, 2, 0), (4, 3, 0))
    ]
    timing = Timing.of(10, bursts)
    assert (timing.low, timing.ms, timing.high) == (200, 300, 400)
    assert timing.device_ms == 200 and timing.idle_cpu == 0.3 and timing.rounds == [500, 100, 300, 200, 400]
    assert Timing.of(1, [Burst(1)]).device_ms is None


def test_a_ratio_pairs_rounds():
    """A machine that slows both down ten times, now and then, changes nothing; a quotient of medians would change."""
    noise = np.array([1, 10, 1, 10, 1, 10, 1.0])
    found = ratio(2 * noise, noise)
    assert (found.value, found.low, found.high) == (2, 2, 2)
    assert ratio([1, 1, 1, 10, 1], [1, 1, 1, 1, 1]).value == 1


def test_the_interval_has_the_true_ratio_as_often_as_it_says():
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        pairs = 1.5 * np.exp(generator.normal(scale=0.2, size=12))
        found = ratio(pairs, np.ones(12))
        assert found.low <= found.value <= found.high
        inside += found.low <= 1.5 <= found.high
    # The interval is one of 95 %. Two standard deviations of a binomial are 3 %, and a bootstrap of 12 is a bit short.
    assert 0.89 <= inside / 200 <= 0.99


def point(size, work, memory, held):
    return {"size": size, "flops": work, "memory": memory, "bytes_held": held}


def timing(*rounds):
    return Timing.of(1, [Burst(seconds) for seconds in rounds])


def test_growth_beside_the_arithmetics():
    before = point(64, 1.0, 100, 10), timing(1.0, 1.1, 0.9)
    even = growth(before, (point(128, 4.0, 190, 20), timing(4.0, 4.4, 3.6)))
    assert even["time"] == {"value": pytest.approx(4), "low": pytest.approx(4), "high": pytest.approx(4)}
    assert (even["flops"], even["memory"], even["bytes_held"]) == (4, 1.9, 2)
    assert even["time_no_faster"] and even["memory_no_faster"]
    worse = growth(before, (point(128, 4.0, 230, 20), timing(4.5, 4.95, 4.05)))
    assert not worse["time_no_faster"] and not worse["memory_no_faster"]
    unsure = growth(before, (point(128, 4.0, 219, 20), timing(4.5, 4.0, 4.05)))
    assert unsure["time"]["value"] == pytest.approx(4.5) and unsure["time_no_faster"] and unsure["memory_no_faster"]


def test_sizes_of_a_sweep():
    assert [one.H for one in configurations_along("hidden", NAMED["a"])] == [64, 128, 256, 512]
    assert [one.L for one in configurations_along("layers", NAMED["a"])] == [1, 2, 4, 8]
    assert {one.H for one in configurations_along("window", NAMED["b"])} == {512}


def result(ratio_value, spread=0.1, ms=2.0, device="Some CPU @ 2.0"):
    bounds = {"value": ratio_value, "low": ratio_value - spread, "high": ratio_value + spread}
    entry = {
        "configuration": NAMED["a"].to_json(), "ours": {"ms": ms},
        "peers": {"eager": {"ms": ms * ratio_value, "ratio": bounds}},
    }  # fmt: skip
    return {"format": 1, "date": "2026-11-25T01:02:03+00:00", "device": device, "threads": 2, "configurations": [entry]}


def test_a_file_comes_back(tmp_path):
    file = write_results(tmp_path, result(1.5))
    assert file == tmp_path / "some-cpu-2-0-2026-11-25.json" and read_results(file) == result(1.5)
    assert configurations_of(result(1.5)) == [NAMED["a"]] and peers_of(result(1.5)) == ("eager",)
    of_a_sweep = {**result(1.5), "sweep": {"along": "hidden"}}
    assert write_results(tmp_path, of_a_sweep).name == "some-cpu-2-0-2026-11-25-hidden.json"


@pytest.mark.parametrize(
    "text,found", [("{", "no JSON"), ("[]", "format None"), ('{"format": 9}', "format 9"), ('{"format": 1}', "a sweep")]
)
def test_a_file_that_is_no_result(tmp_path, text, found):
    (tmp_path / "old.json").write_text(text)
    with pytest.raises(ResultError, match=f"old.json: expected .* found:? {found}"):
        read_results(tmp_path / "old.json")


def test_only_a_ratio_below_its_old_interval_has_regressed():
    alone, beside = compare(result(1.5), result(1.2, ms=3.0))
    assert (alone.peer, alone.old_ms, alone.new_ms, alone.regressed) == (None, 2, 3, False)
    assert beside.regressed and (beside.old_ratio["value"], beside.new_ratio["value"]) == (1.5, 1.2)
    assert not any(change.regressed for change in compare(result(1.5), result(1.35, ms=9.0)))  # intervals meet
    assert not any(change.regressed for change in compare(result(1.5), result(1.9)))
    renamed = deepcopy(result(1.0))
    renamed["configurations"][0]["configuration"]["name"] = "own"
    assert compare(result(1.5), renamed)[1].regressed  # configurations are found by their sizes, not by their names


def test_what_cannot_be_compared():
    with pytest.raises(ResultError, match=r"this machine \(Some CPU @ 2.0, 2 threads\), found Other, 2"):
        compare(result(1.5, device="Other"), result(1.5))
    other = deepcopy(result(1.0))
    other["configurations"][0]["configuration"]["B"] = 7
    with pytest.raises(ResultError, match="found none"):
        compare(result(1.5), other)


def test_peak_memory_is_the_processes_own():
    code = (
        "import json, numpy as np; from cuchar.bench.machine import forget_peak, peak_bytes\n"
        "np.ones(100 << 20, np.uint8); forget_peak(); began = peak_bytes(); np.ones(50 << 20, np.uint8)\n"
        "print(json.dumps(peak_bytes() - began))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) / 2**20 == pytest.approx(50, abs=2)
