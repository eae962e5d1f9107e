"""A device made of host threads: the kernels of kernels/ compiled by the host's C++ compiler.

    device = EmulatedDevice(schedule="shuffled", seed=1)
    device.kernels("training/adam.cu", {})["adam"](grid, block, **arguments)

It is slower than the NumPy engine, and a better checker than a GPU. Memory starts as NaN.
Threads run in one of three orders, so a missing barrier shows as results that differ between
them. A barrier that some threads never reach, or reach elsewhere, ends the launch with a
DeviceError that names the line. AddressSanitizer, UBSan and ThreadSanitizer can watch every
access of a kernel.
"""

from cuchar.devices.emulator.compiler import sanitizer_environment
from cuchar.devices.emulator.device import EmulatedDevice

__all__ = ["EmulatedDevice", "sanitizer_environment"]
