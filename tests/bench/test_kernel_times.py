"""Times of single kernels. A persistent kernel's include its waits: begin_window zeroes its flags before a launch."""

from collections import defaultdict

import numpy as np
import pytest
from support.tensor_library import TensorLibrary

from cuchar.bench import kernel_times
from cuchar.bench.configurations import Configuration
from cuchar.bench.cuchar_contender import profile_kernels
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice

FILES = {
    "training/begin_window.cu": ["begin_window"], "persistent/persistent_forward.cu": ["persistent_forward"],
    "persistent/persistent_backward.cu": ["persistent_backward"], "training/adam.cu": ["adam"],
}  # fmt: skip
GEMM = "gemm 2x3x4"
COSTS = {"begin_window": 2.0, "persistent_forward": 30.0, "persistent_backward": 50.0, GEMM: 7.0, "adam": 5.0}  # us
PYTHON = 100.0  # us that Python takes to make a launch


class MadeUpDevice:
    """A device whose clock is moved by what is launched; a persistent kernel that has nothing to wait for takes 1 us."""

    def __init__(self):
        self.clock, self.ready, self.captured = 0.0, set(), None

    def kernels(self, file):
        return {name: lambda *sizes, name=name: self._launch(name) for name in FILES[file]}

    def gemm(self, a, b, out):
        self._launch(GEMM)

    def _launch(self, name):
        if self.captured is not None:
            return self.captured.append(name)
        self.clock += PYTHON
        self._run(name)

    def _run(self, name):
        self.clock += 1.0 if name in self.ready else COSTS[name]
        if name == "begin_window":
            self.ready.clear()
        elif name.startswith("persistent"):
            self.ready.add(name)

    def capture(self, work):
        captured = self.captured = []
        work()
        self.captured = None
        return lambda: [self._run(name) for name in captured]

    def elapsed_ms(self, work):
        began = self.clock
        work()
        return (self.clock - began) / 1e3


def test_the_time_of_a_persistent_kernel_has_its_waits_and_not_the_zeroing():
    """No time includes Python's: all launches are captured, and a library's products too."""
    device = MadeUpDevice()
    recorder = kernel_times.Recorder(device)
    kernels = {name: kernel for file in FILES for name, kernel in recorder.kernels(file).items()}
    arrays = [np.zeros(shape) for shape in ((2, 4), (4, 3), (2, 3))]
    kernels[GEMM] = lambda *sizes: recorder.gemm(*arrays)

    def train(steps):
        for _ in range(steps):
            for name in COSTS:
                kernels[name](1, 32)

    found = kernel_times.kernel_times(recorder, train, windows=2, repeats=8, rounds=3)
    assert {name: kernel["us"] for name, kernel in found.items()} == pytest.approx(COSTS)
    assert all(kernel["launches"] == 1 for kernel in found.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "tf32"])
def test_products_of_a_step_are_counted_by_their_sizes(precision):
    """The device has a library of products, as a GPU has. What is rounded for it is counted by its size as well."""
    device = TensorLibrary(limits=Limits(90, 6, 232_448))
    V, H, L, B, T = 12, 84, 2, 2, 4
    found = profile_kernels(device, Configuration("some", V, H, L, B, T, precision), repeats=3, rounds=1)
    N = B * T
    # Logits, dh, the head's weights, W_hh of both layers and W_ih of the second, as large as W_hh.
    products = {(N, V, H): 1, (N, H, V): 1, (V, H, N): 1, (4 * H, H, N): 3}
    if precision == "fp32":
        del products[N, V, H]  # head.cu is one pass
    launches = {name: kernel["launches"] for name, kernel in found.items() if "gemm" in name}
    assert launches == {f"gemm {M}x{N}x{K}": count for (M, N, K), count in products.items()}
    assert found["persistent_forward"]["launches"] == found["persistent_backward"]["launches"] == 1
    rounded = {name: kernel["launches"] for name, kernel in found.items() if name.startswith("round_numbers")}
    # The head's dlogits and weights twice, da of each layer once, and h: for logits, the head's weights, W_hh of both, W_ih.
    counts = {N * V: 2, V * H: 2, N * 4 * H: 2, N * H: 5} if precision == "bf16" else {}
    assert rounded == {f"round_numbers {count}": launches for count, launches in counts.items()}


class WatchedDevice(EmulatedDevice):
    """An emulated device that notes, whenever a persistent kernel runs, whether any of its flags was set before, and
    the greatest id that it may read.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.flags, self.ids = defaultdict(list), defaultdict(list)

    def kernels(self, *arguments, **options):
        return {name: self._watched(name, kernel) for name, kernel in super().kernels(*arguments, **options).items()}

    def _watched(self, name, kernel):
        def launch(*sizes, flags, progress, inputs=None, **arguments):
            def look():
                self.flags[name].append(flags.any())
                if inputs is not None:
                    ids = inputs[progress.view(np.int32)[0]]
                    self.ids[name].append((ids.min(), ids.max()))

            look() if self._captured is None else self._captured.append(look)
            inputs_if_any = {} if inputs is None else {"inputs": inputs}
            kernel(*sizes, flags=flags, progress=progress, **inputs_if_any, **arguments)

        return launch if name.startswith("persistent") else kernel


def test_flags_are_zero_whenever_a_persistent_kernel_is_replayed():
    device = WatchedDevice(limits=Limits(90, 6, 232_448))
    profile_kernels(device, Configuration("persistent", 9, 81, 2, 2, 2), repeats=3, rounds=1)
    assert set(device.flags) == {"persistent_forward", "persistent_backward"}
    for seen in device.flags.values():
        assert len(seen) > 2 * 3 and not any(seen)  # a round to warm up, and one that is timed, of three launches each


def test_a_replayed_kernel_reads_ids_that_were_written_however_slow_the_device_is(monkeypatch):
    """A device so slow that training takes one window at a time: ids that nobody wrote are -1, and outside the table."""
    monkeypatch.setattr("cuchar.engines.cuda.learner.CHUNK_SECONDS", 0.0)
    device = WatchedDevice(limits=Limits(90, 6, 232_448))
    profile_kernels(device, Configuration("persistent", 9, 81, 2, 2, 2), repeats=3, rounds=1)
    seen = np.array(device.ids["persistent_forward"])
    assert len(seen) > 2 * 3 and seen.min() >= 0 and seen.max() < 9
