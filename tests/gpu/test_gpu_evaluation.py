"""Scores and samples of a trained model: the device's and NumPy's."""

import numpy as np
import pytest

from benchmarks.gpu_stages.device import dry_run
from benchmarks.gpu_stages.reference import train
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.cuda_engine import CudaEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.evaluation import Score, stream_losses, window_losses
from cuchar.sampling import SampleConfig, sample_ids

V = 50


@pytest.fixture(scope="module", params=[16, 81], ids=["resident", "persistent"])
def trained(request):
    """Ids, and a model that has learnt something of them."""
    ids = (np.cumsum(np.random.default_rng(1).choice([1, 2, 9], 20_000, p=[0.7, 0.2, 0.1])) % V).astype(np.uint8)
    engine = NumpyEngine(ModelConfig(V, request.param, 2))
    return ids, train(engine, TrainConfig(hidden=request.param, batch=8, steps=16, lr=0.01), ids, 40)[1]


@pytest.fixture
def engines(trained, device):
    return CudaEngine(trained[1].model, device), NumpyEngine(trained[1].model)


def test_scores_agree(trained, engines):
    ids, parameters = trained
    ids = ids[:100] if dry_run() else ids
    streams, windows = [], []
    for engine in engines:
        weights = engine.fold(parameters)
        streams.append(np.concatenate(list(stream_losses(engine, weights, ids[: len(ids) // 3 * 3].reshape(3, -1))), 1))
        windows.append(np.concatenate(list(window_losses(engine, weights, ids, 32))))
    for ours, numpys in (streams, windows):
        assert Score.of(ours).nats_per_char == pytest.approx(Score.of(numpys).nats_per_char, rel=1e-5)
        np.testing.assert_allclose(ours, numpys, rtol=1e-3, atol=1e-4)


def test_samples_agree(trained, engines):
    _, parameters = trained
    nothing, law = np.empty(0, int), SampleConfig(length=20 if dry_run() else 300)
    ours, numpys = (
        list(sample_ids(engine, engine.fold(parameters), V, law, np.random.default_rng(4), nothing, nothing))
        for engine in engines
    )
    assert ours == numpys
