"""Finds the processes that this one was started with."""

from functools import lru_cache
from importlib import metadata

from cuchar.errors import DeviceError
from cuchar.launch import launched
from cuchar.ranks.mpi import join_mpi
from cuchar.ranks.ranks import Ranks
from cuchar.ranks.sockets import join_by_sockets


@lru_cache(maxsize=1)  # a program that trains several times meets once
def join() -> Ranks | None:
    """All processes that a launcher has started (`cuchar.launch`), or None if this one is alone.

    Raises:
        DeviceError: the processes cannot reach each other.
    """
    launch = launched()
    if launch.by is None:
        return None
    if launch.rank >= launch.size:
        raise DeviceError(
            f"{launch.size} processes: expected a rank below that in the environment, found {launch.rank}"
        )
    return join_mpi(launch) if launch.by == "MPI" else join_by_sockets(launch)


def describe_launch() -> str:
    """How many processes there are and what joins them, in words; without joining them."""
    launch = launched()
    try:
        through = f"mpi4py {metadata.version('mpi4py')}"
    except metadata.PackageNotFoundError:
        through = "no mpi4py; pip install 'cuchar[mpi]' brings it, with an mpirun"
    if launch.by is None:
        return f"1; mpirun -n N cuchar train trains with N ({through})"
    return f"{launch.size}, started by {'mpirun or srun' if launch.by == 'MPI' else launch.by} ({through})"
