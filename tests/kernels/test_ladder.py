"""The kernels that docs/kernels.md teaches with compute what the NumPy engine computes."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from support.process import ROOT

from cuchar.config import ModelConfig
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Example, State
from cuchar.engines.numpy_engine import NumpyEngine, Tape
from cuchar.parameters import Parameters

H, L, V, T, B, SPLITS = 64, 2, 21, 8, 8, 2  # the kernels are for H = 64; a split has 32 characters, two trips of DEPTH
EPS = float(np.finfo(np.float32).eps)
COMPLETE = re.compile(r"^```cuda complete\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHARED = re.compile(r"__shared__ (\w+) (\w+)\[(.+)\];")
LADDER = ("naive_time_step", "one_launch", "weights_in_registers", "two_lanes_a_unit", "wavefront")


@pytest.fixture(scope="module", params=["forward", "reverse", "shuffled"])
def launch(request):
    """Run one of the page's kernels: launch(name, blocks, threads, a value for each parameter by its name)."""
    device = EmulatedDevice(request.param)
    blocks = COMPLETE.findall((ROOT / "docs/kernels.md").read_text("utf-8"))
    source = SHARED.sub(r"SHARED(\1, \2, \3);", "\n".join(['#include "hardware.cuh"', *blocks]))
    kernels = device.compile(source, "docs/kernels.md")

    def run(name, blocks, threads, **arguments):
        kernels[name](blocks, threads, **arguments)

    return run


def as_rows(array):
    """From [..., features, B], as the NumPy engine has it, to [..., B, features]."""
    return np.ascontiguousarray(array.swapaxes(-1, -2))


def computed_by_numpy(dtype):
    """What one window's forward and backward leave in the NumPy engine, and the float32 numbers that they began with."""
    rng = np.random.default_rng(16)
    model = ModelConfig(V, H, L)
    begin = Parameters(model, np.float32)
    begin.flat[:] = rng.normal(size=begin.flat.shape) / 8
    state = State(*(rng.normal(size=(2, L, B, H)) / 2).astype(np.float32))
    inputs, targets = rng.integers(V, size=(2, T, B)).astype(np.int32)

    parameters, gradients = Parameters(model, dtype), Parameters(model, dtype)
    parameters.flat[:] = begin.flat
    engine = Recording(model, dtype)
    begins = State(state.h.astype(dtype), state.c.astype(dtype))
    engine.loss_and_gradients(parameters, Example(inputs, targets, begins), gradients)
    return SimpleNamespace(begin=begin, state=state, inputs=inputs, gradients=gradients, **engine.found)


class Recording(NumpyEngine):
    """A NumPy engine that keeps what a window computes, with batch rows before features."""

    def _forward(self, weights, inputs, state, masks) -> Tape:
        tape = super()._forward(weights, inputs, state, masks)
        self.found = {name: as_rows(getattr(tape, name)) for name in ("h", "c")}
        self.found |= {"gates": as_rows(tape.gates.reshape(L, T, 4 * H, B)), "dh": {}, "da": {}}
        return tape

    def _backward_layer(self, recurrent, tape, layer) -> None:
        self.found["dh"][layer] = as_rows(tape.dh)
        super()._backward_layer(recurrent, tape, layer)
        self.found["da"][layer] = as_rows(tape.dgates.reshape(T, 4 * H, B))


@pytest.fixture(scope="module")
def exact():
    return computed_by_numpy(np.float64)


@pytest.fixture(scope="module")
def single():
    return computed_by_numpy(np.float32)


def expect_as_accurate(name, ours, numpys, exact, terms=None):
    """Check that an error is at most twice NumPy's own in float32, and 4 ulp of the terms that were added."""
    error, numpys_error = (np.linalg.norm(found - exact) for found in (ours, numpys))
    assert error <= 2 * numpys_error + 4 * EPS * np.linalg.norm(exact if terms is None else terms), name


def input_of(single, layer):
    """W_ih x + bias of a layer for all time steps: [T, B, 4H]."""
    weights, bias = (single.begin[f"lstm.{part}_l{layer}"] for part in ("weight_ih", "bias"))
    x = single.h[0, 1:] if layer else np.eye(V, dtype=np.float32)[single.inputs]
    return (x @ weights.T + bias).astype(np.float32)


def tape(single):
    """h and c with the first state in slot 0, and gates; NaN where a kernel has to write."""
    h, c, gates = (np.full((L, slots, B, width), np.nan, "f4") for slots, width in ((T + 1, H), (T + 1, H), (T, 4 * H)))
    h[:, 0], c[:, 0] = single.state.h, single.state.c
    return h, c, gates


@pytest.mark.parametrize("name", LADDER)
def test_every_rung_goes_forward_as_numpy_does(name, launch, exact, single):
    h, c, gates = tape(single)
    matrices = [single.begin[f"lstm.weight_hh_l{layer}"] for layer in range(L)]
    if name == "wavefront":
        stages = np.stack([matrices[0], single.begin["lstm.weight_ih_l1"], matrices[1]])
        bias = single.begin["lstm.bias_l1"].copy()
        launch(name, B, 6 * H, input=input_of(single, 0), matrices=stages, bias=bias, h=h, c=c, gates=gates,
               T=np.int32(T), B=np.int32(B))  # fmt: skip
    for layer in range(L) if name != "wavefront" else ():
        x, matrix = input_of(single, layer), matrices[layer].copy()
        transposed = np.ascontiguousarray(matrix.T)
        if name == "naive_time_step":
            for t in range(T):
                launch(name, B, 4 * H, input=x[t], weights=transposed, h=h[layer, t], c=c[layer, t],
                       h_next=h[layer, t + 1], c_next=c[layer, t + 1], gates=gates[layer, t], H=np.int32(H))  # fmt: skip
        else:
            weights = {"weights": transposed} if name == "one_launch" else {"matrix": matrix}
            threads = 2 * H if name == "two_lanes_a_unit" else 4 * H
            launch(name, B, threads, input=x, **weights, h=h[layer], c=c[layer], gates=gates[layer],
                   T=np.int32(T), B=np.int32(B))  # fmt: skip
    for what, ours in (("h", h), ("c", c), ("gates", gates)):
        expect_as_accurate(what, ours, getattr(single, what), getattr(exact, what))


def test_backward_and_the_weight_gradients_are_numpys(launch, exact, single):
    for layer in range(L):
        da = single.gates[layer].astype(np.float32)
        launch("backward", B, 2 * H, matrix=single.begin[f"lstm.weight_hh_l{layer}"].copy(), c=single.c[layer].copy(),
               dh=single.dh[layer], gates=da, T=np.int32(T), B=np.int32(B))  # fmt: skip
        expect_as_accurate("da", da, single.da[layer], exact.da[layer])

        h = single.h[layer, :-1].copy()
        N, tiles = T * B, 4 * H // 64
        partials = np.full((SPLITS, 4 * H, H), np.nan, "f4")
        launch("weight_gradient_tile", tiles * SPLITS, 128, left=da, right=h, partials=partials,
               N=np.int32(N), M=np.int32(4 * H), K=np.int32(H), S=np.int32(SPLITS))  # fmt: skip
        gradient, name = partials.sum(axis=0), f"lstm.weight_hh_l{layer}"
        left, right = exact.da[layer].reshape(N, -1), exact.h[layer, :-1].reshape(N, -1)
        terms = np.abs(left).T @ np.abs(right)
        expect_as_accurate(name, gradient, single.gradients[name], exact.gradients[name], terms)
