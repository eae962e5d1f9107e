"""Every property's values on texts that are small enough to see them."""

import numpy as np
import pytest

from cuchar.look import features as rooms
from cuchar.look.features import Lines, features


@pytest.fixture(autouse=True)
def few_places(monkeypatch):
    monkeypatch.setattr(rooms, "LEAST_PLACES", 1)


def values(name: str, text: str) -> str:
    """A property's values, a digit for each character; empty where the property does not vary."""
    found = {each.name: each.values for each in features(np.array([*map(ord, text)], np.uint32))}
    return "".join(f"{value:g}" for value in found.get(name, ()))


@pytest.mark.parametrize(
    "name,text,expected",
    [
        ("inside quotes", 'a "b c" d', "001111000"),
        ("inside quotes", 'a "b\n\n"c" d', "00000011000"),  # what a paragraph leaves open, the next one does not close
        ("inside quotes", '"a\nb" c', "1111000"),  # but a line's end does not end it
        ("inside quotes", '"a\r\n\r\nb "c"', "00000000110"),
        ("inside quotes", "“a “b” c” d", "11111111000"),
        ("inside quotes", "«a» b", "11000"),
        ("inside ( )", "a (b (c) d) e", "0011111111000"),
        ("inside ( )", "a) (b", ""),
        ("inside [ ]", "([)a](b)", "01110000"),
        ("inside { }", "f{a}", "0110"),
        ("inside < >", "<b>c", "1100"),
        ("depth of brackets", "(a[b(c)])d", "1122332100"),
        ("position in the line", "abc\nde\n\nf", "123012001"),
        ("characters left in the line", "abc\nde\n\nf", "210210010"),
        ("indentation of the line", "a\n  b\n\t c d\ne", "0012201222200"),
        ("speaker's name", "KING.\nCome in.\nFirst Lord: no\nSo it is: no", "11111" + "0" * 10 + "1" * 11 + "0" * 16),
        ("speaker's name", "ALL\nA\nnot: I", "111" + "0" * 9),
        ("position in the word", "ab it's 'o'", "12012340010"),
        ("last letter of a word", "ab it's 'o'", "01000010010"),
        ("last letter of a word", "né à", "0101"),
        ("capital due after a full stop", 'He. "So?" 3.1', "0011100111010"),
    ],
)
def test_values(name, text, expected):
    assert values(name, text) == expected


def test_lines_of_extreme_length_do_not_count_beyond_the_others():
    text = np.array([*map(ord, "ab\n" * 300 + "c" * 1000 + "\n")], np.uint32)
    lines = Lines(text)
    assert (lines.read.max(), lines.left.max()) == (2, 2)
    assert lines.read[900:904].tolist() == [1, 2, 2, 2] and lines.left[-5:].tolist() == [2, 2, 1, 0, 0]


def test_what_does_not_vary_is_left_out(monkeypatch):
    monkeypatch.setattr(rooms, "LEAST_PLACES", 20)
    alone, twenty_lines = np.full(50, ord("a"), np.uint32), np.array([*map(ord, "a b\n" * 20)], np.uint32)
    assert [each.name for each in features(alone)] == ["position in the word"]
    assert "position in the line" in [each.name for each in features(twenty_lines)]
    assert "position in the line" not in [each.name for each in features(twenty_lines[:-4])]
    assert features(alone[:0]) == []


def test_bytes_are_text_too():
    found = features(np.frombuffer('é "a" '.encode() * 9, np.uint8))
    assert "inside quotes" in [each.name for each in found]
