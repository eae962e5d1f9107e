"""Contenders, which take turns to train, to draw or to score, and which of them take part."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import perf_counter

from cuchar.errors import OptionError


@dataclass(frozen=True)
class Burst:
    """What a contender did in one turn: training steps in a row, characters of each stream, or windows that it scored.

    Args:
        seconds: time by the wall clock, from being asked to having the results.
        device_seconds: time between two events on the GPU's stream; None without a GPU.
        loss: the last step's or window's mean loss, in nats; None if characters were drawn.
        idle_cpu: processor time that the contender's process used since its burst before, divided by the time that has
            passed since then. It is not 0 if threads spin while others have their turn.
    """

    seconds: float
    device_seconds: float | None = None
    loss: float | None = None
    idle_cpu: float = 0.0


def timed(work: Callable[[], float | None]) -> Burst:
    """Do what a contender on the processor has to do in a turn, which returns the loss or None."""
    began = perf_counter()
    loss = work()
    return Burst(perf_counter() - began, None, loss)


# A call that does so many more steps. Training step k, counted from 0, is on window k % WINDOWS of the configuration.
Turn = Callable[[int], Burst]

TASKS = ("train", "draw", "score")  # what contenders do in their turns; each is the name of a method, too


@dataclass(frozen=True)
class Peer:
    """Who takes turns with cuchar, which does all of TASKS on every device.

    Args:
        title: its name for readers.
        module: the module of this package that has the contender, and a function `maker` that makes it.
        packages: what it needs to be installed, by the names that pip and Python have in common.
        tasks: which of TASKS it does.
        devices: where it does them: on the processor ("cpu"), on a GPU ("cuda").
    """

    title: str
    module: str
    packages: tuple[str, ...]
    tasks: tuple[str, ...] = TASKS
    devices: tuple[str, ...] = ("cpu",)


OURS = "cuchar"
PEERS = {
    "eager": Peer("PyTorch eager", "torch_contender", ("torch",), devices=("cpu", "cuda")),
    "graph": Peer("PyTorch CUDA graph", "torch_contender", ("torch",), ("train", "draw"), ("cuda",)),
    "stacked": Peer("PyTorch stacked one-layer fp16", "torch_contender", ("torch",), ("train",), ("cuda",)),
    "compile": Peer("torch.compile", "torch_contender", ("torch",), ("train", "draw"), ("cpu", "cuda")),
    "jax": Peer("JAX", "jax_contender", ("jax",)),
    "onnxruntime": Peer("ONNX Runtime", "onnx_contender", ("onnx", "onnxruntime"), ("draw", "score")),
    "openvino": Peer("OpenVINO", "onnx_contender", ("onnx", "openvino"), ("draw", "score")),
}
QUICK = ("eager", "graph", "stacked")  # peers that take part unless others are asked for: they are quick to prepare


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


def reason_against(peer: str, device: str, precision: str, tasks: Collection[str] = ("train",)) -> str | None:
    """Why `peer` cannot take part in `tasks` on `device` (cpu, cuda:N or emulate), or None if it can in some of them."""
    kind = device.partition(":")[0]
    if kind == "emulate":
        return "the emulator is not timed against anything"
    if kind not in PEERS[peer].devices:
        return "needs a GPU" if kind == "cpu" else "needs --device cpu"
    if not set(tasks) & set(PEERS[peer].tasks):
        return "does not train; --sampling and --scoring time it"
    if peer == "stacked" and precision not in ("fp16", "bf16"):
        return "needs --precision fp16 or bf16"
    return None
