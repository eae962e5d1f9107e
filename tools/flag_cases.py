"""Runs one kernel case of tools/flags.py under ThreadSanitizer, which must have been preloaded.

python tools/flag_cases.py CASE KERNELS FIRST END    tries seeds FIRST to END - 1

The first line that is printed says, as JSON, how the case's launches are divided. Then comes the number of each seed as
it begins, so that whoever reads the lines knows which seed ended the process. Each seed gives the emulator's threads
another order and delays others of them at flags and mbarriers. Whatever a seed computes must have the bits that the
first one gave.
"""

import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.config import ModelConfig
from cuchar.devices import kernel_sources
from cuchar.devices.device import Kernel, Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.cuda import persistent, resident
from cuchar.engines.cuda.dropout import Mask
from cuchar.engines.cuda.gradients import GemmLaunches
from cuchar.engines.cuda.persistent import Persistent, PersistentRecurrence
from cuchar.engines.cuda.resident import Resident, ResidentLaunches
from cuchar.engines.cuda.tape import STEP, Backward, Tape, Weights
from cuchar.engines.cuda.target import Target, Window
from cuchar.parameters import initialise

VOCABULARY = 5
WAITING = {"persistent/persistent_forward.cu", "persistent/persistent_backward.cu", "resident/lstm_resident.cu"}


@dataclass(frozen=True)
class Case:
    """A model, a window and a device so small that the kernels' blocks are few, and still wait for each other."""

    H: int
    L: int
    B: int
    T: int
    limits: Limits
    precision: str = "fp32"
    dropout: bool = True
    is_resident: bool = False


CASES = {
    "three stages of two blocks": Case(9, 2, 3, 3, Limits(90, 6, 950)),
    "two blocks": Case(9, 1, 3, 3, Limits(90, 2, 950), dropout=False),
    "three stages of one block": Case(8, 2, 3, 3, Limits(90, 3, 950)),
    "blocks of several warps": Case(25, 1, 3, 3, Limits(90, 2, 2400)),
    "three groups of unequal rows": Case(9, 1, 5, 3, Limits(90, 6, 950), dropout=False),
    "five stages": Case(7, 3, 3, 4, Limits(90, 5, 950)),
    "many time steps": Case(5, 2, 2, 12, Limits(90, 3, 950), dropout=False),
    "a single character": Case(9, 2, 1, 1, Limits(90, 6, 950)),
    "tensor cores": Case(9, 2, 3, 3, Limits(90, 6, 6100), "bf16"),
    "a cluster": Case(9, 2, 1, 34, Limits(90, 132, 232_448), is_resident=True),  # its channel's slots are used twice
    "two clusters": Case(5, 2, 2, 3, Limits(90, 132, 232_448), dropout=False, is_resident=True),
    "five teams in a block": Case(3, 3, 2, 4, Limits(80, 108, 166_912), is_resident=True),
}


class OnlyWaiting(EmulatedDevice):
    """The emulator with kernels that do nothing, but for those in which blocks or teams of threads wait for others."""

    def kernels(self, file: str, macros: Mapping[str, int | str], cooperative: bool = False) -> Mapping[str, Kernel]:
        if file in WAITING:
            return super().kernels(file, macros, cooperative)
        return defaultdict(lambda: lambda *sizes, **arguments: None)


def prepare(case: Case, device: EmulatedDevice) -> tuple[dict[str, Any], Callable[[bool], str]]:
    """How a case's launches are divided, and a call that computes forward and backward and digests all that they write.

    The call's argument is whether the window begins with a state or with zeros.
    """
    model, generator = ModelConfig(VOCABULARY, case.H, case.L), np.random.default_rng(0)
    target, window = Target(device, model, np.dtype(np.float32), case.precision), Window(case.T, case.B, case.dropout)
    mask = Mask.of(0.4, 3, case.B) if case.dropout else None
    plan = (resident if case.is_resident else persistent).plan_window(target, window)
    if plan is None:
        raise SystemExit("expected a case that fits its device, found none")
    launches = plan.launches(target, case.dropout)
    tape = Tape(target, window, launches.flags)
    backward = Backward(target, window, launches.splits)
    weights = Weights.of(target, initialise(model, 1).flat)
    tape.put(*generator.integers(VOCABULARY, size=(2, case.T, case.B)))
    h, c = generator.normal(0, 0.5, (2, case.L, case.B, case.H)).astype(np.float32)
    written = [tape.h, tape.c, tape.gates, tape.dropped, tape.logits, tape.losses, backward.dh]

    def compute(carry: bool) -> str:
        for array in written:
            array.fill(np.nan)  # a number that is read too early is then not the seed's before
        tape.order(np.zeros(1, STEP))
        begin = 0 if isinstance(launches, GemmLaunches) else case.T
        tape.h[:, begin], tape.c[:, begin] = (h, c) if carry else (0, 0)
        if isinstance(launches, GemmLaunches):
            recurrence = launches._recurrence
            assert isinstance(recurrence, PersistentRecurrence)
            tape.flags.fill(0)
            backward.dh.fill(1)
            recurrence.forward(weights, tape, mask)
            digest = hashlib.sha256(tape.gates.tobytes())
            recurrence.backward(weights, tape, backward, mask)
        else:
            assert isinstance(launches, ResidentLaunches)
            digest = hashlib.sha256()
            launches.gradients(weights, tape, backward, carry, mask)
        tape.expect_no_wait()
        for array in written:
            digest.update(array.tobytes())
        return digest.hexdigest()

    return division_of(plan), compute


def division_of(plan: Persistent | Resident) -> dict[str, Any]:
    """Blocks, threads of a block, groups and parts of a plan's launches."""
    if isinstance(plan, Resident):
        return {"cluster": plan.cluster, "threads": plan.threads}
    return {
        name: {"blocks": of.blocks, "threads": of.threads, "groups": of.groups, "parts": of.parts}
        for name, of in (("forward", plan.forward), ("backward", plan.backward))
    }


def main() -> None:
    case, folder, seeds = CASES[sys.argv[1]], Path(sys.argv[2]), range(*map(int, sys.argv[3:]))
    kernel_sources.kernel_folder = lambda: folder
    device = OnlyWaiting("shuffled", 0, "thread", case.limits)
    division, compute = prepare(case, device)
    print(json.dumps(division), flush=True)
    first: dict[bool, str] = {}
    for seed in seeds:
        print(seed, flush=True)
        device._seed, carry = seed, seed % 3 > 0
        found = compute(carry)
        if first.setdefault(carry, found) != found:
            raise SystemExit("expected the first seed's bits, found others")


if __name__ == "__main__":
    main()
