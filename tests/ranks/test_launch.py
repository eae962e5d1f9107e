"""A process knows its place among those that were started together by what the launcher says, and by nothing else."""

import pytest

from cuchar.errors import DeviceError
from cuchar.launch import VARIABLES, Launch, launched, unlaunched
from cuchar.ranks.join import join

ALONE = Launch(0, 1, None)


@pytest.mark.parametrize(
    "environment,expected",
    [
        ("", ALONE),
        ("PMI_RANK=2 PMI_SIZE=3", Launch(2, 3, "MPI")),  # MPICH's mpirun
        ("PMI_RANK=0 PMI_SIZE=1", ALONE),
        ("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2", Launch(1, 2, "MPI")),  # Open MPI's
        ("OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=1", ALONE),
        ("SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=4 SLURM_NTASKS=4", Launch(3, 4, "MPI")),  # srun
        ("SLURM_PROCID=0 SLURM_NTASKS=4", ALONE),  # a batch script, which is not one of the four
        ("RANK=1 WORLD_SIZE=2 LOCAL_RANK=1", Launch(1, 2, "torchrun")),
        ("RANK=0 WORLD_SIZE=1", ALONE),
        ("RANK=0 WORLD_SIZE=2 PMI_RANK=1 PMI_SIZE=3", Launch(1, 3, "MPI")),
        ("PMI_RANK=0 PMI_SIZE=1 RANK=1 WORLD_SIZE=2", Launch(1, 2, "torchrun")),
        ("RANK=1", ALONE),
        ("WORLD_SIZE=2", ALONE),
        ("RANK= WORLD_SIZE=", ALONE),
        ("RANK=first WORLD_SIZE=2", ALONE),
        ("RANK=-1 WORLD_SIZE=2", ALONE),
        ("RANK=1 WORLD_SIZE=2.0", ALONE),
        ("RANK=² WORLD_SIZE=2", ALONE),
        ("RANK=0 WORLD_SIZE=0", ALONE),
    ],
)
def test_what_launchers_say(environment, expected, monkeypatch):
    for pairs in VARIABLES.values():
        for name in (name for pair in pairs for name in pair):
            monkeypatch.delenv(name, raising=False)
    for word in environment.split():
        monkeypatch.setenv(*word.split("=", 1))
    assert launched() == expected


def test_a_rank_starts_processes_that_are_none():
    started = {"PMI_RANK": "1", "PMI_SIZE": "2", "PMI_FD": "9", "RANK": "1", "WORLD_SIZE": "2", "PATH": "/bin"}
    assert unlaunched(started) == {"PATH": "/bin"}


def test_a_rank_that_cannot_be_is_an_error_at_once(monkeypatch):
    monkeypatch.setattr("cuchar.ranks.join.launched", lambda: Launch(5, 2, "torchrun"))
    with pytest.raises(DeviceError, match=r"^2 processes: expected a rank below that in the environment, found 5$"):
        join.__wrapped__()
