"""PyTorch's training steps and draws: the work of ours.py, as PyTorch's users write it.

nn.LSTM over one-hot rows, a linear head, cross-entropy, Adam; windows already on the device. TF32 only where it is asked
for; 16-bit products by autocast over float32 weights, fp16's loss scaled by a constant. cuchar's weights to begin with,
and one bias a layer, as cuchar has: PyTorch's second stays 0.
eager: PyTorch's default Adam. Others take the fused one. graph: a whole step in one CUDA graph. stacked: that of
L one-layer LSTMs in fp16, inputs padded to a multiple of 128 characters, which is what cuDNN's persistent kernels take
(with H a multiple of 128 and at most 1024, B one of 8). compile: torch.compile of forward and loss.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cuchar.bench.configurations import WINDOWS, Configuration
from cuchar.bench.contender import Burst
from cuchar.bench.cuchar_contender import RATE
from cuchar.parameters import initialise

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOSS_SCALE = 1024.0
WARM_UP = 3  # steps before a capture, as PyTorch's notes on CUDA graphs have it


class TorchPeer:
    """One of contender.PEERS at work on a configuration; its turns are `train` and `draw`."""

    def __init__(self, kind: str, device: str, sizes: Configuration):
        V, T, B = sizes.V, sizes.T, sizes.B
        self.sizes, self._kind, self._device, self._done = sizes, kind, torch.device(device), 0
        precision = "fp16" if kind == "stacked" else sizes.precision
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self._half, self._scale = AUTOCAST.get(precision), LOSS_SCALE if precision == "fp16" else 1.0
        width = 128 * math.ceil(V / 128) if kind == "stacked" else V
        self._one_hot = torch.eye(V, width, device=self._device, dtype=self._half)
        self._make_modules(width)
        self._trained = [tensor for tensor in self._modules.parameters() if tensor.requires_grad]
        options = {} if kind == "eager" else {"fused": True, "capturable": self._device.type == "cuda"}
        self._optimiser = torch.optim.Adam(self._trained, lr=RATE, **options)
        ids = torch.from_numpy(sizes.ids().astype(np.int64)).reshape(B, T + WINDOWS)
        self._rows, self._window = ids.to(self._device), torch.zeros((T + 1, B), dtype=torch.int64, device=self._device)
        self._loss_of = torch.compile(self._forward) if kind == "compile" else self._forward
        self._step = self._prepared(self._training_step)
        self._drawing = lru_cache(maxsize=1)(self._make_drawing)

    def _make_modules(self, width: int) -> None:
        """With cuchar's weights: one LSTM of L layers, or L of one."""
        model, parameters = self.sizes.model, initialise(self.sizes.model, 0)
        V, H, L = model.vocabulary_size, model.hidden, model.layers
        if self._kind == "stacked":
            self._lstms = [torch.nn.LSTM(H if layer else width, H) for layer in range(L)]
        else:
            self._lstms = [torch.nn.LSTM(width, H, L)]
        self._head = torch.nn.Linear(H, V)
        self._modules = torch.nn.ModuleList([*self._lstms, self._head]).to(self._device)
        stacked = len(self._lstms) > 1
        with torch.no_grad():
            for layer in range(L):
                lstm, own = self._lstms[layer if stacked else 0], 0 if stacked else layer
                weight = lstm.get_parameter(f"weight_ih_l{own}").zero_()
                ours = torch.from_numpy(parameters[f"lstm.weight_ih_l{layer}"])
                weight[:, : ours.shape[1]].copy_(ours)
                lstm.get_parameter(f"weight_hh_l{own}").copy_(torch.from_numpy(parameters[f"lstm.weight_hh_l{layer}"]))
                lstm.get_parameter(f"bias_ih_l{own}").copy_(torch.from_numpy(parameters[f"lstm.bias_l{layer}"]))
                lstm.get_parameter(f"bias_hh_l{own}").zero_().requires_grad_(False)
            self._head.weight.copy_(torch.from_numpy(parameters["head.weight"]))
            self._head.bias.copy_(torch.from_numpy(parameters["head.bias"]))

    def _forward(self, window: torch.Tensor) -> torch.Tensor:
        first, *others = self._lstms
        h, _ = first(functional.embedding(window[:-1], self._one_hot))
        for lstm in others:  # not the first: torch.compile leaves a loop alone in which there is something it cannot do
            h, _ = lstm(h)
        return functional.cross_entropy(self._head(h).reshape(-1, self.sizes.V), window[1:].reshape(-1))

    def _autocast(self) -> torch.autocast:
        on = self._half is not None
        return torch.autocast(self._device.type, self._half, enabled=on, cache_enabled=False)

    def _training_step(self) -> torch.Tensor:
        self._optimiser.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self._loss_of(self._window)
        if self._scale == 1:
            loss.backward()
        else:
            (loss * self._scale).backward()
            torch._foreach_mul_([tensor.grad for tensor in self._trained], 1 / self._scale)
        self._optimiser.step()
        return loss.detach()

    def _prepared(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """`step`, compiled or captured; weights and moments are again what they were."""
        if self._kind == "eager":
            return step
        weights = [tensor.detach().clone() for tensor in self._trained]
        run = self._captured(step) if self._kind in ("graph", "stacked") else step
        run()
        with torch.no_grad():
            for tensor, weight in zip(self._trained, weights, strict=True):
                tensor.copy_(weight)
                for moment in self._optimiser.state[tensor].values():
                    moment.zero_()
        return run

    def _captured(self, step: Callable[[], Any]) -> Callable[[], Any]:
        """As PyTorch's notes on CUDA graphs have it: warm up on another stream, then capture."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = step()

        def replay() -> Any:
            graph.replay()
            return result

        return replay

    def train(self, steps: int) -> Burst:
        T = self.sizes.T

        def work() -> float:
            loss = torch.zeros(())
            for _ in range(steps):
                start = self._done % WINDOWS
                self._window.copy_(self._rows[:, start : start + T + 1].T)
                loss = self._step()
                self._done += 1
            return float(loss)

        return self._timed(work)

    def draw(self, streams: int, characters: int) -> Burst:
        """So many more characters of each of so many streams, by softmax at temperature 1."""
        step, ids = self._drawing(streams)

        def work() -> None:
            drawn = torch.empty((characters, streams), dtype=torch.int64, device=self._device)
            for k in range(characters):
                step()
                drawn[k] = ids
            drawn.cpu()

        return self._timed(work)

    def _make_drawing(self, streams: int) -> tuple[Callable[[], Any], torch.Tensor]:
        """A step that draws the next `ids` [streams]."""
        ids = torch.zeros(streams, dtype=torch.int64, device=self._device)
        lstm, shape = self._lstms[0], (self.sizes.L, streams, self.sizes.H)
        state = torch.zeros(shape, device=self._device), torch.zeros(shape, device=self._device)

        def step() -> None:
            with torch.no_grad(), self._autocast():
                out, after = lstm(functional.embedding(ids[None], self._one_hot), state)
                for old, new in zip(state, after, strict=True):
                    old.copy_(new)
                ids.copy_(torch.multinomial(self._head(out[0]).float().softmax(-1), 1)[:, 0])

        return (self._captured(step) if self._kind == "graph" else step), ids

    def _timed(self, work: Callable[[], float | None]) -> Burst:
        if self._device.type == "cpu":
            began = perf_counter()
            loss = work()
            return Burst(perf_counter() - began, None, loss)
        torch.cuda.synchronize()
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        began = perf_counter()
        first.record()
        loss = work()
        last.record()
        torch.cuda.synchronize()
        return Burst(perf_counter() - began, first.elapsed_time(last) / 1e3, loss)

    def device_bytes(self) -> int | None:
        return torch.cuda.max_memory_reserved() if self._device.type == "cuda" else None

    def notes(self) -> str:
        """What torch.compile left alone."""
        if self._kind != "compile":
            return ""
        from torch._dynamo.utils import counters

        reasons = {
            str(reason).splitlines()[0] for kind in ("graph_break", "unimplemented") for reason in counters[kind]
        }
        return f"not compiled: {'; '.join(sorted(reasons))}" if reasons else ""
