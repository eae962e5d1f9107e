"""What a training step takes when other processes keep processors busy, beside one on free processors."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, Burst
from cuchar.bench.processes import Worker, with_this_package
from cuchar.bench.run import heading, load_average
from cuchar.bench.timing import ratio, take_turns
from cuchar.config import check_option
from cuchar.engines.cpu.library import thread_count
from cuchar.errors import DeviceError
from cuchar.kinds import integer
from cuchar.wording import option

ROUNDS = 12
# A busy process says when it is ready. If its starter has ended before, it cannot say so, and ends as well.
COMPUTE = """from cuchar.bench.processes import die_with_the_starter
die_with_the_starter()
print(flush=True)
while True: pass"""


class Busy:
    """Processes that compute whenever they are not stopped; they begin stopped. `close` ends them.

    Raises:
        DeviceError: one of them cannot be started.
    """

    def __init__(self, count: int):
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", "-c", COMPUTE],
                        stdout=subprocess.PIPE,
                        start_new_session=True,
                        env=with_this_package(os.environ),
                    )
                )
            for process in self._processes:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise DeviceError(f"{option('load', count)}: expected busy processes, found that one ended at once")
                process.send_signal(signal.SIGSTOP)
        except OSError as error:
            self.close()
            raise DeviceError(f"{option('load', count)}: expected busy processes, found: {error}") from None
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
            assert process.stdout is not None
            process.stdout.close()


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
        others = stack.enter_context(closing(Busy(busy)))
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
