"""The persistent regime on the emulator: results, waits between blocks, and the bugs that such kernels have."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
from central_differences import expect_gradients_of_central_differences
from conftest import ROOT, environment
from test_cuda_engine import as_type, everything, expect_accuracy, expect_pairs, problem

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.emulator import EmulatedDevice, sanitizer_environment
from cuchar.engines import kernel_loader
from cuchar.engines.base import Dropout
from cuchar.engines.cuda_engine import CudaEngine
from cuchar.engines.device import Limits
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.engines.persistent_plan import Persistent
from cuchar.engines.plan import make_plan
from cuchar.errors import DeviceError
from cuchar.parameters import Parameters

SIX = Limits(90, 6, 232_448)
FORTY, LITTLE_SHARED = Limits(90, 40, 232_448), Limits(90, 40, 49_152)  # the second cuts the rows into more parts
SIZES = [(96, 128, 200, 256), (1, 2, 3), (1, 13, 50), (1, 2, 33)]
SHAPES = [  # H, L, B, T: every pair of two sizes
    (128, 3, 1, 1), (96, 2, 1, 2), (96, 1, 13, 1), (256, 1, 1, 33), (128, 1, 13, 2), (200, 2, 1, 1), (200, 1, 50, 2),
    (256, 2, 13, 1), (256, 3, 1, 2), (128, 2, 50, 1), (96, 3, 1, 33), (200, 3, 13, 1), (128, 2, 1, 33), (96, 3, 50, 1),
    (200, 1, 1, 33), (256, 1, 50, 1), (96, 1, 13, 33), (96, 1, 50, 33), (256, 2, 50, 2), (128, 3, 13, 2),
]  # fmt: skip


@pytest.fixture(autouse=True)
def never_resident(monkeypatch):
    monkeypatch.setattr("cuchar.engines.plan.resident_plan", lambda *_: None)


def plan(shape, limits, dtype=np.float32):
    V, H, L, B, T = shape
    found = make_plan(ModelConfig(V, H, L), T, B, dtype, limits)
    assert isinstance(found, Persistent)
    return found


def of(number, shape):
    """The limits and the dropout that the shape of that number is tried with."""
    return (FORTY, LITTLE_SHARED)[number % 2], Dropout(0.4, 3, 9) if number % 4 < 3 else None


@pytest.mark.parametrize("number", range(len(SHAPES)), ids=[str(shape) for shape in SHAPES])
def test_every_result_is_as_accurate_as_numpys_in_every_schedule(number):
    limits, dropout = of(number, SHAPES[number])
    plan((5, *SHAPES[number]), limits)
    expect_accuracy((5, *SHAPES[number]), limits, dropout)


def test_shapes_cover_every_pair_of_sizes_and_every_division_of_the_batch():
    expect_pairs(SHAPES, SIZES)
    plans = [plan((5, *shape), of(number, shape)[0]) for number, shape in enumerate(SHAPES)]
    assert {min(found.parts, 4) for found in plans} == {1, 2, 3, 4} and max(found.groups for found in plans) > 2


def test_a_step_of_2x512_on_a_whole_h100():
    limits, shape = Limits(90, 132, 232_448), (68, 512, 2, 50, 2)  # 2 of its 50 steps: the others are as these
    found = plan(shape, limits)
    assert (found.groups, found.units, found.parts, found.blocks, found.forward.threads) == (2, 24, 3, 132, 384)
    model, parameters, inputs, targets, state = problem(*shape)
    single, single_state = as_type(parameters, state, np.float32)
    gradients = {}
    for name, engine, given in (
        ("exact", NumpyEngine(model, np.float64), (parameters, state)),
        ("numpys", NumpyEngine(model), (single, single_state)),
        ("ours", CudaEngine(model, EmulatedDevice("shuffled", limits=limits)), (single, single_state)),
    ):
        gradients[name] = Parameters(model, engine.dtype)
        engine.loss_and_gradients(given[0], inputs, targets, given[1], gradients[name])
    for name, exact in gradients["exact"].items():
        ours, numpys = (np.linalg.norm(gradients[whose][name] - exact) for whose in ("ours", "numpys"))
        assert ours <= 2 * numpys, name


@pytest.mark.parametrize("shape", [(2, 9, 2, 3, 2), (3, 3, 3, 2, 3), (3, 12, 1, 4, 3)])
@pytest.mark.parametrize("dropout", [None, Dropout(0.4, 3, 9)])
def test_gradients_are_those_of_central_differences(shape, dropout):
    model, parameters, inputs, targets, state = problem(*shape)
    plan(shape, SIX, np.float64)
    engine = CudaEngine(model, EmulatedDevice(limits=SIX), np.float64)
    expect_gradients_of_central_differences(engine, parameters, inputs, targets, state, dropout)


# ---- Bugs between blocks ----

SMALL = (5, 9, 2, 4, 5)  # V, H, L, B, T; on SIX: a group of six blocks, two a stage, and three parts
SIGNAL = "if (threadIdx.x % 32 == 0) add_release(of(corner.stage, at.part), 1);"
SKIPPED = "if (threadIdx.x % 32 == 0 && !(blockIdx.x == 4 && at.step == 2)) add_release(of(corner.stage, at.part), 1);"
RESET = SIGNAL + " if (threadIdx.x % 32 == 0 && at.step == 1) std::atomic_ref(*of(corner.stage, at.part)).store(0);"
RELAXED = (
    "if (threadIdx.x % 32 == 0) std::atomic_ref(*of(corner.stage, at.part)).fetch_add(1, std::memory_order_relaxed);"
)


def with_bug(monkeypatch, tmp_path, right, wrong):
    """kernels/ with a bug in persistent.cuh; the folder."""
    folder = tmp_path / "kernels"
    shutil.copytree(ROOT / "kernels", folder)
    source = (folder / "persistent.cuh").read_text()
    assert source.count(right) == 1
    (folder / "persistent.cuh").write_text(source.replace(right, wrong))
    monkeypatch.setattr(kernel_loader, "kernel_folder", lambda: folder)
    return folder


def results(schedule="forward", seed=0):
    model, parameters, inputs, targets, state = problem(*SMALL)
    single, state = as_type(parameters, state, np.float32)
    engine = CudaEngine(model, EmulatedDevice(schedule, seed, limits=SIX))
    return everything(engine, single, state, inputs, targets, Dropout(0.4, 3, 9))


def test_delays_at_the_flags_change_nothing():
    found = plan(SMALL, SIX)
    assert (found.groups, found.parts, found.blocks) == (1, 3, 6)
    expected = results()
    for seed in range(20):
        assert all(np.array_equal(value, expected[name]) for name, value in results("shuffled", seed).items())


@pytest.mark.parametrize("wrong", [SKIPPED, RESET], ids=["a block that skips its signal", "a flag that starts again"])
def test_a_wait_in_vain_ends_in_an_error(wrong, monkeypatch, tmp_path):
    with_bug(monkeypatch, tmp_path, SIGNAL, wrong)
    with pytest.raises(DeviceError, match="expected blocks that run at once, found one that waited in vain"):
        results()


def test_a_wait_in_vain_leaves_the_parameters_as_they_were(monkeypatch, tmp_path):
    with_bug(monkeypatch, tmp_path, SIGNAL, SKIPPED)
    model, parameters, *_ = problem(*SMALL)
    V, H, L, B, T = SMALL
    single = as_type(parameters, problem(*SMALL)[4], np.float32)
    ids = np.random.default_rng(0).integers(V, size=B * (2 * T + 1)).astype(np.uint8)
    config = TrainConfig(hidden=H, layers=L, steps=T, batch=B)
    engine = CudaEngine(model, EmulatedDevice(limits=SIX))
    learner = engine.learner(config, single[0], Adam(parameters.flat.size), single[1], Windows(ids, B, T, T))
    before = single[0].flat.copy()
    with pytest.raises(DeviceError, match="waited in vain"):
        learner.train(0, 1, [0.1, 0.1])
    learner.fetch()
    np.testing.assert_array_equal(single[0].flat, before)


def test_fewer_blocks_than_asked_for_end_in_an_error(monkeypatch, tmp_path):
    with_bug(monkeypatch, tmp_path, "gridDim.x != GROUPS", "gridDim.x + 3 != GROUPS")  # as if three were missing
    with pytest.raises(DeviceError, match="waited in vain"):
        results()


@pytest.mark.parametrize(
    "right,wrong",
    [
        ("work(at, i % BUFFERS);", "work(at, (i + 1) % BUFFERS);"),  # the other half of the double buffer
        ("warps * at.step, stopped)", "0, stopped)"),  # no wait for the step before
        ("if (at.step) came", "if (corner.recurrent && at.step) came"),  # counts a block ahead for one behind
        ("wait_copies<AHEAD>();", "wait_copies<AHEAD + 1>();"),
    ],
)
def test_stale_numbers_are_noticed(right, wrong, monkeypatch, tmp_path):
    expected = results()
    with_bug(monkeypatch, tmp_path, right, wrong)

    def is_noticed(schedule, seed=0):
        try:
            found = results(schedule, seed)
        except DeviceError as error:
            return "a copy's source has changed under way" in str(error)
        return any(not np.array_equal(found[name], expected[name]) for name in found)

    assert is_noticed("forward") or is_noticed("reverse") or any(is_noticed("shuffled", seed) for seed in range(8))


SEEDS = 200
SANITIZED = [(9, 2), (9, 1), (8, 2), (9, 1), (8, 2)]  # H, L, in turns: two blocks a stage and three stages, or either
CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from test_persistent import *
from cuchar.engines.buffers import Backward
import cuchar.engines.plan
kernel_loader.kernel_folder = lambda: Path(sys.argv[1])
cuchar.engines.plan.resident_plan = lambda *_: None
device, plans = EmulatedDevice("shuffled", 0, "thread", SIX), set()
for number, (H, L) in enumerate(SANITIZED):
    model, parameters, inputs, targets, state = problem(3, H, L, 3, 2)
    single, state = as_type(parameters, state, np.float32)
    engine = CudaEngine(model, device)
    engine.loss_and_gradients(single, inputs, targets, state, Parameters(model))
    tape, kernels, weights = engine._tape(2, 3, False), engine.launches_for(2, 3, False), engine.fold(single)
    backward = Backward(device, model, 2, 3, engine.dtype, 1)
    backward.dh[...] = 1
    for seed in range(number, int(sys.argv[2]), len(SANITIZED)):
        device._seed = seed
        kernels.forward(weights, tape)
        kernels._recurrence.backward(weights, tape, backward, None)
    found = make_plan(model, 2, 3, np.float32, SIX)
    plans.add((found.blocks, found.parts))
print(sorted(plans))
"""


def thread_sanitizer(folder, seeds):
    env = environment() | sanitizer_environment("thread") | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(folder), str(seeds)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)


def test_flags_are_clean_under_thread_sanitizer_over_many_seeds():
    run = thread_sanitizer(ROOT / "kernels", SEEDS)
    assert run.stdout == "[(2, 3), (3, 3), (6, 3)]\n", run.stderr[:3000]


def test_a_relaxed_signal_is_a_race(monkeypatch, tmp_path):
    run = thread_sanitizer(with_bug(monkeypatch, tmp_path, SIGNAL, RELAXED), 3)
    assert "data race" in run.stderr and run.returncode != 0
