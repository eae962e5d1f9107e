"""What makes a character LSTM better? Each call trains one recipe in PyTorch; every ingredient is an option.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py TEXT [--device cuda] [--seeds 3] [--hidden 512 ...]
                                                    [--out benchmarks/results/NAME.json]

The script trains on the first 90 % of TEXT, or on the last so many characters of these. The rest is then scored as 32
streams side by side, each after the 512 characters before it: with the moving average of the weights after each fifth of
the run, and at the end with the weights themselves and with their means over the last epochs' ends too. Every score is
there twice, of the logits as they are and times the factor that suits the scored text best (cuchar/logit_scale.py). With
several seeds, as many models are trained one after the other, and what they predict together is scored too: the mean of
their probabilities, an upper bound of what one model might learn. The runs are appended to the JSON file: options, nats per
character, seconds. Whatever cuchar has is done as cuchar does it: initialisation, one bias a layer, rows
with carried state, schedule, clipping, decay of every parameter. The script needs PyTorch (`pip install 'cuchar[peers]'`).
"""

import argparse
import json
import platform
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout, embedding

from cuchar.batches import Windows, split_validation
from cuchar.config import ModelConfig, TrainConfig, learning_rate
from cuchar.corpus import load_corpus
from cuchar.logit_scale import FACTORS
from cuchar.parameters import initialise
from cuchar.sizes import ceil_div

SCORES = 5  # how often a run scores the moving average of the weights
STREAMS, WARM_UP, WINDOW = 32, 512, 64  # when a text is scored: streams, characters before each, characters at once
ENDS = (2, 4, 8, 12, 16, 20)  # over how many of the last epochs' ends weights are averaged
EAGER_STEPS = 3  # so many training steps come before a GPU's steps are captured in a CUDA graph
State = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Recipe:
    """The options of a run. Ingredients are tried one by one on top of the defaults."""

    characters: int = 0  # how many are trained on; 0: all
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
    # Dropout of the candidates g, another mask for each time step (Semeniuta et al. 2016). It takes three times as long.
    drop_candidate: float = 0.0
    skip: int = 0  # 1: the head reads the outputs of all layers, not of the last one alone (Graves 2013)
    smoothing: float = 0.0  # label smoothing: which part of each target is spread over all characters
    average: float = 0.999  # decay of the weights' moving average
    window: int = 64
    batch: int = 32
    shift: int = 0  # 1: each epoch's rows begin at another offset in [0, window)
    epochs: int = 10
    lr: float = 0.003
    layer_lr: float = 1.0  # a layer's learning rate as a multiple of the next layer's; the last layer's is the head's
    decay: float = 0.1  # the learning rate falls along half a cosine to this fraction of it
    warmup: int = 0
    beta2: float = 0.999
    weight_decay: float = 0.01
    precision: str = "float32"  # number type of the LSTM's layers; bfloat16 is quicker
    seed: int = 0


class Network:
    """cuchar's model in PyTorch, as it is trained, with whatever else the recipe has."""

    def __init__(self, recipe: Recipe, V: int, device: str):
        self.recipe, self.V, self.device = recipe, V, device
        self.model = ModelConfig(V, recipe.hidden, recipe.layers)
        start = {name: torch.from_numpy(view) for name, view in initialise(self.model, recipe.seed).items()}
        start["lstm.weight_ih_l0"] *= recipe.input_scale
        if recipe.embedding:
            limit = (6 / (5 * recipe.hidden + recipe.embedding)) ** 0.5
            start["lstm.weight_ih_l0"] = torch.empty(4 * recipe.hidden, recipe.embedding).uniform_(-limit, limit)
            start["table"] = torch.randn(V, recipe.embedding)
        if recipe.skip:
            width = recipe.layers * recipe.hidden
            limit = (6 / (width + V)) ** 0.5
            start["head.weight"] = torch.empty(V, width).uniform_(-limit, limit)
        self.one_hot = torch.eye(V, device=device)
        self.weights = {name: tensor.to(device).requires_grad_() for name, tensor in start.items()}

    def zero_state(self, rows: int, dtype: torch.dtype) -> State:
        size = (1, rows, self.recipe.hidden)
        zeros = [torch.zeros(size, dtype=dtype, device=self.device) for _ in range(2 * self.recipe.layers)]
        return list(zip(zeros[::2], zeros[1::2], strict=True))

    def forward(
        self, weights: dict[str, Tensor], inputs: Tensor, state: State, is_training: bool
    ) -> tuple[Tensor, State]:
        """Logits [T, B, V] of inputs [T, B], and the state after them, of the type of the state before."""
        recipe, state_after, outputs, dtype = self.recipe, [], [], state[0][0].dtype

        def drop(x: Tensor, probability: float) -> Tensor:
            if not (is_training and probability):
                return x
            return x * dropout(torch.ones_like(x[:1] if recipe.variational else x), probability)

        x = embedding(inputs, weights["table"]) if recipe.embedding else self.one_hot[inputs]
        x = drop(x, recipe.drop_input)
        for layer in range(recipe.layers):
            bias = weights[f"lstm.bias_l{layer}"]
            recurrent = dropout(weights[f"lstm.weight_hh_l{layer}"], recipe.drop_recurrent, is_training)
            tensors = (weights[f"lstm.weight_ih_l{layer}"], recurrent, bias, torch.zeros_like(bias))
            cast = [tensor.to(dtype) for tensor in tensors]
            if is_training and recipe.drop_candidate:
                x, after = cell_by_cell(x.to(dtype), state[layer], cast, recipe.drop_candidate)
            else:
                x, *after = torch._VF.lstm(x.to(dtype), state[layer], cast, True, 1, 0.0, True, False, False)
            state_after.append((after[0].detach(), after[1].detach()))
            x = drop(x.float(), recipe.drop_output if layer + 1 == recipe.layers else recipe.drop_between)
            outputs.append(x)
        read = torch.cat(outputs, 2) if recipe.skip else x
        return read @ weights["head.weight"].T + weights["head.bias"], state_after


