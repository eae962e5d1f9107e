"""Facts about the machine that belong beside every published figure: names, versions, memory."""

import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

import cuchar

STATUS, FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def processor() -> str:
    """The processor's name."""
    names = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", names.read_text(), re.M) if names.is_file() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    return {
        "cuchar": cuchar.__version__, "python": platform.python_version(), "numpy": np.__version__,
        "system": platform.platform(),
    }  # fmt: skip


def gpu_facts(device: Any) -> dict[str, str]:
    """A GPU's size, and the versions of its driver and of the CUDA libraries in use.

    Args:
        device: a CudaDevice.
    """
    import cupy

    runtime, limits = cupy.cuda.runtime, device.limits
    return {
        "compute_capability": f"{limits.capability // 10}.{limits.capability % 10}",
        "multiprocessors": str(limits.multiprocessors),
        "memory_mib": str(runtime.memGetInfo()[1] >> 20),
        "driver": _driver(),
        "driver_cuda": _cuda_version(runtime.driverGetVersion()),
        "cuda_runtime": _cuda_version(runtime.runtimeGetVersion()),
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "cupy": cupy.__version__,
    }


def device_ms(device: Any, work: Callable[[], Any]) -> float | None:
    """Do `work`, and return how long the GPU took by its own clock; None if `device` is None or has no such clock."""
    if device is None:
        work()
        return None
    elapsed: float | None = device.elapsed_ms(work)
    return elapsed


def forget_peak() -> None:
    """Forget the peak of this process's memory, so that `peak_bytes` begins with what it holds now; only on Linux."""
    with suppress(OSError):
        FORGET_PEAK.write_text("5")


def peak_bytes() -> int:
    """The most bytes of memory that this process has held."""
    if STATUS.is_file():  # ru_maxrss would include what the process that started this one held
        found = re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.M)
        if found:
            return int(found[1]) << 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)


def _driver() -> str:
    """The version of NVIDIA's kernel module, such as 550.54.15."""
    version = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", version.read_text()) if version.is_file() else None
    return found[0] if found else "unknown"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
