"""What processes that train together say to each other.

Rank 0 leads: it sends a message to every rank, and gets an answer from each. All ranks together add up arrays.
"""

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any

import numpy as np

from cuchar.devices.device import Device
from cuchar.ranks.nccl import nccl_sum


class Ranks(ABC):
    """The processes that train together, as one of them sees them. It is a `cuchar.engines.base.Reducer`.

    Args:
        rank: this process's number.
        size: how many processes there are, at least 2.
        through: what carries the messages, in words.
    """

    def __init__(self, rank: int, size: int, through: str):
        self.rank, self.size, self.through = rank, size, through
        self.summing_s = 0.0  # seconds that `sum` has taken so far, with the wait for the slowest rank

    @abstractmethod
    def scatter(self, messages: Sequence[Any] | None) -> Any:
        """Send messages[r] to every rank r, and return this rank's; only rank 0 gives messages."""

    @abstractmethod
    def gather(self, answer: Any) -> list[Any] | None:
        """Send an answer to rank 0. There it returns the answers of all ranks in their order, elsewhere None."""

    def sum(self, array: np.ndarray) -> None:
        """As `cuchar.engines.base.Reducer.sum`: parts are added in the order of the ranks."""
        began = perf_counter()
        self.add_up(array)
        self.summing_s += perf_counter() - began

    @abstractmethod
    def add_up(self, array: np.ndarray) -> None:
        """Do what `sum` says."""

    @abstractmethod
    def abandon(self) -> None:
        """Have all other processes end when this one does, since they may wait for it in vain."""

    def exchange(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, at every rank."""
        found = self.gather(value)
        values: list[Any] = self.scatter(None if found is None else [found] * self.size)
        return values

    def sum_on(self, device: Device) -> Callable[[Any], None]:
        """As `cuchar.engines.base.Reducer.sum_on`: through NCCL, or else through the host's memory."""
        chosen: Callable[[Any], None] | None = None

        def through_host(array: Any) -> None:
            def work() -> None:
                host = device.read(array)
                self.sum(host)
                device.write(array, host)

            device.put(work, in_graph=False)

        def sum_(array: Any) -> None:
            nonlocal chosen
            if chosen is None:  # now, and not before, every rank has a learner and takes part in the choice
                chosen = nccl_sum(self.rank, self.size, self.exchange, device) or through_host
            chosen(array)

        return sum_


def divide_processors(ranks: Ranks) -> int:
    """Let the ranks of each machine divide the processors that they share.

    A launcher may have bound every rank to processors of its own; then nothing is changed.

    Returns:
        this rank's number among those of its machine.
    """
    affine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    places = ranks.exchange((socket.gethostname(), affine))
    mine = places[ranks.rank]
    sharing = [rank for rank, place in enumerate(places) if place == mine]
    if len(sharing) > 1 and affine:
        at, count = sharing.index(ranks.rank), len(sharing)
        own = affine[at * len(affine) // count : (at + 1) * len(affine) // count] or [affine[at % len(affine)]]
        for thread in os.listdir("/proc/self/task"):  # NumPy's have been started already
            with suppress(ProcessLookupError):  # one may end meanwhile
                os.sched_setaffinity(int(thread), own)
    return [rank for rank, place in enumerate(places) if place[0] == mine[0]].index(ranks.rank)
