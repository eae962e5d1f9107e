"""The C++ engine against the float64 NumPy engine and against central differences, on every width of vectors."""

import ctypes
import math
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.accuracy import everything, expect_accuracy_of_cpu_engine
from support.central_differences import expect_gradients_of_central_differences
from support.cpu_fingerprint import digest_of, results
from support.learners import learner_of
from support.mutants import KERNELS, chosen, mutant
from support.problems import SHAPES, as_type, problem
from support.process import ROOT, environment
from support.statistics_of_draws import LAWS

from cuchar.adam import Adam
from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices.emulator.compiler import SANITIZERS, sanitizer_environment
from cuchar.engines import choose
from cuchar.engines.base import Dropout, Example, Streams, TrainingState
from cuchar.engines.cpu import engine as cpu_engine
from cuchar.engines.cpu import library as cpu_library
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DeviceError, ShapeError
from cuchar.generation import generate
from cuchar.parameters import Parameters, initialise
from cuchar.sampling import SampleConfig

WIDTHS = {"x86_64": ["-march=x86-64-v3", "-march=x86-64"]}.get(platform.machine(), [])  # besides the machine's own
# Lists of flags; within a list no bit may differ. Code with fused multiply-add is in one, code without it in another.
BUILDS = [["", "-O1"]]
if WIDTHS:
    BUILDS = [
        ["", "-O1 -mtune=znver3", "-O1 -mtune=generic", WIDTHS[0], f"-O1 -mtune=znver3 {WIDTHS[0]}"],
        [WIDTHS[1], f"-O1 -mtune=znver3 {WIDTHS[1]} -mavx"],
    ]
FLAGS = cpu_library.FLAGS


def threads(monkeypatch, count):
    """Let the engine find `count` processors, and use all of them even for the smallest of windows."""
    monkeypatch.setattr(cpu_engine, "thread_count", lambda: count)
    monkeypatch.setattr(cpu_engine, "PRODUCTS_A_THREAD", 1)
    monkeypatch.setattr(cpu_engine, "PRODUCTS_OF_A_STEP", 1)


def built_with(monkeypatch, *flags):
    """Let the engine be compiled with further flags, as for other instructions or by another compiler."""
    monkeypatch.setattr(cpu_library, "FLAGS", [*FLAGS, *flags])
    monkeypatch.setattr(cpu_library, "loaded", {})


@pytest.mark.parametrize("shape", SHAPES)
def test_every_result_is_as_accurate_as_numpys(shape, monkeypatch):
    threads(monkeypatch, 5)
    expect_accuracy_of_cpu_engine(shape)


@pytest.mark.parametrize("flag", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES[::4])
def test_with_other_instructions_too(shape, flag, monkeypatch):
    built_with(monkeypatch, *flag.split())
    threads(monkeypatch, 5)
    expect_accuracy_of_cpu_engine(shape)


def small_shapes():
    """V, H, L, B, T: the smallest ones, some at the edges of vectors and tiles, and two of more than one block."""
    generator = np.random.default_rng(0)
    edges = [1, 2, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 47, 48, 49, 64, 65, 66]
    shapes = [(5, 3, 2, 2, 2)]
    for _ in range(160):
        V, H, L, B, T = (int(size) for size in generator.integers(1, 13, 5))
        shapes.append((max(V, 2), H, min(L, 4), B, T))
    for _ in range(40):
        V, H = (int(size) for size in generator.choice(edges, 2))
        L, B, T = (int(size) for size in generator.integers((1, 1, 1), (4, 20, 5)))
        shapes.append((max(V, 2), H, L, B, T))
    more_than_a_block_of_inputs, more_than_a_chunk_of_characters = (68, 257, 1, 50, 3), (84, 16, 1, 50, 33)
    return [*shapes, more_than_a_block_of_inputs, more_than_a_chunk_of_characters]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("builds", BUILDS)
def test_bits_depend_neither_on_threads_nor_on_what_the_compiler_prefers(builds, dtype, monkeypatch):
    """The bits are those of two training steps, of scores and of logits."""
    shapes, found = small_shapes(), set()
    for flags in builds:
        built_with(monkeypatch, *flags.split())
        runs = []
        for counts in ([1], [2, 3, 5]):
            digests = []
            for number, shape in enumerate(shapes):
                threads(monkeypatch, counts[number % len(counts)])
                digests.append(digest_of(results(*shape, dtype, laws=())))
            runs.append(tuple(digests))
        apart = [shape for shape, *bits in zip(shapes, *runs, strict=True) if len(set(bits)) > 1]
        assert not apart, f"{flags}: {len(apart)} shapes depend on the number of threads, {apart[:5]} among them"
        found.add(runs[0])
    assert len(found) == 1


