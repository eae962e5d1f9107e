"""Time and memory on a GPU, as the GPU has it."""

from collections.abc import Callable
from typing import Any


def elapsed_ms(device: Any, work: Callable[[], Any]) -> float | None:
    """GPU time of what `work` puts on the device's stream; None, and the work done, where that is no GPU."""
    stream = getattr(device, "_stream", None)
    if stream is None:
        work()
        return None
    from cupy import cuda

    with cuda.Device(device.number):
        began, ended = cuda.Event(), cuda.Event()
        began.record(stream)
        work()
        ended.record(stream)
        ended.synchronize()
        return cuda.get_elapsed_time(began, ended)


def device_bytes(device: Any) -> int | None:
    """What CuPy has taken of the GPU's memory; it gives none back, so that this is the most."""
    if getattr(device, "_stream", None) is None:
        return None
    import cupy

    with cupy.cuda.Device(device.number):
        return cupy.get_default_memory_pool().total_bytes()
