"""What orders the blocks of a launch, under ThreadSanitizer with shuffled and delayed threads; and bugs planted in it.

`python tools/flags.py --seeds 1000` tries as many seeds as there is time for; here every run tries the same few.
"""

import pytest
from flag_cases import CASES
from flags import BUGS, FORWARD, SHARED, Bug, look, plant

SEEDS = range(12)
AHEAD = "1e-3f * std::atomic_ref(*all_flags.of(own.stage, item.part)).load(std::memory_order_relaxed)"


@pytest.mark.parametrize("case", CASES)
def test_no_seed_finds_a_race(case):
    found = look(case, SEEDS)
    assert (found.finding, found.seeds) == (None, len(SEEDS)), found.report[:3000]
    assert found.division == DIVISIONS[case]


def launches(forward, backward):
    names = "blocks", "threads", "groups", "parts"
    return {"forward": dict(zip(names, forward, strict=True)), "backward": dict(zip(names, backward, strict=True))}


DIVISIONS = {
    "three stages of two blocks": launches((6, 64, 1, 3), (6, 32, 1, 3)),
    "two blocks": launches((2, 64, 1, 3), (2, 32, 1, 3)),
    "three stages of one block": launches((3, 64, 1, 3), (3, 32, 1, 3)),
    "blocks of several warps": launches((2, 128, 1, 2), (2, 64, 1, 3)),
    "three groups of unequal rows": launches((6, 64, 3, 2), (6, 32, 3, 2)),
    "five stages": launches((5, 64, 1, 3), (5, 32, 1, 3)),
    "many time steps": launches((3, 64, 1, 2), (3, 32, 1, 2)),
    "a single character": launches((6, 64, 1, 1), (6, 32, 1, 1)),
    "tensor cores": launches((6, 96, 2, 1), (6, 32, 2, 1)),
    "a cluster": {"cluster": 2, "threads": 64},
    "two clusters": {"cluster": 2, "threads": 64},
    "five teams in a block": {"cluster": 1, "threads": 160},
}


# Of BUGS those that no other test notices by what is computed, and one of each kind of wait.
@pytest.mark.parametrize(
    "bug",
    [
        "a signal that is relaxed", "a signal before the barrier", "an epoch too few of the stage before",
        "no wait backward", "a channel that expects half",
    ],
)  # fmt: skip
def test_a_planted_bug_is_a_race_within_a_few_seeds(bug, tmp_path):
    found = look(BUGS[bug].case, range(5), plant(BUGS[bug], tmp_path))
    assert found.finding and found.finding.startswith("data race"), found.report[:3000]


@pytest.mark.parametrize(
    "file,right,wrong,finding",
    [
        (SHARED, "gridDim.x != GROUPS", "gridDim.x + 3 != GROUPS", "one that waited in vain"),
        (FORWARD, "h[state] = next.h;", f"h[state] = next.h + {AHEAD};", "expected the first seed's bits, found others"),
    ],
    ids=["blocks that are missing", "a number that depends on who is ahead"],
)  # fmt: skip
def test_what_is_no_race_is_found_too(file, right, wrong, finding, tmp_path):
    case = "three stages of two blocks"
    assert look(case, range(8), plant(Bug(case, file, right, wrong), tmp_path)).finding.endswith(finding)
