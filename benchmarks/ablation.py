"""What makes a character LSTM better? Each call trains one model in PyTorch; every ingredient is an option.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py TEXT [--hidden 512 ...] [--out benchmarks/results/NAME.json]

The script trains on the first 90 % of TEXT. cuchar then scores the rest as one stream, by chunks: it scores the moving
average of the weights after each fifth of the run, and at the end the weights themselves too. The run is appended to
the JSON file: options, nats per character, seconds of processor time. Whatever cuchar has is done as cuchar does it:
initialisation, one bias a layer, rows with carried state, schedule, clipping, decay of every parameter. The script
needs PyTorch (`pip install 'cuchar[peers]'`).
"""

import argparse
import json
import platform
from dataclasses import asdict, dataclass, fields
from datetime import date
from pathlib import Path
from time import process_time

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout, embedding, one_hot

from cuchar.batches import Windows, split_validation
from cuchar.config import ModelConfig, TrainConfig, learning_rate
from cuchar.corpus import load_corpus
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.evaluation import chunk_losses
from cuchar.parameters import Parameters, initialise

SCORES = 5  # how often a run scores the moving average of the weights
State = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Recipe:
    """The options of a run. Ingredients are tried one by one on top of the defaults."""

    hidden: int = 256
    layers: int = 2
    embedding: int = 0  # width of an embedding; with 0, layer 0 reads one-hot characters
    # A factor of layer 0's initial W_ih. With one-hot characters a single weight is all of a pre-activation's input,
    # not one of V, so the usual limit may be too small.
    input_scale: float = 1.0
    drop_input: float = 0.0  # dropout of layer 0's input; with one-hot characters it drops whole characters
    drop_between: float = 0.0  # dropout of the other layers' inputs
    drop_output: float = 0.0  # dropout of the head's input
    variational: int = 0  # 1: one mask for all time steps of a window (Gal and Ghahramani 2016); 0: one for each
    drop_recurrent: float = 0.0  # dropout of recurrent weights, one mask for a window (Merity et al. 2018)
    average: float = 0.999  # decay of the weights' moving average
    window: int = 64
    batch: int = 32
    shift: int = 0  # 1: each epoch's rows begin at another offset in [0, window)
    epochs: int = 10
    lr: float = 0.003
    decay: float = 0.1  # the learning rate falls along half a cosine to this fraction of it
    warmup: int = 0
    beta2: float = 0.999
    weight_decay: float = 0.01
    precision: str = "float32"  # number type of the LSTM's layers; bfloat16 is quicker
    seed: int = 0


