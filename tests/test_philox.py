"""Philox gives the words of Random123, and masks and draws take words that nothing else takes."""

import numpy as np
import pytest

from cuchar.philox import dropout_mask, philox4x32, uniforms, weight_dropout_mask


@pytest.mark.parametrize(
    "counter,key,expected",
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_random123(counter, key, expected):
    assert tuple(int(word) for word in philox4x32(counter, key)) == expected


def test_mask_element_is_word_of_its_counter():
    seed, step, layer = (5 << 32) | 7, (3 << 32) | 11, 2
    mask = dropout_mask((2, 3, 5), 0.4, seed, step, layer, np.float64).reshape(-1)
    for element in range(30):
        word = philox4x32((element // 4, layer, 11, 3), (7, 5))[element % 4]
        assert mask[element] == (1 / 0.6 if word >= 0.4 * 2**32 else 0)


def test_any_rows_of_a_batch_have_its_mask():
    whole = dropout_mask((3, 7, 5), 0.4, 1, 2, 0, np.float64)
    for first in range(7):
        for end in range(first + 1, 8):
            rows = dropout_mask((3, end - first, 5), 0.4, 1, 2, 0, np.float64, first, 7)
            assert np.array_equal(rows, whole[:, first:end])


def test_mask_keeps_the_mean():
    kept = dropout_mask((100, 100, 10), 0.3, 1, 1, 0, np.float32) > 0
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / kept.size)


def test_seed_step_and_layer_each_change_the_mask():
    masks = [dropout_mask((4, 4, 8), 0.5, *key, np.float32) for key in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1))]
    for i in range(4):
        for j in range(i):
            assert 32 < np.sum(masks[i] != masks[j]) < 96


def test_mask_of_weights_is_words_that_no_output_has():
    seed, step, layer = (5 << 32) | 7, (3 << 32) | 11, 2
    mask = weight_dropout_mask(5, 0.4, seed, step, layer, np.float64)
    assert mask.shape == (20, 5)
    for element, factor in enumerate(mask.reshape(-1)):
        word = philox4x32((element // 4, (1 << 30) + layer, 11, 3), (7, 5))[element % 4]
        assert factor == (1 / 0.6 if word >= 0.4 * 2**32 else 0)


def test_a_draw_is_made_of_words_of_its_counter():
    seed, position, stream = (5 << 32) | 7, (3 << 32) | 11, (2 << 32) | 13
    found = uniforms(seed, range(stream, stream + 2), range(position, position + 3))
    for k in range(3):
        for s in range(2):
            high, low, _, _ = philox4x32((11 + k, 3 | 1 << 31, 13 + s, 2), (7, 5))
            assert found[k, s] * 2**53 == (int(high) << 21) + (int(low) >> 12) * 2 + 1


def test_no_draw_takes_the_words_of_a_mask():
    """The counter's second word is below 2^31 for a mask of any layer, element and step, and is not for a draw."""
    words = [philox4x32((0, second, 0, 0), (0, 0))[0] for second in (*range(8), 1 << 31, (1 << 31) + 1)]
    assert uniforms(0, range(1), range(1))[0, 0] * 2**32 // 1 == words[8] and len({int(word) for word in words}) == 10
    assert uniforms(0, range(1), range(1 << 32, (1 << 32) + 1))[0, 0] * 2**32 // 1 == words[9]


def test_draws_are_uniform_and_never_0_or_1(monkeypatch):
    """The least and the largest words give draws inside (0, 1); means of many draws, and of parts of them, are 1/2."""
    for word, expected in ((0, 2.0**-53), (2**32 - 1, 1 - 2.0**-53)):
        with monkeypatch.context() as patch:
            patch.setattr("cuchar.philox.philox4x32", lambda *_, word=word: [np.array(word, np.uint64)] * 4)
            assert uniforms(0, range(1), range(1)) == expected
    found = uniforms(0, range(1000), range(100))
    for part in (found, found[:10], found[:, :100], found[::2], found[:, 1::2]):
        assert abs(part.mean() - 0.5) < 5 * np.sqrt(1 / 12 / part.size)
    assert len(np.unique(found)) == found.size
