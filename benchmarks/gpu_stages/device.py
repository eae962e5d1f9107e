"""The device under test: a GPU, or the emulator in a dry run. Every stage and tests/gpu take it from here."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import cuchar
from cuchar.emulator import EmulatedDevice
from cuchar.engines.device import CudaDevice, Limits

ROOT = Path(__file__).resolve().parent.parent.parent
DRY_RUN = "CUCHAR_GPU_DRY_RUN"
SMALL = Limits(90, 6, 232_448)  # of the device that a dry run emulates: small models reach every regime
CLOCKS = ["nvidia-smi", "--query-gpu=clocks.max.sm,clocks.max.mem,power.limit", "--format=csv,noheader"]


def dry_run() -> bool:
    return os.environ.get(DRY_RUN) == "1"


def device_option() -> str:
    """For `--device`."""
    return "emulate" if dry_run() else "cuda"


def device_under_test() -> Any:
    """
    Raises:
        DeviceError: no GPU, and no dry run.
    """
    return EmulatedDevice(limits=SMALL) if dry_run() else CudaDevice()


def describe() -> dict[str, str]:
    """The machine, for every result file."""
    device = device_under_test()
    facts = {
        "device": device.name, "python": platform.python_version(), "numpy": np.__version__,
        "cuchar": cuchar.__version__, "system": platform.platform(), "cpus": str(os.cpu_count()),
    }  # fmt: skip
    if dry_run():
        return facts
    import cupy

    runtime, limits = cupy.cuda.runtime, device.limits
    return facts | {
        "compute_capability": f"{limits.capability // 10}.{limits.capability % 10}",
        "multiprocessors": str(limits.multiprocessors),
        "memory_mib": str(runtime.memGetInfo()[1] >> 20),
        "clocks": _output(CLOCKS),
        "driver": _driver(),
        "driver_cuda": _cuda_version(runtime.driverGetVersion()),
        "cuda_runtime": _cuda_version(runtime.runtimeGetVersion()),
        "nvrtc": ".".join(map(str, cupy.cuda.nvrtc.getVersion())),
        "cupy": cupy.__version__,
    }


def elapsed_ms(device: Any, work: Callable[[], Any]) -> float | None:
    """GPU time of what `work` puts on the device's stream; the emulator has none."""
    if dry_run():
        work()
        return None
    from cupy import cuda

    with cuda.Device(device.number):
        began, ended = cuda.Event(), cuda.Event()
        began.record(device._stream)
        work()
        ended.record(device._stream)
        ended.synchronize()
        return cuda.get_elapsed_time(began, ended)


def environment() -> dict[str, str]:
    """For a process that imports cuchar from this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _driver() -> str:
    """Of the kernel module, such as 550.54.15."""
    version = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", version.read_text()) if version.is_file() else None
    return found[0] if found else "unknown"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return "unknown"
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip() or "unknown"
