"""The command line, in one rank of which something goes wrong.

python tests/support/planted_command.py PLANT RANK WORD...     is `cuchar WORD...`, with this one of PLANTS in this rank
"""

import gc
import math
import os
import sys
import weakref
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent))

from cuchar.__main__ import main
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.host import HostLearner
from cuchar.launch import launched

STEP = 13  # the step in which something goes wrong


def in_step(wrong):
    """Have every training step of this rank done by `wrong`, which is given the learner, the step, and how to do it."""
    done = HostLearner._step

    def step(self, inputs, targets, step, rate):
        return wrong(self, step, rate, lambda: done(self, inputs, targets, step, rate))

    patch.object(HostLearner, "_step", step).start()


def fails():
    def wrong(_learner, step, _rate, do):
        if step == STEP:
            raise RuntimeError("planted")
        return do()

    in_step(wrong)


def has_other_parameters():
    def wrong(learner, step, _rate, do):
        found = do()
        if step == STEP:
            learner.training.parameters.flat[5] += 1e-6
        return found

    in_step(wrong)


def is_not_finite():
    """The loss of this rank's rows is not a number, as long as the learning rate is that of the command line (0.01).

    When a learner is made, the one before must be gone, since a device has not always room for two.
    """
    made, make = [], HostLearner.__init__

    def init(self, *arguments, **options):
        gc.collect()
        assert not any(learner() for learner in made)
        make(self, *arguments, **options)
        made.append(weakref.ref(self))

    patch.object(HostLearner, "__init__", init).start()

    def wrong(learner, step, rate, do):
        engine = learner.engine
        if step == STEP and rate == 0.01:
            learned = engine.loss_and_gradients
            broken = patch.object(engine, "loss_and_gradients", lambda *given: (math.nan, learned(*given)[1]))
            with broken:
                return do()
        return do()

    in_step(wrong)


def has_little_memory():
    patch("cuchar.devices.emulator.EmulatedDevice", lambda notice: EmulatedDevice(memory_bytes=10_000)).start()


def has_no_compiler():
    os.environ["CXX"] = "/nonexistent"


PLANTS = {
    plant.__name__: plant
    for plant in (fails, has_other_parameters, is_not_finite, has_little_memory, has_no_compiler)
}  # fmt: skip


if __name__ == "__main__":
    name, rank, *words = sys.argv[1:]
    if launched().rank == int(rank):
        PLANTS[name]()
    sys.argv = ["cuchar", *words]
    main()
