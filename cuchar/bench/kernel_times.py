"""What one training step launches, and how long each of these kernels takes on the device.

A kernel is captured `repeats` times in a row, and the replay is timed by events. So its time is what a launch takes in
a graph, including its share of the gap between two kernels.

The blocks of a persistent kernel wait for flags that only grow. A launch that finds the flags as the launch before has
left them would wait for nothing. So begin_window, which sets them to zero in training too, goes before each launch of
such a kernel, and the time of begin_window by itself is subtracted.
"""

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

SIZES: dict[str, Callable[..., str]] = {  # kernels that a step launches with several sizes: the sizes in words
    "tensor_gemm": lambda M, N, K, **others: f"{M}x{N}x{K}",
    "round_numbers": lambda count, **others: f"{count}",
    "sum_rows": lambda N, M, **others: f"{N}x{M}",
}


class Recorder:
    """A device that notes every launch, and passes it on to the device that it stands for."""

    def __init__(self, device: Any):
        self._device = device
        self.launches: list[tuple[str, Callable[[], None]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def kernels(self, *arguments: Any, **options: Any) -> dict[str, Callable[..., None]]:
        kernels = self._device.kernels(*arguments, **options)
        return {name: self._recorded(name, kernel) for name, kernel in kernels.items()}

    def _recorded(self, name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        """The kernel, with its launches noted by name, and for a kernel in SIZES by name and sizes."""

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
    """Time every kernel of a training step.

    Args:
        recorder: the device, in use by the learner of `train`.
        train: does so many training steps, as one chunk.
        windows: windows of a chunk, more than one. A repeated begin_window goes on to the chunk's second window, whose
            ids have been written once a chunk of so many has been trained.
        repeats: launches of a kernel that are timed together.
        rounds: how often they are timed; the median counts.
    Returns:
        for each kernel its launches in a training step and, on a GPU, µs of a launch.
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

        train(1)  # makes positions, ids and gradients what they are in training, whatever the last repeats have left
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
