"""The planner on real GPUs: it never asks for more than runs at once, nor for memory that is not there.

Why a plan cannot have too many blocks: `divisions` gives each of `groups * stages` shares multiprocessors // (groups *
stages) blocks at most, and a block so many units that these hold all H. B decides only how many groups are tried. Fewer
groups have more blocks a stage, hence fewer units and threads a block, and one row in one part takes the least shared
memory. So where one row has no persistent plan, no B has one. What is tried:

- with one row, every H up to 1024 and from there those at which a division by 16 or 4 rounds differently, up to 4096,
  with each L, on every GPU of support/gpus.py, in each number type and precision;
- with B up to 512, sizes that hypothesis searches, and for these every division that the planner may choose from.
"""

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listing import Listing
from support.gpus import DISTINCT, GPUS

from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.cuda import persistent
from cuchar.engines.cuda.learner import training_bytes
from cuchar.engines.cuda.memory import expect_memory
from cuchar.engines.cuda.persistent import Persistent, divisions
from cuchar.engines.cuda.regimes import LEAST_CAPABILITY, plan_sampling, plan_window
from cuchar.engines.cuda.resident import OneBlock, Resident
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.target import Target, Window
from cuchar.errors import DeviceError

ARITHMETIC = [("f4", "fp32"), ("f8", "fp32"), ("f4", "tf32"), ("f4", "bf16"), ("f4", "fp16")]
HIDDEN = [*range(1, 1025), *(H + off for H in range(1040, 4097, 16) for off in (-12, 0, 1) if H + off <= 4096)]


def target_on(gpu, model, dtype="f4", precision="fp32"):
    return Target(Listing(gpu.name, gpu.limits, has_tensor_library=True), model, np.dtype(dtype), precision)


def faults(gpu, target, window):
    """What a GPU does not take of the plans for a target."""
    plan, drawing = plan_window(target, window), plan_sampling(target)
    assert isinstance(plan, Resident | Persistent | Stepwise) and isinstance(drawing, OneBlock | Stepwise)
    launches = [plan.forward, plan.backward] if isinstance(plan, Persistent) else [plan]
    return [one for one in [*launches, drawing] if not isinstance(one, Stepwise) and not gpu.takes(one)]


@pytest.mark.parametrize("dtype,precision", ARITHMETIC)
def test_no_plan_for_one_row_has_more_blocks_than_run_at_once(dtype, precision):
    persistent_plans = 0
    for gpu in DISTINCT:
        if gpu.limits.capability < LEAST_CAPABILITY[precision]:
            continue
        for L in range(1, 9):
            for H in HIDDEN:
                target = target_on(gpu, ModelConfig(84, H, L), dtype, precision)
                plan = plan_window(target, Window(32, 1))
                if isinstance(plan, Stepwise):
                    continue
                persistent_plans += isinstance(plan, Persistent)
                assert faults(gpu, target, Window(32, 1)) == [], (gpu.name, H, L)
    assert persistent_plans > 10_000


SIZES = {
    "gpu": st.sampled_from(DISTINCT), "arithmetic": st.sampled_from(ARITHMETIC), "L": st.integers(1, 8),
    "H": st.integers(1, 700) | st.integers(1, 4096), "B": st.integers(1, 512), "V": st.integers(1, 512),
}  # fmt: skip


@settings(max_examples=600, deadline=None, derandomize=True)
@given(**SIZES)
def test_nothing_that_the_planner_may_choose_has_more_blocks_than_run_at_once(gpu, arithmetic, H, L, B, V):
    target = target_on(gpu, ModelConfig(V, H, L), *arithmetic)
    if gpu.limits.capability < LEAST_CAPABILITY[target.precision]:
        return
    assert faults(gpu, target, Window(32, B)) == []
    found = [[one for _, one in divisions(direction, target, B)] for direction in ("forward", "backward")]
    assert all(gpu.takes(one) and one.units * (one.blocks // one.groups // (2 * L - 1)) >= H for one in chain(*found))
    if all(found):  # what B rows have, one row has
        assert persistent.plan_window(target, Window(32, 1)) is not None


def test_what_the_system_takes_of_shared_memory_is_noticed_when_it_is_forgotten():
    h100 = GPUS["H100 SXM"]
    forgetful = replace(h100.architecture, shared_bytes=h100.architecture.shared_total).limits
    for limits, is_right in ((h100.limits, True), (forgetful, False)):
        target = Target(Listing("H100 SXM", limits), ModelConfig(68, 64, 8), np.dtype("f4"))
        found = [one for B in range(1, 513, 8) for _, one in divisions("backward", target, B)]
        assert all(map(h100.takes, found)) == is_right


def needed_on(gpu, model, config, precision):
    """A device with the memory of a GPU, and a function that counts the bytes that training takes with so many rows."""
    target, free = target_on(gpu, model, precision=precision), gpu.memory_gib << 30
    target.device.free_bytes = lambda: free
    windows = SimpleNamespace(ids=np.zeros(9, np.uint16), stride=config.window, window=config.window)

    def needed(batch):
        window = Window(config.window, batch, config.dropout > 0)
        launches = plan_window(target, window).launches(target, window.dropout)
        return training_bytes(target, launches, replace(config, batch=batch), windows, batch)

    return needed, free


def refusal(gpu, H, L, B, T, V, precision="fp32", dropout=0.0):
    """What is said where training does not fit a GPU's memory, the bytes that it takes with so many rows, and those free."""
    config = TrainConfig(hidden=H, layers=L, window=T, batch=B, dropout=dropout)
    needed, free = needed_on(gpu, ModelConfig(V, H, L), config, precision)
    try:
        expect_memory(needed, free, B)
    except DeviceError as error:
        return str(error), needed, free
    assert needed(B) <= free
    return None, needed, free


def expect_a_batch_that_fits(message, needed, free):
    """Check that a refusal is one line, and that the largest batch that fits is the one that it names."""
    assert message.count("\n") == 0 and "MiB of device memory" in message
    if "not even batch=1 fits" in message:
        assert needed(1) > free
    else:
        fits = int(message.split("; batch=")[1].split()[0])
        assert needed(fits) <= free < needed(fits + 1)


def test_the_batch_that_fits_is_counted_with_the_windows_that_its_chunk_has():
    expect_a_batch_that_fits(
        *refusal(GPUS["RTX 4060"], 84, 2, 2620, 1107, 2881)
    )  # 46 MiB too many when it was interpolated


def test_the_largest_models_are_refused_on_every_gpu_but_counted_exactly():
    for gpu in GPUS.values():
        message, needed, free = refusal(gpu, 4096, 8, 512, 1000, 65_536, dropout=0.5)
        expect_a_batch_that_fits(message, needed, free)
        P = 4 * 4096 * 65_536 + 4 * 4096 * 4096 * 15 + 4 * 4096 * 8 + 65_536 * 4097
        assert needed(512) > 4 * (4 * P + 512 * 1000 * (65_536 + 4096 * (6 + 1) * 8)) > 2**37


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    gpu=st.sampled_from([*GPUS.values()]), H=st.integers(1, 4096), L=st.integers(1, 8), B=st.integers(1, 512),
    T=st.integers(1, 20_000), V=st.integers(1, 65_536), dropout=st.sampled_from([0.0, 0.5]),
    precision=st.sampled_from(["fp32", "tf32", "bf16", "fp16"]),
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_largest_batch_that_does(gpu, H, L, B, T, V, dropout, precision):
    message, needed, free = refusal(gpu, H, L, B, T, V, precision, dropout)
    if message is not None:
        expect_a_batch_that_fits(message, needed, free)
