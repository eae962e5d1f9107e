"""Contenders, which take turns to do training steps or to draw characters, and which of them take part."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cuchar.errors import OptionError


@dataclass(frozen=True)
class Burst:
    """What a contender did in one turn: some training steps in a row, or some characters of each stream.

    Args:
        seconds: time by the wall clock, from being asked to having the results.
        device_seconds: time between two events on the GPU's stream; None without a GPU.
        loss: the last step's loss, in nats; None if characters were drawn.
        idle_cpu: processor time that the contender's process used since its burst before, divided by the time that has
            passed since then. It is not 0 if threads spin while others have their turn.
    """

    seconds: float
    device_seconds: float | None = None
    loss: float | None = None
    idle_cpu: float = 0.0


# A call that does so many more steps. Training step k, counted from 0, is on window k % WINDOWS of the configuration.
Turn = Callable[[int], Burst]

OURS = "cuchar"
PEERS = {
    "eager": "PyTorch eager",
    "graph": "PyTorch CUDA graph",
    "stacked": "PyTorch stacked one-layer fp16",
    "compile": "torch.compile",
}
QUICK = ("eager", "graph", "stacked")  # peers that are quick to prepare
DRAWING = ("eager", "graph")  # peers that draw characters too


@dataclass(frozen=True)
class Choice:
    """Which of PEERS are to take part. If they `must`, it is an error if one cannot, and no other peer is named."""

    peers: tuple[str, ...] = QUICK
    must: bool = False

    @classmethod
    def of(cls, words: Sequence[str]) -> "Choice":
        """The choice that the words after `--peer` make.

        Args:
            words: names of peers, which must then take part, or "all", for all that can, or "none"; without any word,
                those of QUICK that can.
        Raises:
            OptionError: there is no peer of that name, or "all" or "none" is not alone.
        """
        known = [*PEERS, "all", "none"]
        for word in words:
            if word not in known:
                raise OptionError(f"--peer: expected {' | '.join(known)}, found {word}")
            if word in ("all", "none") and len(words) > 1:
                raise OptionError(f"--peer {word}: expected no other --peer with it, found {' and '.join(words)}")
        if not words:
            return cls()
        return cls(tuple(PEERS)) if "all" in words else cls(tuple(peer for peer in PEERS if peer in words), True)


def reason_against(peer: str, device: str, precision: str) -> str | None:
    """Why `peer` cannot take part on `device` (cpu, cuda:N or emulate), or None if it can."""
    if device == "emulate":
        return "the emulator is not timed against anything"
    if peer in ("graph", "stacked") and device == "cpu":
        return "needs a GPU"
    if peer == "stacked" and precision not in ("fp16", "bf16"):
        return "needs --precision fp16 or bf16"
    return None
