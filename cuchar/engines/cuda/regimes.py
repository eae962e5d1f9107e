"""Which kernels a model gets on a device: the first of three regimes that takes it.

resident: the registers of one block, or of a cluster of two blocks, hold every recurrent weight; a batch row each, a whole
window in one launch. persistent: the registers of the whole chip hold them; a launch forward and a launch backward.
stepwise: a product of matrices and a pointwise kernel a time step, for anything. Each has a file of its own, with its plan
and its launches. What is decided here depends on sizes, number type, precision and the device's limits alone.
"""

from typing import Any, Protocol

from cuchar.engines.cuda import persistent, resident
from cuchar.engines.cuda.dropout import Mask
from cuchar.engines.cuda.head import Head
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.tape import Backward, Tape, Weights
from cuchar.engines.cuda.target import Target, Window
from cuchar.errors import DeviceError

LEAST_CAPABILITY = {"fp32": 70, "tf32": 80, "bf16": 80, "fp16": 75}  # that has tensor cores for it


class Launches(Protocol):
    """Compiled kernels for windows of a size, and the order in which they are launched.

    All regimes leave the same: h and c of every time step, then each character's loss with dlogits in `tape.logits`, then
    gradients, which are added up from `splits` partial sums.
    """

    steps_at_once: int  # training steps that one captured graph has
    splits: int
    flags: int  # words on the tape
    copies: bool  # whether 16-bit copies of operands are kept
    head: Head

    def forward(self, weights: Weights, tape: Tape) -> None:
        """From the state in the tape's last slot."""

    def gradients(self, weights: Weights, tape: Tape, backward: Backward, carry: bool, mask: Mask | None) -> None:
        """Losses and gradients of the next window, from the state in the tape's last slot or, without `carry`, from zero."""


class Plan(Protocol):
    """A regime for windows of a size: `Resident`, `Persistent` or `Stepwise`."""

    def launches(self, target: Target, dropout: bool) -> Launches: ...


class Drawing(Protocol):
    """Compiled kernels that draw characters."""

    def __call__(self, weights: Weights, tape: Tape, made: Any, law: dict[str, Any], position: int) -> None:
        """From tape.inputs and the state in the tape's last slot to made [K, S], and so that it can go on."""


class SamplingPlan(Protocol):
    """A regime for drawing: `OneBlock` or `Stepwise`."""

    def drawing(self, target: Target) -> Drawing: ...


def plan_window(target: Target, window: Window) -> Plan:
    """The regime for windows of this size."""
    return resident.plan_window(target, window) or persistent.plan_window(target, window) or Stepwise()


def plan_sampling(target: Target) -> SamplingPlan:
    """The regime for drawing, for any number of streams."""
    return resident.plan_sampling(target) or Stepwise()


def expect_tensor_cores(target: Target) -> None:
    """
    Raises:
        DeviceError: the device has none for this precision, or the numbers are not float32.
    """
    precision, device = target.precision, target.device
    least, found = LEAST_CAPABILITY[precision], device.limits.capability
    if found < least:
        raise DeviceError(
            f"--precision {precision}: expected compute capability {least / 10} or newer, "
            f"found {found / 10} ({device.name}); --precision fp32 runs on it"
        )
    if precision != "fp32" and target.dtype.char != "f":
        raise DeviceError(f"--precision {precision}: expected float32 parameters, found {target.dtype}")
