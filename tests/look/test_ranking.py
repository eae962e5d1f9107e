"""Scores are partial correlations, and what is only chance is not said to be found."""

import numpy as np
import pytest

from cuchar.look.features import Feature
from cuchar.look.ranking import MARGIN, Correlations, Properties, Ranking, frequent_sequences


def ranked(
    ids: np.ndarray, features: list[Feature], cells: np.ndarray, block: int = 1000
) -> tuple[Properties, Ranking]:
    properties = Properties(ids, features)
    correlations = Correlations(ids, properties, cells.shape[1])
    places = np.random.default_rng(5).permutation(len(ids) + 50)  # blocks need not come in order, and may be filled up
    padded = np.concatenate([cells, np.ones((50, cells.shape[1]))]).astype(np.float32)
    for start in range(0, len(places), block):
        correlations.add(places[start : start + block], padded[places[start : start + block]])
    return properties, correlations.ranking()


def smooth(generator: np.random.Generator, count: int, columns: int, memory: float) -> np.ndarray:
    """Independent signals between -1 and 1 that forget by `memory` a place, as cells do."""
    values, now = np.empty((count, columns)), np.zeros(columns)
    for noise, row in zip(generator.normal(size=(count, columns)), values, strict=True):
        now = memory * now + noise
        row[:] = now
    return np.tanh(values / values.std())


def spans(generator: np.random.Generator, count: int, longest: int) -> np.ndarray:
    """0 and 1 in turns, for 1 to `longest` places each."""
    lengths = generator.integers(1, longest, count)
    return np.repeat(np.arange(count) % 2, lengths)[:count].astype(np.float32)


def test_scores_are_what_a_regression_on_the_current_character_leaves():
    generator, n = np.random.default_rng(0), 4000
    ids = generator.integers(0, 6, n, np.uint8)
    features = [Feature("a", spans(generator, n, 50) + ids), Feature("b", generator.normal(size=n).astype(np.float32))]
    cells = 0.3 * smooth(generator, n, 4, 0.9) + 0.1 * ids[:, None] + 0.2 * features[0].values[:, None]
    properties, ranking = ranked(ids, features, cells)
    one_hot = np.eye(6)[ids]
    ends = [np.convolve(ids[:-1] == ids_[0], [1])[: n - 1] & (ids[1:] == ids_[1]) for ids_ in properties.sequences[:3]]
    columns = np.stack([each.values for each in features] + [np.append(0, each) for each in ends], axis=1)
    left = [values - one_hot @ np.linalg.lstsq(one_hot, values, rcond=None)[0] for values in (cells, columns)]
    expected = np.corrcoef(*left, rowvar=False)[:4, 4:]
    assert np.abs(ranking.scores[:, [0, 1, 2, 3, 4]] - expected).max() < 1e-4  # float32 products of 4,000 numbers
    assert np.abs(ranking.plain[:, [0, 1, 2, 3, 4]] - np.corrcoef(cells, columns, rowvar=False)[:4, 4:]).max() < 1e-4
    explained = 1 - left[0].var(axis=0) / cells.var(axis=0)
    assert np.abs(ranking.explained - explained).max() < 1e-4


def test_the_planted_cell_is_first_and_the_character_s_is_not_praised():
    """Cell 3 tracks spans, cell 5 sees the character that begins them, cell 6 does not move, the others are noise."""
    generator, n = np.random.default_rng(1), 20_000
    inside = spans(generator, n, 40)
    ids = generator.integers(1, 20, n, np.uint8)
    ids[np.flatnonzero(np.diff(inside) == 1) + 1] = 0
    cells = smooth(generator, n, 8, 0.95)
    cells[:, 3] = np.tanh(-1.5 * inside + 0.3 * generator.normal(size=n))
    cells[:, 5] = np.where(ids == 0, 1, -1)
    cells[:, 6] = -0.7
    _properties, ranking = ranked(ids, [Feature("inside", inside)], cells)
    assert ranking.order()[0] == 3 and ranking.tracked(3) == [0] and ranking.scores[3, 0] < -0.8
    assert ranking.explained[5] == pytest.approx(1) and not ranking.scores[5].any()
    assert ranking.explained[6] == 0 and not ranking.scores[6].any()
    assert [cell for cell in range(8) if ranking.tracked(cell)] == [3]
    assert ranking.plain[5, 0] > 0.1  # which a plain correlation would have shown


@pytest.mark.parametrize("memory", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("n", [60, 700, 20_000])
def test_in_noise_nothing_is_found(memory, n):
    """Signals that change slowly correlate by chance; the control says how much."""
    generator = np.random.default_rng(2)
    features = [Feature(str(length), spans(generator, n, length)) for length in (5, 50)]
    ids = generator.integers(0, 5, n, np.uint8)
    _, ranking = ranked(ids, features, smooth(generator, n, 40, memory))
    assert [cell for cell in range(40) if ranking.tracked(cell)] == []
    if (memory, n) == (0.99, 700):
        assert np.abs(ranking.scores[:, :2]).max() > MARGIN  # without a control, something would have been


def test_a_text_that_repeats_itself_has_a_control_all_the_same():
    """Moved as a whole, a position in lines of equal length would stay what it was; piece by piece it does not."""
    generator, n = np.random.default_rng(3), 20_000
    position = (np.arange(n) % 30).astype(np.float32)
    cells = np.column_stack([np.tanh(position / 15 - 1), smooth(generator, n, 1, 0.9)[:, 0]])
    _, ranking = ranked(generator.integers(0, 5, n, np.uint8), [Feature("position", position)], cells)
    assert ranking.scores[0, 0] > 0.95 and ranking.controls[0] < 0.5
    assert ranking.tracked(0) == [0] and ranking.tracked(1) == []


def test_frequent_sequences():
    ids = np.array([0, 1, 2] * 30 + [3] + [0, 1] * 30, np.uint16)
    found, ending = frequent_sequences(ids, 2, 3)
    assert found.tolist() == [[0, 1], [1, 2], [1, 0]]
    for at in range(len(ids)):
        pair = ids[at - 1 : at + 1].tolist()
        assert (found.tolist().index(pair) if at and pair in found.tolist() else -1) == ending[at]
    assert frequent_sequences(ids[:1], 2, 3)[0].shape == (0, 2)
    assert frequent_sequences(np.arange(19, dtype=np.uint8), 2, 3)[1].max() == -1  # none is frequent
    far_apart = np.array([0, 65_535] * 40, np.uint16)
    assert frequent_sequences(far_apart, 4, 5)[0].tolist() == [[0, 65_535] * 2, [65_535, 0] * 2]


def test_rare_characters_are_one():
    """More characters than are told apart, which a smaller number for each could not hold."""
    generator = np.random.default_rng(4)
    ids = np.concatenate([np.arange(1000), generator.integers(0, 300, 3000)]).astype(np.uint16)
    inside = spans(generator, 4000, 40)
    _, ranking = ranked(ids, [Feature("inside", inside)], inside[:, None] + generator.normal(size=(4000, 1)) / 10)
    assert ranking.tracked(0) == [0]
