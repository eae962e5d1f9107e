"""Who takes part for a configuration: ours and its peers, a process each, all shown to do the same work."""

from contextlib import ExitStack
from typing import Any

from cuchar.bench.configurations import Configuration
from cuchar.bench.contender import OURS, PEERS, Choice, reason_against
from cuchar.bench.processes import Worker
from cuchar.engines.cpu.library import thread_count
from cuchar.errors import CucharError, DeviceError

FIRST_STEPS = 4  # whose losses show that a peer does the same work: same weights, batches, loss and Adam
SAME_LOSS, SAME_LOSS_REDUCED = 1e-4, 1e-2  # relative; in fp32, in any other precision


class Lineup:
    """Processes that are ready for their turns; they end with `stack`.

    Args:
        device: `--device`.
    Raises:
        CucharError: as the engine has it; a peer that must be there and is not.
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
        """Why it is not there, or None."""
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
        """Its first losses."""
        worker = self._stack.enter_context(Worker(contender, device, thread_count()))
        if notes := worker.prepare(self.sizes):
            self.notes[contender] = notes
        losses = [worker.train(1).loss or 0.0]
        self.first_step_s[contender] = worker.age
        losses += [worker.train(1).loss or 0.0 for _ in range(FIRST_STEPS - 1)]
        self.facts |= worker.facts
        self.workers[contender] = worker
        return losses
