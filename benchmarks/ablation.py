"""What makes a character LSTM better? Each call trains one recipe in PyTorch; every ingredient is an option.

    OMP_NUM_THREADS=1 python benchmarks/ablation.py TEXT [--seeds 3] [--hidden 512 ...] [--out benchmarks/results/NAME.json]

The script trains on the first 90 % of TEXT, or on the last so many characters of these. The rest is then scored as 32
streams side by side, each after the 512 characters before it: with the moving average of the weights after each fifth of
the run, and at the end with the weights themselves and with their means over the last epochs' ends too. Every score is
there twice, of the logits as they are and times the factor that suits the scored text best (cuchar/logit_scale.py). With
several seeds, as many models are trained one after the other, and what they predict together is scored too: the mean of
their probabilities, an upper bound of what one model might learn. The runs are appended to the JSON file: options, nats per
character, seconds of processor time. Whatever cuchar has is done as cuchar does it: initialisation, one bias a layer, rows
with carried state, schedule, clipping, decay of every parameter. The script needs PyTorch (`pip install 'cuchar[peers]'`).
"""

import argparse
import json
import platform
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, dropout, embedding, one_hot

from cuchar.batches import Windows, split_validation
from cuchar.config import ModelConfig, TrainConfig, learning_rate
from cuchar.corpus import load_corpus
from cuchar.logit_scale import FACTORS
from cuchar.parameters import initialise
from cuchar.sizes import ceil_div

SCORES = 5  # how often a run scores the moving average of the weights
STREAMS, WARM_UP, WINDOW = 32, 512, 64  # when a text is scored: streams, characters before each, characters at once
ENDS = (2, 4, 8, 12, 16)  # over how many of the last epochs' ends weights are averaged
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

    def __init__(self, recipe: Recipe, V: int):
        self.recipe, self.V = recipe, V
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
        self.weights = {name: tensor.requires_grad_() for name, tensor in start.items()}

    def zero_state(self, rows: int, dtype: torch.dtype) -> State:
        zero = torch.zeros(1, rows, self.recipe.hidden, dtype=dtype)
        return [(zero, zero)] * self.recipe.layers

    def forward(
        self, weights: dict[str, Tensor], inputs: Tensor, state: State, is_training: bool
    ) -> tuple[Tensor, State]:
        """Logits [T, B, V] of inputs [T, B], and the state after them, of the type of the state before."""
        recipe, state_after, outputs, dtype = self.recipe, [], [], state[0][0].dtype

        def drop(x: Tensor, probability: float) -> Tensor:
            if not (is_training and probability):
                return x
            return x * dropout(torch.ones_like(x[:1] if recipe.variational else x), probability)

        x = embedding(inputs, weights["table"]) if recipe.embedding else one_hot(inputs, self.V).float()
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
    weights, count = dict(zip(network.weights, tensors, strict=True)), len(ids) - 1
    text, length = torch.from_numpy(ids.astype(np.int64)), ceil_div(count, STREAMS)
    state, logits, targets = network.zero_state(STREAMS, torch.float32), [], []
    for start in range(-WARM_UP, length, WINDOW):
        steps = torch.arange(start, start + WINDOW)[:, None]
        at = torch.arange(STREAMS) * length + steps
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


def train(
    recipe: Recipe, ids: np.ndarray, validation: np.ndarray, V: int
) -> tuple[dict[str, Any], tuple[Tensor, Tensor]]:
    """Train a model, print the losses as they come, and return them and what `predict` finds at the end."""
    began = process_time()
    torch.manual_seed(recipe.seed)
    network, generator = Network(recipe, V), np.random.default_rng(recipe.seed)
    weights, dtype = list(network.weights.values()), getattr(torch, recipe.precision)
    average = [weight.detach().clone() for weight in weights]
    multiples = [recipe.layer_lr ** (recipe.layers - 1 - layer_of(name, recipe.layers)) for name in network.weights]
    groups = [{"params": [weight]} for weight in weights]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, recipe.beta2), weight_decay=recipe.weight_decay, fused=True)
    schedule = TrainConfig(lr=recipe.lr, schedule="cosine", decay=recipe.decay, warmup=recipe.warmup)
    step, training, averaged, ends = 0, [], [], []
    for epoch in range(recipe.epochs):
        offset = int(generator.integers(recipe.window)) if recipe.shift else 0
        windows = Windows(ids, recipe.batch, recipe.window, recipe.window, offset)
        state, losses = network.zero_state(recipe.batch, dtype), []
        for k in range(len(windows)):
            step += 1
            inputs, targets = (torch.from_numpy(window.astype(np.int64)) for window in windows[k])
            logits, state = network.forward(network.weights, inputs, state, True)
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=recipe.smoothing)
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            rate = learning_rate(schedule, step, epoch, recipe.epochs * len(windows))
            for group, multiple in zip(optimiser.param_groups, multiples, strict=True):
                group["lr"] = rate * multiple
            optimiser.step()
            decay = min(recipe.average, step / (step + 10))  # smaller at first, so that the beginning is forgotten
            torch._foreach_lerp_(average, [weight.detach() for weight in weights], 1 - decay)
            losses.append(loss.item())
        training.append(round(float(np.mean(losses)), 4))
        ends = [*ends, [weight.detach().clone() for weight in weights]][-max(ENDS) :]
        if (epoch + 1) * SCORES // recipe.epochs > epoch * SCORES // recipe.epochs:
            averaged.append(score(*predict(network, average, validation)))
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
        "seconds": round(process_time() - began),
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
    for field in fields(Recipe):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    text, out, count = options.pop("text"), options.pop("out"), options.pop("seeds")
    recipe, corpus = Recipe(**options), load_corpus([text])
    ids, (validation, *_) = split_validation(corpus.ids, TrainConfig(val_fraction=0.1))
    some, V = np.asarray(ids)[-recipe.characters :], len(corpus.vocabulary)
    seeds = range(recipe.seed, recipe.seed + count)
    runs, predictions = zip(*(train(replace(recipe, seed=seed), some, validation, V) for seed in seeds), strict=True)
    mixture = torch.stack([logits.log_softmax(1) for logits, _ in predictions]).logsumexp(0)
    found = {
        "options": asdict(recipe), "runs": runs, "together": score(mixture, predictions[0][1]), "date": str(date.today()),
        "processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__,
    }  # fmt: skip
    print(json.dumps(found))
    if out:
        before = json.loads(out.read_text()) if out.exists() else []
        out.write_text(json.dumps([*before, found], indent=1) + "\n")


if __name__ == "__main__":
    main()
