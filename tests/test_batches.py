"""Windows are cut as the notebook cuts them, texts that are too short are refused, validation text is split off."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuchar.batches import LargeRows, RowBeginnings, Windows, check_length, split_validation
from cuchar.config import TrainConfig
from cuchar.errors import TextError


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(0, 5), st.integers(0, 120))
def test_windows_are_the_notebooks(batch, window, stride, offset, spare):
    ids = np.arange(batch * (window + 1) + offset + spare)
    row_length = (len(ids) - offset) // batch
    rows = [ids[offset + row * row_length :][:row_length].tolist() for row in range(batch)]
    expected, start = [], 0
    while start < row_length - window:
        expected.append([
            ([row[start + t] for row in rows], [row[start + t + 1] for row in rows]) for t in range(window)
        ])  # fmt: skip
        start += stride
    windows = Windows(ids, batch, window, stride, offset)
    found = [list(zip(x.tolist(), y.tolist(), strict=True)) for x, y in map(windows.__getitem__, range(len(windows)))]
    assert found == expected and expected


@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(0, 5), st.integers(0, 120),
    st.sampled_from(["u1", "u2"]), st.data(),
)  # fmt: skip
def test_a_part_of_the_windows_has_what_they_have(batch, window, stride, offset, spare, dtype, data):
    ids = (np.arange(batch * (window + 1) + offset + spare) % 251).astype(dtype)
    windows = Windows(ids, batch, window, stride, offset)
    first = data.draw(st.integers(0, len(windows) - 1))
    count = data.draw(st.integers(1, len(windows) - first))
    low = data.draw(st.integers(0, batch - 1))
    rows = slice(low, data.draw(st.integers(low + 1, batch)))
    part = windows.part(first, count, rows)
    assert len(part) == count and part.ids.dtype == dtype
    assert part.ids.size == (rows.stop - low) * ((count - 1) * stride + window + 1)  # and nothing else
    sent = pickle.loads(pickle.dumps(part))
    for index in range(count):
        for found in (part[index], sent[index]):
            for ours, whole in zip(found, windows[first + index], strict=True):
                assert np.array_equal(ours, whole[:, rows])
    everything = windows.part(0, len(windows))
    assert all(np.array_equal(everything[i][1], windows[i][1]) for i in range(len(windows)))


def test_windows_are_sent_with_their_ids_once():
    windows = Windows(np.zeros(10_000, np.uint8), 3, 7, 5, offset=4)
    sent = pickle.dumps(windows)
    assert len(sent) < 10_500
    received = pickle.loads(sent)
    assert (received.window, received.stride, received.offset) == (7, 5, 4) and received.starts == windows.starts
    assert np.array_equal(received.rows, windows.rows)


@pytest.mark.parametrize("carry_state", [False, True])
@pytest.mark.parametrize("batch,window", [(1, 1), (3, 5), (32, 32)])
def test_shortest_text_has_a_window_at_every_offset_and_one_less_is_refused(batch, window, carry_state):
    config = TrainConfig(batch=batch, window=window, carry_state=carry_state)
    shortest = batch * (window + 1) + (0 if carry_state else window - 1)
    check_length(shortest, config)
    for offset in range(1 if carry_state else window):
        assert len(Windows(np.zeros(shortest), batch, window, window, offset)) >= 1
    with pytest.raises(TextError, match=f"expected at least {shortest:,} characters .* found {shortest - 1:,}"):
        check_length(shortest - 1, config)
    worst = 0 if carry_state else window - 1
    assert len(Windows(np.zeros(shortest - 1), batch, window, window, worst)) == 0


def test_a_text_that_the_validation_text_leaves_too_short_is_refused_with_that_reason():
    config = TrainConfig(batch=2, window=3, val_fraction=0.75)
    found = "found 9 beside those that val_fraction=0.75 sets aside; batch=1 or window=2 would fit$"
    with pytest.raises(TextError, match=f"^the text is too short: expected at least 10 characters for .*, {found}"):
        check_length(9, config)


@given(st.integers(2, 3000), st.integers(1, 60), st.integers(1, 60), st.booleans())
def test_what_is_said_to_fit_fits(characters, batch, window, carry_state):
    config = TrainConfig(batch=batch, window=window, carry_state=carry_state)
    try:
        check_length(characters, config)
    except TextError as error:
        offers = str(error).split("; ")[1].removesuffix(" would fit").split(" or ")
        for offer in offers:
            offered = {name: int(value) for name, value in (word.split("=") for word in offer.split())}
            sizes = {"batch": batch, "window": window} | offered
            check_length(characters, TrainConfig(carry_state=carry_state, **sizes))
            if len(offers) == 2 and "batch" in offered:  # the largest that fits
                with pytest.raises(TextError):
                    check_length(
                        characters, TrainConfig(carry_state=carry_state, **sizes | {"batch": sizes["batch"] + 1})
                    )


def test_tail_split_keeps_the_last_part_as_one_stream():
    training, validation = split_validation(np.arange(100), TrainConfig(val_fraction=0.1))
    assert training.tolist() == list(range(90)) and validation.tolist() == [list(range(90, 100))]


def test_streams_split_takes_the_tail_of_each_row():
    config = TrainConfig(val_fraction=0.25, val_split="streams", batch=3)
    training, validation = split_validation(np.arange(26), config)
    assert training.tolist() == [*range(0, 6), *range(8, 14), *range(16, 22)]
    assert validation.tolist() == [[6, 7], [14, 15], [22, 23]]


@given(
    st.integers(60, 400), st.integers(1, 20), st.integers(1, 8), st.integers(0, 7), st.integers(1, 200), st.booleans()
)
def test_a_large_text_that_is_not_copied_gives_the_same_windows(characters, batch, window, offset, ahead, has_ends):
    rows = np.arange(characters // batch * batch).reshape(batch, -1)[:, : -1 if has_ends else None]
    copied, large = rows.reshape(-1), RowBeginnings(rows) if has_ends else rows.reshape(-1)
    plain = Windows(copied, batch, window, 3, offset)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cuchar.batches.LARGE", 0)
        patched.setattr("cuchar.batches.READ_AHEAD", ahead)
        ours = Windows(large, batch, window, 3, offset)
        assert isinstance(ours.rows, LargeRows) and ours.rows.shape == plain.rows.shape and len(ours) == len(plain)
        for index in range(len(plain)):
            for found, expected in zip(ours[index], plain[index], strict=True):
                assert np.array_equal(found, expected)
        if len(plain):
            parts = [windows.part(0, len(plain), slice(0, 2)).ids for windows in (ours, plain)]
            assert np.array_equal(*parts)
    assert len(large) == len(copied) and np.array_equal(np.asarray(large), copied)


def test_streams_of_a_large_text_are_split_as_those_of_a_small_one(monkeypatch):
    config = TrainConfig(val_fraction=0.25, val_split="streams", batch=3)
    plain = split_validation(np.arange(26), config)
    monkeypatch.setattr("cuchar.batches.LARGE", 0)
    training, validation = split_validation(np.arange(26), config)
    assert isinstance(training, RowBeginnings) and np.array_equal(np.asarray(training), plain[0])
    assert validation.shape == (3, 2) and np.array_equal(validation[:, 0:2], plain[1])
    assert validation[1:, 1:2].tolist() == [[15], [23]]
    assert [(len(row), row[1:2].tolist()) for row in validation] == [(2, [7]), (2, [15]), (2, [23])]


def test_validation_too_short_to_score_is_refused():
    with pytest.raises(TextError, match="at least 2 characters of validation text a stream, found 1"):
        split_validation(np.arange(100), TrainConfig(val_fraction=0.01))
