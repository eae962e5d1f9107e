"""What lies on a device: weights in the kernels' layout, a window's tape, and the arrays of the backward pass."""

from typing import Any

import numpy as np

from cuchar.adam import LossScaling
from cuchar.engines.base import State
from cuchar.engines.cuda.target import Target, Window
from cuchar.errors import DeviceError
from cuchar.parameters import parameter_count, parameter_shapes
from cuchar.sizes import ceil_div

STEP = np.dtype(
    [("origin", "<i8"), ("number", "<u8"), ("step_size", "<f8"), ("root", "<f8"), ("decay", "<f8")]
)  # struct Step of kernels/common/step.cuh, one for each training step of a chunk
SCALING = np.dtype([("scale", "<f4"), ("good_steps", "<i4")])  # struct Scaling of the same file
FIRST = "lstm.weight_ih_l0"  # the first tensor of the flat buffer; on a device [V, 4H], so that a character has a row
NORM_BLOCKS = 1024  # blocks of gradient_norm that square gradients, at most


class Weights:
    """A flat buffer [P] on the device of parameters, gradients or moments, and its tensors by name.

    The layout is that of `cuchar.parameters.Parameters`, but the tensor that FIRST names is transposed.
    """

    def __init__(self, target: Target, flat: Any = None):
        """
        Args:
            flat: [P] on the device, the buffer; None makes one.
        """
        self.model, self._device = target.model, target.device
        self.flat = target.device.empty((parameter_count(target.model),), target.dtype) if flat is None else flat
        self._views, start = {}, 0
        for name, shape in parameter_shapes(target.model).items():
            size = int(np.prod(shape))
            self._views[name] = self.flat[start : start + size].reshape(shape[::-1] if name == FIRST else shape)
            start += size

    @classmethod
    def of(cls, target: Target, host: np.ndarray) -> "Weights":
        """A copy on the device of the host's flat buffer."""
        weights = cls(target)
        weights.put(host)
        return weights

    def __getitem__(self, name: str) -> Any:
        return self._views[name]

    def put(self, host: np.ndarray) -> None:
        """Copy the host's flat buffer [P] to the device."""
        V, H = self.model.vocabulary_size, self.model.hidden
        turned = host.astype(self.flat.dtype)
        turned[: 4 * H * V] = host[: 4 * H * V].reshape(4 * H, V).T.reshape(-1)
        self._device.write(self.flat, turned)

    def get(self, host: np.ndarray) -> None:
        """Copy the device's values into the host's flat buffer [P]."""
        V, H = self.model.vocabulary_size, self.model.hidden
        host[:] = self._device.read(self.flat)
        host[: 4 * H * V] = host[: 4 * H * V].reshape(V, 4 * H).T.reshape(-1).copy()


