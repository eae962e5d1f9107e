"""Does cuchar learn what PyTorch learns? Both train with the notebook's settings on the same windows.

    python benchmarks/learning.py [--steps 4000] [--out benchmarks/results/NAME.json]

Both start from the same weights, train in float32, and read the same windows of data/shakespeare.txt. At every 1000th
training step the script prints both mean losses of the last 100 steps, and their difference. It needs PyTorch
(`pip install 'cuchar[peers]'`).
"""

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import numpy as np
import torch

import cuchar
from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.corpus import load_corpus
from cuchar.engines.base import Example
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import Parameters, initialise

TEXT = Path(__file__).parent.parent / "data/shakespeare.txt"


def torch_model(parameters: Parameters) -> tuple[torch.nn.LSTM, torch.nn.Linear]:
    """PyTorch's modules with cuchar's initial weights; the second bias stays 0, as cuchar has one."""
    model = parameters.model
    lstm, head = (
        torch.nn.LSTM(model.vocabulary_size, model.hidden, model.layers),
        torch.nn.Linear(model.hidden, model.vocabulary_size),
    )
    modules = torch.nn.ModuleDict({"lstm": lstm, "head": head})
    for name, view in parameters.items():
        modules.get_parameter(name.replace("bias_l", "bias_ih_l")).data = torch.from_numpy(view.copy())
    for layer in range(model.layers):
        second = getattr(lstm, f"bias_hh_l{layer}")
        second.data.zero_()
        second.requires_grad_(False)
    return lstm, head


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=4000)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    config, corpus = TrainConfig(), load_corpus([TEXT])
    model = ModelConfig(len(corpus.vocabulary), config.hidden, config.layers)
    parameters, gradients, engine = initialise(model, config.seed), Parameters(model), NumpyEngine(model)
    adam, state = Adam(parameters.flat.size), engine.zero_state(config.batch)
    lstm, head = torch_model(parameters)
    trained = [tensor for tensor in (*lstm.parameters(), *head.parameters()) if tensor.requires_grad]
    optimiser = torch.optim.Adam(trained, lr=config.lr)
    offset = int(np.random.default_rng([config.seed, 1]).integers(config.window))
    windows = Windows(corpus.ids, config.batch, config.window, config.window_stride, offset)
    losses = np.empty((options.steps, 2))
    # First one, then the other: if they took turns at every step, their thread pools would disturb each other.
    for step in range(options.steps):
        losses[step, 0], _ = engine.loss_and_gradients(parameters, Example(*windows[step], state), gradients)
        adam.update(parameters.flat, gradients.flat, step + 1, config.lr)
    for step in range(options.steps):
        inputs, targets = (torch.from_numpy(ids.astype(np.int64)) for ids in windows[step])
        optimiser.zero_grad()
        logits = head(lstm(torch.nn.functional.one_hot(inputs, model.vocabulary_size).float())[0])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        optimiser.step()
        losses[step, 1] = float(loss.detach())
    rows = []
    for end in range(1000, options.steps + 1, 1000):
        ours, theirs = losses[end - 100 : end].mean(axis=0)
        rows.append({"step": end, "cuchar": round(ours, 4), "torch": round(theirs, 4)})
        print(f"step {end}: cuchar {ours:.4f}  torch {theirs:.4f}  difference {ours - theirs:+.4f}")
    if options.out:
        machine = {
            "date": str(date.today()), "processor": platform.machine(), "python": platform.python_version(),
            "cuchar": cuchar.__version__, "numpy": np.__version__, "torch": torch.__version__,
        }  # fmt: skip
        options.out.write_text(json.dumps({"machine": machine, "mean_loss_of_last_100_steps": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
