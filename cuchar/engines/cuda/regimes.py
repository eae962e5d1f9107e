"""Which kernels a model gets on a device: the first of three regimes that fits.

resident: the registers of one block, or of a cluster of two blocks, hold every recurrent weight. Each block or cluster
takes one batch row, and one launch computes a whole window.
persistent: the registers of the whole chip hold the weights. One launch computes forward and one backward.
stepwise: every time step is a product of matrices and a pointwise kernel. This fits any model.

Each regime has a file of its own, with its plan and its launches. The decision depends on sizes, number type, precision
and the device's limits alone.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from cuchar.engines.cuda import persistent, resident
from cuchar.engines.cuda.dropout import Mask, WeightDropping
from cuchar.engines.cuda.head import Head, Norm
from cuchar.engines.cuda.stepwise import Stepwise
from cuchar.engines.cuda.tape import Backward, Tape, Weights
from cuchar.engines.cuda.target import Target, Window
from cuchar.errors import DeviceError
from cuchar.wording import option

# The least compute capability (80 is 8.0) of a device that multiplies in a precision.
LEAST_CAPABILITY = {"fp32": 70, "tf32": 80, "bf16": 80, "fp16": 75}


class Launches(Protocol):
    """A regime's compiled kernels for windows of one size, and the order in which they are launched.

    All regimes leave the same results: h and c of every time step on the tape, each character's loss in `tape.losses`,
    dlogits in `tape.logits`, and the gradients in `Backward.partials`, which `norm` makes `Backward.gradients` of.
    """

    steps_at_once: int  # training steps that one captured graph contains
    splits: int  # partial sums, each over a share of the N characters, of which a gradient is added up
    flags: int  # 32-bit words for flags on the tape
    copies: bool  # whether 16-bit copies of operands are kept on the device
    head: Head
    norm: Norm

    def forward(self, weights: Weights, tape: Tape) -> None:
        """Compute h and c of every time step, from the state after the window before (`Tape.put_state`)."""

    def gradients(self, weights: Weights, tape: Tape, backward: Backward, carry: bool, mask: Mask | None) -> None:
        """Compute the losses of the chunk's next window, and the gradients' partial sums.

        Args:
            carry: begin with the state after the window before; if not, with zero.
            mask: the dropout mask; None is no dropout.
        """


@dataclass(frozen=True)
class Pass:
    """A training step's launches but for Adam's: the loss and gradients of a window, with whatever is dropped.

    Args:
        mask: of the layers' outputs; None drops none.
        dropping: of the recurrent weights; None drops none.
    """

    launches: Launches
    carry: bool
    mask: Mask | None
    dropping: WeightDropping | None

    def __call__(self, weights: Weights, tape: Tape, backward: Backward) -> None:
        used = self.dropping.weights(weights, tape) if self.dropping else weights
        self.launches.gradients(used, tape, backward, self.carry, self.mask)
        if self.dropping:
            self.dropping.gradients(backward, tape)
        self.launches.norm(tape, backward)


class Plan(Protocol):
    """A regime with its sizes for windows of one size: `Resident`, `Persistent` or `Stepwise`."""

    def launches(self, target: Target, dropout: bool) -> Launches: ...


class Drawing(Protocol):
    """Compiled kernels that draw characters."""

    def __call__(self, weights: Weights, tape: Tape, made: Any, law: dict[str, Any], position: int) -> None:
        """Draw the next K characters of S streams, and leave the tape ready for the ones after them.

        Args:
            tape: has each stream's last character in `inputs`, and the state before that character.
            made: [K, S], receives the ids.
            law: arguments of the kernel that draws, by its parameters' names (`cuchar.engines.cuda.sampler`).
            position: of the first character to draw, in its stream.
        """


class SamplingPlan(Protocol):
    """A regime for drawing characters: `OneBlock` or `Stepwise`."""

    def drawing(self, target: Target) -> Drawing: ...


def plan_window(target: Target, window: Window) -> Plan:
    """The first regime that fits windows of this size."""
    return resident.plan_window(target, window) or persistent.plan_window(target, window) or Stepwise()


def plan_sampling(target: Target) -> SamplingPlan:
    """The regime for drawing; it does not depend on the number of streams."""
    return resident.plan_sampling(target) or Stepwise()


def expect_tensor_cores(target: Target) -> None:
    """Check that the device can multiply in the target's precision.

    Raises:
        DeviceError: the device has no tensor cores for that precision, or the target's numbers are not float32.
    """
    precision, device = target.precision, target.device
    least, found = LEAST_CAPABILITY[precision], device.limits.capability
    if found < least:
        raise DeviceError(
            f"{option('precision', precision)}: expected compute capability {least / 10} or newer, "
            f"found {found / 10} ({device.name}); {option('precision', 'fp32')} runs on it"
        )
    if precision != "fp32" and target.dtype.char != "f":
        raise DeviceError(f"{option('precision', precision)}: expected float32 parameters, found {target.dtype}")