@pytest.mark.parametrize("flag", ["", *WIDTHS])
@pytest.mark.parametrize("shape", [(5, 4, 2, 3, 3), (5, 3, 1, 2, 4), (4, 3, 3, 2, 3), (2, 17, 1, 7, 2)])
def test_gradients_are_those_of_central_differences(shape, flag, monkeypatch):
    built_with(monkeypatch, *flag.split())
    model, parameters, inputs, targets, state = problem(*shape)
    dropout = Dropout(0.4 * (shape[0] < 5), 3, 9, weights=0.3)
    expect_gradients_of_central_differences(CpuEngine(model, np.float64), parameters, inputs, targets, state, dropout)


@pytest.mark.parametrize("dropout", [Dropout(0.3, 1, 2, weights=0.2), Dropout(0.0, 1, 2, weights=0.2)])
def test_float64_is_numpys_to_its_last_digits(dropout, monkeypatch):
    threads(monkeypatch, 2)
    model, parameters, inputs, targets, state = problem(20, 33, 2, 5, 40)
    exact = everything(NumpyEngine(model, np.float64), parameters, state, inputs, targets, dropout)
    ours = everything(CpuEngine(model, np.float64), parameters, state, inputs, targets, dropout)
    for name, expected in exact.items():
        assert np.linalg.norm(ours[name] - expected) <= 20 * np.finfo(float).eps * np.linalg.norm(expected), name


def test_twenty_steps_of_training_are_numpys():
    """Training in float64 has dropout of both kinds, clipping, weight decay and carried state; Adam's moments are compared too."""
    model = ModelConfig(30, 40, 2)
    options = {"carry_state": True, "dropout": 0.2, "weight_dropout": 0.1, "clip": 0.5, "weight_decay": 0.1}
    config = TrainConfig(hidden=40, layers=2, window=9, batch=6, **options)
    ids = np.random.default_rng(0).integers(30, size=6 * 200)

    def train(engine):
        learner, training = learner_of(engine, config, ids, initialise(model, 0, np.float64))
        losses, norms = learner.train(0, 1, [0.01] * 20)
        learner.fetch()
        adam, state = training.adam, training.state
        return losses, norms, training.parameters.flat, adam.m, adam.v, state.h, state.c

    for ours, numpys in zip(train(CpuEngine(model, np.float64)), train(NumpyEngine(model, np.float64)), strict=True):
        np.testing.assert_allclose(ours, numpys, rtol=1e-10, atol=1e-13)


def test_no_python_runs_while_ctypes_converts_a_samplers_arguments():
    """If Python code ran there, Ctrl-C in it would become ctypes's ArgumentError."""
    model, parameters, inputs, _, state = problem(20, 9, 2, 3, 4)
    engine, given = CpuEngine(model), []
    single, state = as_type(parameters, state, np.float32)
    sampler = engine.sampler(engine.fold(single), SampleConfig(), Streams(7, range(3), inputs[-1], state, 0))

    class Library:
        def sample(self, *arguments):
            given.extend(arguments)

    sampler._library = Library()
    sampler.make(5)
    assert len(given) == 8 and not any(hasattr(argument, "_as_parameter_") for argument in given)


@pytest.mark.parametrize("where", ["weights", "logits"])
def test_what_is_not_finite_shows(where):
    """A NaN passes through exp and tanh, and reaches the loss from wherever it is."""
    model, parameters, inputs, targets, state = problem(20, 9, 2, 3, 4)
    parameters["lstm.weight_hh_l0" if where == "weights" else "head.bias"][3] = np.nan
    single, state = as_type(parameters, state, np.float32)
    loss, _ = CpuEngine(model).loss_and_gradients(single, Example(inputs, targets, state), Parameters(model))
    assert np.isnan(loss)


