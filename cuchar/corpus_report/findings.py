"""What is worth a look in a text before a model is trained on it, where it is, and what to do about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cuchar.corpus_report.characters import Characters
from cuchar.corpus_report.lines import Lines
from cuchar.corpus_report.repeats import LONG, Repeats
from cuchar.corpus_report.spans import Place
from cuchar.corpus_report.survey import Survey
from cuchar.reading import Reading
from cuchar.vocabulary import MAX_VOCABULARY, UNKNOWN_CODE
from cuchar.wording import option

RARE = 10  # a character that occurs fewer times is rare
MANY_RARE = 100  # so many rare characters are told of, also where they are more than a hundredth of the text
REPEATED = 0.01  # the share of repeated long lines from which on they are told of
LONG_LINE = 10_000  # characters
C0 = [code for code in range(0x20) if chr(code) not in "\0\t\n\f\r"] + [0x7F]
C1 = list(range(0x80, 0xA0))
MARK = 0xFEFF  # the byte order mark
ZERO_WIDTH = [0x200B, 0x200C, 0x200D, 0x2060]
NO_BREAK_SPACES, SEPARATORS, SOFT_HYPHEN = [0xA0, 0x202F], [0x2028, 0x2029], 0xAD


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    Args:
        name: a word for programs.
        what: what was found, and how much of it.
        place: where it is first, or a file; None if it is nowhere in particular.
        advice: what to do about it.
    """

    name: str
    what: str
    place: str | None
    advice: str

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{self.what}{f' ({self.place})' if self.place else ''}: {self.advice}"


def findings(survey: Survey) -> list[Finding]:
    """All that was found, what damages a text most at first."""
    of_text = (
        []
        if survey.reading.as_bytes
        else [*_of_encoding(survey), *_of_characters(survey.characters, survey.reading, survey.mojibake.seen.count > 0)]
    )
    return [*of_text, *_of_lines(survey.lines, survey.characters), *_of_repeats(survey.repeats), *_of_rare(survey)]


def _of_encoding(survey: Survey) -> Iterator[Finding]:
    reading, mojibake = survey.reading, survey.mojibake.seen
    if mojibake.count:
        undo = "ftfy repairs it (pip install ftfy)"
        if reading.encoding == "latin-1":
            undo = f"the text may be UTF-8, which is read without {option('encoding', 'latin-1')}"
        yield Finding(
            "mojibake", f"what looks like UTF-8 that was read as Latin-1, as Ã© for é, {_times(mojibake.count)}",
            _first(mojibake.first), undo,
        )  # fmt: skip
    if survey.decomposed.first:
        yield Finding(
            "decomposed", f"text that is not in composed form (NFC), which has {_count(survey.decomposed.lost, 'character')} fewer",
            _first(survey.decomposed.first), f"{option('normalize', 'nfc')} composes them",
        )  # fmt: skip
    if survey.marked:
        yield Finding(
            "bom", f"a byte order mark at the beginning of {_count(len(survey.marked), 'file')}", str(survey.marked[0]),
            "it is left out when the text is read; there is nothing to do",
        )  # fmt: skip


def _of_characters(characters: Characters, reading: Reading, has_mojibake: bool) -> Iterator[Finding]:
    windows = "iconv -f WINDOWS-1252 -t UTF-8 reads Windows-1252, whose quotes and dashes become these in Latin-1"
    if reading.encoding != "latin-1":
        windows = f"quotes and dashes of Windows-1252 that was read as Latin-1, most likely; {windows}"
    perl = "perl -pe" if reading.encoding == "latin-1" else "perl -CSD -pe"
    spaces = (
        "they look like spaces; where French, or a number, does not need them, "
        f"{perl} 's/[\\x{{A0}}\\x{{202F}}]/ /g' makes spaces of them"
    )
    hyphens = f"they are seen at a line's end alone; {perl} 's/\\x{{AD}}//g' removes them"
    if has_mojibake:
        windows = spaces = hyphens = "they belong to what was read as Latin-1, most likely, and go with it"
    for name, what, codes, advice in (
        ("replaced", "the replacement character U+FFFD", [UNKNOWN_CODE], "something was lost when the text was converted; convert it again"),
        ("nul", "the character NUL", [0], "binary files have it, and UTF-16; iconv -f UTF-16 -t UTF-8 converts the latter"),
        ("c1", "control characters U+0080 to U+009F", C1, windows),
        ("c0", "other control characters", C0, f"leave binary files out, by {option('glob')}, or remove the characters, by tr -d"),
        ("inner_bom", "byte order marks inside the text", [MARK], "files were joined with theirs; sed 's/\\xEF\\xBB\\xBF//g' removes it"),
        ("zero_width", "characters that take no room (U+200B to U+200D, U+2060)", ZERO_WIDTH, f"Persian, Indic scripts and emoji need U+200C and U+200D; elsewhere, {perl} 's/[\\x{{200B}}-\\x{{200D}}\\x{{2060}}]//g' removes them"),
        ("no_break_spaces", "no-break spaces (U+00A0, U+202F)", NO_BREAK_SPACES, spaces),
        ("separators", "line and paragraph separators (U+2028, U+2029)", SEPARATORS, f"they end no line here; {perl} 's/[\\x{{2028}}\\x{{2029}}]/\\n/g' makes line ends of them"),
        ("soft_hyphens", "soft hyphens (U+00AD)", [SOFT_HYPHEN], hyphens),
    ):  # fmt: skip
        yield from _occurring(characters, name, what, codes, advice)


