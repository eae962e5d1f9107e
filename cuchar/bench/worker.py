"""One contender in a process of its own, which processes.py starts.

    python -m cuchar.bench.worker CONTENDER DEVICE THREADS

Started by mpirun, several such processes are one contender: cuchar, whose ranks share every batch. Rank 0 speaks for it.

It reads questions and writes answers, each a line of JSON. Between an answer and the next question it does nothing, so
that the contender whose turn it is has the machine for itself. The first line that it writes says on which machine and
with which versions it works, or why it cannot.
"""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter, process_time
from typing import IO, Any

from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, PEERS, Burst
from cuchar.bench.machine import forget_peak, gpu_facts, peak_bytes, processor
from cuchar.bench.processes import die_with_the_starter
from cuchar.engines.cpu.library import thread_count
from cuchar.errors import CucharError, DeviceError
from cuchar.ranks.together import Leader, together
from cuchar.wording import command_line_wording

Make = Callable[[Configuration], Any]


def main() -> None:
    die_with_the_starter()  # it leads a session of its own, so a signal to its starter's session does not reach it
    contender, device, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if threads < thread_count():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    together(lambda leader: answer_all(contender, device, threads, leader))


def answer_all(contender: str, device: str, threads: int, leader: Leader | None) -> None:
    channel = own_stdout()

    def tell(answer: Callable[[], dict[str, Any]]) -> None:
        print(json.dumps(answered(answer, contender != OURS)), file=channel, flush=True)

    work = Work()
    tell(lambda: work.start(contender, device, threads, leader))
    for line in sys.stdin:
        tell(partial(work.do, **json.loads(line)))


def answered(answer: Callable[[], dict[str, Any]], is_peer: bool) -> dict[str, Any]:
    """The answer, or a description of the error. For a peer that is any error, since PyTorch and the others may raise anything."""
    try:
        return answer()
    except CucharError as error:
        return {"error": str(error), "kind": type(error).__name__}
    except MemoryError:
        return {"error": "expected enough memory, found too little", "kind": "DeviceError"}
    except Exception as error:
        if not is_peer:
            raise
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", "kind": "DeviceError"}


class Work:
    """Answers questions to a contender. A question is a method's name and its arguments."""

    def __init__(self) -> None:
        self._contender: Any = None
        self._make: Make
        self._basis, self._cpu, self._clock = 0, 0.0, 0.0

    def start(self, contender: str, device: str, threads: int, leader: Leader | None) -> dict[str, Any]:
        maker = (
            partial(our_maker, device, leader) if contender == OURS else partial(peer_maker, contender, device, threads)
        )
        facts, self._make = maker()
        self._leader, self._summed_s = leader, 0.0
        forget_peak()
        self._basis, self._cpu, self._clock = peak_bytes(), process_time(), perf_counter()
        return facts

    def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self, what)(**arguments)
        return answer

    def prepare(self, sizes: dict[str, Any]) -> dict[str, Any]:
        self._contender = None  # first, since memory may not hold two at once
        self._contender = self._make(Configuration(**sizes))
        self._summed_s = self._leader.ranks.summing_s if self._leader else 0.0
        return {"notes": self._contender.notes()}

    def train(self, steps: int) -> dict[str, Any]:
        return self._burst(lambda: self._contender.train(steps))

    def draw(self, streams: int, characters: int) -> dict[str, Any]:
        return self._burst(lambda: self._contender.draw(streams, characters))

    def score(self, windows: int) -> dict[str, Any]:
        return self._burst(lambda: self._contender.score(windows))

    def _burst(self, turn: Callable[[], Burst]) -> dict[str, Any]:
        idle = (process_time() - self._cpu) / max(perf_counter() - self._clock, 1e-9)
        burst = replace(turn(), idle_cpu=idle)
        self._cpu, self._clock = process_time(), perf_counter()
        return asdict(burst)

    def summing(self) -> dict[str, float]:
        """How many seconds the ranks' sums have taken since the contender was prepared."""
        return {"seconds": 0.0 if self._leader is None else self._leader.ranks.summing_s - self._summed_s}

    def memory(self) -> dict[str, int | None]:
        """The most bytes that were held: on the host besides what imports took, and on the GPU."""
        return {"host_bytes": peak_bytes() - self._basis, "device_bytes": self._contender.device_bytes()}

    def profile(self) -> dict[str, Any]:
        kernels: dict[str, Any] = self._contender.profile()
        return kernels

    def ceilings(self) -> dict[str, Any]:
        from cuchar.bench.ceilings import ceilings

        engine, precision = self._contender.engine, self._contender.sizes.precision
        self._contender = None  # frees memory for the measurement
        return ceilings(engine, precision)


def our_maker(option: str, leader: Leader | None) -> tuple[dict[str, Any], Make]:
    from cuchar.bench.cuchar_contender import CucharContender
    from cuchar.config import ModelConfig
    from cuchar.engines.choose import choose_engine

    def choose(model: ModelConfig, precision: str) -> Any:
        return choose_engine(option if leader is None else leader.device(option), model, precision=precision)[0]

    engine = choose(ModelConfig(2, 1, 1), "fp32")
    device = getattr(engine, "device", None)
    if device is None:
        facts = {"device": processor(), "kind": "cpu"}
    else:
        facts = {"device": device.name, "kind": device.option}
        if device.option != "emulate":
            facts |= gpu_facts(device)
    if leader is not None:
        facts |= {"ranks": str(leader.ranks.size), "through": leader.ranks.through}
    return facts, lambda sizes: CucharContender(choose(sizes.model, sizes.precision), sizes, leader)


def peer_maker(contender: str, device: str, threads: int) -> tuple[dict[str, Any], Make]:
    peer = PEERS[contender]
    if missing := [package for package in peer.packages if find_spec(package) is None]:
        raise DeviceError(f"not installed; pip install {' '.join(missing)}")
    made: tuple[dict[str, Any], Make] = import_module(f"cuchar.bench.{peer.module}").maker(contender, device, threads)
    return made


def own_stdout() -> IO[str]:
    """A file for the answers, on what was standard output; whatever libraries print now goes to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


if __name__ == "__main__":
    try:
        with command_line_wording():
            main()
    except BrokenPipeError:  # the process that asks has ended
        os._exit(1)