@pytest.mark.parametrize(
    "options",
    [
        *LAWS, {"argmax": True}, {"temperature": 1e-4}, {"top_k": 200}, {"top_k": 2**64 + 1}, {"top_k": 1},
        {"top_p": 1e-9}, {"min_p": 1}, {"repeat_penalty": 1.3},
    ],
)  # fmt: skip
def test_draws_are_numpys(options, monkeypatch):
    """Three threads make 30 characters of 100 streams, which they divide, and of 2, for which they divide the units.

    They do so in float64, so that rounding decides no draw.
    """
    threads(monkeypatch, 3)
    model = ModelConfig(84, 33, 2)
    parameters = initialise(model, 1, np.float64)
    parameters.flat *= 3
    parameters["head.weight"][7] = parameters["head.weight"][5]  # two characters that are equally likely
    law, nothing = SampleConfig(length=30, **options), np.empty(0, int)

    def made(engine, streams):
        blocks = generate(engine, engine.fold(parameters), law, 5, streams, np.array([1, 0, 1]), nothing)
        return np.concatenate([ids for ids, _ in blocks])

    expected = made(NumpyEngine(model, np.float64), range(3, 103))
    assert np.array_equal(made(CpuEngine(model, np.float64), range(3, 103)), expected)
    assert np.array_equal(made(CpuEngine(model, np.float64), range(3, 5)), expected[:, :2])


@pytest.mark.parametrize(
    "hidden,rows,steps,expected",
    [(512, 1, 1, 4), (256, 1, 1, 4), (192, 1, 1, 2), (128, 1, 1, 1), (512, 3, 1, 4), (64, 64, 64, 4), (16, 64, 1, 1)],
)
def test_forward_takes_as_many_threads_as_have_enough_to_do(hidden, rows, steps, expected, monkeypatch):
    """Of four: with few rows they share the units, from some 65,536 products for each of them at a time step on."""
    monkeypatch.setattr(cpu_engine, "thread_count", lambda: 4)
    engine = CpuEngine(ModelConfig(68, hidden, 2))
    assert engine._tape(steps, rows).task.threads == expected


def test_a_stream_without_finite_logits_has_no_characters():
    model = ModelConfig(5, 3, 1)
    parameters = initialise(model, 1)
    parameters["head.bias"][2] = np.inf
    engine = CpuEngine(model)
    sampler = engine.sampler(
        engine.fold(parameters), SampleConfig(), Streams(0, range(2), np.array([0, 1]), engine.zero_state(2), 0)
    )
    assert (sampler.make(3) == -1).all()


def test_wrong_shapes_and_ids_are_named():
    model, parameters, inputs, targets, state = problem(5, 3, 1, 2, 4)
    engine = CpuEngine(model, np.float64)
    weights = engine.fold(parameters)
    with pytest.raises(ShapeError, match=r"state: expected \(1, 1, 3\), found \(1, 2, 3\)"):
        engine.forward(weights, inputs[:, :1], state)
    with pytest.raises(ShapeError, match=r"targets: expected \(4, 2\), found \(4, 1\)"):
        engine.losses(weights, inputs, targets[:, :1], state)
    for wrong in (5, -1):
        inputs[3, 1] = wrong
        with pytest.raises(ShapeError, match="inputs: expected ids from 0 to 4, found"):
            engine.forward(weights, inputs, state)


def gradients_of_a_window(_=None):
    """The bytes of a window's gradients. What a pool hands over does not matter."""
    model, parameters, inputs, targets, state = problem(84, 64, 2, 8, 33)
    single, state = as_type(parameters, state, np.float32)
    gradients = Parameters(model)
    CpuEngine(model).loss_and_gradients(single, Example(inputs, targets, state), gradients)
    return gradients.flat.tobytes()


