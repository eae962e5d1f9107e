"""ONNX Runtime's and OpenVINO's draws and scores: the graphs of onnx_graphs.py, in float32 on the processor.

Both read and write arrays that stay where they are: of two sets, a call reads the state in one and writes it to the other,
so that nothing is copied between calls.
"""

import os
import sys
from collections.abc import Callable
from functools import lru_cache
from itertools import cycle
from typing import Any, Protocol

import numpy as np

from cuchar.bench.configurations import SCORED_WINDOWS, Configuration
from cuchar.bench.contender import Burst, timed
from cuchar.bench.onnx_graphs import Graph, drawing_graph, scoring_graph

Arrays = dict[str, np.ndarray]
Run = Callable[[], Any]


class Loaded(Protocol):
    """A graph that is ready to run."""

    def bound(self, inputs: Arrays, outputs: Arrays) -> Run:
        """A call that reads these inputs and writes these outputs."""


def maker(contender: str, device: str, threads: int) -> tuple[dict[str, Any], Callable[[Configuration], "OnnxPeer"]]:
    """Facts about ONNX Runtime or OpenVINO, and what makes a contender of a configuration."""
    if contender == "onnxruntime":
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # it is read during the import
        import onnxruntime

        return {contender: onnxruntime.__version__}, lambda sizes: OnnxPeer(sizes, lambda g: RuntimeGraph(g, threads))
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # without it, an import is told to nobody
    import openvino

    version = openvino.__version__.partition("-")[0]
    return {contender: version}, lambda sizes: OnnxPeer(sizes, lambda g: OpenvinoGraph(g, threads))


class RuntimeGraph:
    """A graph in ONNX Runtime."""

    def __init__(self, model: bytes, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def bound(self, inputs: Arrays, outputs: Arrays) -> Run:
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        return lambda: self._session.run_with_iobinding(binding)


class OpenvinoGraph:
    """A graph in OpenVINO, which by itself would compute in bfloat16 on a processor that has it."""

    def __init__(self, model: bytes, threads: int):
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",
        }  # fmt: skip
        self._compiled = core.compile_model(core.read_model(model, b""), "CPU", options)

    def bound(self, inputs: Arrays, outputs: Arrays) -> Run:
        import openvino

        request = self._compiled.create_infer_request()
        for name, array in (inputs | outputs).items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return lambda: request.infer(share_inputs=True, share_outputs=True)


class Loop:
    """A graph that is called again and again, and reads what the call before has written.

    `inputs` are the arrays of inputs that are not fed back, for the caller to fill; `result` is the graph's result.
    """

    def __init__(self, graph: Graph, load: Callable[[bytes], Loaded]):
        fed_back = graph.feedback.items()
        even = {name: graph.inputs[name] for _, name in fed_back}
        odd = {name: array.copy() for name, array in even.items()}
        self.inputs = {name: array for name, array in graph.inputs.items() if name not in even}
        self.result = np.zeros((), np.float32)
        result, loaded = {graph.result: self.result} if graph.result else {}, load(graph.model)
        self._turns = cycle(
            [
                (
                    loaded.bound(self.inputs | reads, result | {output: writes[name] for output, name in fed_back}),
                    writes,
                )
                for reads, writes in ((even, odd), (odd, even))
            ]
        )

    def __call__(self) -> Arrays:
        """Run the graph; return the arrays that the next call will read, by the names of the inputs."""
        run, written = next(self._turns)
        run()
        return written


class OnnxPeer:
    """A contender that works on a configuration. Its turns are `draw` and `score`."""

    def __init__(self, sizes: Configuration, load: Callable[[bytes], Loaded]):
        self.sizes, self._load = sizes, load
        self.drawing = lru_cache(maxsize=1)(self._make_drawing)
        self._scoring = lru_cache(maxsize=1)(self._make_scoring)

    def draw(self, streams: int, characters: int) -> Burst:
        """Draw `characters` more characters of each of `streams` streams, by softmax at temperature 1."""
        make = self.drawing(streams)

        def work() -> None:
            make(characters)

        return timed(work)

    def _make_drawing(self, streams: int) -> Callable[[int], np.ndarray]:
        """A call that draws so many more characters of each stream, and returns their ids [characters, streams]."""
        draw_next, random = Loop(drawing_graph(self.sizes, streams), self._load), np.random.default_rng(0)

        def make(characters: int) -> np.ndarray:
            drawn = np.empty((characters, streams), np.int64)
            for k in range(characters):
                random.random(out=draw_next.inputs["uniform"], dtype=np.float32)
                drawn[k] = draw_next()["ids"]
            return drawn

        return make

    def score(self, windows: int) -> Burst:
        """Score so many more windows; the state is carried from each to the next."""
        score_next = self._scoring()
        return timed(lambda: [score_next() for _ in range(windows)][-1])

    def _make_scoring(self) -> Callable[[], float]:
        """A call that scores the next window, and returns its mean loss."""
        loop, text = Loop(scoring_graph(self.sizes), self._load), self.sizes.scored()
        order = cycle([np.array(text[k], np.int64) for k in range(SCORED_WINDOWS)])

        def score_next() -> float:
            loop.inputs["ids"][:], loop.inputs["targets"][:] = next(order)
            loop()
            return float(loop.result)

        return score_next

    def device_bytes(self) -> None:
        return None

    def notes(self) -> str:
        return ""
