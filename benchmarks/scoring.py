"""How long does it take to score a text? Times the work of `cuchar eval` in turns with PyTorch, which does the same.

    python benchmarks/scoring.py [TEXT] [--out benchmarks/results/NAME.json]

A model of the notebook's size with initial weights scores TEXT, data/shakespeare.txt by default, on the processor: 64
chunks side by side, each with a state warmed up by the 256 characters before it, 64 characters a call. PyTorch's
nn.LSTM does that in inference mode, with as many threads. The script prints both times in seconds, and the ratio of
PyTorch's to cuchar's with its 95 % interval. It needs PyTorch (`pip install 'cuchar[peers]'`).
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch.nn import functional

from cuchar.bench.contender import Burst
from cuchar.bench.machine import processor, versions
from cuchar.bench.timing import ratio, take_turns
from cuchar.config import ModelConfig
from cuchar.corpus import load_corpus
from cuchar.engines.base import State
from cuchar.engines.choose import choose_engine
from cuchar.engines.cpu.library import thread_count
from cuchar.evaluation import chunk_losses
from cuchar.parameters import Parameters, initialise

TEXT = Path(__file__).parent.parent / "data/shakespeare.txt"
ROUNDS = 7


class TorchEngine:
    """PyTorch's nn.LSTM with the two operations that chunk_losses asks for."""

    def __init__(self, parameters: Parameters):
        self.model = model = parameters.model
        self._lstm = torch.nn.LSTM(model.vocabulary_size, model.hidden, model.layers)
        self._head = torch.nn.Linear(model.hidden, model.vocabulary_size)
        self._one_hot = torch.eye(model.vocabulary_size)
        modules = torch.nn.ModuleDict({"lstm": self._lstm, "head": self._head}).requires_grad_(False)
        for name, view in parameters.items():
            modules.get_parameter(name.replace("bias_l", "bias_ih_l")).copy_(torch.from_numpy(view))
        for layer in range(model.layers):
            getattr(self._lstm, f"bias_hh_l{layer}").zero_()

    def zero_state(self, batch: int) -> State:
        return State(*np.zeros((2, self.model.layers, batch, self.model.hidden), np.float32))

    @torch.inference_mode()
    def forward(self, weights: None, inputs: np.ndarray, state: State) -> tuple[torch.Tensor, State]:
        x = functional.embedding(torch.from_numpy(inputs.astype(np.int64)), self._one_hot)
        outputs, (h, c) = self._lstm(x, (torch.from_numpy(state.h), torch.from_numpy(state.c)))
        return self._head(outputs), State(h.numpy(), c.numpy())

    @torch.inference_mode()
    def losses(self, weights: None, inputs: np.ndarray, targets: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        logits, state = self.forward(weights, inputs, state)
        y = torch.from_numpy(targets.astype(np.int64))
        losses = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        return losses.reshape(y.shape).numpy(), state


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("text", type=Path, nargs="?", default=TEXT)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    corpus = load_corpus([options.text])
    parameters = initialise(ModelConfig(len(corpus.vocabulary), 64, 2), 0)
    torch.set_num_threads(thread_count())
    engine, _ = choose_engine("cpu", parameters.model)
    means: dict[str, float] = {}

    def turn(name: str, engine: object, weights: object) -> Callable[[int], Burst]:
        def score(times: int) -> Burst:
            began = perf_counter()
            for _ in range(times):
                blocks = list(chunk_losses(engine, weights, corpus.ids))
            means[name] = float(np.concatenate(blocks).mean(dtype=np.float64))
            return Burst(perf_counter() - began)

        return score

    turns = {"cuchar": turn("cuchar", engine, engine.fold(parameters))}
    turns["PyTorch"] = turn("PyTorch", TorchEngine(parameters), None)
    timings = take_turns(turns, ROUNDS)
    if not np.isclose(means["cuchar"], means["PyTorch"], rtol=1e-5):
        raise SystemExit(f"expected the same loss of both, found {means}")
    found = ratio(timings["PyTorch"].rounds, timings["cuchar"].rounds)
    for name, timing in timings.items():
        print(f"{name} {timing.ms / 1e3:.2f} s ({timing.low / 1e3:.2f} to {timing.high / 1e3:.2f})")
    print(f"{len(corpus.ids):,} characters; PyTorch / cuchar {found.value:.2f} ({found.low:.2f} to {found.high:.2f})")
    if options.out:
        result = {
            "date": str(date.today()), "device": processor(), "engine": engine.name, "threads": thread_count(),
            "versions": {**versions(), "torch": torch.__version__}, "characters": len(corpus.ids), "means": means,
            "timings": {name: asdict(timing) for name, timing in timings.items()}, "ratio": asdict(found),
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
