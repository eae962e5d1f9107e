"""ONNX Runtime computes what the NumPy engine computes, for any batch, length and number of layers."""

import json
import os

import numpy as np
import pytest

from cuchar.config import ModelConfig
from cuchar.engines.base import State
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import OutputError
from cuchar.export import onnx as onnx_export
from cuchar.export.onnx import onnx_file, onnx_model
from cuchar.parameters import Parameters, initialise
from cuchar.vocabulary import Vocabulary

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when onnxruntime is imported, in `session`
VOCABULARY = Vocabulary(np.arange(65, 95, dtype=np.uint32))


@pytest.fixture
def rng():
    return np.random.default_rng(2)


def parameters_of(V, H, L, dtype=np.float32):
    """Initial weights, and biases that are all different, so that no two gates could change places unnoticed."""
    parameters = initialise(ModelConfig(V, H, L), 0, dtype)
    generator = np.random.default_rng(1)
    for name, view in parameters.items():
        if "bias" in name:
            view += generator.normal(size=view.shape) / 2
    return parameters


def in_double(parameters):
    exact = Parameters(parameters.model, np.float64)
    exact.flat[:] = parameters.flat
    return exact


def session(data):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def runtime_forward(running, ids, state):
    logits, h, c = running.run(None, {"ids": ids.astype(np.int64), "h0": state.h, "c0": state.c})
    return logits, State(h, c)


@pytest.mark.parametrize("L", [1, 2, 3])
@pytest.mark.parametrize("V,H", [(30, 64), (7, 33)])
def test_a_thousand_steps_with_carried_state(V, H, L, rng):
    """The text comes in pieces of 1 to 500 characters.

    A logit is a sum of H products of a weight and an h, |h| < 1. Whatever the order of adding, float32 is off by at most
    gamma_H sum |W|, which is 1.4e-5 and 4e-5 for these two sizes; 1e-5 is less than that, and 20 times what is found.
    Errors of the state do not pile up, since forget gates are below 1.
    """
    parameters = parameters_of(V, H, L)
    engine, exact = NumpyEngine(parameters.model, np.float32), NumpyEngine(parameters.model, np.float64)
    weights, exact_weights = engine.fold(parameters), exact.fold(in_double(parameters))
    running = session(onnx_file(parameters, VOCABULARY))
    theirs, ours, truth = engine.zero_state(2), engine.zero_state(2), exact.zero_state(2)
    done = 0
    for T in (1, 2, 500, 97, 400):
        ids = rng.integers(0, V, (T, 2))
        their_logits, theirs = runtime_forward(running, ids, theirs)
        our_logits, ours = engine.forward(weights, ids, ours)
        true_logits, truth = exact.forward(exact_weights, ids, truth)
        assert their_logits.shape == (T, 2, V)
        assert np.abs(their_logits - our_logits).max() <= 1e-5
        assert np.abs(their_logits - true_logits).max() <= 1e-5
        for name in ("h", "c"):
            assert np.abs(getattr(theirs, name) - getattr(ours, name)).max() <= 1e-5
        done += T
    assert done == 1000 and np.abs(true_logits).max() > 0.5


@pytest.mark.parametrize("T,B", [(1, 1), (1, 7), (5, 1), (33, 4)])
def test_batch_and_length_are_dynamic(T, B, rng):
    parameters = parameters_of(30, 20, 2)
    engine = NumpyEngine(parameters.model, np.float32)
    ids, state = rng.integers(0, 30, (T, B)), State(*rng.uniform(-1, 1, (2, 2, B, 20)).astype("f4"))
    logits, after = engine.forward(engine.fold(parameters), ids, state)
    running = session(onnx_file(parameters, VOCABULARY))
    found, found_after = runtime_forward(running, ids, state)
    for ours, theirs in ((logits, found), (after.h, found_after.h), (after.c, found_after.c)):
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 1e-5


def test_the_file_says_what_it_is():
    import onnx

    made = onnx_model(parameters_of(30, 20, 2), VOCABULARY)
    onnx.checker.check_model(made, full_check=True)
    assert [(opset.domain, opset.version) for opset in made.opset_import] == [("", 17)] and made.ir_version == 8
    assert {entry.key: json.loads(entry.value) for entry in made.metadata_props} == {
        "vocabulary": [chr(code) for code in range(65, 95)]
    }
    sizes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*made.graph.input, *made.graph.output)
    }
    assert sizes == {
        "ids": ["T", "B"], "h0": [2, "B", 20], "c0": [2, "B", 20],
        "logits": ["T", "B", 30], "h": [2, "B", 20], "c": [2, "B", 20],
    }  # fmt: skip
    data = onnx_file(parameters_of(30, 20, 2), VOCABULARY)
    assert data == made.SerializeToString(deterministic=True)  # the same bytes each time
    assert 4 * parameters_of(30, 20, 2).flat.size < len(data) < 4 * parameters_of(30, 20, 2).flat.size + 10_000


def test_float64_and_bytes():
    parameters = parameters_of(30, 20, 2)
    with_bytes = Vocabulary(np.arange(200, 230, dtype=np.uint32), is_bytes=True)
    made = onnx_model(in_double(parameters), with_bytes)
    assert json.loads(made.metadata_props[0].value) == list(range(200, 230))
    del made.metadata_props[:]
    single = onnx_model(parameters, VOCABULARY)
    del single.metadata_props[:]
    assert made == single


def test_weights_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(onnx_export, "MOST_BYTES", 1000)
    with pytest.raises(OutputError, match=r"expected at most 1,000 bytes of weights, found [\d,]+"):
        onnx_model(parameters_of(30, 20, 2), VOCABULARY)


def test_without_the_package(fails, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    line = fails(1, "export", trained, tmp_path / "out.onnx")
    assert "--format onnx: expected the package onnx, found none; pip install 'cuchar[onnx]'" in line
    assert not (tmp_path / "out.onnx").exists()
