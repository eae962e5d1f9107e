"""Starts the contenders for a configuration, a process each, and checks that they all do the same work."""

from collections.abc import Collection
from contextlib import ExitStack
from typing import Any

from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, PEERS, TASKS, Choice, reason_against
from cuchar.bench.processes import Worker
from cuchar.engines.cpu.library import thread_count
from cuchar.errors import CucharError, DeviceError

# So many first losses, of training steps and of windows that are scored, show that a peer does the same work: with the
# same weights, windows, loss and Adam.
FIRST = 4
SAME_LOSS, SAME_LOSS_REDUCED = 1e-4, 1e-2  # relative difference that is allowed: in fp32, in any other precision


class Lineup:
    """The contenders' processes, ready for their turns. They end when `stack` is closed.

    Args:
        device: the value of `--device`.
        tasks: what the contenders are to do, of contender.TASKS. Everyone who can does all of it.
    Raises:
        CucharError: the engine fails, or a peer that must take part cannot.
    """

    def __init__(
        self, stack: ExitStack, sizes: Configuration, device: str, choice: Choice, tasks: Collection[str] = ("train",)
    ):
        self.sizes, self.facts, self._tasks = sizes, dict[str, Any](), tasks
        self.workers, self.absent, self.notes = dict[str, Worker](), dict[str, str](), dict[str, str]()
        self.first_step_s: dict[str, float] = {}
        self._stack = stack
        self._losses = self._enter(OURS, device)
        for peer in choice.peers:
            reason = reason_against(peer, self.facts["kind"], sizes.precision, tasks) or self._enter_peer(peer)
            if reason and choice.must:
                raise DeviceError(f"--peer {peer}: expected it to run {sizes.name}, found: {reason}")
            if reason:
                self.absent[peer] = reason
        for peer in () if choice.must else PEERS:
            if peer not in choice.peers:
                reason = reason_against(peer, self.facts["kind"], sizes.precision, tasks)
                self.absent[peer] = reason or f"only where asked for: --peer {peer}"

    def doing(self, task: str) -> dict[str, Worker]:
        """The contenders that do a task, by name; cuchar is among them."""
        return {name: worker for name, worker in self.workers.items() if name == OURS or task in PEERS[name].tasks}

    def _enter_peer(self, peer: str) -> str | None:
        """Start a peer, and return why it cannot take part, or None if it does."""
        try:
            found = self._enter(peer, self.facts["kind"])
        except CucharError as error:
            return str(error)
        allowed = SAME_LOSS if self.sizes.precision == "fp32" else SAME_LOSS_REDUCED
        for task, losses in found.items():
            expected = self._losses[task]
            if any(abs(its - own) > allowed * own for its, own in zip(losses, expected, strict=True)):
                self.workers.pop(peer).close()
                return f"does other work: expected losses {expected}, found {losses}"
        return None

    def _enter(self, contender: str, device: str) -> dict[str, list[float]]:
        """Start a contender, and return its first losses in training, and in scoring if that or drawing is to be done.

        Raises:
            CucharError: it cannot be started, or cannot do a step.
        """
        worker = self._stack.enter_context(Worker(contender, device, thread_count()))
        if notes := worker.prepare(self.sizes):
            self.notes[contender] = notes
        own = TASKS if contender == OURS else PEERS[contender].tasks
        losses: dict[str, list[float]] = {}
        if "train" in own:
            losses["train"] = [worker.train(1).loss or 0.0]
            self.first_step_s[contender] = worker.age
            losses["train"] += [worker.train(1).loss or 0.0 for _ in range(FIRST - 1)]
        if "score" in own and len(self._tasks) > 1:
            losses["score"] = [worker.score(1).loss or 0.0 for _ in range(FIRST)]
        self.facts |= worker.facts
        self.workers[contender] = worker
        return losses
