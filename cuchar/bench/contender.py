"""What takes turns: something that does training steps, or draws characters, here or in a process of its own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cuchar.errors import OptionError


@dataclass(frozen=True)
class Burst:
    """Some steps in a row.

    Args:
        seconds: wall clock, from being told to having the results.
        device_seconds: between two events on the GPU's stream; None without one.
        loss: nats, of the last step; None for characters drawn.
        idle_cpu: processor time since the burst before, over the time since then: what threads that spin take from others.
    """

    seconds: float
    device_seconds: float | None = None
    loss: float | None = None
    idle_cpu: float = 0.0


Turn = Callable[
    [int], Burst
]  # so many more steps; training step k, from 0, is on window k % WINDOWS of the configuration

OURS = "cuchar"
PEERS = {
    "eager": "PyTorch eager",
    "graph": "PyTorch CUDA graph",
    "stacked": "PyTorch stacked one-layer fp16",
    "compile": "torch.compile",
}
QUICK = ("eager", "graph", "stacked")  # to prepare
DRAWING = ("eager", "graph")  # peers that draw characters too


@dataclass(frozen=True)
class Choice:
    """Of PEERS, to take turns with. If they `must` be there, it is an error if one is not, and no other is mentioned."""

    peers: tuple[str, ...] = QUICK
    must: bool = False

    @classmethod
    def of(cls, words: Sequence[str]) -> "Choice":
        """
        Args:
            words: peers, or "all" that there are, or "none"; no word is the quick ones that there are.
        Raises:
            OptionError: no such peer.
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
    """Why `peer` is not to be had on `device` (cpu, cuda:N or emulate), or None."""
    if device == "emulate":
        return "the emulator is not timed against anything"
    if peer in ("graph", "stacked") and device == "cpu":
        return "needs a GPU"
    if peer == "stacked" and precision not in ("fp16", "bf16"):
        return "needs --precision fp16 or bf16"
    return None
