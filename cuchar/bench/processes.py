"""A contender's process (worker.py) from the outside."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Self

import cuchar
from cuchar import errors
from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, Burst

COMMAND = [sys.executable, "-P", "-m", "cuchar.bench.worker"]
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
END_S = 5.0
PR_SET_PDEATHSIG = 1  # Linux's prctl.h


def die_with_the_starter() -> None:
    """From now on this process is killed when the thread that started it ends, however it does; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Worker:
    """A process that waits for its turn; as a context it ends with it.

    Args:
        contender: contender.OURS or one of contender.PEERS.
        device: ours: `--device`; a peer's: cpu or cuda:N.
    Raises:
        CucharError: of the kind that the process met, here and from every question.
    """

    def __init__(self, contender: str, device: str, threads: int):
        self.contender, self._began = contender, perf_counter()
        paths = [str(Path(cuchar.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [*COMMAND, contender, device, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=None if contender == OURS else subprocess.DEVNULL, text=True, encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the process that started it
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **dict.fromkeys(THREADS, str(threads))},
        )  # fmt: skip
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def prepare(self, sizes: Configuration) -> str:
        """Make it ready for these sizes; what there is to say of it."""
        return self._ask(what="prepare", sizes=sizes.to_json())["notes"]

    def train(self, steps: int) -> Burst:
        return Burst(**self._ask(what="train", steps=steps))

    def draw(self, streams: int, characters: int) -> Burst:
        return Burst(**self._ask(what="draw", streams=streams, characters=characters))

    def memory(self) -> dict[str, int | None]:
        return self._ask(what="memory")

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
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # it has nothing to lose, and torch.compile starts others
        self._process.wait(END_S)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()

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
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["kind"])(answer["error"])
        return answer

    def _ended(self) -> errors.DeviceError:
        status = self._process.wait(END_S)
        return errors.DeviceError(
            f"{self.contender}: expected its process to answer, found that it ended with {status}"
        )
