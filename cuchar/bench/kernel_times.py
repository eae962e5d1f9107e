"""What one training step launches, and how long each kernel of it takes on the device.

A kernel is captured `repeats` times in a row and the replay timed with events: the time a launch
costs in a graph, its share of the gap between two kernels included. No graph has a library's GEMMs: they are
called in a row, so that a small one costs the host's time to call it. The blocks of a persistent kernel wait for
flags that only grow, and a launch that finds them as the one before has left them waits for nothing: begin_window,
which zeroes them in training too, goes before each of its launches, and what it takes by itself is subtracted.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

SIZES: dict[str, Callable[..., str]] = {  # of a kernel's arguments
    "tensor_gemm": lambda M, N, K, **others: f"{M}x{N}x{K}",
    "round_numbers": lambda count, **others: f"{count}",
    "sum_rows": lambda N, M, **others: f"{N}x{M}",
}


class Recorder:
    """A device that remembers what it was asked to launch, and launches it."""

    def __init__(self, device: Any):
        self._device = device
        self.launches: list[tuple[str, Callable[[], None]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def kernels(self, *arguments: Any, **options: Any) -> dict[str, Callable[..., None]]:
        kernels = self._device.kernels(*arguments, **options)
        return {name: self._recorded(name, kernel) for name, kernel in kernels.items()}

    def _recorded(self, name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        """By its sizes too, where a step launches it with several."""

        def launch(grid: int, block: int, shared_bytes: int = 0, **arguments: Any) -> None:
            sizes = SIZES[name](**arguments) if name in SIZES else ""
            self._launch(f"{name} {sizes}".strip(), kernel, grid, block, shared_bytes, **arguments)

        return launch

    def gemm(self, a: Any, b: Any, out: Any, **how: Any) -> None:
        (M, N), K = out.shape, a.shape[0 if how.get("ta") else 1]
        self._launch(f"gemm {M}x{N}x{K}", self._device.gemm, a, b, out, **how)

    def _launch(self, name: str, function: Callable[..., None], *arguments: Any, **options: Any) -> None:
        self.launches.append((name, partial(function, *arguments, **options)))
        function(*arguments, **options)


def kernel_times(
    recorder: Recorder, train: Callable[[int], Any], windows: int, repeats: int = 64, rounds: int = 5
) -> dict[str, dict[str, Any]]:
    """
    Args:
        train: does so many training steps on the recorder.
        windows: of a chunk; after so many steps, whatever a kernel may look at is there.
    Returns:
        by kernel, its launches a step and, from a GPU, µs a launch.
    """
    recorder.launches.clear()
    train(1)
    launches = list(recorder.launches)
    train(windows)

    def us_a_turn(*turn: Callable[[], None]) -> float | None:
        def repeat() -> None:
            for _ in range(repeats):
                for launch in turn:
                    launch()

        train(1)  # places, ids and gradients as they are in training, whatever the last kernel's repeats have left
        work = recorder.capture(repeat)
        times = [recorder.elapsed_ms(work) for _ in range(rounds + 1)][1:]
        timed = [time for time in times if time is not None]
        return median(timed) / repeats * 1e3 if timed else None

    found: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for name, _ in launches):
        alike = [launch for other, launch in launches if other == name]
        launch = alike[len(alike) // 2]
        if name.startswith("persistent"):
            us = us_a_turn(dict(launches)["begin_window"], launch)
            if us is not None:
                us -= found["begin_window"]["us"]
        else:
            us = us_a_turn(launch)
        found[name] = {"launches": len(alike), **({} if us is None else {"us": us})}
    return found
