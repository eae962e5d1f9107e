"""Training by several ranks: rank 0 runs as if it were alone, and the others do what its learner tells them.

Rank 0 alone reads texts, writes the run folder, validates, draws samples and shows progress. Every other rank has a share
of the batch's rows, and the same parameters and moments. All ranks together compute the gradients of every training step,
each then does Adam's update for itself, and all get the same bits.
"""

import hashlib
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from cuchar.adam import Adam, LossScaling
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.base import Engine, Learner, Share, State, TrainingState
from cuchar.engines.choose import choose_engine, numbered_device
from cuchar.errors import CucharError, DeviceError, OptionError
from cuchar.files import say_from_any_rank
from cuchar.interrupts import Interrupted, signalled
from cuchar.parameters import Parameters
from cuchar.ranks.join import join
from cuchar.ranks.ranks import Ranks, divide_processors
from cuchar.wording import option

Result = TypeVar("Result")


@dataclass(frozen=True)
class Begin:
    """Make a learner.

    Args:
        device: what `choose_engine` takes.
        flat, m, v: the parameters and Adam's moments.
        state: of this rank's rows.
        rank: this rank.
        windows: some windows of these rows, which are not trained on yet.
    """

    device: str
    model: ModelConfig
    config: TrainConfig
    flat: np.ndarray
    m: np.ndarray
    v: np.ndarray
    scaling: LossScaling
    state: State
    rank: int
    windows: Windows


@dataclass(frozen=True)
class BeginEpoch:
    windows: Windows


@dataclass(frozen=True)
class Train:
    """Train on these windows of this rank's rows; `step` and `rates` are as for `Learner.train`."""

    windows: Windows
    step: int
    rates: Sequence[float]


@dataclass(frozen=True)
class Fetch:
    """Answer with the state, and with a digest of the parameters."""


@dataclass(frozen=True)
class End:
    outcome: Any


def together(lead: Callable[["Leader | None"], Result]) -> Result:
    """Do `lead` in rank 0; the other ranks follow until it ends.

    Args:
        lead: takes what it leads the others by, or None where there are no others.
    Returns:
        what `lead` returns, in every rank; so it is something small.
    Raises:
        CucharError, Interrupted: `lead` has raised it, in every rank.
    """
    ranks = join()
    if ranks is None:
        return lead(None)
    number = divide_processors(ranks)
    if ranks.rank:
        outcome: Result = Follower(ranks, number).follow()
        return outcome
    leader = Leader(ranks, number)
    try:
        outcome = lead(leader)
    except BaseException as error:
        leader.end(_for_others(error))
        raise
    leader.end(outcome)
    return outcome


def _for_others(error: BaseException) -> BaseException:
    """The exception that is raised in the other ranks where `error` ends rank 0."""
    if isinstance(error, CucharError | Interrupted):
        return error
    return (
        Interrupted(signal.SIGINT) if isinstance(error, KeyboardInterrupt) else CucharError(f"rank 0 ended: {error!r}")
    )