def test_a_forked_process_and_python_threads_have_threads_of_their_own(monkeypatch):
    """A process is forked while a thread computes or has just done so; at last the engine's threads are asleep."""
    threads(monkeypatch, 2)
    expected = gradients_of_a_window()
    library = CpuEngine(ModelConfig(2, 1, 1)).library
    for trips in (1, 1 << 20):
        busy = threading.Thread(target=lambda trips=trips: library.multiply_add(ctypes.c_long(2), ctypes.c_long(trips)))
        busy.start()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(gradients_of_a_window).get(timeout=60) == expected
        busy.join()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(gradients_of_a_window, range(12))) == {expected}
    time.sleep(0.3)
    assert gradients_of_a_window() == expected


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e25])
@pytest.mark.parametrize("engine_of", [NumpyEngine, CpuEngine])
def test_adam_leaves_all_as_it_is_where_the_norm_is_not_finite(engine_of, wrong):
    """1e25 is finite, but its square is beyond float32's largest number."""
    config = TrainConfig(hidden=5, window=4, batch=3)
    learner, training = learner_of(engine_of(ModelConfig(6, 5, 2)), config, np.arange(90) % 6)
    learner.train(0, 1, [0.1])
    arrays = training.parameters.flat, training.adam.m, training.adam.v
    before = [array.copy() for array in arrays]
    learner.gradients.flat[:] = 0
    learner.gradients.flat[7] = wrong
    assert not np.isfinite(learner._update(2, 0.1))
    assert all(np.array_equal(*pair) for pair in zip(before, arrays, strict=True))


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e9])
def test_adam_has_the_same_bits_on_any_number_of_threads(clip, monkeypatch):
    found = []
    for count in (1, 2, 5, 9):
        threads(monkeypatch, count)
        model = ModelConfig(84, 64, 1)
        engine, parameters = CpuEngine(model), initialise(model, 1)
        adam, config = Adam(parameters.flat.size), TrainConfig(hidden=64, layers=1, clip=clip, weight_decay=0.1)
        learner = engine.learner(config, TrainingState(parameters, adam, engine.zero_state(32)), None)
        for step in (1, 2, 3):
            learner.gradients.flat[:] = np.random.default_rng(step).normal(0, 0.1, parameters.flat.size)
            norm = learner._update(step, 0.01)
            assert norm == pytest.approx(np.linalg.norm(learner.gradients.flat.astype(float)), rel=1e-12)
        found.append(b"".join(array.tobytes() for array in (parameters.flat, adam.m, adam.v)))
    assert len(set(found)) == 1 and parameters.flat.size > 20_000  # every thread has its share


@pytest.mark.parametrize("count", [1, 3])
def test_no_thread_computes_with_subnormal_numbers(count, monkeypatch):
    """Moments that decay end at zero, and the caller's own arithmetic stays as it was."""
    threads(monkeypatch, count)
    config = TrainConfig(hidden=64, layers=1, window=4, batch=3)
    learner, training = learner_of(CpuEngine(ModelConfig(84, 64, 1)), config, np.arange(90) % 6)
    adam, tiny = training.adam, np.finfo(np.float32).tiny
    learner.gradients.flat[:] = 0
    for moments, decay in ((adam.m, np.float32(0.9)), (adam.v, np.float32(0.999))):
        moments[::2], moments[1::2] = tiny, 4 * tiny
        learner._update(1, 0.01)
        assert not moments[::2].any() and np.all(moments[1::2] == decay * (4 * tiny))
    assert np.float32(tiny) / 2 > 0 and float(np.finfo(float).tiny) / 2 > 0


def test_subnormal_moments_cost_no_time(monkeypatch):
    """Without FlushSubnormals the update took 1.5 times as long on an AMD EPYC; Intel's processors are slower at them."""
    threads(monkeypatch, 1)
    config = TrainConfig(hidden=128, layers=1, window=4, batch=3)
    learner, training = learner_of(CpuEngine(ModelConfig(84, 128, 1)), config, np.arange(90) % 6)
    learner.gradients.flat[:] = 0
    seconds = {1e-4: math.inf, 1e-39: math.inf}
    for size in [*seconds] * 60:
        training.adam.m[:] = training.adam.v[:] = size
        began = time.perf_counter()
        learner._update(100_000, 0.01)
        seconds[size] = min(seconds[size], time.perf_counter() - began)
    assert seconds[1e-39] < 1.3 * seconds[1e-4]


def test_numbers_of_another_type_are_refused():
    model, parameters, inputs, targets, state = problem(5, 3, 1, 2, 4)
    with pytest.raises(ShapeError, match=r"parameters: expected .*float32, found .*float64"):
        CpuEngine(model).loss_and_gradients(parameters, Example(inputs, targets, state), Parameters(model))
    with pytest.raises(DeviceError, match="expected float32 or float64, found float16"):
        CpuEngine(model, np.float16)


def test_a_damaged_cache_or_none_costs_a_compilation_and_not_the_engine(tmp_path, monkeypatch, capsys):
    def notice(folder):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / folder))
        built_with(monkeypatch, "-O0")
        choose._say_compiling.cache_clear()  # which is said once a process
        assert choose.choose_engine("cpu", ModelConfig(2, 1, 1))[0].name == "C++"
        return capsys.readouterr().err

    (tmp_path / "file").write_text("")
    kept = "compiling the kernels; the next run finds them compiled\n"
    assert notice("cache") == kept
    [library] = tmp_path.glob("cache/cuchar/cpu/*.so")
    cut = library.read_bytes()[:100]
    library.unlink()  # what this process has loaded stays as it is
    library.write_bytes(cut)
    assert notice("cache") == kept
    assert notice("cache") == ""
    assert notice("file") == (
        f"compiling the kernels; every run will, since {tmp_path}/file/cuchar/cpu cannot be used (Not a directory): "
        "set XDG_CACHE_HOME\n"
    )


