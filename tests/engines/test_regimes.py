"""Which kernels are taken for which sizes, and how much memory they need."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.targets import A100, H100, T4, V100, target_of

from cuchar.config import ModelConfig
from cuchar.devices.device import Limits
from cuchar.engines.cuda import persistent
from cuchar.engines.cuda.head import one_pass_head
from cuchar.engines.cuda.memory import bytes_needed, expect_memory
from cuchar.engines.cuda.persistent import FLAG_WORDS, Persistent, divisions
from cuchar.engines.cuda.regimes import plan_sampling, plan_window
from cuchar.engines.cuda.resident import OneBlock, Resident
from cuchar.engines.cuda.stepwise import Stepwise, draw_warps
from cuchar.engines.cuda.target import Window
from cuchar.errors import DeviceError


def plan(V, H, L, B=32, T=32, limits=H100, dtype=np.float32):
    return plan_window(target_of(ModelConfig(V, H, L), limits, dtype), Window(T, B))


def test_the_notebooks_model_is_resident_on_an_h100_in_clusters_of_two():
    found = plan(84, 64, 2)
    assert isinstance(found, Resident) and (found.cluster, found.threads) == (2, 256)
    assert found.tiles == 3 * 4 + 2 + 11 and found.splits == 132 // (3 * 4 + 2)


@pytest.mark.parametrize("limits", [A100, T4])
def test_the_notebooks_model_is_resident_in_one_block_before_clusters(limits):
    found = plan(84, 64, 2, limits=limits)
    assert isinstance(found, Resident) and (found.cluster, found.threads) == (1, 384)


def test_more_rows_than_clusters_at_once_take_one_block_each():
    assert plan(84, 64, 2, B=66).cluster == 2  # 132 blocks: one wave either way
    assert plan(84, 64, 2, B=67).cluster == 1  # two waves against one
    assert plan(84, 64, 2, B=264).cluster == 1


@pytest.mark.parametrize(
    "V,H,L,resident",
    [
        (84, 96, 1, True), (84, 97, 1, False), (84, 79, 1, True), (84, 81, 1, False), (84, 64, 2, True), (84, 80, 2, False),
        (84, 63, 2, True), (84, 65, 2, False), (84, 32, 4, True), (84, 33, 4, False), (84, 48, 3, False),
        (84, 16, 8, True), (84, 17, 8, False), (84, 1, 1, True),
        (512, 32, 2, True), (513, 32, 2, False), (68, 512, 2, False),
    ],
)  # fmt: skip
def test_resident_as_far_as_registers_go(V, H, L, resident):
    assert isinstance(plan(V, H, L), Resident) == resident


def test_resident_as_far_as_shared_memory_goes():
    assert isinstance(plan(96, 64, 2, limits=T4), Resident) and isinstance(plan(97, 64, 2, limits=T4), Persistent)
    assert isinstance(plan(97, 64, 2, limits=A100), Resident) and isinstance(plan(512, 64, 2, limits=A100), Persistent)


def test_volta_holds_less_as_its_copies_pass_through_registers():
    assert isinstance(plan(84, 48, 2, limits=V100), Resident) and isinstance(plan(84, 64, 2, limits=V100), Persistent)


def test_tensor_cores_hold_16_bit_weights_of_larger_models_but_none_in_one_block():
    for precision in ("tf32", "bf16", "fp16"):
        model, wide = ModelConfig(84, 64, 2), ModelConfig(84, 1024, 1)
        assert isinstance(plan_window(target_of(model, H100, np.float32, precision), Window(32, 32)), Persistent)
        found = plan_window(target_of(wide, H100, np.float32, precision), Window(32, 32))
        assert isinstance(found, Stepwise if precision == "tf32" else Persistent), found


@pytest.mark.parametrize(
    "V,H,L,threads",
    [
        (84, 64, 2, 384), (84, 96, 1, 192), (84, 97, 1, None), (84, 63, 2, None), (84, 32, 4, 448), (84, 16, 8, 480),
        (84, 80, 2, None), (512, 64, 2, 384), (513, 16, 1, None), (2, 1, 1, 32),
    ],
)  # fmt: skip
def test_sampling_is_resident_where_one_block_holds_the_model(V, H, L, threads):
    found = plan_sampling(target_of(ModelConfig(V, H, L), H100))
    assert isinstance(found, Stepwise if threads is None else OneBlock)
    assert threads is None or found.threads == threads


def test_sampling_is_resident_as_far_as_shared_memory_goes():
    def last_taken(H, limits):
        return max(
            V for V in range(2, 514) if isinstance(plan_sampling(target_of(ModelConfig(V, H, 1), limits)), OneBlock)
        )

    assert last_taken(64, T4) == 192 and last_taken(64, V100) == 320 and last_taken(64, A100) == 512


def test_one_warp_draws_from_few_characters_and_eight_from_many():
    assert [draw_warps(ModelConfig(V, 1, 1)) for V in (2, 512, 513, 65_536)] == [1, 1, 8, 8]


def test_float64_weights_take_two_registers_each():
    assert isinstance(plan(84, 32, 2, dtype=np.float64), Resident)
    assert isinstance(plan(84, 64, 2, dtype=np.float64), Persistent)


def division(launch):
    return launch.groups, launch.parts, launch.rows, launch.units, launch.blocks, launch.threads


def test_2x512_is_spread_over_a_whole_h100():
    found = plan(68, 512, 2, B=50, T=50)
    assert isinstance(found, Persistent)
    assert division(found.forward) == (2, 1, 25, 24, 132, 384)
    assert division(found.backward) == (2, 2, 13, 24, 132, 384)  # da is four times as long as h: half of the rows fit
    assert (found.forward.shared_bytes, found.backward.shared_bytes) == (92_304, 145_664)
    one_group = plan(68, 512, 2, B=50, limits=Limits(90, 131, 232_448))
    assert (one_group.forward.groups, one_group.backward.groups) == (1, 1)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_of_the_divisions_that_fit_each_direction_takes_the_one_of_fewest_clocks(direction, precision):
    for V, H, L, B in ((68, 512, 2, 50), (5, 96, 3, 13), (5, 9, 2, 6)):
        of = target_of(ModelConfig(V, H, L), precision=precision)
        clocks = {launch: clocks for clocks, launch in divisions(direction, of, B)}
        assert len(clocks) > 10  # there is a choice
        assert clocks[getattr(persistent.plan_window(of, Window(32, B)), direction)] == min(clocks.values())


def test_what_fits_one_direction_alone_is_no_plan():
    of = target_of(ModelConfig(68, 512, 2), Limits(90, 132, 16_384))
    fitting = [[*divisions(direction, of, 50)] for direction in ("forward", "backward")]
    assert fitting[0] and not fitting[1] and persistent.plan_window(of, Window(50, 50)) is None


@pytest.mark.parametrize("multiprocessors", [1, 2, 3, 7, 14, 40, 108, 132])  # the smallest are those of a divided GPU
@pytest.mark.parametrize("L", [1, 2, 5])
def test_never_more_blocks_than_multiprocessors(multiprocessors, L):
    limits, stages = Limits(90, multiprocessors, 232_448), 2 * L - 1
    for H in (1, 30, 100, 128, 257, 512, 1000, 2000):
        for B in (1, 3, 50, 700):
            found = persistent.plan_window(target_of(ModelConfig(84, H, L), limits), Window(32, B))
            if found is None:
                continue
            for launch in (found.forward, found.backward):
                blocks_of_a_stage = launch.blocks / launch.groups / stages
                assert launch.blocks <= multiprocessors and blocks_of_a_stage * launch.units >= H
                assert launch.groups * launch.parts <= B <= launch.groups * launch.parts * launch.rows
                assert launch.shared_bytes <= limits.shared_bytes
                assert found.flags // 2 >= launch.flags == stages * launch.groups * launch.parts * FLAG_WORDS


@pytest.mark.parametrize("H,L", [(2048, 1), (1024, 2), (720, 2), (400, 8)])
def test_what_the_chip_does_not_hold_is_stepwise(H, L):
    assert isinstance(plan(84, H, L), Stepwise)


@pytest.mark.parametrize("V,one_pass", [(2, True), (512, True), (513, False), (65_536, False)])
def test_head_in_one_pass_for_a_few_hundred_characters(V, one_pass):
    assert one_pass_head(ModelConfig(V, 512, 2), 4) == one_pass


def test_memory_error_names_a_batch_that_fits():
    target, free = target_of(ModelConfig(84, 512, 2), Limits(80, 1, 0)), 100 << 20
    launches = SimpleNamespace(splits=1, flags=0, copies=False)

    def needed(batch):
        return bytes_needed(target, Window(50, batch), launches, 10, 5_000_000)

    expect_memory(needed, needed(30), 30)
    with pytest.raises(DeviceError) as error:
        expect_memory(needed, free, 500)
    message = str(error.value)
    fits = int(message.split("; batch=")[1].split()[0])
    assert needed(fits) <= free < needed(fits + 1)
    assert f"batch=500: expected {needed(500) / 2**20:,.0f} MiB of device memory, found 100 free" in message
    with pytest.raises(DeviceError, match="not even batch=1 fits"):
        expect_memory(needed, 1 << 20, 500)