class Tape:
    """What the kernels of one window leave on the device, and the ids and numbers of the K windows of a chunk.

    Arrays of one window are written over by the next one.
    """

    def __init__(self, target: Target, window: Window, flags: int = 0, windows: int = 1):
        """
        Args:
            flags: 32-bit words for the persistent regime's flags, both directions together.
            windows: K, the most windows that a chunk has.
        """
        device, model, dtype = target.device, target.model, target.dtype
        L, H, V = model.layers, model.hidden, model.vocabulary_size
        T, B = window.T, window.B
        self.T, self.B, self.N, self.windows, self._device = T, B, window.N, windows, device
        self.inputs = device.empty((windows, T, B), np.int32)
        self.targets = device.empty((windows, T, B), np.int32)
        self.h = device.empty((L, T + 1, B, H), dtype)  # h[l, t] enters time step t
        self.c = device.empty((L, T + 1, B, H), dtype)
        self.gates = device.empty((L, T, B, 4 * H), dtype)
        self.dropped = device.empty((L * window.dropout, T, B, H), dtype)
        self.logits = device.empty((T, B, V), dtype)
        self.losses = device.empty((T, B), dtype)
        self.flags = device.empty((2, flags // 2), np.uint32)  # the forward launch's, the backward launch's
        self.steps = device.empty((windows, STEP.itemsize), np.uint8)
        self.progress = device.empty((4,), np.int32)  # struct Progress of kernels/common/step.cuh
        self.scaling = device.empty((SCALING.itemsize,), np.uint8) if target.is_scaled else None
        self.results = device.empty((2, windows), np.float64)  # each window's mean loss; its gradients' norm

    def order(self, steps: np.ndarray) -> None:
        """Begin a chunk: the kernels of the next training step read steps[0], those of the one after it steps[1].

        Args:
            steps: [at most K], of type STEP.
        """
        host = np.zeros(self.windows, STEP)
        host[: len(steps)] = steps
        self._device.write(self.steps, host.view(np.uint8).reshape(self.windows, STEP.itemsize))
        self._device.write(self.progress, np.zeros(4, np.int32))

    def put(self, inputs: np.ndarray, targets: np.ndarray | None = None) -> None:
        """Write the ids [T, B] of the chunk's first window."""
        self._device.write(self.inputs[0], inputs.astype(np.int32))
        if targets is not None:
            self._device.write(self.targets[0], targets.astype(np.int32))

    def put_scaling(self, scaling: LossScaling) -> None:
        """Write the loss scaling, in fp16. In other precisions this does nothing, and `get_scaling` returns None."""
        if self.scaling is not None:
            host = np.array((scaling.scale, scaling.good_steps), SCALING)
            self._device.write(self.scaling, host.reshape(1).view(np.uint8))

    def get_scaling(self) -> LossScaling | None:
        if self.scaling is None:
            return None
        return LossScaling(*self._device.read(self.scaling).view(SCALING)[0].item())

    def put_state(self, state: State) -> None:
        """Write a state to h[:, T] and c[:, T], where a window leaves its last one, so that the next begins with it."""
        for array, host in ((self.h, state.h), (self.c, state.c)):
            for layer, values in enumerate(host):
                self._device.write(array[layer, self.T], values)

    def output(self, layer: int, dropped: bool) -> Any:
        """A layer's output [N, H], which the next layer or the head reads; if `dropped`, times the dropout mask."""
        steps = self.dropped[layer] if dropped else self.h[layer, 1:]
        return steps.reshape(self.N, steps.shape[-1])

    def expect_no_wait(self) -> None:
        """Check that no block has given up waiting for another one, as it does if not all blocks run at once.

        Raises:
            DeviceError: a block has. What was computed since then is void.
        """
        if self._device.read(self.progress)[[1, 3]].max() > 1:  # now.stopped, next.stopped
            raise DeviceError(f"{self._device.name}: expected blocks that run at once, found one that waited in vain")

    def get_state(self) -> State:
        """The state after the window."""
        h, c = (
            np.stack([self._device.read(array[layer, self.T]) for layer in range(len(array))])
            for array in (self.h, self.c)
        )
        return State(h, c)


class Backward:
    """The arrays that back-propagation needs besides the tape."""

    def __init__(self, target: Target, window: Window, splits: int):
        """
        Args:
            splits: how many shares of the N characters have partial sums of their own, which are added at the end.
        """
        device, dtype, H = target.device, target.dtype, target.model.hidden
        P = parameter_count(target.model)
        self.computed = device.empty(
            (P + 1,), dtype
        )  # the gradients, and room for the loss (kernels/training/weigh.cu)
        self.gradients = Weights(target, self.computed[:P])
        self.partials = device.empty((splits, P), dtype) if splits > 1 else self.gradients.flat
        self.dh = device.empty((window.T, window.B, H), dtype)
        self.dc = device.empty((window.B, H), dtype)
        self.squares = device.empty((NORM_BLOCKS,), np.float64)


def norm_blocks(parameters: int) -> int:
    """How many blocks of gradient_norm square gradients; one more block averages the loss."""
    return min(ceil_div(parameters, 256), NORM_BLOCKS)
