"""Which of several processes this one is, as the program that started them says in the environment.

mpirun and mpiexec (MPICH's and Open MPI's), srun and torchrun start a command several times, and give each process a
number, its rank. This module imports nothing slow, so that every command can ask.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

# For each kind of launcher the variables that hold a process's rank and the number of processes.
VARIABLES = {
    "MPI": (
        ("PMI_RANK", "PMI_SIZE"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # of a step: a batch script itself is no step
    ),
    "torchrun": (("RANK", "WORLD_SIZE"),),
}


@dataclass(frozen=True)
class Launch:
    """A process's place among those that were started together.

    Args:
        rank: its number, counted from 0.
        size: how many processes there are.
        by: "MPI" or "torchrun", or None for a process that was started alone.
    """

    rank: int = 0
    size: int = 1
    by: str | None = None


def unlaunched(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without a launcher's variables, for a process that a rank starts and that is not one itself."""
    own = {name for pairs in VARIABLES.values() for pair in pairs for name in pair} | {"PMI_FD"}
    return {name: value for name, value in environment.items() if name not in own}


def launched() -> Launch:
    """This process's place; anything that is not clearly one of several is started alone."""
    for by, pairs in VARIABLES.items():
        for rank, size in pairs:
            found = os.environ.get(rank, ""), os.environ.get(size, "")
            if all(word.isascii() and word.isdecimal() for word in found) and int(found[1]) > 1:
                return Launch(int(found[0]), int(found[1]), by)
    return Launch()
