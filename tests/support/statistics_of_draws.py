"""How likely it is that draws deviate from a law as far as they do, and the laws that tests draw by."""

import math

import numpy as np

LAWS = [
    {}, {"law": "exp"}, {"temperature": 0.6}, {"law": "exp", "temperature": 1.7}, {"top_k": 5}, {"top_p": 0.8},
    {"top_k": 9, "top_p": 0.9, "temperature": 1.4}, {"min_p": 0.3}, {"top_p": 0.6, "min_p": 0.25},
]  # fmt: skip


def chance_of_more(found: np.ndarray, expected: np.ndarray) -> float:
    """The chance that counts deviate more than these do; 0 where something was drawn whose probability is 0.

    Pearson's chi-square; its distribution is a finite sum where the degrees of freedom are even, and with a number of
    characters that makes them odd the next even one is taken, which only makes the chance larger.
    """
    if found[expected == 0].any():
        return 0.0
    likely = expected > 0
    half = float(((found - expected)[likely] ** 2 / expected[likely]).sum()) / 2
    return math.exp(-half) * sum(half**k / math.factorial(k) for k in range(likely.sum() // 2))
