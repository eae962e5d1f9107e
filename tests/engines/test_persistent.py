"""The persistent regime on the emulator: its results, its blocks' waits for each other, and bugs planted in those."""

import shutil

import numpy as np
import pytest
from support.accuracy import everything, expect_accuracy
from support.central_differences import expect_gradients_of_central_differences
from support.learners import learner_of
from support.problems import as_type, expect_pairs, problem
from support.process import ROOT
from support.targets import target_of

from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices import kernel_sources
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Dropout, Example
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.target import Window
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError
from cuchar.parameters import Parameters

SIX, SIX_OF_LITTLE = Limits(90, 6, 232_448), Limits(90, 6, 1_850)  # the second has less shared memory: more parts
SIZES = [(96, 128, 200, 256), (1, 2, 3), (1, 13, 50), (1, 2, 33)]
WHOLE = 227  # KiB of shared memory that a block of an H100 may have; with less, a group's rows are in more parts
SHAPES = [  # H, L, B, T, of which any two sizes are together in some shape, and KiB of shared memory
    (128, 3, 1, 1, WHOLE), (96, 2, 1, 2, 48), (96, 1, 13, 1, WHOLE), (256, 1, 1, 33, 48), (128, 1, 13, 2, 6),
    (200, 2, 1, 1, 48), (200, 1, 50, 2, 10), (256, 2, 13, 1, 16), (256, 3, 1, 2, WHOLE), (128, 2, 50, 1, 12),
    (96, 3, 1, 33, WHOLE), (200, 3, 13, 1, 32), (128, 2, 1, 33, 48), (96, 3, 50, 1, 14), (200, 1, 1, 33, WHOLE),
    (256, 1, 50, 1, 20), (96, 1, 13, 33, WHOLE), (96, 1, 50, 33, 6), (256, 2, 50, 2, 32), (128, 3, 13, 2, 6),
]  # fmt: skip


@pytest.fixture(autouse=True)
def never_resident(monkeypatch):
    monkeypatch.setattr("cuchar.engines.cuda.resident.plan_window", lambda *_: None)


def plan(shape, limits, dtype=np.float32):
    V, H, L, B, T = shape
    found = plan_window(target_of(ModelConfig(V, H, L), limits, dtype), Window(T, B))
    assert isinstance(found, Persistent)
    return found


def of(number):
    """The shape of that number, and the device's limits and the dropout that it is tried with."""
    *shape, KiB = SHAPES[number]
    return (5, *shape), Limits(90, 40, KiB << 10), Dropout(0.4, 3, 9) if number % 4 < 3 else None


@pytest.mark.parametrize("number", range(len(SHAPES)), ids=[str(shape) for shape in SHAPES])
def test_every_result_is_as_accurate_as_numpys_in_every_schedule(number):
    shape, limits, dropout = of(number)
    plan(shape, limits)
    expect_accuracy(shape, limits, dropout)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_shapes_cover_every_pair_of_sizes_and_every_division_of_the_batch(direction):
    expect_pairs([shape[:4] for shape in SHAPES], SIZES)
    shapes, limits, _ = zip(*map(of, range(len(SHAPES))), strict=True)
    plans = [plan(shape, limit) for shape, limit in zip(shapes, limits, strict=True)]
    launches = [getattr(found, direction) for found in plans]
    assert {min(launch.parts, 4) for launch in launches} == {1, 2, 3, 4}
    several = [launch for launch, (*_, T) in zip(launches, shapes, strict=True) if T > 1]  # parts take turns there
    assert {min(launch.parts, 4) for launch in several} == {1, 2, 3, 4}
    assert any(
        launch.parts > 1 and launch.groups > 2 and T == 33 for launch, (*_, T) in zip(launches, shapes, strict=True)
    )
    ragged = [launch for launch, (*_, B, _) in zip(launches, shapes, strict=True) if B % (launch.groups * launch.parts)]
    assert any(launch.parts > 1 for launch in ragged)  # parts of unequal size
    assert sum((of.forward.groups, of.forward.parts) != (of.backward.groups, of.backward.parts) for of in plans) > 5


