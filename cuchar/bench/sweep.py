"""Scaling: time and memory along one size, beside what the arithmetic itself grows by."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

from cuchar.bench.arithmetic import bytes_held, flops
from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, Choice
from cuchar.bench.lineup import Lineup
from cuchar.bench.run import heading, load_average, side_by_side
from cuchar.bench.timing import Timing, ratio, take_turns
from cuchar.errors import OptionError

SIZES = {"hidden": "H", "batch": "B", "window": "T", "layers": "L"}
FACTORS = (1, 2, 4, 8)
ALLOWANCE = 1.1  # of a doubling's growth over the arithmetic's
ROUNDS = 8


def configurations_along(along: str, base: Configuration) -> list[Configuration]:
    """The base, then doubled, doubled again and again; layers from one.

    Raises:
        OptionError: no such size.
    """
    if along not in SIZES:
        raise OptionError(f"--sweep: expected {' | '.join(SIZES)}, found {along}")
    letter = SIZES[along]
    first = 1 if along == "layers" else getattr(base, letter)
    sizes = [first * factor for factor in FACTORS]
    changes: list[dict[str, Any]] = [{letter: size, "name": f"{along} {size}"} for size in sizes]
    return [replace(base, **change) for change in changes]


def sweep(
    along: str, base: Configuration, device: str, choice: Choice, notice: Callable[[str], None]
) -> dict[str, Any]:
    """All sizes by turns. At the base's precision; `choice` as Lineup has it.

    Returns:
        a heading, then `sweep`: points, growth from each to the next, and whether time and memory grew no faster.
    """
    lineups, load = list[Lineup](), load_average()
    with ExitStack() as stack:
        for sizes in configurations_along(along, base):
            notice(f"{sizes.name}: starting")
            lineups.append(Lineup(stack, sizes, device, choice))
        notice(f"timing {along} {', '.join(str(getattr(lineup.sizes, SIZES[along])) for lineup in lineups)} by turns")
        turns = {
            (number, name): worker.train
            for number, lineup in enumerate(lineups)
            for name, worker in lineup.workers.items()
        }
        timings = take_turns(turns, ROUNDS)
        memories = [lineup.workers[OURS].memory() for lineup in lineups]
    points = []
    for number, (lineup, memory) in enumerate(zip(lineups, memories, strict=True)):
        own = {name: timing for (of, name), timing in timings.items() if of == number}
        held = memory["host_bytes"] if memory["device_bytes"] is None else memory["device_bytes"]
        points.append(
            {
                "size": getattr(lineup.sizes, SIZES[along]), "configuration": lineup.sizes.to_json(), "absent": lineup.absent, "notes": lineup.notes,
                "flops": flops(lineup.sizes), "bytes_held": bytes_held(lineup.sizes), "memory": held,
                **side_by_side(own, lineup.sizes.B * lineup.sizes.T),
            }
        )  # fmt: skip
    own_timings = [timings[number, OURS] for number in range(len(lineups))]
    growths = [growth(*pair) for pair in pairwise(zip(points, own_timings, strict=True))]
    return {
        **heading(lineups[0].facts, load),
        "sweep": {"along": along, "base": base.to_json(), "points": points, "growth": growths},
    }


def growth(before: tuple[dict[str, Any], Timing], after: tuple[dict[str, Any], Timing]) -> dict[str, Any]:
    """From a size to the next: factors of time, of its arithmetic, of memory, of what has to be held.

    Time grew no faster if its factor's interval reaches down to the arithmetic's times ALLOWANCE; memory, if it does.
    """
    (small, quick), (large, slow) = before, after
    time, arithmetic = ratio(slow.rounds, quick.rounds), large["flops"] / small["flops"]
    memory, held = large["memory"] / max(small["memory"], 1), large["bytes_held"] / small["bytes_held"]
    return {
        "from": small["size"], "to": large["size"], "time": asdict(time), "flops": arithmetic,
        "memory": memory, "bytes_held": held,
        "time_no_faster": time.low <= arithmetic * ALLOWANCE, "memory_no_faster": memory <= held * ALLOWANCE,
    }  # fmt: skip
