"""The sampler's kernels, run by the emulator, against the NumPy sampler."""

import numpy as np
import pytest
from support.statistics_of_draws import LAWS, chance_of_more
from support.targets import target_of

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import State, Streams
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.regimes import plan_sampling
from cuchar.engines.cuda.resident import OneBlock
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import DivergedError
from cuchar.generation import generate
from cuchar.parameters import initialise
from cuchar.philox import uniforms
from cuchar.sampling import SampleConfig, draw, probabilities

NOTHING = np.empty(0, int)
RESIDENT, STEPWISE = Limits(90, 132, 232_448), Limits(80, 108, 166_912, registers=0)
SCHEDULES = ("forward", "reverse", "shuffled")


def draw_ids(logits, config, seed, first_stream, position, warps, schedule="forward"):
    """Run kernels/sampling/draw.cu alone; returns the ids that the next time step reads, and those that are made."""
    S, V = logits.shape
    real = {"f": "float", "d": "double"}[logits.dtype.char]
    kernel = EmulatedDevice(schedule).kernels("sampling/draw.cu", {"REAL": real, "WARPS": warps})["draw_ids"]
    ids, made, p = np.full(S, -7, np.int32), np.full(S, -7, np.int32), np.full((S, V), np.nan)
    kernel(
        S, 32 * warps, logits=logits, p=p, inputs=ids, made=made, V=V, is_exp=config.law == "exp",
        top_k=1 if config.argmax else config.top_k, coldness=config.coldness, top_p=config.top_p,
        min_p=config.min_p, seed=seed, first_stream=first_stream, position=position,
    )  # fmt: skip
    return ids, made


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("warps", [1, 8])
@pytest.mark.parametrize("V", [2, 31, 33, 84, 600])
def test_the_kernel_draws_what_numpy_draws(V, warps, dtype):
    """Rows of numbers, of whole numbers of which many are equal, of zeros with both signs, far apart, and all equal."""
    generator, S = np.random.default_rng(V), 6
    logits = generator.normal(0, 2, (S, V)).astype(dtype)
    logits[1] = np.round(logits[1])
    logits[2] = generator.choice([0.0, -0.0, 1.0], V)
    logits[3] *= 1e4
    logits[4] = 1.0
    edges = {"argmax": True}, {"top_k": V}, {"top_k": V + 9}, {"top_k": 1}, {"top_p": 1e-9}, {"min_p": 1}
    for options in [*LAWS, *edges]:
        config, seed = SampleConfig(**options), (5 << 32) | 9
        for position in (0, (3 << 32) | 2):
            stream = (1 << 32) - 3  # so that streams' numbers go on into their upper word
            expected = draw(logits, config, uniforms(seed, range(stream, stream + S), range(position, position + 1))[0])
            ids, made = draw_ids(logits, config, seed, stream, position, warps)
            assert made.tolist() == ids.tolist() == expected.tolist(), options


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_largest_vocabulary(schedule):
    logits = np.random.default_rng(1).normal(0, 3, (1, 65_536)).astype(np.float32)
    logits[0, 65_535] = logits.max() + 1
    for options in ({}, {"argmax": True}, {"top_k": 1000, "top_p": 0.7}):
        config = SampleConfig(**options)
        expected = draw(logits, config, uniforms(1, range(1), range(4, 5))[0])
        assert draw_ids(logits, config, 1, 0, 4, 8, schedule)[1] == expected


@pytest.mark.parametrize("warps", [1, 8])
def test_rows_that_are_not_finite_give_no_character(warps):
    logits = np.zeros((5, 40), np.float32)
    logits[0, 39], logits[1, 0], logits[3, 33], logits[4] = np.nan, np.inf, -np.inf, np.nan
    for config in (SampleConfig(), SampleConfig(argmax=True)):
        ids, made = draw_ids(logits, config, 0, 0, 0, warps)
        assert (made < 0).tolist() == [True, True, False, True, True]
        assert ids.tolist() == np.maximum(made, 0).tolist()


@pytest.mark.parametrize("options", LAWS)
def test_frequencies(options):
    """Characters are as frequent as the law says, and as NumPy draws them by other random numbers.

    Either law at any temperature has 100,000 draws, top_k and top_p fewer: there the emulator has to sort.
    """
    config, count = SampleConfig(**options), 100_000 if options in LAWS[:4] else 4_000
    logits = np.random.default_rng(2).normal(0, 0.8, 11).astype(np.float32)
    rows = np.tile(logits, (count, 1))
    ours = np.bincount(draw_ids(rows, config, 8, 0, 6, 1)[1], minlength=11)
    numpys = np.bincount(draw(rows, config, uniforms(9, range(count), range(1))[0]), minlength=11)
    assert chance_of_more(ours, count * probabilities(logits, config)) > 1e-6
    both = (ours + numpys) / 4  # so that chi-square's terms become (ours - numpys)^2 / (ours + numpys)
    assert chance_of_more(both + (ours - numpys) / 2, both) > 1e-6


# --- streams of a model


