"""Scaling: how time and memory grow as one size doubles, beside how the arithmetic grows."""

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
ALLOWANCE = 1.1  # how much faster than the arithmetic time may grow in a doubling
ROUNDS = 8


def configurations_along(along: str, base: Configuration) -> list[Configuration]:
    """The base configuration, then the same with one size doubled, four times and eight times as large.

    Args:
        along: the size's name; "layers" begins with one layer, whatever the base has.
    Raises:
        OptionError: there is no size of that name.
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
    """Time all sizes by turns, in the base's precision.

    Returns:
        what `heading` returns, and `sweep`: the sizes' timings and memory, and the growth from each to the next.
    Raises:
        CucharError: as for `Lineup` and `configurations_along`.
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
            for name, worker in lineup.doing("train").items()
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
    """By which factors time, arithmetic, memory, and the bytes that must be held grow from one size to the next.

    Time has grown no faster than the arithmetic if the interval of its factor reaches down to the arithmetic's factor
    times ALLOWANCE. Memory has grown no faster than what must be held if its factor is at most that one's times
    ALLOWANCE.
    """
    (small, quick), (large, slow) = before, after
    time, arithmetic = ratio(slow.rounds, quick.rounds), large["flops"] / small["flops"]
    memory, held = large["memory"] / max(small["memory"], 1), large["bytes_held"] / small["bytes_held"]
    return {
        "from": small["size"], "to": large["size"], "time": asdict(time), "flops": arithmetic,
        "memory": memory, "bytes_held": held,
        "time_no_faster": time.low <= arithmetic * ALLOWANCE, "memory_no_faster": memory <= held * ALLOWANCE,
    }  # fmt: skip
