"""Entropies of n-grams: they are what the formula gives, summed term by term, however the work is cut."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from cuchar.corpus_report import entropy
from cuchar.corpus_report.entropy import LONGEST, entropies


def by_the_formula(text: list[int], size: int) -> list[float]:
    """Interpolated Witten-Bell, from the definition."""
    trained = len(text) - len(text) // 10
    counts, followers = Counter(), defaultdict(set)
    for at in range(trained):
        for order in range(min(at, LONGEST) + 1):
            context = tuple(text[at - order : at])
            counts[context, text[at]] += 1
            counts[context] += 1
            followers[context].add(text[at])

    def probability(context: tuple, character: int) -> float:
        shorter = probability(context[1:], character) if context else 1 / size
        if not counts[context]:
            return shorter
        kinds = len(followers[context])
        return (counts[context, character] + kinds * shorter) / (counts[context] + kinds)

    scored = range(trained, len(text))
    return [
        -sum(math.log2(probability(tuple(text[at - order : at]), text[at])) for at in scored) / len(scored)
        for order in range(LONGEST + 1)
    ]


@pytest.mark.parametrize("size", [2, 5, 60_000])
@pytest.mark.parametrize("at_once", [37, 1 << 20])
def test_entropies_are_the_formulas(size, at_once, monkeypatch):
    """Each character is, most of the time, a function of the two before it; new ones appear in the part that is scored."""
    monkeypatch.setattr(entropy, "SORTED_AT_ONCE", at_once)
    rng = np.random.default_rng(size)
    text = [0, 1]
    for drawn in rng.integers(0, size, 1500).tolist():
        text.append(drawn if rng.random() < 0.2 else (text[-1] * 31 + text[-2] * 17) % min(size, 20))
    found = entropies(np.array(text, np.uint16), size)
    # Each of the 6 levels rounds a few times, and the mean of 150 logarithms once each: far below 1e-13 in all.
    np.testing.assert_allclose(found, by_the_formula(text, size), rtol=1e-12)


def test_a_text_without_structure_has_the_entropy_of_its_characters():
    ids = np.random.default_rng(0).integers(0, 8, 40_000).astype(np.uint16)
    # Counting n-grams that mean nothing costs some bits: by order 5 there are about as many contexts as characters.
    assert entropies(ids, 8)[0] == pytest.approx(3, abs=1e-3)
    assert min(entropies(ids, 8)) > 3 - 1e-3


def test_a_text_that_repeats_has_next_to_none():
    bits = entropies(np.tile(np.arange(10, dtype=np.uint16), 1000), 10)
    assert bits[0] == pytest.approx(math.log2(10), abs=1e-3) and bits[1] < 0.02 and bits == sorted(bits, reverse=True)


def test_of_a_short_text_nothing_is_said():
    assert entropies(np.zeros(99, np.uint16), 2) == [] and len(entropies(np.zeros(100, np.uint16), 2)) == LONGEST + 1


def test_one_character_alone_has_no_entropy():
    assert str(entropies(np.zeros(100, np.uint16), 1)) == str([0.0] * (LONGEST + 1))  # none of them is -0.0