def model_of(V, H, L):
    """Parameters far from their initial values, so that characters differ in probability."""
    parameters = initialise(ModelConfig(V, H, L), 1)
    parameters.flat *= 3
    return parameters


def streams(engine, parameters, count, prime=NOTHING, **options):
    """Ids [length, count] of streams 3, 4, ..."""
    blocks = generate(engine, engine.fold(parameters), SampleConfig(**options), 5, range(3, 3 + count), prime, NOTHING)
    return np.concatenate([ids for ids, _ in blocks])


SHAPES = [  # V, H, L, S, and the regime
    (2, 1, 1, 1, RESIDENT), (84, 33, 1, 13, RESIDENT), (84, 64, 2, 13, RESIDENT), (84, 16, 2, 50, RESIDENT),
    (500, 16, 2, 4, RESIDENT), (2, 32, 3, 13, RESIDENT), (2, 33, 3, 50, STEPWISE), (84, 64, 2, 13, STEPWISE), (600, 100, 2, 3, STEPWISE),
    (600, 1, 3, 1, STEPWISE), (84, 100, 3, 13, STEPWISE),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "V{} H{} L{} S{}".format(*shape[:4]))
def test_streams_are_numpys_in_every_schedule(shape):
    V, H, L, S, limits = shape
    parameters = model_of(V, H, L)
    assert isinstance(plan_sampling(target_of(parameters.model, limits)), OneBlock if limits is RESIDENT else Stepwise)
    engines = [CudaEngine(parameters.model, EmulatedDevice(schedule, limits=limits)) for schedule in SCHEDULES]
    for prime, options in (
        (NOTHING, {"length": 20}),
        (np.array([1, 0, 1]), {"length": 8, "argmax": True}),
        (np.array([1]), {"length": 6, "law": "exp", "temperature": 2.0, "top_k": 20, "top_p": 0.9, "min_p": 0.7}),
    ):
        expected = streams(NumpyEngine(parameters.model), parameters, S, prime, **options)
        for engine in engines:
            assert np.array_equal(streams(engine, parameters, S, prime, **options), expected)


@pytest.mark.parametrize("limits", [RESIDENT, STEPWISE], ids=["resident", "stepwise"])
def test_float64_streams_are_numpys(limits):
    parameters = initialise(ModelConfig(40, 16, 2), 1, np.float64)
    parameters.flat *= 3
    engines = CudaEngine(parameters.model, EmulatedDevice(limits=limits), "f8"), NumpyEngine(parameters.model, "f8")
    laws = [{}, {"top_k": 7}, {"argmax": True}]
    if limits is STEPWISE:  # whose kernels are those of `forward`, which the host takes for a penalty
        laws.append({"repeat_penalty": 1.3})
    for options in laws:
        assert np.array_equal(*(streams(engine, parameters, 5, length=20, **options) for engine in engines))


@pytest.mark.parametrize("limits", [RESIDENT, STEPWISE], ids=["resident", "stepwise"])
def test_calls_of_any_length_make_the_same_and_leave_the_same_state(limits):
    parameters, S = model_of(84, 16, 3), 3
    engine = CudaEngine(parameters.model, EmulatedDevice(limits=limits))
    weights, config = engine.fold(parameters), SampleConfig()
    state = State(*np.random.default_rng(0).normal(0, 0.5, (2, 3, S, 16)).astype(np.float32))

    def sampler():
        return engine.sampler(weights, config, Streams(7, range(S), np.array([1, 2, 3]), state, 4))

    whole, parts = sampler(), sampler()
    expected = whole.make(8)
    assert np.array_equal(np.concatenate([parts.make(count) for count in (3, 1, 4)]), expected)
    numpy_engine = NumpyEngine(parameters.model)
    numpys = numpy_engine.sampler(
        numpy_engine.fold(parameters), config, Streams(7, range(S), np.array([1, 2, 3]), state, 4)
    )
    assert np.array_equal(numpys.make(8), expected)
    found, end = whole._tape.get_state(), numpys.state
    for ours, theirs in ((found.h, end.h), (found.c, end.c), (parts._tape.get_state().h, end.h)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("limits", [RESIDENT, STEPWISE], ids=["resident", "stepwise"])
def test_4096_streams(limits):
    parameters = model_of(3, 1, 1)
    engine = CudaEngine(parameters.model, EmulatedDevice(limits=limits))
    expected = streams(NumpyEngine(parameters.model), parameters, 4096, length=4)
    assert np.array_equal(streams(engine, parameters, 4096, length=4), expected)


@pytest.mark.parametrize("limits", [RESIDENT, STEPWISE], ids=["resident", "stepwise"])
def test_a_model_that_overflows_is_an_error(limits):
    parameters = model_of(84, 16, 2)
    parameters["head.bias"][83] = np.inf
    engine = CudaEngine(parameters.model, EmulatedDevice(limits=limits))
    with pytest.raises(DivergedError, match="expected finite logits to draw from"):
        streams(engine, parameters, 2, length=5)
