"""The device under test, which every stage and tests/gpu use: a GPU, or in a dry run the emulator."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from cuchar.bench.machine import gpu_facts, versions
from cuchar.devices.cupy_device import CudaDevice
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice

ROOT = Path(__file__).resolve().parent.parent.parent
DRY_RUN = "CUCHAR_GPU_DRY_RUN"
SMALL = Limits(90, 6, 232_448)  # limits of the device that a dry run emulates: with them, small models use every regime
CLOCKS = ["nvidia-smi", "--query-gpu=clocks.max.sm,clocks.max.mem,power.limit", "--format=csv,noheader"]


def dry_run() -> bool:
    return os.environ.get(DRY_RUN) == "1"


def device_option() -> str:
    """The device under test as `--device` takes it."""
    return "emulate" if dry_run() else "cuda"


def device_under_test() -> Any:
    """The GPU, or in a dry run the emulator.

    Raises:
        DeviceError: there is no GPU, and this is not a dry run.
    """
    return EmulatedDevice(limits=SMALL) if dry_run() else CudaDevice()


def describe() -> dict[str, str]:
    """Facts about the machine, which every result file has."""
    device = device_under_test()
    facts = {"device": device.name, **versions(), "cpus": str(os.cpu_count())}
    if dry_run():
        return facts
    return facts | gpu_facts(device) | {"clocks": _output(CLOCKS)}


def environment() -> dict[str, str]:
    """The environment for a process that is to import cuchar from this checkout."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return "unknown"
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip() or "unknown"
