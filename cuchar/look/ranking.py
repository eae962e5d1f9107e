"""Which cell tracks what: a score of every cell for every property of the text, beside what chance gives.

The score is a partial correlation: that of tanh(c) and the property between places that show the same character. It is
Pearson's correlation of both after each has lost its mean at places with this character, and is what a linear
regression that already knows the current character would still gain (for a property that is true or false it corresponds
to the point-biserial correlation). The plain correlation would praise a cell that just sees the character `"` for tracking quotes. Of
the characters, the commonest 255 are told apart and the others are one.

Two signals that change slowly correlate by chance, however long the text, and a test that takes characters for independent
is wrong by orders of magnitude (Harris 2020, Nonsense correlations in neuroscience). So the control is the same score
of properties that were moved: the text is cut into pieces, up to 64, and each piece gets the property of a piece elsewhere, drawn at
random. This keeps how slowly both change, and destroys what ties them together, also in a text that repeats itself, since
every piece is moved by an amount of its own. The control of a property is the largest score of any cell in any of DRAWS
such texts (as Westfall and Young 1993 correct for having many hypotheses to choose from); that of sequences of characters is
the largest of any cell for any sequence. A cell tracks a property if its score exceeds the control by MARGIN.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cuchar.look.features import LEAST_PLACES, Feature

MARGIN = 0.2
ROUNDING = 1e-6  # of a sum of squares, what may be left by rounding alone where nothing varies
DRAWS = 5
PIECES = 64
SHORTEST_PIECE = 256
TOLD_APART = 256  # characters, the last of which stands for all others
NGRAMS = {2: 30, 3: 30, 4: 30}  # by their length, how many of the most frequent sequences are tried


class Properties:
    """All that cells are held against: M features, and G frequent sequences of characters, each 1 where it ends.

    Args:
        ids: [n], the whole text.
        features: what is known about it (features.py).
    """

    def __init__(self, ids: np.ndarray, features: list[Feature]):
        self.count, self.features = len(ids), [each.name for each in features]
        self.values = np.empty((len(ids), len(features)), np.float32)
        for column, each in zip(self.values.T, features, strict=True):
            column[:] = (each.values - each.values.mean(dtype=np.float64)) / each.values.std(dtype=np.float64)
        self.sequences: list[np.ndarray] = []  # ids of each sequence, in the order of the columns
        self.ending: list[
            tuple[np.ndarray, int]
        ] = []  # by length: which sequence ends at each place, and how many there are
        for length, most in NGRAMS.items():
            found, ending = frequent_sequences(ids, length, most)
            self.sequences += list(found)
            self.ending.append((ending, len(found)))

    def __len__(self) -> int:
        return len(self.features) + len(self.sequences)

    def at(self, places: np.ndarray) -> np.ndarray:
        """The properties at some places, as rows [len(places), M + G] float32."""
        ends = [ending[places, None] == np.arange(count, dtype=ending.dtype) for ending, count in self.ending]
        return np.concatenate([self.values[places], *ends], axis=1, dtype=np.float32)


def frequent_sequences(ids: np.ndarray, length: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent sequences of a length, [at most `most`, length], and which of them ends at each place, or -1."""
    ending = np.full(len(ids), -1, np.int8)
    if len(ids) < length:
        return np.empty((0, length), ids.dtype), ending
    keys = np.zeros(len(ids) - length + 1, np.uint64)
    for offset in range(length):
        keys = (keys << np.uint64(16)) | ids[offset : offset + len(keys)].astype(np.uint64)
    distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
    chosen = np.argsort(-counts, kind="stable")[:most]
    chosen = chosen[counts[chosen] >= LEAST_PLACES]
    order = np.argsort(distinct[chosen])
    found = np.searchsorted(distinct[chosen][order], keys).clip(max=max(0, len(chosen) - 1))
    if len(chosen):
        ending[length - 1 :] = np.where(distinct[chosen][order][found] == keys, order[found], -1)
    return ids[first[chosen, None] + np.arange(length)], ending


@dataclass(frozen=True)
class Ranking:
    """K cells held against the properties: M features, then G sequences.

    scores: [K, M + G], partial correlations, from -1 to 1.
    plain: [K, M + G], plain correlations.
    controls: [M + G], what the absolute scores reach by chance.
    explained: [K], the share of a cell's variance that the current character explains, 0 to 1.
    """

    scores: np.ndarray
    plain: np.ndarray
    controls: np.ndarray
    explained: np.ndarray

    def tracked(self, cell: int) -> list[int]:
        """The properties that a cell tracks, from the highest score on."""
        scores = np.abs(self.scores[cell])
        order = np.argsort(-scores, kind="stable")
        return [at for at in order.tolist() if scores[at] >= self.controls[at] + MARGIN]

    def order(self) -> list[int]:
        """All cells: first those that track something, by their best score, then the others, by theirs."""
        best = [np.abs(self.scores[cell, self.tracked(cell)[:1]]).max(initial=0) for cell in range(len(self.scores))]
        rest = np.abs(self.scores).max(axis=1, initial=0)
        return sorted(range(len(best)), key=lambda cell: (-best[cell], -rest[cell]))


