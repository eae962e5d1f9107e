"""A model that PyTorch has trained comes to cuchar with its predictions; one of cuchar's goes there and comes back."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import cuchar
from cuchar.checkpoint import read_checkpoint
from cuchar.engines.numpy_engine import NumpyEngine

TEXT = "the quick brown fox jumps over the lazy dog\n" * 30
CHARACTERS = list(dict.fromkeys(TEXT))  # in the order in which they appear, which is not cuchar's
V, H = len(CHARACTERS), 24


class CharacterModel(torch.nn.Module):
    """As one writes it: one-hot characters, or with `width` an embedding of so many numbers."""

    def __init__(self, width=None, layers=2):
        super().__init__()
        self.embedding = None if width is None else torch.nn.Embedding(V, width)
        self.lstm = torch.nn.LSTM(width or V, H, layers)
        self.decoder = torch.nn.Linear(H, V)

    def forward(self, ids):
        one_hot = torch.nn.functional.one_hot(ids, V).to(self.decoder.weight.dtype)
        return self.decoder(self.lstm(one_hot if self.embedding is None else self.embedding(ids))[0])


def trained(model, steps=20):
    ids = torch.tensor([CHARACTERS.index(character) for character in TEXT])
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(ids[:100]), ids[1:101])
        loss.backward()
        optimiser.step()
    return model


@pytest.mark.parametrize("width", [None, 10])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_model_trained_by_pytorch(tmp_path, width, layers):
    torch.manual_seed(0)
    model = trained(CharacterModel(width, layers))
    save_file(model.state_dict(), tmp_path / "in.safetensors", {"vocabulary": json.dumps(CHARACTERS)})
    imported = cuchar.import_model(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    ids = imported.vocabulary.encode(imported.reading.codes_of(TEXT[:500]))
    with torch.no_grad():
        theirs = model.double()(torch.tensor([CHARACTERS.index(character) for character in TEXT[:500]])).numpy()
    theirs = theirs[:, [CHARACTERS.index(character) for character in imported.vocabulary.characters()]]
    engine = NumpyEngine(imported.parameters.model, np.float32)
    ours, _ = engine.forward(engine.fold(imported.parameters), ids[:, None], engine.zero_state(1))
    # The import rounds a bias's sum and a folded table to float32, and the engine rounds each of the H products of a
    # logit: gamma_H |W| |h|, |h| < 1, with as much again for the gates of each layer, whose error the next one passes on.
    bound = (layers + 1) * H * 2**-24 * np.abs(imported.parameters["head.weight"]).sum(axis=1).max()
    assert np.abs(ours[:, 0] - theirs).max() < bound < 1e-3 * np.abs(theirs).max()
    loss = float(torch.nn.functional.cross_entropy(torch.tensor(theirs[:-1]), torch.tensor(ids[1:].astype(np.int64))))
    assert imported.score(TEXT[:500]).nats_per_char == pytest.approx(loss, abs=1e-5) and loss < 3


def test_a_model_goes_to_pytorch_and_comes_back_with_the_same_bits(tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT)
    model = cuchar.train(tmp_path / "fox.txt", hidden=H, batch=8, window=16, max_steps=20, out=tmp_path / "run")
    model.export(tmp_path / "out.safetensors")
    there = CharacterModel()
    weights = load_file(tmp_path / "out.safetensors")
    there.load_state_dict({name.replace("head.", "decoder."): tensor for name, tensor in weights.items()})
    save_file(
        there.state_dict(), tmp_path / "in.safetensors", {"vocabulary": json.dumps(model.vocabulary.characters())}
    )
    cuchar.import_model(tmp_path / "in.safetensors", tmp_path / "back.safetensors")
    back = read_checkpoint(tmp_path / "back.safetensors")
    assert back.parameters.flat.tobytes() == model.parameters.flat.tobytes() and back.vocabulary == model.vocabulary


def test_types_and_prefixes_that_pytorch_writes(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Module()
    model.module = CharacterModel(7).bfloat16()
    save_file(model.state_dict(), tmp_path / "in.safetensors", {"vocabulary": json.dumps(CHARACTERS)})
    imported = cuchar.import_model(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    order = [CHARACTERS.index(character) for character in imported.vocabulary.characters()]
    head = model.module.decoder.weight.detach().float().numpy()[order]
    assert np.array_equal(imported.parameters["head.weight"], head)


@pytest.mark.parametrize(
    "lstm,found",
    [
        (torch.nn.LSTM(V, H, bidirectional=True), "an LSTM that reads forwards alone, found a bidirectional one"),
        (torch.nn.LSTM(V, H, proj_size=5), "an LSTM without projections, found one with proj_size"),
        (torch.nn.GRU(V, H), rf"expected shape \(4H, H\), as an LSTM has, found \({3 * H}, {H}\)"),
    ],
)
def test_what_cuchar_has_not(tmp_path, lstm, found):
    model = torch.nn.ModuleDict({"lstm": lstm, "head": torch.nn.Linear(H, V)})
    save_file(model.state_dict(), tmp_path / "in.safetensors", {"vocabulary": json.dumps(CHARACTERS)})
    with pytest.raises(cuchar.CucharError, match=found):
        cuchar.import_model(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
