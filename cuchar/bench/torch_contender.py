"""PyTorch's training steps, draws and scores: the work of cuchar_contender.py, as PyTorch's users write it.

A peer is nn.LSTM over one-hot rows, a linear head, cross-entropy and Adam, with the text already on the device. It
begins with cuchar's weights and has one bias a layer, as cuchar has: PyTorch's second one stays 0. It rounds to TF32
only where that is asked for. In 16 bits it multiplies by autocast over float32 weights, and fp16's loss is scaled by a
constant.

The peers differ in this:
- eager calls PyTorch step by step, with PyTorch's default Adam. All others use the fused Adam.
- graph has a whole training step in one CUDA graph.
- stacked is the same with L one-layer LSTMs in fp16, whose inputs are padded to a multiple of 128 characters. That is
  what cuDNN's persistent kernels take (if H is a multiple of 128 and at most 1024, and B a multiple of 8).
- compile uses torch.compile for forward and loss, which leaves nn.LSTM as it is. (A window's cells written out took half a
  minute to compile, and longer a step.) It draws by cells written out (torch_drawing.py).
"""

import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from itertools import cycle
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from cuchar.bench.configurations import SCORED_WINDOWS, WINDOWS, Configuration
from cuchar.bench.contender import Burst, timed
from cuchar.bench.cuchar_contender import RATE
from cuchar.bench.torch_drawing import by_cells, by_lstm
from cuchar.errors import DeviceError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
LOSS_SCALE = 1024.0
WARM_UP = 3  # steps before a capture, as PyTorch's notes on CUDA graphs recommend


