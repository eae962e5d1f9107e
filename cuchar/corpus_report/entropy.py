"""How well the last characters predict the next one: the entropy of n-grams, as a baseline for models to beat.

A context of k characters predicts by how often each character came after it in the first nine tenths of the text. The
last tenth is scored. What was counted is smoothed by interpolated Witten-Bell: with n the times that a context h was
seen, and t the number of distinct characters that came after it,

    P(c | h) = (count(h c) + t P(c | h without its first character)) / (n + t)

and below the empty context every one of the V characters is equally likely. A context that was never seen predicts as
the shorter one. Source: Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37
(1991), method C; interpolated as in Chen and Goodman, "An empirical study of smoothing techniques for language
modeling" (1998), section 2.4.

An n-gram is counted by its key: 48 bits of hash of the context, then 16 bits of the next character's number. Keys are
sorted in pieces, and pieces merged in parts, so that memory is bounded and no single operation takes long.
"""

from collections.abc import Callable, Iterator

import numpy as np

LONGEST = 5  # characters of the longest context
HELD_OUT = 10  # one in so many characters, the text's last ones, is scored
FEWEST = 100  # characters of a text of which this says something
DISTINCT = 1 << 16  # characters that are told apart
SORTED_AT_ONCE = 1 << 20  # n-grams
PARTS = 16  # of all keys, by their first bits, which are the context's
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # an odd number: the golden ratio's bits, as in Fibonacci hashing
CONTEXT_BITS = np.uint64(0xFFFF_FFFF_FFFF_0000)
CHARACTER_BITS, PART_BITS = np.uint64(16), np.uint64(60)
Counts = tuple[np.ndarray, np.ndarray]  # keys in ascending order, and how often each occurs


def entropies(ids: np.ndarray, size: int, advance: Callable[[int], None] = lambda count: None) -> list[float]:
    """The entropy in bits per character for contexts of 0, 1, ... LONGEST characters; none for a text of under FEWEST.

    Args:
        ids: [n] uint16, the text.
        size: V, how many characters there are.
        advance: is called with the number of characters that were counted since the call before.
    """
    if len(ids) < FEWEST:
        return []
    trained = counted(len(ids))
    probabilities, found = np.full(len(ids) - trained, 1 / size), []
    for order in range(LONGEST + 1):
        runs = []
        for start in range(order, trained, SORTED_AT_ONCE):
            keys = _keys(ids, order, start, min(start + SORTED_AT_ONCE, trained))
            keys.sort()
            runs.append(_added(keys, np.ones(len(keys), np.int32)))
            advance(len(keys))
        asked = _keys(ids, order, trained, len(ids))
        parts = asked >> PART_BITS
        for part, (keys, counts) in enumerate(_merged(runs)):
            here = np.flatnonzero(parts == part)
            if len(here) and len(keys):
                probabilities[here] = _interpolated(keys, counts, asked[here], probabilities[here])
        found.append(abs(float(np.log2(probabilities).mean())))  # which is 0, and not -0, for one character alone
    return found


def counted(characters: int) -> int:
    """In how many characters, the first of so many, n-grams are counted; the others are scored."""
    return characters - characters // HELD_OUT


def _keys(ids: np.ndarray, order: int, start: int, end: int) -> np.ndarray:
    """The keys of the n-grams whose last characters are those from `start` to before `end`: [end - start] uint64."""
    keys = np.zeros(end - start, np.uint64)
    for back in range(order, 0, -1):
        keys += ids[start - back : end - back]
        keys *= MULTIPLIER
    keys &= CONTEXT_BITS
    keys |= ids[start:end]
    return keys


def _added(keys: np.ndarray, counts: np.ndarray) -> Counts:
    """Sorted keys with equal ones added up."""
    firsts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
    return keys[firsts], np.add.reduceat(counts, firsts)


def _merged(runs: list[Counts]) -> Iterator[Counts]:
    """All counts, in PARTS parts: of each context, all is in one part."""
    for part in range(PARTS):
        low = np.uint64(part) << PART_BITS
        high = low | (~np.uint64(0) >> np.uint64(4))
        pieces = []
        for keys, counts in runs:
            here = slice(np.searchsorted(keys, low), np.searchsorted(keys, high, "right"))
            pieces.append((keys[here], counts[here]))
        keys, counts = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        order = np.argsort(keys, kind="stable")
        yield _added(keys[order], counts[order]) if len(keys) else (keys, counts)


def _interpolated(keys: np.ndarray, counts: np.ndarray, asked: np.ndarray, shorter: np.ndarray) -> np.ndarray:
    """The probabilities of n-grams, [m], by their keys `asked` and what the contexts that are one shorter say."""
    of_all = keys & CONTEXT_BITS
    firsts = np.flatnonzero(np.append(True, of_all[1:] != of_all[:-1]))
    contexts, seen, kinds = of_all[firsts], np.add.reduceat(counts, firsts), np.diff(np.append(firsts, len(keys)))
    context = np.minimum(np.searchsorted(contexts, asked & CONTEXT_BITS), len(contexts) - 1)
    at = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    count = np.where(keys[at] == asked, counts[at], 0)
    n, t = seen[context], kinds[context]
    return np.where(contexts[context] == asked & CONTEXT_BITS, (count + t * shorter) / (n + t), shorter)
