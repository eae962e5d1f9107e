"""Short trainings that one process does alone, or several together, with everything that they leave.

python tests/support/shared_training.py FOLDER NAME...

A rank of a ranks does the trials of these names (EVERY), one after the other, and rank 0 leaves what they gave in FOLDER.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.targets import A100, H100

from cuchar.adam import Adam, LossScaling
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.base import State, TrainingState
from cuchar.engines.choose import choose_engine
from cuchar.errors import CucharError, DeviceError
from cuchar.parameters import initialise
from cuchar.ranks import together as leading
from cuchar.ranks.together import together

OPTIONS = {"dropout": 0.3, "weight_dropout": 0.2, "clip": 0.05, "weight_decay": 0.1}
WINDOWS = TrainConfig(window=4, batch=7, stride=3, seed=5, **OPTIONS)
CARRIED = replace(WINDOWS, stride=4, carry_state=True)
OFFSETS = (0, 3, 1)  # of three epochs
WINDOWS_OF_EPOCH = 7
PIECES = (1, 2, 4)  # steps that a learner is asked for at once
FIRST_STEP = 9
WIDE, DEEP = ModelConfig(20, 33, 2), ModelConfig(4, 3, 3)  # for which other tests compile kernels, too
SMALL = ModelConfig(12, 9, 2)
LIMITS = {  # of the emulated device that gets this regime; the other engines are the host's
    "cluster": H100,  # resident
    "block": A100,  # resident
    "persistent": Limits(90, 10, 2_000),
    "persistent, much memory": Limits(90, 6, 232_448),
    "stepwise": replace(A100, registers=0),
}


@dataclass(frozen=True)
class Trial:
    """A training of three epochs.

    Args:
        engine: numpy, cpp, or one of LIMITS.
        config: for it; hidden and layers are the model's.
        dtype: float32 or float64.
        scale: what fp16's loss scaling begins with.
        bad: the row and window of the first epoch in which there is a character whose loss is not finite.
    """

    engine: str
    model: ModelConfig
    config: TrainConfig
    dtype: str = "f4"
    scale: float = 2.0**10
    bad: tuple[int, int] | None = None

    @property
    def device(self) -> str:
        return "emulate" if self.engine in LIMITS else "cpu"


def in_precision(precision: str, batch: int, **options: float) -> TrainConfig:
    return replace(WINDOWS, precision=precision, batch=batch, **options)


TRIALS = {
    "numpy": Trial("numpy", WIDE, WINDOWS),
    "numpy carried": Trial("numpy", WIDE, CARRIED),
    "numpy f8": Trial("numpy", WIDE, WINDOWS, "f8"),
    "cpp": Trial("cpp", WIDE, WINDOWS),
    "cpp carried": Trial("cpp", WIDE, CARRIED),
    "cpp carried f8": Trial("cpp", WIDE, CARRIED, "f8"),
    "cluster": Trial("cluster", WIDE, CARRIED),
    **{engine: Trial(engine, DEEP, WINDOWS) for engine in ("block", "persistent", "stepwise")},
    **{f"{engine} carried": Trial(engine, DEEP, CARRIED) for engine in ("block", "persistent", "stepwise")},
}
IN_PRECISIONS = {
    "tf32": Trial("stepwise", SMALL, in_precision("tf32", 8)),
    "bf16": Trial("stepwise", SMALL, in_precision("bf16", 8)),
    "fp16": Trial("stepwise", SMALL, in_precision("fp16", 8)),
    "persistent fp16": Trial("persistent, much memory", SMALL, in_precision("fp16", 8)),
}
# The fewer rows a process has, the larger are its gradients. With 2**18 none overflows; with 2**19 that of one row does.
OVERFLOW = Trial("stepwise", SMALL, in_precision("fp16", 5), scale=2.0**19)
DIVERGING = {
    "numpy diverging": Trial("numpy", DEEP, WINDOWS, bad=(6, 5)),
    "block diverging": Trial("block", DEEP, CARRIED, bad=(6, 5)),
    "stepwise diverging": Trial("stepwise", DEEP, WINDOWS, bad=(0, 4)),
}
EVERY = TRIALS | IN_PRECISIONS | DIVERGING | {"overflow": OVERFLOW}


@contextmanager
def machine(trial: Trial) -> Iterator[None]:
    """A context in which `choose_engine` gives a trial its engine."""
    limits = LIMITS.get(trial.engine)
    with ExitStack() as patches:
        if trial.engine == "numpy":
            without = patch(
                "cuchar.engines.choose.CpuEngine", side_effect=DeviceError("expected a compiler, found none")
            )
            patches.enter_context(without)
        device = lambda notice: EmulatedDevice(limits=limits, notice=notice)  # noqa: E731
        patches.enter_context(patch("cuchar.devices.emulator.EmulatedDevice", device))
        if trial.engine.startswith("persistent"):
            patches.enter_context(patch("cuchar.engines.cuda.resident.plan_window", lambda *_: None))
        yield


def trained(trial: Trial, together_with: leading.Leader | None = None) -> dict[str, np.ndarray]:
    """Everything that a training leaves: losses and norms of all steps, parameters, moments, state, loss scaling."""
    model, dtype = trial.model, np.dtype(trial.dtype)
    config = replace(trial.config, hidden=model.hidden, layers=model.layers)
    generator = np.random.default_rng(1)
    parameters = initialise(model, 1, dtype)
    adam, shape = Adam(parameters.flat.size, dtype), (model.layers, config.batch, model.hidden)
    # Numbers that float32 has. Where no second moment is near 0, a small difference of gradients makes a small one of
    # parameters.
    adam.m[:] = generator.normal(0, 0.01, adam.m.size).astype("f4")
    adam.v[:] = generator.uniform(0.01, 0.02, adam.v.size).astype("f4")
    adam.scaling = LossScaling(trial.scale, 3)
    state = State(*generator.normal(0, 0.5, (2, *shape)).astype("f4").astype(dtype))
    training = TrainingState(parameters, adam, state)
    row_length = config.window + config.window_stride * (WINDOWS_OF_EPOCH - 1) + 1
    ids = generator.integers(model.vocabulary_size, size=config.batch * row_length + max(OFFSETS)).astype(np.uint8)
    if (
        trial.bad
    ):  # the last character of the vocabulary is there alone, and its column of the first table is not finite
        row, window = trial.bad
        ids[ids == model.vocabulary_size - 1] = 0
        parameters["lstm.weight_ih_l0"][:, -1] = np.nan
        of_row = (len(ids) - OFFSETS[0]) // config.batch
        ids[row * of_row + window * config.window_stride + config.window - 1] = model.vocabulary_size - 1
    epochs = [Windows(ids, config.batch, config.window, config.window_stride, offset) for offset in OFFSETS]
    engine, _ = choose_engine(trial.device, model, dtype, config.precision)
    learner = leading.make_learner(together_with, engine, config, training, epochs[0])
    found, step = {}, FIRST_STEP
    losses, norms = [], []
    for epoch, windows in enumerate(epochs):
        if epoch:
            learner.begin_epoch(windows)
        window = 0
        for count in PIECES:
            rates = [0.01 / (1 + 0.1 * (step + i)) for i in range(count)]
            some = learner.train(window, step, rates)
            losses.append(some[0])
            norms.append(some[1])
            window, step = window + count, step + count
            if not np.isfinite(some).all():
                break
        learner.fetch()
        found[f"parameters of epoch {epoch}"] = parameters.flat.copy()
        if not np.isfinite(losses[-1]).all():
            break
    left = {"m": adam.m, "v": adam.v, "h": training.state.h, "c": training.state.c}
    scaling = np.array([adam.scaling.scale, adam.scaling.good_steps])
    return found | left | {"losses": np.concatenate(losses), "norms": np.concatenate(norms), "scaling": scaling}


def alone(trial: Trial) -> dict[str, np.ndarray]:
    """What a training leaves that one process does, which no launcher has started."""
    with machine(trial), np.errstate(over="ignore", invalid="ignore"):
        return trained(trial)


@contextmanager
def noted_moments(of_rank: list[str]) -> Iterator[None]:
    """A context in which every fetch notes this rank's moments and loss scaling, of which rank 0 gets no others."""
    fetched = leading._fetched

    def noting(learner, training):
        answer = fetched(learner, training)
        adam = training.adam
        of_rank.append(f"{adam.m.tobytes().hex()[:99]} {adam.v.tobytes().hex()[:99]} {adam.scaling}")
        return answer

    with patch.object(leading, "_fetched", noting):
        yield


def main(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        of_rank: list[str] = []

        def lead(with_team, name=name, number=number):
            with np.errstate(over="ignore", invalid="ignore"):
                np.savez(folder / f"{number} {name}.npz", **trained(EVERY[name], with_team))
            return folder

        with machine(EVERY[name]), noted_moments(of_rank):
            try:
                together(lead)
            except CucharError as error:
                of_rank.append(f"{type(error).__name__}: {error}")
        with open(folder / f"rank{leading.join().rank}.jsonl", "a") as file:
            print(json.dumps(of_rank), file=file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