class Correlations:
    """Sums that give a `Ranking`, block by block: no more of the activations is kept than sums.

    Args:
        ids: [n], the whole text.
        cells: how many cells there are, K.
    """

    def __init__(self, ids: np.ndarray, properties: Properties, cells: int):
        self.properties, self.count = properties, len(ids)
        commonest = np.argsort(-np.bincount(ids), kind="stable")
        group = np.full(len(commonest), TOLD_APART - 1)
        group[commonest[: TOLD_APART - 1]] = np.arange(len(commonest[: TOLD_APART - 1]))
        self.groups = group[ids].astype(np.uint8)  # [n], which of the characters that are told apart each one is
        self.piece = max(SHORTEST_PIECE, -(-self.count // PIECES))
        generator = np.random.default_rng(0)
        pieces = -(-self.count // self.piece)
        self.shifts = generator.integers(self.count // 8, self.count - self.count // 8, (DRAWS, pieces))
        columns = len(properties) * (1 + DRAWS)
        groups = min(len(commonest), TOLD_APART)
        self.sizes = np.maximum(np.bincount(self.groups, minlength=groups), 1).astype(np.float64)
        self.cell_sums, self.cell_squares = np.zeros((groups, cells)), np.zeros(cells)
        self.sums, self.squares, self.products = (
            np.zeros((groups, columns)),
            np.zeros(columns),
            np.zeros((cells, columns)),
        )

    def add(self, places: np.ndarray, cells: np.ndarray) -> None:
        """Count in tanh(c) of some places: [len(places)] and [len(places), K]; places beyond the text are left out."""
        within = places < self.count
        if not within.all():
            places, cells = places[within], cells[within]
        if not len(places):
            return
        values = np.concatenate([self.properties.at(each) for each in self._moved(places)], axis=1)
        groups = self.groups[places]
        order = np.argsort(groups, kind="stable")
        found, first = np.unique(groups[order], return_index=True)
        self.cell_sums[found] += np.add.reduceat(cells[order], first, axis=0)
        self.sums[found] += np.add.reduceat(values[order], first, axis=0)
        self.cell_squares += np.einsum("nk,nk->k", cells, cells)
        self.squares += np.einsum("nk,nk->k", values, values)
        self.products += cells.T @ values

    def _moved(self, places: np.ndarray) -> Iterator[np.ndarray]:
        """The places themselves, and then for each draw those whose properties they get in their stead."""
        yield places
        for shifts in self.shifts:
            yield (places + shifts[places // self.piece]) % self.count

    def ranking(self) -> Ranking:
        """What the sums come to, once every place was counted in."""
        own, count = len(self.properties), self.count
        cell_total, total = self.cell_sums.sum(axis=0), self.sums.sum(axis=0)
        means = self.cell_sums / self.sizes[:, None]
        cell_variance = varying(self.cell_squares - cell_total**2 / count, self.cell_squares)
        within_cells = varying(self.cell_squares - (means * self.cell_sums).sum(axis=0), self.cell_squares)
        within = varying(self.squares - (self.sums**2 / self.sizes[:, None]).sum(axis=0), self.squares)
        variance = varying(self.squares[:own] - total[:own] ** 2 / count, self.squares[:own])
        products = self.products[:, :own] - np.outer(cell_total, total[:own]) / count
        plain = correlation(products, cell_variance, variance)
        scores = correlation(self.products - means.T @ self.sums, within_cells, within)
        controls = np.abs(scores[:, own:]).reshape(len(scores), DRAWS, own).max(axis=(0, 1), initial=0)
        sequences = slice(len(self.properties.features), None)
        controls[sequences] = controls[sequences].max(initial=0)
        varies = cell_variance > 0
        explained = np.where(varies, 1 - within_cells / np.where(varies, cell_variance, 1), 0)
        return Ranking(scores[:, :own], plain, controls, explained)


def varying(centred: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Sums of squares after the means were taken off, and 0 where what is left of `squares` is rounding."""
    return np.where(centred > ROUNDING * squares, centred, 0)


def correlation(products: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Correlations [K, C] from centred sums: of products [K, C], of squares [K] and [C]; 0 where one does not vary."""
    scale = np.sqrt(np.outer(left, right))
    ratio: np.ndarray = np.divide(products, scale, out=np.zeros(products.shape), where=scale > 0)
    return ratio.clip(-1, 1)
