"""Ranks that mpirun, mpiexec or srun has started: mpi4py carries their messages."""

import atexit
import sys
import warnings
from collections.abc import Sequence
from time import sleep
from types import TracebackType
from typing import Any

import numpy as np

from cuchar.errors import DeviceError
from cuchar.launch import Launch
from cuchar.ranks.ranks import Ranks

QUICK_LOOKS = 2000  # how often a rank looks for its next message before it begins to sleep between two looks
PAUSE_S = 0.001


def join_mpi(launch: Launch) -> "MpiRanks":
    """All processes that the launcher has started.

    Raises:
        DeviceError: mpi4py is not installed, or its MPI is not the launcher's.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # which the errors below say in one line
            from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # a RuntimeError says that it finds no MPI library
        found = "none" if isinstance(error, ModuleNotFoundError) else f"one without MPI: {' '.join(str(error).split())}"
        raise DeviceError(
            f"{launch.size} processes: expected mpi4py, by which they train together, found {found[:200]}; "
            "pip install 'cuchar[mpi]' brings it, with an mpirun"
        ) from None
    world = MPI.COMM_WORLD
    if (world.rank, world.size) != (launch.rank, launch.size):
        raise DeviceError(
            f"{launch.size} processes: expected mpirun and mpi4py to be of one MPI, found mpi4py with {library_name()}, "
            f"which sees {world.size}"
        )
    ranks = MpiRanks(world.Dup())
    report = sys.excepthook

    def report_and_abandon(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        report(kind, error, trace)
        ranks.abandon()  # otherwise MPI would have this rank wait for the others before it ends, which wait for it

    sys.excepthook = report_and_abandon
    return ranks


def library_name() -> str:
    """The name and version of the MPI library that mpi4py has loaded, such as "MPICH 5.0.2"."""
    from mpi4py import MPI

    first = MPI.Get_library_version().split("\n")[0].replace("Version:", "").split(",")[0]
    return " ".join(first.strip("\0").split())


class MpiRanks(Ranks):
    """`cuchar.ranks.ranks.Ranks` over an MPI communicator.

    To add up an array, every rank adds one piece of it for all: it gets that piece from each rank, and sends the sum to
    each. So a rank sends and receives 2 (R - 1) / R times the array, which is the least that is possible, and the order of
    the additions is that of the ranks, which MPI's own all-reduce does not promise.
    """

    def __init__(self, communicator: Any):
        super().__init__(communicator.rank, communicator.size, f"MPI ({library_name()})")
        self._communicator = communicator
        self._pieces: dict[tuple[int, np.dtype], np.ndarray] = {}

    def scatter(self, messages: Sequence[Any] | None) -> Any:
        if messages is not None:
            for rank in range(1, self.size):
                self._communicator.send(messages[rank], dest=rank)
            return messages[0]
        looks = 0
        while not self._communicator.iprobe(source=0):
            looks += 1
            if looks > QUICK_LOOKS:  # rank 0 validates, or saves: do not take its processor meanwhile
                sleep(PAUSE_S)
        return self._communicator.recv(source=0)

    def gather(self, answer: Any) -> list[Any] | None:
        answers: list[Any] | None = self._communicator.gather(answer, root=0)
        return answers

    def add_up(self, array: np.ndarray) -> None:
        flat = array.reshape(-1)
        bounds = [flat.size * rank // self.size for rank in range(self.size + 1)]
        counts = np.diff(bounds)
        mine = int(counts[self.rank])
        pieces = self._pieces.setdefault((mine, flat.dtype), np.empty((self.size, mine), flat.dtype))
        self._communicator.Alltoallv([flat, (counts, bounds[:-1])], [pieces, [mine] * self.size])
        total = pieces[0]
        for piece in pieces[1:]:
            total += piece
        self._communicator.Allgatherv(total, [flat, (counts, bounds[:-1])])

    def abandon(self) -> None:
        atexit.register(self._communicator.Abort, 1)
