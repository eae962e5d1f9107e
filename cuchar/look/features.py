"""What a cell may track: properties of a text, each a number at every place.

A value belongs to the place of the character that was read last, as a cell's state does: after an opening bracket one is
inside, after the closing one no longer. Some values look ahead, such as the characters that are left in the line, since a
model that predicts the next character has to. What a letter or a capital is in any alphabet, Python's str knows.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

BRACKETS = ("()", "[]", "{}", "<>")
CURVED_QUOTES = ("“”", "«»")
SENTENCE_ENDS = ".!?…"
APOSTROPHES = "'\u2019"
BETWEEN_SENTENCES = APOSTROPHES + '"\u2018“”«»()[]{}'
SPEAKER = re.compile(r"([^:.\n]{2,30})([:.]|\r?$)", re.MULTILINE)  # a line's beginning, a name if its case says so
LEAST_PLACES = 20  # a property that sets fewer places apart is left out, and what concerns lines in a text of fewer


@dataclass(frozen=True)
class Feature:
    """A property of a text: values [n] float32, one at each place."""

    name: str
    values: np.ndarray


def features(codes: np.ndarray) -> list[Feature]:
    """All properties that vary in a text of code points, or byte values, `codes` [n]."""
    lines, count = Lines(codes), len(codes)
    quotes = straight_quotes(codes, lines) + [both for pair in CURVED_QUOTES for both in matched(codes, pair)]
    depths = {pair: depth(matched(codes, pair), count) for pair in BRACKETS}
    together = np.sum(list(depths.values()), axis=0)
    found: list[tuple[str, np.ndarray]] = [("inside quotes", depth(quotes, count) > 0)]
    found += [(f"inside {pair[0]} {pair[1]}", values > 0) for pair, values in depths.items()]
    if together.max(initial=0) > 1:
        found.append(("depth of brackets", together))
    if len(lines.starts) >= LEAST_PLACES:
        found += [
            ("position in the line", lines.read),
            ("characters left in the line", lines.left),
            ("indentation of the line", indentation(codes, lines)),
            ("speaker's name", speakers(codes, lines)),
        ]
    found += [
        ("position in the word", position_in_word(codes)),
        ("last letter of a word", last_letters(codes)),
        ("capital due after a full stop", capital_due(codes)),
    ]
    return [Feature(name, values.astype(np.float32)) for name, values in found if varies(values)]


def varies(values: np.ndarray) -> bool:
    """Whether at least LEAST_PLACES places differ from the commonest value."""
    return len(values) - int(np.unique(values, return_counts=True)[1].max(initial=0)) >= LEAST_PLACES


def are(codes: np.ndarray, test: Callable[[str], bool]) -> np.ndarray:
    """Which characters pass a test: [n] of bool."""
    distinct, where = np.unique(codes, return_inverse=True)
    return np.array([test(chr(code)) for code in distinct], bool)[where]


def counted(runs: np.ndarray) -> np.ndarray:
    """At each place, how many places up to it are True without a gap: [n]."""
    places = np.arange(1, len(runs) + 1)
    return places - np.maximum.accumulate(np.where(runs, 0, places))


class Lines:
    """The lines of a text. A line's end begins the next line: when it has been read, nothing of that line has.

    starts, ends: [lines], each line's first place, and the place of its line end, or where the text ends.
    number: [n], the line that is read on after each place; after the text's last line end, the one that ended.
    read, left: [n], how many characters of that line were read, and how many are left before its end. Both stop
        counting at the length that 99 of 100 lines do not exceed, since a single line may be very long.
    """

    def __init__(self, codes: np.ndarray):
        count, breaks = len(codes), np.flatnonzero(codes == ord("\n"))
        self.starts = np.concatenate([[0], breaks + 1])
        self.ends = np.concatenate([breaks, [count]])
        if self.starts[-1] == count:
            self.starts, self.ends = self.starts[:-1], self.ends[:-1]
        after = np.arange(1, count + 1)
        self.number = np.searchsorted(self.starts, after, "right") - 1
        most = np.percentile(self.ends - self.starts, 99, method="higher") if count else 0
        self.read = np.where(codes == ord("\n"), 0, np.minimum(after - self.starts[self.number], most))
        self.left = np.clip(self.ends[self.number] - after, 0, most)


def matched(codes: np.ndarray, pair: str) -> list[tuple[int, int]]:
    """Places of opening and closing brackets of a kind that belong together; those without a partner are left out."""
    opening, closing = map(ord, pair)
    pairs, still_open = [], []
    for at in np.flatnonzero((codes == opening) | (codes == closing)).tolist():
        if codes[at] == opening:
            still_open.append(at)
        elif still_open:
            pairs.append((still_open.pop(), at))
    return pairs


def straight_quotes(codes: np.ndarray, lines: Lines) -> list[tuple[int, int]]:
    """Places of straight quotation marks that belong together: a paragraph's first and second, and so on."""
    marks = np.flatnonzero(codes == ord('"'))
    blank = lines.starts[lines.ends - lines.starts <= 1]  # a carriage return, at most
    paragraph = np.searchsorted(blank, marks)
    pairs: list[tuple[int, int]] = []
    for each in np.unique(paragraph):
        within = marks[paragraph == each].tolist()
        pairs += zip(within[::2], within[1::2], strict=False)
    return pairs


