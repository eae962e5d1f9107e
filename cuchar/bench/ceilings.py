"""Measures what this machine can do at best: its fastest large matrix product and its fastest large copy."""

import ctypes
import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.bench.machine import device_ms
from cuchar.engines.base import Engine
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.cpu.library import thread_count

ROUNDS = 12
HOST_SIZE, GPU_SIZE = 2048, 8192  # rows and columns of the square matrices that are multiplied
HOST_BYTES, GPU_BYTES = 256 << 20, 1 << 30  # bytes that a copy reads and writes together
TRIPS = 1 << 20  # how often `multiply_adds` goes over its registers; it takes some tens of milliseconds


def ceilings(engine: Engine, precision: str) -> dict[str, float | str]:
    """Measure the machine's ceilings.

    Args:
        engine: an engine of the device that is measured.
        precision: the precision of the product's operands. On a GPU bf16 is measured as fp16, whose tensor cores are as
            fast.
    Returns:
        flops_per_s, bytes_per_s (read and written), and `by`, the library that they were measured with. For the C++
        engine, flops_per_s is at least what multiply-adds within registers reach, since NumPy's product may not use all
        of the processor.
    """
    device: Any = getattr(engine, "device", None)
    arrays: Any = np
    kind: type = np.float32
    if device is None or device.option == "emulate":
        size, room, library = HOST_SIZE, HOST_BYTES, "NumPy"
    else:
        import cupy

        arrays, size, room, library = cupy, GPU_SIZE, GPU_BYTES, "CuPy"
        os.environ["CUPY_TF32"] = str(int(precision == "tf32"))  # CuPy looks at it when it multiplies
        kind = np.float16 if precision in ("fp16", "bf16") else np.float32

    def measured() -> tuple[float, float]:
        a, out = arrays.ones((size, size), kind), arrays.empty((size, size), kind)
        product = best(device, lambda: arrays.matmul(a, a, out=out))
        source, target = arrays.ones(room // 8, np.float32), arrays.empty(room // 8, np.float32)
        return product, best(device, lambda: arrays.copyto(target, source))

    if arrays is np:
        product, copy = measured()
    else:
        with device.current():
            product, copy = measured()
    rate = 2 * size**3 / product
    if isinstance(engine, CpuEngine):
        rate, library = max(rate, multiply_adds(engine)), "the processor"
    return {"flops_per_s": rate, "bytes_per_s": room / copy, "by": library}


def multiply_adds(engine: CpuEngine) -> float:
    """FLOP/s of multiply-adds within registers, on all processors."""
    done = 0.0

    def work() -> None:
        nonlocal done
        done = engine.library.multiply_add(ctypes.c_long(thread_count()), ctypes.c_long(TRIPS))

    seconds = best(None, work)
    return done / seconds


def best(device: Any, work: Callable[[], Any]) -> float:
    """The least seconds that `work` takes in ROUNDS rounds after one that does not count; on a GPU by its own clock."""
    found = []
    for _ in range(ROUNDS + 1):
        began = perf_counter()
        ms = device_ms(device, work)
        found.append(perf_counter() - began if ms is None else ms / 1e3)
    return min(found[1:])
