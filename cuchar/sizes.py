"""Sizes rounded up."""


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def padded(numbers: int) -> int:
    """The distance in shared memory of rows of `numbers`, a multiple of 4, such that neighbours start in different banks.

    It is an odd multiple of 4.
    """
    return numbers + (0 if numbers // 4 % 2 else 4)
