"""`cuchar corpus`: what is found in a text is what a search of the whole text finds, in blocks of any size."""

import re
import unicodedata
from collections import Counter
from statistics import median_low

import numpy as np
import pytest

from cuchar.corpus_report import repeats, spans
from cuchar.corpus_report.characters import Characters, replaced
from cuchar.corpus_report.findings import findings
from cuchar.corpus_report.survey import Survey, survey
from cuchar.errors import TextError
from cuchar.reading import Reading
from cuchar.vocabulary import Vocabulary

PIECES = [
    "a",
    "e",
    "\n",
    "\r\n",
    "\r",
    " ",
    "\t",
    "\u0301",
    "é",
    "Ã©",
    "â€™",
    "â",
    "Ã",
    "Ð°",
    "☃",
    "𝄞",
    "\ufeff",
    "한",
    "\u1161",
    ".",
]
UTF_8 = Reading()
FOLLOWING = "\x80-\xbf" + "".join(bytes([byte]).decode("cp1252", "ignore") for byte in range(0x80, 0xA0))
MOJIBAKE = re.compile(f"[ÃÂÐÑ](?=[{FOLLOWING}])|â(?=[\x80€])")


def random_text(seed: int, size: int) -> str:
    return "".join(np.random.default_rng(seed).choice(PIECES, size))


def place(path, text: str, at: int) -> str:
    return f"{path}:{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


def first_of(found, files: dict) -> tuple[int, str | None]:
    """How often a pattern occurs in all files, and the place of its first occurrence."""
    places = [place(path, text, match.start()) for path, text in files.items() for match in re.finditer(found, text)]
    return len(places), places[0] if places else None


def seen(value) -> tuple[int, str | None]:
    return value.count, None if value.first is None else str(value.first)


def look_at(files: dict, reading: Reading = UTF_8) -> Survey:
    for path, text in files.items():
        path.write_bytes(text.encode())
    return survey(list(files), reading)


@pytest.mark.parametrize("block", [5, 13, 1 << 20])
@pytest.mark.parametrize("seed", range(4))
def test_all_is_found_that_a_search_finds(seed, block, tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "BLOCK", block)
    files = {
        tmp_path / str(number): random_text(10 * seed + number, size) for number, size in enumerate((300, 0, 1, 200))
    }
    files = {path: text.removeprefix("\ufeff") for path, text in files.items()}
    files[tmp_path / "ends with CR"] = "a\n\r"
    found, whole = look_at(files), "".join(files.values())
    assert {code: int(found.characters.counts[code]) for code in found.characters.by_frequency} == Counter(
        map(ord, whole)
    )
    for character in set(whole):
        assert str(found.characters.place(ord(character))) == first_of(re.escape(character), files)[1]
    for value, pattern in (
        (found.lines.lf, r"(?<!\r)\n"),
        (found.lines.crlf, r"\r\n"),
        (found.lines.cr, r"\r(?!\n)"),
        (found.lines.blank, r"[ \t](?=\r?(\n|\Z))"),
        (found.mojibake.seen, MOJIBAKE),
    ):
        expected = first_of(pattern, files)
        assert seen(value) == expected and expected[0]
    lines = [line.removesuffix("\r") for text in files.values() for line in re.findall(r"[^\n]*\n|[^\n\r]+\r?\Z", text)]
    lengths = [len(line.removesuffix("\n").removesuffix("\r")) for line in lines]
    assert found.lines.lengths == Counter(lengths)
    assert (found.lines.count, found.lines.median) == (len(lengths), median_low(lengths))
    assert found.lines.longest[0] == max(lengths)
    composed = [unicodedata.normalize("NFC", text) for text in files.values()]
    assert found.decomposed.lost == len(whole) - sum(map(len, composed)) > 0
    (path, text), changed = next(
        ((path, text), other) for (path, text), other in zip(files.items(), composed, strict=True) if text != other
    )
    at = next(at for at, pair in enumerate(zip(text, changed, strict=False)) if pair[0] != pair[1])
    assert str(found.decomposed.first) == place(path, text, at)
    assert (found.size, found.files) == (len(whole.encode()), tuple(files))
    codes = found.characters.by_frequency[found.sample]
    assert "".join(map(chr, codes)) == whole