def _occurring(characters: Characters, name: str, what: str, codes: list[int], advice: str) -> Iterator[Finding]:
    found = [code for code in codes if characters.counts[code]]
    if found:
        count = int(characters.counts[found].sum())
        yield Finding(name, f"{what}, {_times(count)}", _first(characters.first(found)), advice)


def _of_lines(lines: Lines, characters: Characters) -> Iterator[Finding]:
    kinds = [
        (seen.count, name, seen.first)
        for name, seen in (("LF", lines.lf), ("CRLF", lines.crlf), ("CR", lines.cr))
        if seen.count
    ]
    if len(kinds) > 1:
        _, rarest, place = min(kinds, key=lambda kind: kind[0])
        counts = ", ".join(f"{count:,} {name}" for count, name, _ in kinds)
        yield Finding(
            "mixed_line_ends", f"mixed line ends, {counts}", f"the first {rarest} at {place}",
            "dos2unix makes LF of CRLF, and mac2unix LF of CR",
        )  # fmt: skip
    elif kinds and kinds[0][1] != "LF":
        command = "dos2unix" if kinds[0][1] == "CRLF" else "mac2unix"
        yield Finding(
            "line_ends", f"all {kinds[0][0]:,} line ends are {kinds[0][1]}", None,
            f"{command} makes LF of them, one character that models know from other texts",
        )  # fmt: skip
    if lines.blank.count:
        yield Finding(
            "trailing_blanks", f"{_count(lines.blank.count, 'line')} with spaces or tabs at the end", _first(lines.blank.first),
            "sed 's/[ \\t]*\\(\\r*\\)$/\\1/' removes them",
        )  # fmt: skip
    yield from _occurring(
        characters, "tabs", "tabs", [ord("\t")], "a model learns it as any other character; expand makes spaces of it"
    )
    length, place = lines.longest
    if length >= LONG_LINE:
        yield Finding("long_line", f"a line of {length:,} characters", str(place), "see whether it is text")


def _of_repeats(repeats: Repeats) -> Iterator[Finding]:
    if repeats.files:
        later, earlier = repeats.files[0]
        yield Finding(
            "equal_files", f"{_count(len(repeats.files), 'file')} with the same bytes as an earlier one", f"{later} equals {earlier}",
            "leave out the copies",
        )  # fmt: skip
    if repeats.most is not None and repeats.share >= REPEATED:
        place, count = repeats.most
        yield Finding(
            "repeated_lines", f"{100 * repeats.share:.1f} % of the text are lines of {LONG} bytes and more that it has before",
            f"most of all {place}, which comes {_times(count)} again",
            "models learn them by heart, and what they are validated on may be among them; "
            "awk 'length < 32 || !seen[$0]++' leaves them out",
        )  # fmt: skip


def _of_rare(survey: Survey) -> Iterator[Finding]:
    characters = survey.characters
    codes = characters.by_frequency
    counts = characters.counts[codes]
    if len(codes) > MAX_VOCABULARY:
        yield Finding(
            "too_many_distinct", f"{len(codes):,} distinct characters, of which {MAX_VOCABULARY:,} can be told apart", None,
            f"{option('max_vocab', 1000)} keeps the most frequent, {option('bytes', True)} reads bytes",
        )  # fmt: skip
    if len(codes) == 1:
        yield Finding(
            "one_distinct", "one distinct character", None, "there is nothing to predict, and cuchar train refuses it"
        )
    rare = int(np.count_nonzero(counts < RARE))
    kept = len(codes) - rare + 1
    few = 100 * counts[counts < RARE].sum() <= counts.sum()
    if rare > 1 and (few or rare >= MANY_RARE) and not survey.reading.as_bytes:
        yield Finding(
            "rare_characters", f"{rare:,} characters that occur fewer than {RARE} times, {int(counts[counts < RARE].sum()):,} in all",
            _first(characters.place(int(codes[-rare]))),
            f"too few to learn from; {option('max_vocab', kept)} makes one unknown symbol of them",
        )  # fmt: skip


def _first(place: Place | None) -> str:
    return f"first at {place}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
