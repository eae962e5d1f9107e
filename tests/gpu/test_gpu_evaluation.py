"""The device scores and samples a trained model as NumPy does."""

import numpy as np
import pytest

from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.base import Streams
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.stepwise import draw_warps
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.evaluation import Score, chunk_losses, stream_losses, window_losses
from cuchar.generation import generate
from cuchar.philox import uniforms
from cuchar.sampling import SampleConfig, draw
from tools.gpu_stages.device import dry_run
from tools.gpu_stages.reference import train
from tools.gpu_stages.shapes import DRAWN, EVALUATED_HIDDEN
from tools.gpu_stages.shapes import EVALUATED_V as V


@pytest.fixture(scope="module", params=EVALUATED_HIDDEN.values(), ids=list(EVALUATED_HIDDEN))
def trained(request):
    """Ids, and a model that has learnt something of them."""
    ids = (np.cumsum(np.random.default_rng(1).choice([1, 2, 9], 20_000, p=[0.7, 0.2, 0.1])) % V).astype(np.uint8)
    engine = NumpyEngine(ModelConfig(V, request.param, 2))
    return ids, train(engine, TrainConfig(hidden=request.param, batch=8, window=16, lr=0.01), ids, 40)[1]


@pytest.fixture
def engines(trained, device):
    return CudaEngine(trained[1].model, device), NumpyEngine(trained[1].model)


def test_scores_agree(trained, engines):
    ids, parameters = trained
    ids = ids[:100] if dry_run() else ids
    streams, windows, chunks = [], [], []
    for engine in engines:
        weights = engine.fold(parameters)
        streams.append(np.concatenate(list(stream_losses(engine, weights, ids[: len(ids) // 3 * 3].reshape(3, -1))), 1))
        windows.append(np.concatenate(list(window_losses(engine, weights, ids, 32))))
        chunks.append(np.concatenate(list(chunk_losses(engine, weights, ids))))
    for ours, numpys in (streams, windows, chunks):
        assert Score.of(ours).nats_per_char == pytest.approx(Score.of(numpys).nats_per_char, rel=1e-5)
        np.testing.assert_allclose(ours, numpys, rtol=1e-3, atol=1e-4)


LAWS = [
    {}, {"temperature": 0.5}, {"law": "exp"}, {"top_k": 5}, {"top_p": 0.8}, {"top_k": 9, "top_p": 0.9}, {"argmax": True},
    {"top_p": 0.8, "min_p": 0.2},
]  # fmt: skip


@pytest.mark.parametrize("prime", [[], [3, 1, 4, 1, 5]], ids=len)
@pytest.mark.parametrize("options", LAWS, ids=str)
def test_streams_agree(trained, engines, options, prime):
    """Two streams in a hundred may differ: where the rounding of logits decides a draw, all that follows differs."""
    _, parameters = trained
    law, count = SampleConfig(length=6 if dry_run() else 100, **options), 3 if dry_run() else 200
    prime, no_stop = np.array(prime, int), np.empty(0, int)

    def streams(engine):
        blocks = generate(engine, engine.fold(parameters), law, 4, range(count), prime, no_stop)
        return np.concatenate([ids for ids, _ in blocks])

    ours, numpys = map(streams, engines)
    assert ours.shape == (law.length, count) and (ours == numpys).all(axis=0).mean() >= 0.98


def test_calls_of_any_length_make_the_same(trained, engines):
    _, parameters = trained
    engine, law, streams = engines[0], SampleConfig(top_p=0.95), range(5 if dry_run() else 300)
    found = []
    for counts in ((9,), (1, 5, 3)):
        state, ids = engine.zero_state(len(streams)), np.arange(len(streams)) % V
        sampler = engine.sampler(engine.fold(parameters), law, Streams(7, streams, ids, state, 0))
        found.append(np.concatenate([sampler.make(count) for count in counts]))
    assert np.array_equal(*found)


@pytest.mark.parametrize("size", DRAWN)
@pytest.mark.parametrize("options", LAWS, ids=str)
def test_draws_of_the_same_logits_are_numpys(device, options, size):
    """kernels/sampling/draw.cu draws alone. Many logits are equal; the exponentials may differ in their last bit."""
    S, config = 8 if dry_run() or size > 5000 else 1000, SampleConfig(**options)
    logits = np.round(np.random.default_rng(size).normal(0, 2, (S, size)), 1).astype(np.float32)
    warps = draw_warps(ModelConfig(size, 1, 1))
    kernel = device.kernels("sampling/draw.cu", {"WARPS": warps})["draw_ids"]
    on_device, p = device.empty(logits.shape, np.float32), device.empty(logits.shape, np.float64)
    ids, made = device.empty((S,), np.int32), device.empty((S,), np.int32)
    device.write(on_device, logits)
    kernel(
        S, 32 * warps, logits=on_device, p=p, inputs=ids, made=made, V=size, is_exp=config.law == "exp",
        top_k=1 if config.argmax else config.top_k, coldness=config.coldness, top_p=config.top_p,
        min_p=config.min_p, seed=1, first_stream=2, position=3,
    )  # fmt: skip
    expected = draw(logits, config, uniforms(1, range(2, 2 + S), range(3, 4))[0])
    assert np.array_equal(device.read(made), expected) and np.array_equal(device.read(ids), expected)