def fingerprint(folder, *flags, **more):
    """Run tests/support/cpu_fingerprint.py on the kernels in a folder."""
    command = [sys.executable, ROOT / "tests/support/cpu_fingerprint.py", folder, *flags]
    return subprocess.run(command, capture_output=True, text=True, env=environment() | more, timeout=180)


@pytest.mark.parametrize(
    ("sanitize", "width"),
    [("thread", "-march=native"), *(("address", flag) for flag in ("-march=native", *WIDTHS))],
)
def test_clean_under_sanitizers(sanitize, width):
    flags = ("-O1", "-g", width, f"-fsanitize={SANITIZERS[sanitize]}", "-fno-sanitize-recover=all")
    run = fingerprint(KERNELS, *flags, **sanitizer_environment(sanitize), OPENBLAS_NUM_THREADS="1")
    assert run.returncode == 0 and len(run.stdout) == 65, run.stderr[:3000]


def test_every_compiler_makes_the_same_bits():
    """g++ and clang++, which .ci/run installs, build the C++ engine and emulated kernels. CI never skips this."""
    compilers = [name for name in ("g++", "clang++") if shutil.which(name)]
    if len(compilers) < 2:
        assert "CI" not in os.environ
        pytest.skip("expected g++ and clang++, found one of them or none")
    emulated = [sys.executable, ROOT / "tests/support/fingerprint.py", KERNELS, "small block"]
    of_engine, of_emulator = set(), set()
    for name in compilers:
        of_engine.add(fingerprint(KERNELS, "-O1", CXX=name).stdout)
        env = environment() | {"CXX": name}
        of_emulator.add(subprocess.run(emulated, stdout=subprocess.PIPE, text=True, env=env).stdout)
    assert [len(digest) for digest in (*of_engine, *of_emulator)] == [65, 65]  # one digest of each, whole


FILES = sorted(str(path.relative_to(KERNELS)) for path in KERNELS.glob("cpu/*.[ch]pp"))


HARMLESS = (  # signs that may be either, because nothing that is computed depends on them
    "all(thread + i)", "kept[thread] +=", "NUMBERS - 1) / NUMBERS",
    "{before + 1}",  # any other number than the last task's
    "(4 * u + first)", "gate = first + p",  # the first is 0 where a panel has all four gates
    "(layer - 1) * (4 * Hp + 2",  # a gap between layers
    "x - Lanes{}",  # changes a zero's sign alone
    "partial + v % PARTIAL_SUMS",  # the remainder is 0 with vectors of 64 bytes
    "return a * b + c;",  # is compiled for vectors of 16 bytes alone
    "right_stride - LANES", "long size() const { return head_bias_row() +",  # AddressSanitizer sees these
)  # fmt: skip


def survivors(pick, tmp_path):
    """Where a changed sign went unnoticed."""
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    original = fingerprint(shutil.copytree(KERNELS, tmp_path / "unchanged"), "-O1", **cache)
    assert original.returncode == 0, original.stderr

    def survives(job):
        number, file, site = job
        try:
            run = fingerprint(mutant(file, site, tmp_path / f"{number}"), "-O1", **cache)
        except subprocess.TimeoutExpired:  # a loop that never ends is seen
            return None
        return f"{file}:{site[0] + 1}:{site[1] + 1}" if run.stdout == original.stdout else None

    lines = {file: (KERNELS / file).read_text().splitlines() for file in FILES}
    jobs = [
        (file, site)
        for file in FILES
        for site in pick(KERNELS / file)
        if not any(harmless in lines[file][site[0]] for harmless in HARMLESS)
    ]
    with ThreadPoolExecutor(2) as pool:
        return [found for found in pool.map(survives, [(n, *job) for n, job in enumerate(jobs)]) if found]


def test_no_changed_sign_goes_unnoticed(tmp_path):
    assert survivors(chosen, tmp_path) == []


def test_operations_are_counted():
    """A tile counts a multiplication and an addition for each lane, and the count grows with threads and trips."""
    library = CpuEngine(ModelConfig(2, 1, 1)).library
    tile = library.multiply_add(ctypes.c_long(1), ctypes.c_long(1))
    assert tile % (2 * library.lanes()) == 0 and library.multiply_add(ctypes.c_long(3), ctypes.c_long(10)) == 30 * tile
