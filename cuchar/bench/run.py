"""A whole benchmark: times cuchar and its peers by turns for every configuration, and measures what else is shown."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from cuchar.bench.arithmetic import bytes_moved, flops
from cuchar.bench.configurations import SCORED_CHARS, Configuration
from cuchar.bench.contender import OURS, TASKS, Choice
from cuchar.bench.lineup import Lineup
from cuchar.bench.machine import versions
from cuchar.bench.timing import Timing, ratio, take_turns
from cuchar.engines.cpu.library import thread_count

FORMAT = 1  # number of the result files' format
STREAMS, SAMPLING_ROUNDS, SCORING_ROUNDS = (1, 64, 4096), 7, 7
HELP = [sys.executable, "-m", "cuchar", "--help"]
HELP_RUNS = 5


def bench(
    configurations: Iterable[Configuration],
    device: str,
    choice: Choice,
    *,
    sampling: bool = False,
    scoring: bool = False,
    profile: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run a benchmark.

    Args:
        device: the value of `--device`.
        choice: which peers take part.
        sampling: whether drawing is timed too.
        scoring: whether scoring is timed too.
        profile: whether the parts of a training step are timed too.
        notice: called with a text that says what is being done now.
    Returns:
        what a result file contains.
    Raises:
        CucharError: as for `Lineup`.
    """
    entries, facts, load = [], dict[str, Any](), load_average()
    tasks = [task for task, is_asked in zip(TASKS, (True, sampling, scoring), strict=True) if is_asked]
    for sizes in configurations:
        with ExitStack() as stack:
            notice(f"{sizes.name}: starting")
            lineup = Lineup(stack, sizes, device, choice, tasks)
            notice(f"{sizes.name}: timing {', '.join(lineup.workers)}")
            entry = {
                "configuration": sizes.to_json(),
                "absent": lineup.absent,
                "notes": lineup.notes,
                **training(lineup),
            }
            if sampling:
                notice(f"{sizes.name}: drawing")
                entry["sampling"] = [drawing(lineup, streams) for streams in STREAMS]
            if scoring:
                notice(f"{sizes.name}: scoring")
                entry["scoring"] = score(lineup)
            if profile:
                notice(f"{sizes.name}: profiling")
                entry["profile"] = lineup.workers[OURS].profile()
            notice(f"{sizes.name}: measuring what the machine can do")
            entries.append({**entry, "ceilings": lineup.workers[OURS].ceilings()})
            facts |= lineup.facts
    return {**heading(facts, load), "help_s": help_seconds(), "configurations": entries}


def load_average() -> float:
    """How many processes had work to do in the last minute, on average."""
    return os.getloadavg()[0]


def heading(facts: dict[str, Any], load: float) -> dict[str, Any]:
    """The beginning of every result: the date, the machine, the versions, and how busy the machine was before."""
    of_the_run = ("device", "kind")
    return {
        "format": FORMAT, "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **{name: facts[name] for name in of_the_run}, "threads": thread_count(), "load_before": load,
        "versions": {**versions(), **{name: fact for name, fact in facts.items() if name not in of_the_run}},
    }  # fmt: skip


def training(lineup: Lineup) -> dict[str, Any]:
    workers = lineup.doing("train")
    timings = take_turns({name: worker.train for name, worker in workers.items()})
    found = side_by_side(timings, lineup.sizes.B * lineup.sizes.T)
    for name, worker in workers.items():
        own = found["ours"] if name == OURS else found["peers"][name]
        own |= {"first_step_s": lineup.first_step_s[name], **worker.memory()}
    return {"flops": flops(lineup.sizes), "bytes": bytes_moved(lineup.sizes), **found}


def drawing(lineup: Lineup, streams: int) -> dict[str, Any]:
    """Time how long contenders take to draw one more character of every stream, which is a "step" here."""
    turns = {name: partial(worker.draw, streams) for name, worker in lineup.doing("draw").items()}
    return {"streams": streams, **side_by_side(take_turns(turns, SAMPLING_ROUNDS), streams)}


def score(lineup: Lineup) -> dict[str, Any]:
    """Time how long contenders take to score a window of a text, which is a "step" here."""
    turns = {name: worker.score for name, worker in lineup.doing("score").items()}
    return {"characters": SCORED_CHARS, **side_by_side(take_turns(turns, SCORING_ROUNDS), SCORED_CHARS)}


def side_by_side(timings: dict[str, Timing], characters: int) -> dict[str, Any]:
    """The timings of cuchar and of its peers, with characters a second and the ratios of their times to cuchar's.

    Args:
        timings: by contender; cuchar's must be among them.
        characters: how many characters a step has.
    """
    own = timings[OURS]
    found = {name: {**asdict(timing), "chars_per_s": characters / timing.ms * 1e3} for name, timing in timings.items()}
    peers = {
        name: {**values, "ratio": asdict(ratio(timings[name].rounds, own.rounds))}
        for name, values in found.items()
        if name != OURS
    }
    return {"ours": found[OURS], "peers": peers}


def help_seconds() -> float:
    """How many seconds `cuchar --help` takes: the median of HELP_RUNS runs."""
    seconds = []
    for _ in range(HELP_RUNS):
        began = perf_counter()
        subprocess.run(HELP, stdout=subprocess.DEVNULL, check=True)
        seconds.append(perf_counter() - began)
    return median(seconds)