class Network:
    """cuchar's model in PyTorch, as it is trained, with an embedding if the recipe has one."""

    def __init__(self, recipe: Recipe, V: int):
        self.recipe, self.V, self.dtype = recipe, V, getattr(torch, recipe.precision)
        self.model = ModelConfig(V, recipe.hidden, recipe.layers)
        start = {name: torch.from_numpy(view) for name, view in initialise(self.model, recipe.seed).items()}
        start["lstm.weight_ih_l0"] *= recipe.input_scale
        if recipe.embedding:
            limit = (6 / (5 * recipe.hidden + recipe.embedding)) ** 0.5
            start["lstm.weight_ih_l0"] = torch.empty(4 * recipe.hidden, recipe.embedding).uniform_(-limit, limit)
            start["table"] = torch.randn(V, recipe.embedding)
        self.weights = {name: tensor.requires_grad_() for name, tensor in start.items()}

    def zero_state(self) -> State:
        zero = torch.zeros(1, self.recipe.batch, self.recipe.hidden, dtype=self.dtype)
        return [(zero, zero)] * self.recipe.layers

    def forward(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [T, B, V] of inputs [T, B], and the state after them."""
        recipe, state_after = self.recipe, []
        x = embedding(inputs, self.weights["table"]) if recipe.embedding else one_hot(inputs, self.V).float()
        for layer in range(recipe.layers):
            x = self.drop(x, recipe.drop_between if layer else recipe.drop_input)
            bias = self.weights[f"lstm.bias_l{layer}"]
            recurrent = dropout(self.weights[f"lstm.weight_hh_l{layer}"], recipe.drop_recurrent)
            weights = (self.weights[f"lstm.weight_ih_l{layer}"], recurrent, bias, torch.zeros_like(bias))
            cast = [weight.to(self.dtype) for weight in weights]
            x, h, c = torch._VF.lstm(x.to(self.dtype), state[layer], cast, True, 1, 0.0, True, False, False)
            x = x.float()
            state_after.append((h.detach(), c.detach()))
        return self.drop(x, recipe.drop_output) @ self.weights["head.weight"].T + self.weights["head.bias"], state_after

    def drop(self, x: Tensor, probability: float) -> Tensor:
        return x * dropout(torch.ones_like(x[:1] if self.recipe.variational else x), probability) if probability else x


@torch.no_grad()
def score(network: Network, tensors: list[Tensor], ids: np.ndarray) -> float:
    """Nats per character of ids [n], scored by cuchar as one stream from a zero state.

    Args:
        tensors: used as the weights of `network`.
    """
    named = dict(zip(network.weights, tensors, strict=True))
    if network.recipe.embedding:
        named["lstm.weight_ih_l0"] = named["lstm.weight_ih_l0"] @ named.pop("table").T
    parameters, engine = Parameters(network.model), NumpyEngine(network.model)
    for name, view in parameters.items():
        view[...] = named[name].numpy()
    return round(float(np.concatenate(list(chunk_losses(engine, engine.fold(parameters), ids))).mean(dtype=float)), 4)


def train(recipe: Recipe, ids: np.ndarray, validation: np.ndarray, V: int) -> dict[str, list[float] | float]:
    """Train a model, print the losses as they come, and return them."""
    torch.manual_seed(recipe.seed)
    network, generator = Network(recipe, V), np.random.default_rng(recipe.seed)
    weights = list(network.weights.values())
    average = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.AdamW(weights, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay)
    schedule = TrainConfig(lr=recipe.lr, schedule="cosine", decay=recipe.decay, warmup=recipe.warmup)
    step, training, averaged = 0, [], []
    for epoch in range(recipe.epochs):
        offset = int(generator.integers(recipe.window)) if recipe.shift else 0
        windows = Windows(ids, recipe.batch, recipe.window, recipe.window, offset)
        state, losses = network.zero_state(), []
        for k in range(len(windows)):
            step += 1
            inputs, targets = (torch.from_numpy(window.astype(np.int64)) for window in windows[k])
            logits, state = network.forward(inputs, state)
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.param_groups[0]["lr"] = learning_rate(schedule, step, epoch, recipe.epochs * len(windows))
            optimiser.step()
            decay = min(recipe.average, step / (step + 10))  # smaller at first, so that the beginning is forgotten
            torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - decay)
            losses.append(loss.item())
        training.append(round(float(np.mean(losses)), 4))
        if (epoch + 1) * SCORES // recipe.epochs > epoch * SCORES // recipe.epochs:
            averaged.append(score(network, average, validation))
            print(f"epoch {epoch + 1}: training {training[-1]}, validation {averaged[-1]}", flush=True)
    last = score(network, weights, validation)
    return {"training": training, "validation": averaged, "validation_of_weights_themselves": last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, help="JSON file to append the run to")
    for field in fields(Recipe):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    text, out = options.pop("text"), options.pop("out")
    recipe, corpus = Recipe(**options), load_corpus([text])
    ids, validation = split_validation(corpus.ids, TrainConfig(val_fraction=0.1))
    losses = train(recipe, ids, validation[0], len(corpus.vocabulary))
    run = {
        "options": asdict(recipe), **losses, "seconds": round(process_time()), "date": str(date.today()),
        "processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    print(json.dumps(run))
    if out:
        runs = json.loads(out.read_text()) if out.exists() else []
        out.write_text(json.dumps([*runs, run], indent=1) + "\n")


if __name__ == "__main__":
    main()