def test_a_window_of_2x512_on_a_whole_h100():
    limits, shape = Limits(90, 132, 232_448), (68, 512, 2, 50, 2)  # 2 of its 50 time steps: the others repeat these
    found = plan(shape, limits)
    for launch, parts in ((found.forward, 1), (found.backward, 2)):
        assert (launch.groups, launch.units, launch.parts, launch.blocks, launch.threads) == (2, 24, parts, 132, 384)
    model, parameters, inputs, targets, state = problem(*shape)
    single, single_state = as_type(parameters, state, np.float32)
    gradients = {}
    for name, engine, given in (
        ("exact", NumpyEngine(model, np.float64), (parameters, state)),
        ("numpys", NumpyEngine(model), (single, single_state)),
        ("ours", CudaEngine(model, EmulatedDevice("shuffled", limits=limits)), (single, single_state)),
    ):
        gradients[name] = Parameters(model, engine.dtype)
        engine.loss_and_gradients(given[0], Example(inputs, targets, given[1]), gradients[name])
    for name, exact in gradients["exact"].items():
        ours, numpys = (np.linalg.norm(gradients[whose][name] - exact) for whose in ("ours", "numpys"))
        assert ours <= 2 * numpys, name


@pytest.mark.parametrize(
    "shape,limits,parts",
    [
        ((2, 9, 2, 3, 2), SIX, (1, 1)), ((2, 9, 2, 3, 2), SIX_OF_LITTLE, (3, 3)), ((3, 3, 3, 2, 3), SIX, (1, 1)),
        ((3, 3, 3, 2, 3), SIX_OF_LITTLE, (1, 2)), ((3, 12, 1, 4, 3), SIX, (1, 1)), ((3, 12, 1, 4, 3), SIX_OF_LITTLE, (1, 2)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dropout", [None, Dropout(0.4, 3, 9, weights=0.3)])
def test_gradients_are_those_of_central_differences(shape, limits, parts, dropout):
    model, parameters, inputs, targets, state = problem(*shape)
    found = plan(shape, limits, np.float64)
    assert (found.forward.parts, found.backward.parts) == parts
    engine = CudaEngine(model, EmulatedDevice(limits=limits), np.float64)
    expect_gradients_of_central_differences(engine, parameters, inputs, targets, state, dropout)


# ---- Bugs between blocks ----

SMALL = (5, 25, 2, 6, 5)  # V, H, L, B, T
# SMALL on it has one group of six blocks, two a stage, of several warps each; three parts forward and six backward.
CROWDED = Limits(90, 6, 2_560)
SIGNAL = "if (threadIdx.x == 0) add_release(of(own.stage, item.part), 1);"
SKIPPED = "if (threadIdx.x == 0 && !(blockIdx.x == 4 && item.time_step == 2)) add_release(of(own.stage, item.part), 1);"
RESET = SIGNAL + " if (threadIdx.x == 0 && item.time_step == 1) std::atomic_ref(*of(own.stage, item.part)).store(0);"
BEFORE_SIGNAL = "__syncthreads();\n        " + SIGNAL
SHARED = "persistent/persistent.cuh"
FORWARD, BACKWARD = (f"persistent/persistent_{direction}.cu" for direction in ("forward", "backward"))


def with_bug(monkeypatch, tmp_path, right, wrong, file=SHARED):
    """Let kernels be read from a copy of kernels/ in which `wrong` takes the place of `right`; returns that folder."""
    folder = tmp_path / "kernels"
    shutil.copytree(ROOT / "kernels", folder)
    source = (folder / file).read_text()
    assert source.count(right) == 1
    (folder / file).write_text(source.replace(right, wrong))
    monkeypatch.setattr(kernel_sources, "kernel_folder", lambda: folder)
    return folder


def results(schedule="forward", seed=0):
    model, parameters, inputs, targets, state = problem(*SMALL)
    single, state = as_type(parameters, state, np.float32)
    engine = CudaEngine(model, EmulatedDevice(schedule, seed, limits=CROWDED))
    return everything(engine, single, state, inputs, targets, Dropout(0.4, 3, 9))


def test_delays_at_the_flags_change_nothing():
    found = plan(SMALL, CROWDED)
    for launch, parts, threads in ((found.forward, 3, 128), (found.backward, 6, 64)):
        assert (launch.groups, launch.parts, launch.blocks, launch.threads) == (1, parts, 6, threads)
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
    model, parameters, _, _, state = problem(*SMALL)
    V, H, L, B, T = SMALL
    single, _ = as_type(parameters, state, np.float32)
    ids = np.random.default_rng(0).integers(V, size=B * (2 * T + 1)).astype(np.uint8)
    config = TrainConfig(hidden=H, layers=L, window=T, batch=B)
    learner, _ = learner_of(CudaEngine(model, EmulatedDevice(limits=CROWDED)), config, ids, single)
    before = single.flat.copy()
    with pytest.raises(DeviceError, match="waited in vain"):
        learner.train(0, 1, [0.1, 0.1])
    learner.fetch()
    np.testing.assert_array_equal(single.flat, before)


def test_fewer_blocks_than_asked_for_end_in_an_error(monkeypatch, tmp_path):
    with_bug(monkeypatch, tmp_path, "gridDim.x != GROUPS", "gridDim.x + 3 != GROUPS")  # as if three were missing
    with pytest.raises(DeviceError, match="waited in vain"):
        results()


WAIT = "if (!all_flags.wait(own, item)) return false;"


@pytest.mark.parametrize(
    "file,right,wrong",
    [
        (SHARED, SIGNAL, SIGNAL.replace("threadIdx.x == 0", "threadIdx.x % 32 == 0")),  # every warp is counted
        (SHARED, SIGNAL, SIGNAL.replace("1);", "2);")),  # a block is counted twice
        # Blocks wait for one time step too few of the stage before.
        (SHARED, "BLOCKS * (item.time_step + 1), stopped)", "BLOCKS * item.time_step, stopped)"),
        # Blocks do not wait for all blocks of their own stage; then for none of them.
        (SHARED, "BLOCKS * item.time_step, stopped)", "(BLOCKS - 1) * item.time_step, stopped)"),
        (SHARED, "BLOCKS * item.time_step, stopped)", "0, stopped)"),
        # A projection does not wait for its own stage, so that its blocks that are ahead are counted for those behind.
        (SHARED, "if (item.time_step) came", "if (own.recurrent && item.time_step) came"),
        (SHARED, BEFORE_SIGNAL, SIGNAL),  # a block signals before its other warps have written
        (SHARED, "wait_copies<0>();", ""),
        (SHARED, "wait_copies<0>();", "wait_copies<1>();"),
        (SHARED, "!__syncthreads_and(came)", "!came"),  # a warp multiplies rows that other warps have not fetched yet
        (FORWARD, "&shared->partials[0][0][0].x);\n        __syncthreads();", "&shared->partials[0][0][0].x);"),
        (BACKWARD, "shared->partials[0][0]);\n        __syncthreads();", "shared->partials[0][0]);"),
        (FORWARD, WAIT, ""),
        (BACKWARD, WAIT, ""),
    ],
)  # fmt: skip
def test_stale_numbers_are_noticed(file, right, wrong, monkeypatch, tmp_path):
    expected = results()
    with_bug(monkeypatch, tmp_path, right, wrong, file)
    expect_notice(expected)


@pytest.mark.parametrize("file", [FORWARD, BACKWARD])
def test_what_is_fetched_before_the_wait_is_noticed(file, monkeypatch, tmp_path):
    """The wait is moved behind the copies of what other blocks write, to where the function returns."""
    expected, source = results(), (ROOT / "kernels" / file).read_text()
    begin, end = source.index(WAIT), source.index("return true;")
    right = source[begin:end] + "return true;"
    with_bug(monkeypatch, tmp_path, right, right[len(WAIT) :].replace("true", "all_flags.wait(own, item)"), file)
    expect_notice(expected)


def expect_notice(expected):
    """Check that some schedule gives other results, or finds a copy whose source changes under way."""

    def is_noticed(schedule, seed=0):
        try:
            found = results(schedule, seed)
        except DeviceError as error:
            return "a copy's source has changed under way" in str(error)
        return any(not np.array_equal(found[name], expected[name]) for name in found)

    assert is_noticed("forward") or is_noticed("reverse") or any(is_noticed("shuffled", seed) for seed in range(8))