def maker(contender: str, device: str, threads: int) -> tuple[dict[str, Any], Callable[[Configuration], "TorchPeer"]]:
    """Facts about PyTorch, and what makes a contender of a configuration.

    Raises:
        DeviceError: `device` is a GPU, and PyTorch finds none.
    """
    facts = {"torch": torch.__version__}
    if device != "cpu":
        if not torch.cuda.is_available():
            raise DeviceError(f"PyTorch {torch.__version__} finds no GPU")
        torch.cuda.set_device(device)
        facts |= {"torch_cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    torch.set_num_threads(threads)
    return facts, lambda sizes: TorchPeer(contender, device, sizes)


class TorchPeer:
    """A contender: one of contender.PEERS that works on a configuration. Its turns are contender.TASKS, as far as it has them."""

    def __init__(self, kind: str, device: str, sizes: Configuration):
        V, T, B = sizes.V, sizes.T, sizes.B
        self.sizes, self._kind, self._device, self._done = sizes, kind, torch.device(device), 0
        precision = "fp16" if kind == "stacked" else sizes.precision
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
        self._half, self._scale = AUTOCAST.get(precision), LOSS_SCALE if precision == "fp16" else 1.0
        width = 128 * math.ceil(V / 128) if kind == "stacked" else V
        self._one_hot = torch.eye(V, width, device=self._device, dtype=self._half)
        self._modules = self._make_modules(width)
        self._trained = [tensor for tensor in self._modules.parameters() if tensor.requires_grad]
        options = {} if kind == "eager" else {"fused": True, "capturable": self._device.type == "cuda"}
        self._optimiser = torch.optim.Adam(self._trained, lr=RATE, **options)
        ids = torch.from_numpy(sizes.ids().astype(np.int64)).reshape(B, T + WINDOWS)
        self._rows, self._window = ids.to(self._device), torch.zeros((T + 1, B), dtype=torch.int64, device=self._device)
        self._loss_of = torch.compile(self._forward) if kind == "compile" else self._forward
        self._step = self._prepared(self._training_step)
        self.drawing = lru_cache(maxsize=1)(self._make_drawing)
        self._scoring = lru_cache(maxsize=1)(self._make_scoring)

    def _make_modules(self, width: int) -> torch.nn.ModuleList:
        """One LSTM of L layers, or L LSTMs of one, and the head, with the weights that all contenders begin with.

        Args:
            width: the size of a one-hot row.
        """
        model, parameters = self.sizes.model, self.sizes.parameters()
        V, H, L = model.vocabulary_size, model.hidden, model.layers
        if self._kind == "stacked":
            lstms = [torch.nn.LSTM(H if layer else width, H) for layer in range(L)]
        else:
            lstms = [torch.nn.LSTM(width, H, L)]
        head = torch.nn.Linear(H, V)
        modules = torch.nn.ModuleList([*lstms, head]).to(self._device)
        stacked = len(lstms) > 1
        with torch.no_grad():
            for layer in range(L):
                lstm, own = lstms[layer if stacked else 0], 0 if stacked else layer
                weight = lstm.get_parameter(f"weight_ih_l{own}").zero_()
                ours = torch.from_numpy(parameters[f"lstm.weight_ih_l{layer}"])
                weight[:, : ours.shape[1]].copy_(ours)
                lstm.get_parameter(f"weight_hh_l{own}").copy_(torch.from_numpy(parameters[f"lstm.weight_hh_l{layer}"]))
                lstm.get_parameter(f"bias_ih_l{own}").copy_(torch.from_numpy(parameters[f"lstm.bias_l{layer}"]))
                lstm.get_parameter(f"bias_hh_l{own}").zero_().requires_grad_(False)
            head.weight.copy_(torch.from_numpy(parameters["head.weight"]))
            head.bias.copy_(torch.from_numpy(parameters["head.bias"]))
        return modules

    @cached_property
    def _untrained(self) -> torch.nn.ModuleList:
        """The modules that draw and score: one LSTM of L layers and the head."""
        return self._make_modules(self.sizes.V)

    def _forward(self, window: torch.Tensor) -> torch.Tensor:
        first, *others, head = self._modules
        h, _ = first(functional.embedding(window[:-1], self._one_hot))
        for lstm in others:  # not the first: torch.compile leaves out a loop that contains what it cannot compile
            h, _ = lstm(h)
        return functional.cross_entropy(head(h).reshape(-1, self.sizes.V), window[1:].reshape(-1))

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
        make = self.drawing(streams)

        def work() -> None:
            make(characters)

        return self._timed(work)

    def _make_drawing(self, streams: int) -> Callable[[int], torch.Tensor]:
        """A call that draws so many more characters of each stream, and returns their ids [characters, streams]."""
        (lstm, head), is_compiled = self._untrained, self._kind == "compile"
        next_of = by_cells(lstm, head) if is_compiled else by_lstm(lstm, head, self._one_hot)
        shape = self.sizes.L, streams, self.sizes.H
        ids = torch.zeros(streams, dtype=torch.int64, device=self._device)
        h, c = torch.zeros(shape, device=self._device), torch.zeros(shape, device=self._device)

        def step() -> None:
            with torch.no_grad(), self._autocast():
                for old, new in zip((ids, h, c), next_of(ids, h, c), strict=True):
                    old.copy_(new)

        draw_next: Callable[[], Any] = step
        if self._kind == "graph":
            draw_next = self._captured(step)
        elif is_compiled:  # all of it, or it is an error; for this number of streams alone
            draw_next = torch.compile(step, fullgraph=True, dynamic=False)

        def make(characters: int) -> torch.Tensor:
            drawn = torch.empty((characters, streams), dtype=torch.int64, device=self._device)
            for k in range(characters):
                draw_next()
                drawn[k] = ids
            return drawn.cpu()

        return make

    def score(self, windows: int) -> Burst:
        """Score so many more windows; the state is carried from each to the next."""
        score_next = self._scoring()

        def work() -> float:
            return [score_next() for _ in range(windows)][-1]

        return self._timed(work)

    def _make_scoring(self) -> Callable[[], float]:
        """A call that scores the next window, and returns its mean loss."""
        (lstm, head), text = self._untrained, self.sizes.scored()
        windows = [
            [torch.from_numpy(ids.astype(np.int64)).to(self._device) for ids in text[k]] for k in range(SCORED_WINDOWS)
        ]
        order, state = cycle(windows), None

        def score_next() -> float:
            nonlocal state
            inputs, targets = next(order)
            with torch.no_grad(), self._autocast():
                out, state = lstm(functional.embedding(inputs, self._one_hot), state)
                return float(functional.cross_entropy(head(out).reshape(-1, self.sizes.V), targets.reshape(-1)))

        return score_next

    def _timed(self, work: Callable[[], float | None]) -> Burst:
        if self._device.type == "cpu":
            return timed(work)
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
