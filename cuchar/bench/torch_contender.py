"""PyTorch's training steps and draws: the work of cuchar_contender.py, as PyTorch's users write it.

A peer is nn.LSTM over one-hot rows, a linear head, cross-entropy and Adam, with the text already on the device. It
begins with cuchar's weights and has one bias a layer, as cuchar has: PyTorch's second one stays 0. It rounds to TF32
only where that is asked for. In 16 bits it multiplies by autocast over float32 weights, and fp16's loss is scaled by a
constant.

The peers differ in this:
- eager calls PyTorch step by step, with PyTorch's default Adam. All others use the fused Adam.
- graph has a whole training step in one CUDA graph.
- stacked is the same with L one-layer LSTMs in fp16, whose inputs are padded to a multiple of 128 characters. That is
  what cuDNN's persistent kernels take (if H is a multiple of 128 and at most 1024, and B a multiple of 8).
- compile uses torch.compile for forward and loss.
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
WARM_UP = 3  # steps before a capture, as PyTorch's notes on CUDA graphs recommend


class TorchPeer:
    """A contender: one of contender.PEERS that works on a configuration. Its turns are `train` and `draw`."""

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
        """Make one LSTM of L layers, or L LSTMs of one, and the head, with cuchar's weights.

        Args:
            width: the size of a one-hot row.
        """
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
        for lstm in others:  # not the first: torch.compile leaves out a loop that contains what it cannot compile
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
        """`step` after it was compiled or captured, with weights and moments set back to what they were before."""
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
        """`step` as a CUDA graph, made as PyTorch's notes recommend: warm up on another CUDA stream, then capture."""
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
        """Draw `characters` more characters of each of `streams` streams, by softmax at temperature 1."""
        step, ids = self._drawing(streams)

        def work() -> None:
            drawn = torch.empty((characters, streams), dtype=torch.int64, device=self._device)
            for k in range(characters):
                step()
                drawn[k] = ids
            drawn.cpu()

        return self._timed(work)

    def _make_drawing(self, streams: int) -> tuple[Callable[[], Any], torch.Tensor]:
        """A call that draws each stream's next character, and the ids [streams] to which it writes them."""
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
        """What torch.compile could not compile, and why; "" for the other peers or if it compiled all."""
        if self._kind != "compile":
            return ""
        from torch._dynamo.utils import counters

        reasons = {
            str(reason).splitlines()[0] for kind in ("graph_break", "unimplemented") for reason in counters[kind]
        }
        return f"not compiled: {'; '.join(sorted(reasons))}" if reasons else ""
