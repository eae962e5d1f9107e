"""Sums over the memories of several GPUs, by NCCL through CuPy."""

import socket
import warnings
from collections.abc import Callable
from typing import Any

from cuchar.devices.cupy_device import CudaDevice
from cuchar.devices.device import Device


def find_nccl() -> Any:
    """CuPy's module for NCCL, or None where there is no NCCL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns of a library that it does not find
        try:
            from cupy.cuda import nccl
        except ImportError:
            return None
    return nccl if nccl.available else None


def nccl_sum(
    rank: int, size: int, exchange: Callable[[Any], list[Any]], device: Device
) -> Callable[[Any], None] | None:
    """A function that replaces an array of the device by its sum over all ranks; every rank must ask for it at once.

    NCCL's sum is one more launch on the device's stream, and can be a part of a CUDA graph. NCCL chooses the order of the
    additions, from the number of bytes and from how the GPUs are connected; on the same machines it is the same in every
    run. No second GPU was there to try this on.

    Args:
        exchange: returns the values of all ranks (`cuchar.ranks.ranks.Ranks.exchange`).
    Returns:
        None where a rank has no GPU or no NCCL, or two ranks have the same GPU, which NCCL does not allow.
    """
    nccl = find_nccl() if isinstance(device, CudaDevice) else None
    places = exchange(None if nccl is None else (socket.gethostname(), device.option))
    if nccl is None or not isinstance(device, CudaDevice) or None in places or len(set(places)) < size:
        return None
    import cupy

    identifier = exchange(nccl.get_unique_id() if rank == 0 else None)[0]
    with device.current():  # at once, also while launches are captured: what is captured is repeated
        communicator = nccl.NcclCommunicator(size, identifier, rank)
    types = {4: nccl.NCCL_FLOAT32, 8: nccl.NCCL_FLOAT64}

    def sum_(array: Any) -> None:
        def work() -> None:
            address, stream = array.data.ptr, cupy.cuda.get_current_stream().ptr
            communicator.allReduce(address, address, array.size, types[array.itemsize], nccl.NCCL_SUM, stream)

        device.put(work, in_graph=True)

    return sum_
