"""Functions that round sizes up."""


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def padded(numbers: int) -> int:
    """How far apart rows of `numbers` numbers lie in shared memory, such that neighbours begin in different banks.

    `numbers` must be a multiple of 4; the distance is an odd multiple of 4.
    """
    return numbers + (0 if numbers // 4 % 2 else 4)