def cell_by_cell(x: Tensor, state: tuple[Tensor, Tensor], weights: list[Tensor], probability: float) -> Any:
    """What torch._VF.lstm returns for one layer, with dropout of the candidates g."""
    from_input, outputs, (h, c) = x @ weights[0].T + weights[2], [], (state[0][0], state[1][0].float())
    for t in range(len(x)):
        i, f, g, o = (from_input[t] + h @ weights[1].T).float().chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * dropout(g.tanh(), probability)
        h = (o.sigmoid() * c.tanh()).to(x.dtype)
        outputs.append(h)
    return torch.stack(outputs), (h[None], c[None].to(x.dtype))


@torch.no_grad()
def predict(network: Network, tensors: list[Tensor], ids: np.ndarray) -> tuple[Tensor, Tensor]:
    """Logits [n-1, V] for all characters of ids [n] but the first, and the characters [n-1] themselves.

    Args:
        tensors: used as the weights of `network`.
    """
    weights, count, device = dict(zip(network.weights, tensors, strict=True)), len(ids) - 1, network.device
    text, length = torch.from_numpy(ids.astype(np.int64)).to(device), ceil_div(count, STREAMS)
    state, logits, targets = network.zero_state(STREAMS, torch.float32), [], []
    for start in range(-WARM_UP, length, WINDOW):
        steps = torch.arange(start, start + WINDOW, device=device)[:, None]
        at = torch.arange(STREAMS, device=device) * length + steps
        found, state = network.forward(weights, text[at.clamp(0, count - 1)], state, False)
        if start < 0:
            has_past = (at[-1] >= 0).float()[None, :, None]  # the first stream has none, and begins with a zero state
            state = [(h * has_past, c * has_past) for h, c in state]
        else:
            is_scored = (steps < length) & (at < count)
            logits.append(found[is_scored])
            targets.append(text[1:][at[is_scored]])
    return torch.cat(logits), torch.cat(targets)


