"""What a training step takes when other processes keep processors busy, beside one on free processors."""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, Burst
from cuchar.bench.processes import Worker
from cuchar.bench.run import heading, load_average
from cuchar.bench.timing import ratio, take_turns
from cuchar.config import check_option
from cuchar.engines.cpu.library import thread_count
from cuchar.kinds import integer

ROUNDS = 12
COMPUTE = "from cuchar.bench.processes import die_with_the_starter as die; die()\nwhile True: pass"


class Busy:
    """Processes that compute whenever they are not stopped; they begin stopped. It is a context, which ends them."""

    def __init__(self, count: int):
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self._processes.append(subprocess.Popen([sys.executable, "-c", COMPUTE], start_new_session=True))
            self.signal(signal.SIGSTOP)
        except BaseException:
            self.close()
            raise

    def beside(self, turn: Callable[[int], Burst]) -> Callable[[int], Burst]:
        """The same turn, while the processes compute."""

        def under_load(steps: int) -> Burst:
            self.signal(signal.SIGCONT)
            try:
                return turn(steps)
            finally:
                self.signal(signal.SIGSTOP)

        return under_load

    def signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            process.send_signal(number)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def bench_load(busy: int, base: Configuration, device: str, notice: Callable[[str], None]) -> dict[str, Any]:
    """Time one thread on a free processor, all threads, and all threads beside `busy` processes, by turns.

    Returns:
        what `heading` returns, and `load`: the timings, and `slowdown`, the time under load over that of one thread.
    Raises:
        OptionError: `busy` is less than 1.
        DeviceError: an engine fails.
    """
    check_option("load", integer(1), busy)
    load, threads = load_average(), thread_count()
    with ExitStack() as stack:
        workers = {}
        for name, own in (("one thread", 1), ("free", threads)):
            notice(f"{base.name}: starting {name}")
            workers[name] = stack.enter_context(Worker(OURS, device, own))
            workers[name].prepare(base)
        others = stack.enter_context(Busy(busy))
        notice(f"{base.name}: timing by turns")
        turns = {name: worker.train for name, worker in workers.items()}
        timings = take_turns({**turns, "under load": others.beside(workers["free"].train)}, ROUNDS)
    return {
        **heading(workers["free"].facts, load),
        "load": {
            "configuration": base.to_json(), "busy": busy,
            "timings": {name: asdict(timing) for name, timing in timings.items()},
            "slowdown": asdict(ratio(timings["under load"].rounds, timings["one thread"].rounds)),
        },
    }  # fmt: skip