def share_of(rank: int, ranks: Ranks, batch: int) -> Share:
    """The rows of a batch that a rank has; all have the same number of rows, or some one more than others."""
    first, end = (batch * number // ranks.size for number in (rank, rank + 1))
    return Share(first, end - first, batch, ranks)


class Leader:
    """All ranks, as rank 0 leads them.

    Args:
        number: of rank 0 among the ranks of its machine.
    """

    def __init__(self, ranks: Ranks, number: int):
        self.ranks, self._number = ranks, number
        self.signal: int | None = None  # the number of a signal that another rank has received
        self._is_waiting = True  # whether the other ranks wait for a message

    def device(self, device: str) -> str:
        """Which device rank 0 uses for `--device`: the ranks of a machine with several GPUs use one each."""
        return numbered_device(device, self._number)

    def expect_rows(self, batch: int) -> None:
        """Check that a batch has a row for every process.

        Raises:
            OptionError: it has fewer rows.
        """
        if batch < self.ranks.size:
            raise OptionError(
                f"{option('batch')}: expected at least a row for each of the {self.ranks.size} processes, found {batch}"
            )

    def shares(self, batch: int) -> list[Share]:
        """The rows of a batch that each rank has, in the order of the ranks."""
        return [share_of(rank, self.ranks, batch) for rank in range(self.ranks.size)]

    def describe(self, batch: int) -> str:
        """Who shares the batch, as a line of text."""
        ranks = self.ranks
        rows = sorted({share.rows for share in self.shares(batch)})
        each = " or ".join(map(str, rows))
        return f"{ranks.size} processes, through {ranks.through}: each trains on {each} of the batch's {batch} rows"

    def tell(self, messages: Sequence[Any]) -> None:
        """Send a message to every rank; rank 0 does its own part itself."""
        self._is_waiting = False
        self.ranks.scatter(messages)

    def hear(self, answer: Any) -> list[Any]:
        """The answers of all ranks to what they were told; `answer` is rank 0's own."""
        answers = self.ranks.gather(answer)
        assert answers is not None
        self._is_waiting = True
        return answers

    def end(self, outcome: Any) -> None:
        """Tell all ranks how it has ended: with what result, or with which exception.

        If they are in the middle of something that needs rank 0, they end when it ends.
        """
        if self._is_waiting:
            self.ranks.scatter([End(outcome)] * self.ranks.size)
        else:
            self.ranks.abandon()


def make_learner(
    leader: Leader | None, engine: Engine, config: TrainConfig, training: TrainingState, windows: Windows
) -> Learner:
    """The engine's learner, or one by which all ranks train; its errors are those of `SharedLearner`."""
    if leader is None:
        return engine.learner(config, training, windows)
    return SharedLearner(leader, engine, config, training, windows)


class SharedLearner:
    """`cuchar.engines.base.Learner` of rank 0, which has every rank train on its rows.

    Raises:
        DeviceError: a rank does not have the device, or too little memory.
    """

    def __init__(self, leader: Leader, engine: Engine, config: TrainConfig, training: TrainingState, windows: Windows):
        self._leader, self._training, self._windows = leader, training, windows
        self._shares = leader.shares(config.batch)
        states, parts = [_rows(training.state, share) for share in self._shares], self._parts(0, 1)
        flat, adam = training.parameters.flat, training.adam
        same = (device_of(engine), engine.model, config, flat, adam.m, adam.v, adam.scaling)
        leader.tell([Begin(*same, states[rank], rank, parts[rank]) for rank in range(leader.ranks.size)])
        self._own = TrainingState(training.parameters, adam, states[0])
        failure: Exception | None = None
        try:
            self._learner = engine.learner(config, self._own, parts[0], self._shares[0])
        except (CucharError, MemoryError) as error:
            failure = error
        for found in leader.hear(failure):
            if found is not None:
                raise found

    @property
    def chunk(self) -> int:
        return self._learner.chunk

    def begin_epoch(self, windows: Windows) -> None:
        self._windows = windows
        parts = self._parts(0, 1)
        self._leader.tell([BeginEpoch(part) for part in parts])
        self._learner.begin_epoch(parts[0])
        self._leader.hear(None)

    def go_on_with(self, windows: Windows) -> None:
        self._windows = windows

    def train(self, window: int, step: int, rates: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        parts = self._parts(window, len(rates))
        self._leader.tell([Train(part, step, rates) for part in parts])
        self._learner.go_on_with(parts[0])
        losses, norms = self._learner.train(0, step, rates)
        for signum in self._leader.hear(None):
            self._leader.signal = self._leader.signal or signum
        return losses, norms

    def fetch(self) -> None:
        self._leader.tell([Fetch()] * self._leader.ranks.size)
        answers = self._leader.hear(_fetched(self._learner, self._own))
        for rank, (_, digest) in enumerate(answers):
            if digest != answers[0][1]:
                raise DeviceError(
                    f"rank {rank}: expected the parameters of rank 0, found others: its processor or its versions differ; "
                    "what was saved before is whole"
                )
        h, c = (
            np.concatenate(arrays, axis=1) for arrays in zip(*((state.h, state.c) for state, _ in answers), strict=True)
        )
        self._training.state = State(h, c)

    def _parts(self, window: int, count: int) -> list[Windows]:
        """For every rank its rows of `count` windows from window `window` on."""
        return [
            self._windows.part(window, count, slice(share.first, share.first + share.rows)) for share in self._shares
        ]


class Follower:
    """A rank other than 0, which does what it is told.

    Args:
        number: of this rank among the ranks of its machine.
    """

    def __init__(self, ranks: Ranks, number: int):
        self._ranks, self._number = ranks, number
        self._learner: Learner
        self._training: TrainingState

    def follow(self) -> Any:
        """Follow until rank 0 ends; the result and the errors are those of `together`."""
        try:
            with signalled() as asked, np.errstate(over="ignore", invalid="ignore"):
                while not isinstance(message := self._ranks.scatter(None), End):
                    self._ranks.gather(self._obey(message, asked))
        except BaseException as error:  # the other ranks wait for this one in vain
            if not isinstance(error, CucharError):
                traceback.print_exc()
            say_from_any_rank(f"cuchar: rank {self._ranks.rank} on {socket.gethostname()}: {error}")
            self._ranks.abandon()
            raise SystemExit(1) from None
        if isinstance(message.outcome, BaseException):
            raise message.outcome
        return message.outcome

    def _obey(self, message: Any, asked: Callable[[], int | None]) -> Any:
        """Do what a message says, and return the answer to it."""
        match message:
            case Begin():
                try:
                    self._begin(message)
                except (CucharError, MemoryError) as error:
                    return DeviceError(f"rank {self._ranks.rank} on {socket.gethostname()}: {error}")
            case BeginEpoch(windows):
                self._learner.begin_epoch(windows)
            case Train(windows, step, rates):
                self._learner.go_on_with(windows)
                self._learner.train(0, step, rates)
                return asked()
            case Fetch():
                return _fetched(self._learner, self._training)
        return None

    def _begin(self, message: Begin) -> None:
        if hasattr(self, "_learner"):
            del self._learner  # training has gone back, and the next learner needs its memory
        config, dtype = message.config, message.flat.dtype
        device = numbered_device(message.device, self._number)
        engine, _ = choose_engine(device, message.model, dtype, config.precision)
        adam = Adam(message.flat.size, dtype)
        adam.m, adam.v, adam.scaling = message.m, message.v, message.scaling
        self._training = TrainingState(Parameters(message.model, dtype, message.flat), adam, message.state)
        share = share_of(message.rank, self._ranks, config.batch)
        self._learner = engine.learner(config, self._training, message.windows, share)


def device_of(engine: Engine) -> str:
    """The device that other ranks need for the same engine: a GPU of their own, the emulator or processors."""
    option = getattr(getattr(engine, "device", None), "option", "cpu")
    return "cuda" if option.startswith("cuda") else option


def _rows(state: State, share: Share) -> State:
    """A copy of the state of a share's rows."""
    return State(*(array[:, share.first : share.first + share.rows].copy() for array in (state.h, state.c)))


def _fetched(learner: Learner, training: TrainingState) -> tuple[State, str]:
    """What a learner has fetched: the state, and a digest of the parameters."""
    learner.fetch()
    return training.state, hashlib.sha256(training.parameters.flat.data).hexdigest()