def test_the_longest_line_may_begin_in_a_block_before(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "BLOCK", 4)
    found = look_at({tmp_path / "a": "ab\nc" + 30 * "d" + "\r\nlast"})
    assert found.lines.longest[0] == 31 and str(found.lines.longest[1]) == f"{tmp_path / 'a'}:2:1"
    found = look_at({tmp_path / "b": "x\n" + 9 * "y"})
    assert found.lines.longest[0] == 9 and str(found.lines.longest[1]) == f"{tmp_path / 'b'}:2:1"
    found = survey([tmp_path / "b"], Reading(as_bytes=True))
    assert str(found.lines.longest[1]) == f"{tmp_path / 'b'}: offset 2"


def test_long_lines_and_files_that_come_again(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "BLOCK", 11)
    often, once, short = "often " * 7, "only once " * 5, "short"
    files = {
        tmp_path / "a": f"{short}\n{once}\n{often}\n{short}\n",
        tmp_path / "b": f"{often}\n{often}",
        tmp_path / "c": "",
    }
    files |= {tmp_path / "d": files[tmp_path / "a"], tmp_path / "e": ""}
    found = look_at(files).repeats
    size = sum(len(text) for text in files.values())
    assert found.share == pytest.approx((3 * len(often) + len(once)) / size)
    assert (str(found.most[0]), found.most[1]) == (f"{tmp_path / 'a'}:3:1", 3)
    assert found.files == [(str(tmp_path / "d"), str(tmp_path / "a"))] and found.sampled == 1
    of_bytes = survey(list(files), Reading(as_bytes=True)).repeats
    assert str(of_bytes.most[0]) == f"{tmp_path / 'a'}: offset {len(short) + 1 + len(once) + 1}"


def test_of_many_lines_a_sample_tells_the_share(tmp_path, monkeypatch):
    """A quarter of the lines are copies: of 1,600 distinct ones, at most 400 are remembered."""
    lines = [f"line number {number:06} of many, which are long" for number in range(1600)]
    lines += lines[:533]
    monkeypatch.setattr(repeats, "REMEMBERED", 400)
    found = look_at({tmp_path / "a": "\n".join(lines) + "\n"}).repeats
    assert found.sampled in (4, 8)
    # A sample of n >= 133 lines of which a third is repeated: four standard deviations of the share of a quarter.
    assert found.share == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 133) ** 0.5)


@pytest.mark.parametrize("distinct", [64, 65, 66, 200])
@pytest.mark.parametrize("has_unknown", [False, True])
def test_what_max_vocab_would_replace(distinct, has_unknown, tmp_path):
    codes = [*range(0x100, 0x100 + distinct - has_unknown), *([0xFFFD] if has_unknown else [])]
    text = "".join(chr(code) * (1 + code % 7) for code in codes)
    characters: Characters = look_at({tmp_path / "a": text}).characters
    rows = replaced(characters)
    assert [row.size for row in rows] == [size for size in (64, 128) if size < distinct]
    for row in rows:
        vocabulary = Vocabulary.of_counts(characters.counts, most=row.size)
        lost = [character for character in text if ord(character) not in vocabulary.codes]
        assert (row.distinct, row.characters) == (len(set(lost)), len(lost))


# --- what is said


def names(files: dict, reading: Reading = UTF_8) -> dict[str, str]:
    return {finding.name: str(finding) for finding in findings(look_at(files, reading))}


CLEAN = "A line of text.\nAnother line, which differs.\n" * 3


def test_characters_of_mojibake_are_not_to_be_mended_by_themselves(tmp_path):
    found = names({tmp_path / "a": "l\u2019\u00e9l\u00e8ve \u00e0 l\u00edmite\n".encode().decode("latin-1")})
    assert found.keys() == {"mojibake", "c1", "no_break_spaces", "soft_hyphens"}
    for name in ("c1", "no_break_spaces", "soft_hyphens"):
        assert found[name].endswith("): they belong to what was read as Latin-1, most likely, and go with it")


def test_what_removes_characters_reads_the_encoding_that_the_text_has(tmp_path):
    (tmp_path / "a").write_bytes(b"a\xa0b\xad\n")
    found = {
        finding.name: finding.advice for finding in findings(survey([tmp_path / "a"], Reading(encoding="latin-1")))
    }
    assert "perl -pe 's/[\\x{A0}" in found["no_break_spaces"] and "perl -pe 's/\\x{AD}//g'" in found["soft_hyphens"]


def test_a_clean_text_has_no_findings(tmp_path):
    assert names({tmp_path / "a": CLEAN}) == {}


