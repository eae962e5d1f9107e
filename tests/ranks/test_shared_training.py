"""Processes that share the rows of every batch train as one process does, with every engine."""

import json
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from support.process import ROOT
from support.ranks import run
from support.shared_training import DIVERGING, IN_PRECISIONS, LIMITS, OVERFLOW, TRIALS, alone, machine
from support.targets import target_of

from cuchar.engines.cuda.persistent import Persistent
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.resident import Resident
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.target import Window

PROGRAM = [sys.executable, ROOT / "tests/support/shared_training.py"]
KINDS = {"cluster": Resident, "block": Resident, "persistent": Persistent, "stepwise": Stepwise}
EPS = {"f4": np.finfo("f4").eps, "f8": np.finfo("f8").eps}
TWICE = ("numpy", "cpp carried", "block", "persistent", "stepwise carried")
# Of 21 steps. No number of steps has a bound for ever: every step multiplies what rounding has made different, until two
# trainings are two samples of what training may do.
LOSS_BOUND = 1e-6


@cache
def trained_alone(trial):
    return alone(trial)


def distance(found, expected) -> float:
    """How far what training has left is from what is expected, in the norm of each array, relative to it."""
    names = [name for name in expected if name.startswith("parameters")] + ["norms", "m", "v", "h", "c"]
    return max(np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name]) for name in names)


def rounding(trial) -> float:
    """The distance of one process's training in float32 from one in float64, of which only rounding is the cause."""
    single, double = (trained_alone(replace(trial, engine="numpy", dtype=dtype)) for dtype in ("f4", "f8"))
    return distance(single, double)


def trained_together(through, ranks, names, folder):
    """What the trials of these names leave, all done by the same processes, and what every rank has noted of them."""
    ended = run(through, ranks, [*PROGRAM, folder, *names])
    assert not any(ended.statuses), ended.stderr
    noted = [[json.loads(line) for line in (folder / f"rank{rank}.jsonl").open()] for rank in range(ranks)]
    return [np.load(folder / f"{number} {name}.npz") for number, name in enumerate(names)], noted


@pytest.mark.parametrize("through,ranks", [("MPI", 3), ("torchrun", 2)])
def test_losses_and_parameters_are_those_of_one_process(through, ranks, tmp_path):
    """A batch of 7 rows; all that NumPy's training in float64 leaves is compared, and rounding bounds the differences."""
    trials = {name: trial for name, trial in TRIALS.items() if ranks == 2 or name != "cluster"}  # which is slow
    left, noted = trained_together(through, ranks, [*trials, *TWICE], tmp_path)
    assert all(of_rank == noted[0] for of_rank in noted)  # every rank has the same moments
    found = dict(zip(trials, left, strict=False))
    for name, trial in trials.items():
        exact, same = trained_alone(replace(trial, engine="numpy", dtype="f8")), trained_alone(trial)
        assert len(found[name]["losses"]) == 21
        np.testing.assert_allclose(found[name]["losses"], same["losses"], rtol=0, atol=LOSS_BOUND, err_msg=name)
        unit = EPS[trial.dtype]
        assert distance(found[name], exact) <= (2 * rounding(trial) / EPS["f4"] + 4) * unit, name
    for name, again in zip(TWICE, left[-len(TWICE) :], strict=True):
        for array in again.files:
            assert found[name][array].tobytes() == again[array].tobytes(), (name, array)


def test_losses_in_tensor_cores_precisions_are_those_of_one_process(tmp_path):
    """With shares of 4 rows of 8: what each share rounds is twice what one process rounds, and has the same digits.

    That does not hold for shares of a third; losses then agree to what a precision can tell apart.
    """
    left, noted = trained_together("torchrun", 2, list(IN_PRECISIONS), tmp_path)
    assert noted[0] == noted[1]
    for (name, trial), found in zip(IN_PRECISIONS.items(), left, strict=True):
        same = trained_alone(trial)
        np.testing.assert_allclose(found["losses"], same["losses"], rtol=0, atol=LOSS_BOUND, err_msg=name)
        fp32 = replace(trial, config=replace(trial.config, precision="fp32"))
        assert distance(found, same) <= 2 * rounding(fp32) + 4 * EPS["f4"], name
        assert found["scaling"].tolist() == same["scaling"].tolist() == [2.0**10, 24 if "fp16" in name else 3]


def test_what_is_not_finite_on_one_rank_is_so_on_all_at_the_same_step(tmp_path):
    left, noted = trained_together("MPI", 3, ["overflow", *DIVERGING], tmp_path)
    assert noted[0] == noted[1] == noted[2]
    (passed_over, *diverged) = left
    # Rank 0, which has one row, overflows in the first step, and the others, with two, do not.
    assert trained_alone(OVERFLOW)["scaling"].tolist() == [2.0**19, 3 + 21]
    assert passed_over["scaling"].tolist() == [2.0**18, 20]
    assert all("LossScaling(scale=262144.0, good_steps=20)" in of_rank[0][-1] for of_rank in noted)
    assert passed_over["norms"][0] == 0 and (passed_over["norms"][1:] > 0).all()
    for (name, trial), found in zip(DIVERGING.items(), diverged, strict=True):
        same = trained_alone(trial)
        assert len(found["losses"]) == len(same["losses"]) == trial.bad[1] + 1, name
        assert np.isfinite(found["losses"][:-1]).all() and np.isnan([found["losses"][-1], found["norms"][-1]]).all()
        for array in ("parameters of epoch 0", "m", "v"):
            np.testing.assert_allclose(found[array], same[array], rtol=0, atol=LOSS_BOUND, err_msg=f"{name}: {array}")


@pytest.mark.parametrize(
    "name,trial", [(name, t) for name, t in (TRIALS | IN_PRECISIONS).items() if t.engine in LIMITS]
)
def test_a_trial_gets_the_regime_that_it_is_called_for(name, trial):
    config = trial.config
    for rows in {config.batch, 4} if name in IN_PRECISIONS else {config.batch, 2, 3, 4}:
        with machine(trial):
            target = target_of(trial.model, LIMITS[trial.engine], trial.dtype, config.precision)
            assert isinstance(plan_window(target, Window(config.window, rows, True)), KINDS[trial.engine.split(",")[0]])
