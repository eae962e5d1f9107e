"""Starts the contenders for a configuration, a process each, and checks that they all do the same work."""

from contextlib import ExitStack
from typing import Any

from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, PEERS, Choice, reason_against
from cuchar.bench.processes import Worker
from cuchar.engines.cpu.library import thread_count
from cuchar.errors import CucharError, DeviceError

# The losses of so many first steps show that a peer does the same work: with the same weights, windows, loss and Adam.
FIRST_STEPS = 4
SAME_LOSS, SAME_LOSS_REDUCED = 1e-4, 1e-2  # relative difference that is allowed: in fp32, in any other precision


class Lineup:
    """The contenders' processes, ready for their turns. They end when `stack` is closed.

    Args:
        device: the value of `--device`.
    Raises:
        CucharError: the engine fails, or a peer that must take part cannot.
    """

    def __init__(self, stack: ExitStack, sizes: Configuration, device: str, choice: Choice):
        self.sizes, self.facts = sizes, dict[str, Any]()
        self.workers, self.absent, self.notes = dict[str, Worker](), dict[str, str](), dict[str, str]()
        self.first_step_s: dict[str, float] = {}
        self._stack = stack
        losses = self._enter(OURS, device)
        for peer in choice.peers:
            reason = reason_against(peer, self.facts["kind"], sizes.precision) or self._enter_peer(peer, losses)
            if reason and choice.must:
                raise DeviceError(f"--peer {peer}: expected it to run {sizes.name}, found: {reason}")
            if reason:
                self.absent[peer] = reason
        for peer in () if choice.must else PEERS:
            if peer not in choice.peers:
                reason = reason_against(peer, self.facts["kind"], sizes.precision)
                self.absent[peer] = reason or f"takes a while to prepare: --peer {peer}"

    def _enter_peer(self, peer: str, losses: list[float]) -> str | None:
        """Start a peer, and return why it cannot take part, or None if it does.

        Args:
            losses: cuchar's first losses.
        """
        try:
            found = self._enter(peer, self.facts["kind"])
        except CucharError as error:
            return str(error)
        allowed = SAME_LOSS if self.sizes.precision == "fp32" else SAME_LOSS_REDUCED
        if all(abs(its - own) <= allowed * own for its, own in zip(found, losses, strict=True)):
            return None
        self.workers.pop(peer).close()
        return f"does other work: expected losses {losses}, found {found}"

    def _enter(self, contender: str, device: str) -> list[float]:
        """Start a contender, and return its first losses.

        Raises:
            CucharError: it cannot be started, or cannot do a training step.
        """
        worker = self._stack.enter_context(Worker(contender, device, thread_count()))
        if notes := worker.prepare(self.sizes):
            self.notes[contender] = notes
        losses = [worker.train(1).loss or 0.0]
        self.first_step_s[contender] = worker.age
        losses += [worker.train(1).loss or 0.0 for _ in range(FIRST_STEPS - 1)]
        self.facts |= worker.facts
        self.workers[contender] = worker
        return losses
