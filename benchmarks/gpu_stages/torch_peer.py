"""PyTorch's training step, in a process of its own that takes turns: a line of JSON in, a line out.

The step as PyTorch users write it: nn.LSTM over one-hot rows from a zero state, a linear head,
cross-entropy, Adam; float32, TF32 off; always the same window, which is already on the device.
eager: PyTorch's default Adam. graph: the whole step in one CUDA graph, with the fused Adam.
"""

import json
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks.gpu_stages.device import dry_run


def main() -> None:
    try:
        import torch
    except ImportError:
        return tell({"absent": "PyTorch is not installed"})
    device = "cpu" if dry_run() else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        return tell({"absent": f"PyTorch {torch.__version__} has no CUDA here"})
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    tell({"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()})
    runners: dict[str, Callable[[], Any]] = {}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for line in sys.stdin:
        asked = json.loads(line)
        if "shape" in asked:
            runners, errors = make_runners(torch, device, *asked["shape"])
            tell({"contenders": list(runners), "errors": errors})
            continue
        run = runners[asked["run"]]
        run()
        wait()
        began = perf_counter()
        for _ in range(asked["steps"]):
            run()
        wait()
        tell({"seconds": perf_counter() - began})


def make_runners(
    torch: Any, device: str, V: int, H: int, L: int, B: int, T: int
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Contenders that work, and why others do not."""
    runners: dict[str, Callable[[], Any]] = {}
    errors: dict[str, str] = {}
    for name, make in (("eager", lambda step: step), ("graph", lambda step: graphed(torch, step))):
        if name == "graph" and device == "cpu":
            continue
        try:
            options = {"fused": True, "capturable": True} if name == "graph" else {}
            run = make(training_step(torch, device, V, H, L, B, T, options))
            for _ in range(3):
                run()
            runners[name] = run
        except Exception as error:  # one contender that this PyTorch cannot do is no reason to drop the other
            errors[name] = f"{type(error).__name__}: {error}"[:500]
    return runners, errors


def training_step(
    torch: Any, device: str, V: int, H: int, L: int, B: int, T: int, options: dict[str, bool]
) -> Callable[[], None]:
    torch.manual_seed(0)
    lstm, head = torch.nn.LSTM(V, H, L).to(device), torch.nn.Linear(H, V).to(device)
    optimiser = torch.optim.Adam([*lstm.parameters(), *head.parameters()], lr=1e-3, **options)
    one_hot, loss_of = torch.eye(V, device=device), torch.nn.CrossEntropyLoss()
    inputs, targets = torch.randint(V, (2, T, B), device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        hidden, _ = lstm(torch.nn.functional.embedding(inputs, one_hot))
        loss_of(head(hidden).reshape(-1, V), targets.reshape(-1)).backward()
        optimiser.step()

    return step


def graphed(torch: Any, step: Callable[[], None]) -> Callable[[], None]:
    """As PyTorch's notes on CUDA graphs have it: warm up on another stream, then capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def tell(values: dict[str, Any]) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
