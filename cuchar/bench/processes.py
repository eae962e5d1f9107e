"""Starts a contender's process (worker.py), and passes it questions and back its answers."""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import cuchar
from cuchar import errors
from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, Burst
from cuchar.launch import unlaunched

COMMAND = [sys.executable, "-P", "-m", "cuchar.bench.worker"]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
END_S = 5.0  # how long a killed process may take to end
PR_SET_PDEATHSIG = 1  # Linux's prctl.h


def die_with_the_starter(starter: int | None = None) -> None:
    """Have this process killed when the thread that started it ends, however that ends; on Linux alone.

    Args:
        starter: the process that started this one. If it has ended already, nothing will kill this process, and so
            it ends itself. A process that reads from its starter notices that by itself and need not know it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if starter is not None and os.getppid() != starter:
            os.kill(os.getpid(), signal.SIGKILL)


def with_this_package(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python finds this package wherever it lies."""
    paths = [str(Path(cuchar.__file__).parent.parent), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(paths)}


def mpirun(ranks: int) -> list[str]:
    """The command by which mpirun starts so many processes: the environment's mpirun, or else the path's.

    Raises:
        DeviceError: there is none.
    """
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("mpirun", path=beside)
    if found is None:
        raise errors.DeviceError("--ranks: expected an mpirun, found none; pip install 'cuchar[mpi]' brings one")
    return [found, "-n", str(ranks)]


class Worker:
    """A contender's process, which waits for its turns. It is a context, at whose end the process ends.

    Args:
        contender: contender.OURS or one of contender.PEERS.
        device: for cuchar the value of `--device`, for a peer cpu or cuda:N.
        threads: how many threads it may use.
        ranks: how many processes it is; mpirun starts several, which divide the threads.
    Raises:
        CucharError: the error that the process met. Every method that asks the process something may raise it too.
    """

    def __init__(self, contender: str, device: str, threads: int, ranks: int = 1):
        self.contender, self._ranks, self._began = contender, ranks, perf_counter()
        self.training_s = 0.0  # seconds of training so far
        self._process = subprocess.Popen(
            [*(mpirun(ranks) if ranks > 1 else []), *COMMAND, contender, device, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=None if contender == OURS else subprocess.DEVNULL, text=True, encoding="utf-8",
            start_new_session=True,  # so that Ctrl-C reaches only the process that started it
            # The terminal has a moving line of the process that asks, and no place for another.
            env={**with_this_package(unlaunched(os.environ)), **dict.fromkeys(THREADS, str(threads)), "TERM": "dumb"},
        )  # fmt: skip
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def prepare(self, sizes: Configuration) -> str:
        """Make the contender ready for a configuration, and return notes about it for the reader, or ""."""
        return str(self._ask(what="prepare", sizes=sizes.to_json())["notes"])

    def train(self, steps: int) -> Burst:
        burst = Burst(**self._ask(what="train", steps=steps))
        self.training_s += burst.seconds
        return burst

    def draw(self, streams: int, characters: int) -> Burst:
        return Burst(**self._ask(what="draw", streams=streams, characters=characters))

    def score(self, windows: int) -> Burst:
        return Burst(**self._ask(what="score", windows=windows))

    def memory(self) -> dict[str, int | None]:
        return self._ask(what="memory")

    def summing_s(self) -> float:
        """Seconds that sums over the ranks have taken since `prepare`."""
        return float(self._ask(what="summing")["seconds"])

    def profile(self) -> dict[str, Any]:
        return self._ask(what="profile")

    def ceilings(self) -> dict[str, Any]:
        return self._ask(what="ceilings")

    @property
    def age(self) -> float:
        """Seconds since the process was started."""
        return perf_counter() - self._began

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()  # ranks end by themselves, mpirun with them
        if self._ranks > 1:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)
        if self._process.poll() is None:
            # It has nothing to lose, and its group includes the processes that torch.compile starts.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(END_S)
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["kind"])(answer["error"])
        return answer

    def _ended(self) -> errors.DeviceError:
        status = self._process.wait(END_S)
        return errors.DeviceError(
            f"{self.contender}: expected its process to answer, found that it ended with {status}"
        )
