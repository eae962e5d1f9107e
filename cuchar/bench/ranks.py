"""Scaling over processes: what a training step takes when several ranks share its batch, and divide the processors."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS
from cuchar.bench.processes import Worker
from cuchar.bench.run import heading, load_average
from cuchar.bench.timing import ratio, take_turns
from cuchar.config import check_option
from cuchar.engines.cpu.library import thread_count
from cuchar.errors import OptionError
from cuchar.kinds import integer

ROUNDS = 10


def bench_ranks(ranks: int, base: Configuration, device: str, notice: Callable[[str], None]) -> dict[str, Any]:
    """Time one process with all processors, one with a rank's share of them, and `ranks` ranks, by turns.

    Returns:
        what `heading` returns, and `ranks`: the timings; `speedup`, the time of one process over that of the ranks on the
        same processors; `efficiency`, the time of one process on a rank's share of the processors over `ranks` times the
        ranks' time; and `summing_ms`, what a step spends in adding up gradients, with the wait for the slowest rank.
    Raises:
        OptionError: there are more ranks than rows of the batch, or fewer than 2.
        DeviceError: there is no mpirun, or an engine fails.
    """
    check_option("ranks", integer(2), ranks)
    if ranks > base.B:
        raise OptionError(f"--ranks: expected at most one for each of {base.name}'s {base.B} rows, found {ranks}")
    load, threads = load_average(), thread_count()
    share = max(1, threads // ranks)
    with ExitStack() as stack:
        workers = {}
        for name, own, count in (("alone", threads, 1), ("alone on a share", share, 1), ("ranks", threads, ranks)):
            notice(f"{base.name}: starting {name}")
            workers[name] = stack.enter_context(Worker(OURS, device, own, count))
            workers[name].prepare(base)
        notice(f"{base.name}: timing by turns")
        before, began = workers["ranks"].summing_s(), workers["ranks"].training_s
        timings = take_turns({name: worker.train for name, worker in workers.items()}, ROUNDS)
        summed = workers["ranks"].summing_s() - before
        part_summing = summed / (workers["ranks"].training_s - began)
        facts = workers["alone"].facts | {"mpi": workers["ranks"].facts["through"]}
    alone, part, many = (timings[name] for name in ("alone", "alone on a share", "ranks"))
    whole, of_share = ratio(alone.rounds, many.rounds), ratio(part.rounds, many.rounds)
    return {
        **heading(facts, load),
        "ranks": {
            "configuration": base.to_json(), "ranks": ranks, "threads_a_rank": share,
            "timings": {name: asdict(timing) for name, timing in timings.items()}, "speedup": asdict(whole),
            "efficiency": {name: value / ranks for name, value in asdict(of_share).items()},
            "summing_ms": part_summing * many.ms,
        },
    }  # fmt: skip
