"""How likely counts are, and the laws that they are judged by."""

import math

import numpy as np

LAWS = [
    {}, {"law": "exp"}, {"temperature": 0.6}, {"law": "exp", "temperature": 1.7}, {"top_k": 5}, {"top_p": 0.8},
    {"top_k": 9, "top_p": 0.9, "temperature": 1.4},
]  # fmt: skip


def chance_of_more(found: np.ndarray, expected: np.ndarray) -> float:
    """The chance that counts deviate more than these; 0 where one is found that must not be.

    Pearson's chi-square; its distribution is a finite sum where the degrees of freedom are even, and with a number of
    characters that makes them odd the next even one is taken, which only makes the chance larger.
    """
    if found[expected == 0].any():
        return 0.0
    likely = expected > 0
    half = float(((found - expected)[likely] ** 2 / expected[likely]).sum()) / 2
    return math.exp(-half) * sum(half**k / math.factorial(k) for k in range(likely.sum() // 2))
