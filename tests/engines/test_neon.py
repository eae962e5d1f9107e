"""The C++ engine with NEON, the vectors of 64-bit Arm processors, on a machine of another kind.

Debian's g++-aarch64-linux-gnu builds the library as the user's compiler would on Arm, and its qemu-user runs it. .ci/run
installs both.
"""

import os
import shutil

import numpy as np
import pytest
from support.accuracy import expect_accuracy_of_cpu_engine
from support.cpu_fingerprint import LAWS, results
from support.guest_library import COMPILER, QEMU, neon
from support.learners import learner_of

from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.cpu.engine import CpuEngine

# V, H, L, B, T, and by which laws characters are drawn: less than a vector; whole vectors; a unit and a row more than a
# panel and a block of rows have; more terms than a partial sum has; more characters than a partial sum has, with dropout.
EDGES = {
    (5, 3, 1, 1, 3): LAWS,
    (4, 8, 2, 3, 2): LAWS,
    (33, 17, 2, 49, 2): (),
    (6, 257, 1, 2, 2): (),
    (21, 19, 3, 13, 11): LAWS,
}


@pytest.fixture(autouse=True)
def guests():
    """CI never skips this file."""
    for program in (QEMU, COMPILER):
        if not shutil.which(program):
            assert "CI" not in os.environ, f"expected {program}, found none"
            pytest.skip(f"expected {program}, found none")


def results_at_edges(dtype):
    return {shape: results(*shape, dtype, laws) for shape, laws in EDGES.items()}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_bits_are_those_of_the_machines_own_vectors(dtype, tmp_path):
    """Two steps of training, gradients, scores, logits and draws, on one thread and on three.

    The machine's own vectors must have fused multiply-add, as NEON has.

    Losses alone may differ, because log1p is the C library's, whose code for Arm has fused multiply-adds. In glibc 2.36,
    float's log1p has another last bit there than on x86-64 for 256 of two million numbers, double's for none. Both are
    within 1 ulp of the exact logarithm's rounding (glibc's libm-test-ulps for aarch64 and x86_64), so they differ by 2 at
    most, and losses, after one more addition, by 3. Their mean is taken in float64.

    Draws take the library's exp, in float64, which has the same bits for two million numbers. One ulp in it would change
    a draw only if the random number were within some ulp of the border between two characters.
    """
    own = results_at_edges(dtype)
    for threads in (1, 3):
        with neon(tmp_path, threads):
            library = CpuEngine(ModelConfig(2, 1, 1), dtype).library
            assert (library.instructions(), library.lanes()) == (b"NEON", 16 // np.dtype(dtype).itemsize)
            on_neon = results_at_edges(dtype)
        for shape, found in on_neon.items():
            _, _, _, B, T = shape
            for name, expected in own[shape].items():
                if name in ("losses", "scores"):
                    bound = 3 * np.finfo(dtype).eps + B * T * np.finfo(float).eps
                    assert np.all(np.abs(found[name] - expected) <= bound * expected), (name, shape)
                else:
                    assert found[name].tobytes() == expected.tobytes(), (name, shape)


def test_every_result_is_as_accurate_as_numpys(tmp_path):
    with neon(tmp_path, 3):
        expect_accuracy_of_cpu_engine((84, 33, 4, 13, 3))


@pytest.mark.parametrize("threads", [1, 3])
def test_no_thread_computes_with_subnormal_numbers(threads, tmp_path):
    """Moments that decay end at zero, by FPCR.FZ. Normal ones are as they would be without it."""
    config = TrainConfig(hidden=64, layers=1, window=4, batch=3)
    tiny = np.finfo(np.float32).tiny
    with neon(tmp_path, threads):
        learner, training = learner_of(CpuEngine(ModelConfig(84, 64, 1)), config, np.arange(90) % 6)
        learner.gradients.flat[:] = 0
        for moments, decay in ((training.adam.m, np.float32(0.9)), (training.adam.v, np.float32(0.999))):
            moments[::2], moments[1::2] = tiny, 4 * tiny
            learner._update(1, 0.01)
            assert not moments[::2].any() and np.all(moments[1::2] == decay * (4 * tiny))