def score(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Nats per character, the factor of the logits that makes them least, and what they are with it."""
    losses = {factor: cross_entropy(factor * logits, targets).item() for factor in FACTORS.tolist()}
    factor = min(losses, key=losses.__getitem__)
    return {"nats": round(losses[1.0], 4), "factor": factor, "scaled": round(losses[factor], 4)}


class Trainer:
    """Trains a network, a window at a time. On a GPU all but the first steps are replays of a CUDA graph of a step."""

    def __init__(self, network: Network):
        recipe, device = network.recipe, network.device
        self.network, self.weights = network, list(network.weights.values())
        self.average = [weight.detach().clone() for weight in self.weights]  # the moving average
        self._multiples = [
            recipe.layer_lr ** (recipe.layers - 1 - layer_of(name, recipe.layers)) for name in network.weights
        ]
        is_graph = device != "cpu"
        self.optimiser = torch.optim.AdamW(
            [{"params": [weight], "lr": torch.zeros((), device=device)} for weight in self.weights],
            betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay, fused=True, capturable=is_graph,
        )  # fmt: skip
        self._state = network.zero_state(recipe.batch, getattr(torch, recipe.precision))
        self._window = torch.zeros(2, recipe.window, recipe.batch, dtype=torch.int64, device=device)
        self._share, self._loss = torch.zeros((), device=device), torch.zeros((), device=device)
        self._is_graph, self._graph, self._steps = is_graph, None, 0

    def begin_epoch(self) -> None:
        for h, c in self._state:
            h.zero_(), c.zero_()

    def step(self, window: Tensor, rate: float) -> Tensor:
        """Train on a window: inputs and targets [2, T, B]. Returns its loss."""
        self._steps += 1
        self._window.copy_(window)
        decay = min(self.network.recipe.average, self._steps / (self._steps + 10))  # the beginning is forgotten
        self._share.fill_(1 - decay)
        for group, multiple in zip(self.optimiser.param_groups, self._multiples, strict=True):
            group["lr"].fill_(rate * multiple)
        if not self._is_graph or self._steps <= EAGER_STEPS:
            self._compute()
            return self._loss.clone()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream()):
                self._compute()
        self._graph.replay()
        return self._loss.clone()

    def _compute(self) -> None:
        inputs, targets = self._window
        logits, state = self.network.forward(self.network.weights, inputs, self._state, True)
        loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=self.network.recipe.smoothing)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimiser.step()
        with torch.no_grad():
            for before, after in zip(self._state, state, strict=True):
                before[0].copy_(after[0]), before[1].copy_(after[1])
            for mean, weight in zip(self.average, self.weights, strict=True):
                mean.lerp_(weight, self._share)
            self._loss.copy_(loss)


def train(
    recipe: Recipe, ids: np.ndarray, validation: np.ndarray, V: int, device: str
) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """Train a model, print the losses as they come, and return them and what `predict` finds at the end."""
    began = perf_counter(), process_time()
    torch.manual_seed(recipe.seed)
    network, generator = Network(recipe, V, device), np.random.default_rng(recipe.seed)
    trainer = Trainer(network)
    schedule = TrainConfig(lr=recipe.lr, schedule="cosine", decay=recipe.decay, warmup=recipe.warmup)
    step, training, averaged, ends = 0, [], [], []
    for epoch in range(recipe.epochs):
        offset = int(generator.integers(recipe.window)) if recipe.shift else 0
        windows = Windows(ids, recipe.batch, recipe.window, recipe.window, offset)
        trainer.begin_epoch()
        on_device = torch.from_numpy(np.stack([windows[k] for k in range(len(windows))]).astype(np.int64)).to(device)
        losses = []
        for window in on_device:
            step += 1
            rate = learning_rate(schedule, step, epoch, recipe.epochs * len(windows))
            losses.append(trainer.step(window, rate))
        training.append(round(torch.stack(losses).mean().item(), 4))
        ends = [*ends, [weight.detach().clone() for weight in trainer.weights]][-max(ENDS) :]
        if (epoch + 1) * SCORES // recipe.epochs > epoch * SCORES // recipe.epochs:
            averaged.append(score(*predict(network, trainer.average, validation)))
            print(f"epoch {epoch + 1}: training {training[-1]}, validation {averaged[-1]}", flush=True)
    predicted = predict(network, ends[-1], validation)
    means = {count: [torch.stack(same).mean(0) for same in zip(*ends[-count:], strict=True)] for count in ENDS}
    return {
        "seed": recipe.seed,
        "training": training,
        "validation": averaged,
        "validation_of_weights_themselves": score(*predicted),
        "validation_of_means_over_epochs_ends": {
            count: score(*predict(network, mean, validation)) for count, mean in means.items()
        },
        "seconds": round(perf_counter() - began[0]),
        "processor_seconds": round(process_time() - began[1]),
    }, predicted


def layer_of(weight: str, layers: int) -> int:
    """The layer that a weight belongs to; the head's go with the last layer's, a table of embeddings with the first's."""
    if weight == "table":
        return 0
    return layers - 1 if weight.startswith("head") else int(weight.rpartition("_l")[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--out", type=Path, help="JSON file to append the runs to")
    parser.add_argument("--seeds", type=int, default=1, help="how many models to train, with seeds from --seed on")
    parser.add_argument("--device", default="cpu", help="where PyTorch trains: cpu or cuda")
    for field in fields(Recipe):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    text, out, count, device = (options.pop(name) for name in ("text", "out", "seeds", "device"))
    recipe, corpus = Recipe(**options), load_corpus([text])
    ids, (validation, *_) = split_validation(corpus.ids, TrainConfig(val_fraction=0.1))
    some, V = np.asarray(ids)[-recipe.characters :], len(corpus.vocabulary)
    if device != "cpu":
        torch.cuda.set_stream(torch.cuda.Stream())  # a graph cannot be captured on the default stream
    before = json.loads(out.read_text()) if out and out.exists() else []
    runs, mixed = [], torch.tensor(-torch.inf)
    for seed in range(recipe.seed, recipe.seed + count):
        run, (logits, targets) = train(replace(recipe, seed=seed), some, validation, V, device)
        runs.append(run)
        mixed = torch.logaddexp(mixed.to(device), logits.log_softmax(1))
        found = {
            "options": asdict(recipe), "runs": runs, "together": score(mixed, targets), "date": str(date.today()),
            "device": torch.cuda.get_device_name() if device != "cpu" else platform.machine(),
            "threads": torch.get_num_threads(), "torch": torch.__version__,
        }  # fmt: skip
        print(json.dumps(found), flush=True)
        if out:  # after every seed, so that a call that is ended early has written what it found
            out.write_text(json.dumps([*before, found], indent=1) + "\n")


if __name__ == "__main__":
    main()
