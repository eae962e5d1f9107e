import numpy as np
import pytest

from cuchar.philox import dropout_mask, philox4x32


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


def test_mask_keeps_the_mean():
    kept = dropout_mask((100, 100, 10), 0.3, 1, 1, 0, np.float32) > 0
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / kept.size)


def test_seed_step_and_layer_each_change_the_mask():
    masks = [dropout_mask((4, 4, 8), 0.5, *key, np.float32) for key in ((0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1))]
    for i in range(4):
        for j in range(i):
            assert 32 < np.sum(masks[i] != masks[j]) < 96
