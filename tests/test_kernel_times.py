"""Times of single kernels: a persistent kernel is timed with waits, as begin_window zeroes its flags before every launch."""

from collections import defaultdict

import numpy as np
import pytest

from cuchar.bench import kernel_times
from cuchar.bench.configurations import Configuration
from cuchar.bench.ours import profile_kernels
from cuchar.emulator import EmulatedDevice
from cuchar.engines.device import Limits

FILES = {
    "begin_window.cu": ["begin_window"], "lstm_persistent.cu": ["persistent_forward", "persistent_backward"],
    "adam.cu": ["adam"],
}  # fmt: skip
COSTS = {"begin_window": 2.0, "persistent_forward": 30.0, "persistent_backward": 50.0, "adam": 5.0}  # us


class MadeUpDevice:
    """A device whose clock is moved by what is launched; a persistent kernel that has nothing to wait for takes 1 us."""

    def __init__(self):
        self.clock, self.ready = 0.0, set()

    def kernels(self, file):
        return {name: lambda name=name: self._launch(name) for name in FILES[file]}

    def _launch(self, name):
        self.clock += 1.0 if name in self.ready else COSTS[name]
        if name == "begin_window":
            self.ready.clear()
        elif name.startswith("persistent"):
            self.ready.add(name)

    def capture(self, work):
        return work


def test_the_time_of_a_persistent_kernel_has_its_waits_and_not_the_zeroing(monkeypatch):
    device = MadeUpDevice()

    def elapsed_ms(_, work):
        began = device.clock
        work()
        return (device.clock - began) / 1e3

    monkeypatch.setattr(kernel_times, "elapsed_ms", elapsed_ms)
    recorder = kernel_times.Recorder(device)
    kernels = {name: kernel for file in FILES for name, kernel in recorder.kernels(file).items()}

    def train(steps):
        for _ in range(steps):
            for name in COSTS:
                kernels[name]()

    found = kernel_times.kernel_times(recorder, train, windows=2, repeats=8, rounds=3)
    assert {name: kernel["us"] for name, kernel in found.items()} == pytest.approx(COSTS)
    assert all(kernel["launches"] == 1 for kernel in found.values())


class WatchedDevice(EmulatedDevice):
    """It notes, whenever a persistent kernel runs, whether any of its flags was set."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = defaultdict(list)

    def kernels(self, *arguments, **options):
        return {name: self._watched(name, kernel) for name, kernel in super().kernels(*arguments, **options).items()}

    def _watched(self, name, kernel):
        def launch(grid, block, *arguments, **options):
            flags = [one for one in arguments if isinstance(one, np.ndarray) and one.dtype == np.uint32]

            def look():
                self.seen[name].append(any(flag.any() for flag in flags))

            look() if self._captured is None else self._captured.append(look)
            kernel(grid, block, *arguments, **options)

        return launch if name.startswith("persistent") else kernel


def test_flags_are_zero_whenever_a_persistent_kernel_is_replayed():
    device = WatchedDevice(limits=Limits(90, 6, 232_448))
    profile_kernels(device, Configuration("persistent", 9, 81, 2, 2, 2), repeats=3, rounds=1)
    assert set(device.seen) == {"persistent_forward", "persistent_backward"}
    for seen in device.seen.values():
        assert len(seen) > 2 * 3 and not any(seen)  # at least a round that is not counted, and one that is
