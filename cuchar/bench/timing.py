"""Lets contenders take turns (A B A B ...), so that a noisy machine is noisy for all; computes medians and ratios."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TypeVar

import numpy as np

from cuchar.bench.contender import Burst, Turn

ROUNDS, LEAST_ROUNDS = 12, 4  # a round is one turn of every contender
BURST_S = 0.2  # seconds of a burst
# Before a burst comes a lead-in, which has a fourth of its steps and does not count: threads of BLAS and OpenMP spin
# for up to 30 ms after they were last needed, and would take processors from the contender whose turn comes next.
LEAD_IN = 4
BUDGET_S = 60.0  # seconds after which no more rounds begin, if there were LEAST_ROUNDS
RESAMPLES = 5000  # how often the bootstrap draws rounds anew

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """How long a contender took for a step. The time of a round is the mean of its steps.

    Args:
        ms: median of the rounds' times, in milliseconds.
        low, high: quartiles of the rounds' times.
        device_ms: the same median by the GPU's own clock; None without a GPU.
        rounds: the time of every round.
        idle_cpu: the largest share of a processor that its process used while others had their turn.
    """

    ms: float
    low: float
    high: float
    device_ms: float | None
    rounds: list[float]
    idle_cpu: float

    @classmethod
    def of(cls, steps: int, bursts: Sequence[Burst]) -> "Timing":
        rounds = [burst.seconds / steps * 1e3 for burst in bursts]
        low, middle, high = np.quantile(rounds, (0.25, 0.5, 0.75)).tolist()
        device = [burst.device_seconds for burst in bursts if burst.device_seconds is not None]
        device_ms = float(np.median(device)) / steps * 1e3 if device else None
        return cls(middle, low, high, device_ms, rounds, max(burst.idle_cpu for burst in bursts))


@dataclass(frozen=True)
class Ratio:
    """One time over another, and the interval from `low` to `high` that has the true ratio with 95 % confidence."""

    value: float
    low: float
    high: float


def take_turns(turns: Mapping[Name, Turn], rounds: int = ROUNDS, burst_s: float = BURST_S) -> dict[Name, Timing]:
    """Time contenders by turns, each in bursts of some `burst_s` seconds. All have the same number of rounds.

    Args:
        turns: by contender, what does its steps.
        rounds: how many, unless BUDGET_S is over before.
    """
    steps = {name: steps_a_burst(turn, burst_s) for name, turn in turns.items()}
    bursts: dict[Name, list[Burst]] = {name: [] for name in turns}
    began = perf_counter()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and perf_counter() - began > BUDGET_S:
            break
        for name, turn in turns.items():
            lead_in = turn(max(1, steps[name] // LEAD_IN))
            bursts[name].append(replace(turn(steps[name]), idle_cpu=lead_in.idle_cpu))
    return {name: Timing.of(steps[name], bursts[name]) for name in turns}


def steps_a_burst(turn: Turn, burst_s: float) -> int:
    """How many steps take `burst_s` seconds, at least one. To find that out also warms the contender up."""
    steps = 1
    turn(steps)
    while (seconds := turn(steps).seconds) < burst_s / 2:
        steps *= 2
    return max(1, math.ceil(steps * burst_s / seconds)) if burst_s else 1


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> Ratio:
    """The ratio of their time to ours: the median of the rounds' ratios, with an interval by a bootstrap over rounds.

    Args:
        theirs, ours: the times of the same rounds, in which they took turns.
    Source: Efron 1979; the percentile interval of resampled medians.
    """
    pairs = np.array(theirs) / np.array(ours)
    picks = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    low, high = np.quantile(np.median(pairs[picks], axis=1), (0.025, 0.975)).tolist()
    return Ratio(float(np.median(pairs)), low, high)
