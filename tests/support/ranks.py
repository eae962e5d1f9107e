"""Processes that are started together, as mpirun or torchrun starts them."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.process import environment

from cuchar.launch import VARIABLES

MPIRUN = Path(sys.executable).with_name("mpirun")  # the wheel of MPICH brings it
PATIENCE_S = 240  # other work may slow the machine down


@dataclass
class Ended:
    """How processes have ended: their exit statuses (mpirun has one for all), and what all of them have printed."""

    statuses: list[int]
    stdout: str
    stderr: str


def alone() -> dict[str, str]:
    """The environment of a process that no launcher has started."""
    launchers = {name for pairs in VARIABLES.values() for pair in pairs for name in pair}
    return {name: value for name, value in environment().items() if name not in launchers}


@contextmanager
def started(
    through: str, ranks: int, command: Sequence[object], env: dict[str, str] | None = None, **options
) -> Iterator[list[subprocess.Popen]]:
    """A context with the processes: mpirun alone for "MPI"; every rank, in their order, for "torchrun".

    All are killed at its end, if they have not ended.
    """
    words, common = [str(word) for word in command], alone() | (env or {})
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    if through == "MPI":
        processes = [subprocess.Popen([MPIRUN, "-n", str(ranks), *words], env=common, **pipes)]
    else:
        processes = [
            subprocess.Popen(words, env=common | as_torchrun_says(rank, ranks, port), **pipes)
            for port in [free_port()]
            for rank in range(ranks)
        ]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def as_torchrun_says(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment variables that torchrun gives to a rank; cuchar then uses the port after `port`."""
    return {"RANK": f"{rank}", "WORLD_SIZE": f"{ranks}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}


def free_port() -> int:
    """A port such that nobody listens at the one after it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1] - 1


def ended(processes: list[subprocess.Popen], timeout: float = PATIENCE_S) -> Ended:
    """Wait until all processes of `started` have ended."""
    said = [process.communicate(timeout=timeout) for process in processes]
    out, err = ("".join((one[stream] or b"").decode() for one in said) for stream in (0, 1))
    return Ended([process.returncode for process in processes], out, err)


def run(through: str, ranks: int, command: Sequence[object], env: dict[str, str] | None = None, **options) -> Ended:
    """Start processes, and wait until all have ended."""
    with started(through, ranks, command, env, **options) as processes:
        return ended(processes)


def running_ranks(mpirun: subprocess.Popen) -> dict[int, int]:
    """The process of each rank that an mpirun has started, by the rank."""
    found, waiting = {}, [mpirun.pid]
    while waiting:
        for child in Path(f"/proc/{waiting.pop()}/task").glob("*/children"):
            for pid in map(int, child.read_text().split()):
                waiting.append(pid)
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                for variable in variables:
                    if variable.startswith(b"PMI_RANK="):
                        found[int(variable.partition(b"=")[2])] = pid
    return found


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
