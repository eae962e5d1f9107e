"""What a multiprocessor takes, and how sizes are rounded to it."""

from cuchar.devices.device import Limits

REGISTER_UNIT = 128  # threads: four parts of a multiprocessor have a quarter of its registers and of a block's warps
MOST_REGISTERS, MOST_THREADS = 255, 1024


def fits_a_block(limits: Limits, threads: int, registers: int, shared: int) -> bool:
    """Whether a multiprocessor takes a block of so many threads, registers of each, and bytes."""
    held = REGISTER_UNIT * ceil_div(threads, REGISTER_UNIT) * 8 * ceil_div(registers, 8)
    enough = held <= limits.registers and shared <= limits.shared_bytes
    return enough and registers <= MOST_REGISTERS and threads <= MOST_THREADS


def padded(numbers: int) -> int:
    """The distance of rows of so many numbers, a multiple of 4, such that they start in different banks."""
    return numbers + (0 if numbers // 4 % 2 else 4)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)
