"""Runs the persistent kernels on the emulator under ThreadSanitizer; each seed delays blocks differently at the flags.

python tests/support/persistent_flags.py KERNELS SEEDS    prints the launches' blocks, parts and threads
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.problems import as_type, problem
from support.targets import target_of

from cuchar.devices import kernel_sources
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import Example
from cuchar.engines.cuda import resident
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.tape import Backward
from cuchar.engines.cuda.target import Window
from cuchar.parameters import Parameters

# H, L and multiprocessors, which seeds take in turns: three stages of two blocks each; one stage of two blocks; three
# stages of one block; and blocks of several warps in both directions.
SANITIZED = [(9, 2, 6), (9, 1, 2), (8, 2, 3), (9, 1, 2), (8, 2, 3), (25, 1, 2)]


def run(number: int, seeds: range) -> set[tuple[int, int, int]]:
    """Run one of SANITIZED forward and backward for each seed; returns blocks, parts and threads of both launches."""
    H, L, multiprocessors = SANITIZED[number]
    limits = Limits(90, multiprocessors, 950 if H < 10 else 2400)
    device = EmulatedDevice("shuffled", 0, "thread", limits)
    model, parameters, inputs, targets, state = problem(3, H, L, 3, 2)
    plan = plan_window(target_of(model, limits), Window(2, 3))
    assert isinstance(plan, Persistent)
    single, state = as_type(parameters, state, np.float32)
    engine = CudaEngine(model, device)
    engine.loss_and_gradients(single, Example(inputs, targets, state), Parameters(model))
    tape, kernels, weights = engine._tape(Window(2, 3)), engine.launches_for(Window(2, 3)), engine.fold(single)
    backward = Backward(engine._target, Window(2, 3), 1)
    backward.dh[...] = 1
    for seed in seeds:
        device._seed = seed
        kernels.forward(weights, tape)
        kernels._recurrence.backward(weights, tape, backward, None)
    return {(launch.blocks, launch.parts, launch.threads) for launch in (plan.forward, plan.backward)}


if __name__ == "__main__":
    folder, seeds = Path(sys.argv[1]), int(sys.argv[2])
    kernel_sources.kernel_folder = lambda: folder
    resident.plan_window = lambda *_: None
    launches = [run(number, range(number, seeds, len(SANITIZED))) for number in range(len(SANITIZED))]
    print(sorted(set().union(*launches)))