@pytest.mark.parametrize(
    "name,text,what,advice",
    [
        ("mojibake", "cafÃ© latte", "Ã© for é, once (first at PATH:1:4)", "ftfy"),
        ("decomposed", "cafe\u0301", "has 1 character fewer (first at PATH:1:4)", "normalize='nfc' composes"),
        ("bom", "\ufefftext", "at the beginning of 1 file (PATH)", "nothing to do"),
        ("replaced", "te\nx\ufffdt\ufffd", "U+FFFD, 2 times (first at PATH:2:2)", "convert it again"),
        ("nul", "te\0xt", "NUL, once (first at PATH:1:3)", "iconv -f UTF-16"),
        ("c1", "te\x93xt", "U+009F, once (first at PATH:1:3)", "iconv -f WINDOWS-1252"),
        ("c0", "te\x1bxt", "control characters, once (first at PATH:1:3)", "tr -d"),
        ("inner_bom", "te\ufeffxt", "inside the text, once (first at PATH:1:3)", "sed"),
        ("zero_width", "a\u200db\u2060\u200b", "U+2060), 3 times (first at PATH:1:2)", "perl -CSD -pe 's/[\\x{200B}-\\x{200D}\\x{2060}]//g'"),
        ("no_break_spaces", "a\nb\u202fc\xa0", "U+202F), 2 times (first at PATH:2:2)", "perl -CSD -pe 's/[\\x{A0}\\x{202F}]/ /g'"),
        ("separators", "a\u2029\u2028", "U+2029), 2 times (first at PATH:1:2)", "perl -CSD -pe 's/[\\x{2028}\\x{2029}]/\\n/g'"),
        ("soft_hyphens", "an\xad\ny", "U+00AD), once (first at PATH:1:3)", "perl -CSD -pe 's/\\x{AD}//g'"),
        ("mixed_line_ends", "a\nb\nc\r\n", "2 LF, 1 CRLF (the first CRLF at PATH:3:2)", "dos2unix"),
        ("line_ends", "a\r\nb\r\n", "all 2 line ends are CRLF", "dos2unix"),
        ("line_ends", "a\rb\r", "all 2 line ends are CR:", "mac2unix"),
        ("trailing_blanks", "a\nb \n", "1 line with spaces or tabs at the end (first at PATH:2:2)", "sed"),
        ("tabs", "a\tb\tc", "tabs, 2 times (first at PATH:1:2)", "expand"),
        ("long_line", 10 * "ab\n" + 5000 * "ab", "a line of 10,000 characters (PATH:11:1)", "whether it is text"),
        ("repeated_lines", "a repeated line of 32 characters\n" * 3, "PATH:1:1, which comes 2 times again", "by heart"),
        ("rare_characters", "".join(map(chr, range(0x4E00, 0x4E00 + 150))) + 20 * "ab", "150 characters that occur fewer than 10 times, 150 in all", "max_vocab=3"),
        ("one_distinct", "aaaa", "one distinct character", "refuses it"),
        ("rare_characters", 500 * "abcd" + "xy", "2 characters that occur fewer than 10 times, 2 in all (first at PATH:1:2001)", "max_vocab=5"),
    ],
)  # fmt: skip
def test_each_finding_says_what_and_where_and_what_to_do(name, text, what, advice, tmp_path):
    path = tmp_path / "a"
    (found,) = names({path: text}).items()
    assert found[0] == name and what.replace("PATH", str(path)) in found[1]
    assert advice in found[1].split("): " if what.endswith(")") else ": ")[-1]


def test_what_is_read_as_latin_1_may_be_utf_8(tmp_path):
    found = names({tmp_path / "a": "café — naïve"}, Reading(encoding="latin-1"))
    assert "is read without encoding='latin-1'" in found["mojibake"] and "decomposed" not in found


def test_bytes_have_no_encoding_to_complain_of(tmp_path):
    assert names({tmp_path / "a": "cafe\u0301Ã©\0\x93"}, Reading(as_bytes=True)) == {}
    assert "decomposed" not in names({tmp_path / "a": "cafe\u0301"}, Reading(normalize="nfc"))


def test_unreadable_files_leave_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "BLOCK", 4)
    (tmp_path / "a").write_text(CLEAN)
    (tmp_path / "b").write_bytes(b"fine so far\xff")
    files = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(TextError, match=r"b:1:12: expected UTF-8.*; skip_unreadable=True leaves such files out$"):
        survey(files, Reading())
    found = survey(files, Reading(), skip_unreadable=True)
    assert found.files == (tmp_path / "a",) and len(found.left_out) == 1
    assert found.characters.counts.sum() == found.size == len(CLEAN)
    with pytest.raises(TextError, match=r"expected a readable text file, found none: .*b:1:12"):
        survey(files[1:], Reading(), skip_unreadable=True)
    with pytest.raises(TextError, match="empty: expected text, found an empty file"):
        look_at({tmp_path / "empty": ""})