def depth(pairs: Iterable[tuple[int, int]], count: int) -> np.ndarray:
    """In how many pairs each of `count` places lies: from the opening one on, and before the closing one."""
    changes = np.zeros(count, np.int64)
    for opening, closing in pairs:
        changes[opening] += 1
        changes[closing] -= 1
    return np.cumsum(changes)


def indentation(codes: np.ndarray, lines: Lines) -> np.ndarray:
    """How many blanks the line that is read began with, as far as it was read."""
    others = np.append(np.flatnonzero((codes != ord(" ")) & (codes != ord("\t"))), len(codes))
    width = others[np.searchsorted(others, lines.starts)] - lines.starts
    indented: np.ndarray = np.minimum(width[lines.number], lines.read)
    return indented


def speakers(codes: np.ndarray, lines: Lines) -> np.ndarray:
    """Whether a place is in the name that begins a line: words in capitals up to a stop, or capitalised ones up to a colon."""
    text = "".join(map(chr, codes.tolist()))
    values = np.zeros(len(codes), bool)
    for start in lines.starts.tolist():
        found = SPEAKER.match(text, start)
        if found and (found[1].isupper() or (found[2] == ":" and all(map(capitalised, found[1].split())))):
            values[start : found.end()] = True
    return values


def capitalised(word: str) -> bool:
    return word[0].isupper()


def words(codes: np.ndarray) -> np.ndarray:
    """Which characters are in words: letters, digits, and apostrophes between them."""
    word = are(codes, str.isalnum)
    apostrophe = are(codes, APOSTROPHES.__contains__)
    inside: np.ndarray = word | (apostrophe & np.append(False, word[:-1]) & np.append(word[1:], False))
    return inside


def position_in_word(codes: np.ndarray) -> np.ndarray:
    """How many characters of a word were read; 0 between words."""
    return counted(words(codes))


def last_letters(codes: np.ndarray) -> np.ndarray:
    """Whether a word ends with this character, which only a look ahead can tell."""
    word = words(codes)
    last: np.ndarray = word & ~np.append(word[1:], False)
    return last


def capital_due(codes: np.ndarray) -> np.ndarray:
    """Whether nothing but blanks, quotes and brackets has come since a sentence's end."""
    passed = are(codes, lambda character: character.isspace() or character in BETWEEN_SENTENCES)
    last = np.maximum.accumulate(np.where(passed, -1, np.arange(len(codes))))
    due: np.ndarray = (last >= 0) & are(codes, SENTENCE_ENDS.__contains__)[last]
    return due
