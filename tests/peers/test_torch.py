"""PyTorch's automatic differentiation judges gradients and training steps, and PyTorch loads exported weights."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig
from cuchar.engines.base import Example
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import Parameters, initialise

ROOT = Path(__file__).parent.parent.parent


class Peer(torch.nn.Module):
    """The same model in PyTorch, with the same parameters, in float64."""

    def __init__(self, parameters):
        super().__init__()
        model = parameters.model
        self.lstm = torch.nn.LSTM(model.vocabulary_size, model.hidden, model.layers)
        self.head = torch.nn.Linear(model.hidden, model.vocabulary_size)
        self.to(torch.float64)
        for name, view in parameters.items():
            self.tensor(name).data = torch.from_numpy(view.copy())
        for layer in range(model.layers):  # cuchar has one bias a layer: the second stays 0
            second = getattr(self.lstm, f"bias_hh_l{layer}")
            second.data.zero_()
            second.requires_grad_(False)

    def tensor(self, name):
        return self.get_parameter(name.replace("bias_l", "bias_ih_l"))

    def loss(self, inputs, targets, state=None):
        x = torch.nn.functional.one_hot(torch.from_numpy(inputs.astype(np.int64)), self.lstm.input_size).double()
        hidden, state = self.lstm(x, state)
        loss = torch.nn.CrossEntropyLoss()(
            self.head(hidden).flatten(0, 1), torch.from_numpy(targets.astype(np.int64)).flatten()
        )
        return loss, tuple(part.detach() for part in state)


def close(ours, theirs):
    return np.linalg.norm(ours - theirs.detach().numpy()) <= 1e-9 * max(1.0, np.linalg.norm(ours))


@pytest.mark.parametrize("carry_state", [False, True])
@pytest.mark.parametrize("V,H,L,B,T", [(84, 64, 2, 32, 32), (5, 33, 3, 1, 1), (17, 1, 1, 3, 9), (30, 20, 8, 2, 5)])
def test_gradients_and_fifty_steps(V, H, L, B, T, carry_state):
    parameters = initialise(ModelConfig(V, H, L), 0, np.float64)
    engine, gradients = NumpyEngine(parameters.model, np.float64), Parameters(parameters.model, np.float64)
    adam, peer = Adam(parameters.flat.size, np.float64), Peer(parameters)
    trained = [tensor for tensor in peer.parameters() if tensor.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    windows = Windows(np.random.default_rng(0).integers(V, size=B * (50 * T + 1)), B, T, T)
    assert len(windows) == 50
    state, peer_state = engine.zero_state(B), None
    for step in range(50):
        inputs, targets = windows[step]
        loss, after = engine.loss_and_gradients(parameters, Example(inputs, targets, state), gradients)
        optimiser.zero_grad()
        peer_loss, peer_after = peer.loss(inputs, targets, peer_state)
        peer_loss.backward()
        assert loss == pytest.approx(float(peer_loss), rel=1e-9)
        for name, view in gradients.items():
            assert close(view, peer.tensor(name).grad), (step, name)
        adam.update(parameters.flat, gradients.flat, step + 1, 1e-3)
        optimiser.step()
        for name, view in parameters.items():
            assert close(view, peer.tensor(name)), (step, name)
        if carry_state:
            state, peer_state = after, peer_after
            assert close(state.h, peer_state[0]) and close(state.c, peer_state[1])


@pytest.mark.parametrize("clip,weight_decay", [(0.05, 0.0), (0.0, 0.3), (0.05, 0.3)])
def test_clipping_and_weight_decay_are_adamws(clip, weight_decay):
    parameters = initialise(ModelConfig(9, 8, 2), 0, np.float64)
    engine, gradients = NumpyEngine(parameters.model, np.float64), Parameters(parameters.model, np.float64)
    adam, peer = Adam(parameters.flat.size, np.float64), Peer(parameters)
    trained = [tensor for tensor in peer.parameters() if tensor.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-2, weight_decay=weight_decay)
    inputs, targets = np.random.default_rng(0).integers(9, size=(2, 6, 3))
    for step in range(1, 21):
        engine.loss_and_gradients(parameters, Example(inputs, targets, engine.zero_state(3)), gradients)
        adam.update(parameters.flat, gradients.flat, step, 1e-2, clip, weight_decay)
        optimiser.zero_grad()
        peer.loss(inputs, targets)[0].backward()
        if clip:
            # PyTorch divides by norm + 1e-6: scale by hand to clip exactly
            norm = torch.sqrt(sum((tensor.grad**2).sum() for tensor in trained))
            for tensor in trained:
                tensor.grad *= min(1.0, clip / float(norm))
        optimiser.step()
    for name, view in parameters.items():
        assert close(view, peer.tensor(name)), name


def test_exported_weights_give_pytorch_the_loss_that_eval_prints(tmp_path):
    def cuchar(*arguments):
        command = [sys.executable, "-m", "cuchar", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True).stdout

    text = tmp_path / "part.txt"
    text.write_bytes((ROOT / "data/shakespeare_10K.txt").read_bytes()[:20_000])
    cuchar("train", text, "--lr", 0.01, "--max-steps", 60, "--out", tmp_path / "run")
    cuchar("export", tmp_path / "run", tmp_path / "out.safetensors")
    score = json.loads(cuchar("eval", tmp_path / "run", text, "--json"))
    with safe_open(tmp_path / "out.safetensors", "pt") as opened:
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
        vocabulary = json.loads(opened.metadata()["vocabulary"])
    lstm, head = torch.nn.LSTM(len(vocabulary), 64, 2), torch.nn.Linear(64, len(vocabulary))
    torch.nn.ModuleDict({"lstm": lstm, "head": head}).load_state_dict(weights)
    ids = torch.tensor([vocabulary.index(character) for character in text.read_text()])
    with torch.no_grad():
        hidden, _ = lstm(torch.nn.functional.one_hot(ids[:-1], len(vocabulary)).float())
        loss = torch.nn.CrossEntropyLoss()(head(hidden), ids[1:])
    assert score["nats_per_char"] == pytest.approx(float(loss), abs=1e-5)
    assert 2 < score["nats_per_char"] < 3.5 and score["chars"] == 19_999
