"""kernels/gemm/round.cu by itself, against NumPy's rounding bit by bit.

python tests/support/round_kernel.py KERNELS    whether the kernel of that folder rounds to bf16 as it should
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.rounding import bits_of

from cuchar.devices import kernel_sources
from cuchar.devices.emulator import EmulatedDevice

EDGES = np.array(  # ties to even and away from it, numbers that become 0, subnormal or infinite, and what is no number
    [
        0.0, -0.0, 1.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, -1 - 2.0**-8, 1 + 2.0**-8 + 2.0**-20,
        65504, 65519.996, 65520, -65520, 3.3895314e38, 3.4e38, 2.0**-14, 2.0**-24, 2.0**-25, 1.5 * 2.0**-25, 3 * 2.0**-25,
        1e-45, -1e-40, 2.0**-133, 2.0**-134, np.inf, -np.inf, np.nan, np.float32(np.pi), -1e-7,
    ],
    np.float32,
)  # fmt: skip
HALVES = ("bf16", "fp16")


def some_numbers(count):
    """Numbers of many sizes, among them EDGES from the first on and, in reverse, up to the last."""
    numbers = np.random.default_rng(count).normal(size=count) * 2.0 ** np.random.default_rng(1).integers(-30, 20, count)
    numbers = numbers.astype(np.float32)
    numbers[: len(EDGES)] = EDGES[:count]
    numbers[-len(EDGES) :] = EDGES[-count:][::-1]
    return numbers


def words_of(precision, numbers):
    """The words that kernels/gemm/round.cu makes of the numbers, and what is behind them in a buffer full of 0xffff."""
    count = numbers.size
    kernel = EmulatedDevice().kernels("gemm/round.cu", {"PRECISION": precision.capitalize()})["round_numbers"]
    words = np.full(-(-count // 2) * 2 + 600, 0xFFFF, np.uint16)
    kernel(-(-count // 512), 256, numbers=numbers, words=words.view(np.uint32), count=count)
    return words[: -(-count // 2) * 2], words[-(-count // 2) * 2 :]


def round_is_right(precision, count):
    """Whether every word of `count` numbers is right, and nothing else was written.

    The numbers begin in the middle of a buffer; where `count` is odd, the second half of the last word is 0.
    """
    buffer = np.full(count + 8, 7, np.float32)
    numbers = buffer[3 : 3 + count]
    numbers[:] = some_numbers(count)
    words, behind = words_of(precision, numbers)
    expected = np.append(bits_of(numbers, precision), [0] * (count % 2)).astype(np.uint16)
    return np.array_equal(words, expected) and (behind == 0xFFFF).all()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    kernel_sources.kernel_folder = lambda: folder
    print(all(round_is_right("bf16", count) for count in (29, 513)))
