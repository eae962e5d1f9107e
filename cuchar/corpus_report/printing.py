"""Prints what was found in a text: for people, or as JSON for programs."""

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from cuchar.corpus_report.characters import replaced
from cuchar.corpus_report.entropy import HELD_OUT, counted
from cuchar.corpus_report.findings import findings
from cuchar.corpus_report.repeats import LONG
from cuchar.corpus_report.survey import Survey
from cuchar.files import escape
from cuchar.wording import option

FREQUENT, RAREST = 10, 5  # characters that are shown of each kind


def print_survey(survey: Survey, entropies: list[float]) -> None:
    """Print a survey, and the entropies in bits for contexts of 0, 1, ... characters."""
    lines = [*_facts(survey), *_of_rarest(survey), *_of_vocabularies(survey), *_of_entropies(survey, entropies), ""]
    found = findings(survey)
    lines += ["found", *(f"  {finding}" for finding in found)] if found else ["found nothing to clean"]
    for line in lines:
        print(escape(line))


def _facts(survey: Survey) -> list[str]:
    characters, lines, repeats = survey.characters, survey.lines, survey.repeats
    codes, unit = characters.by_frequency, "bytes" if survey.reading.as_bytes else "characters"
    total = int(characters.counts.sum())
    length, place = lines.longest
    longest = f"{length:,} ({place})" if place else "0"
    in_unit = "" if survey.reading.as_bytes else f", {total:,} characters"
    frequent = [
        f"{_name(survey, code)} {100 * characters.counts[code] / total:.1f} %" for code in codes[:FREQUENT].tolist()
    ]
    sampled = f", estimated from one in {repeats.sampled:,}" if repeats.sampled > 1 else ""
    return [
        f"text           {', '.join(map(str, survey.files[:3]))}{' and others' if len(survey.files) > 3 else ''}",
        f"size           {survey.size:,} bytes{in_unit}, {len(survey.files):,} file{'s' if len(survey.files) > 1 else ''}",
        f"distinct       {len(codes):,} {unit}",
        f"most frequent  {', '.join(frequent)}",
        f"lines          {lines.count:,}; half of them have at most {lines.median:,} {unit}, the longest {longest}",
        f"repeated       {100 * repeats.share:.2f} % of the text, in lines of {LONG} bytes and more that it has before{sampled}",
    ]  # fmt: skip


def _of_rarest(survey: Survey) -> list[str]:
    characters = survey.characters
    codes = characters.by_frequency[::-1][:RAREST].tolist()
    rows = [(_name(survey, code), f"{characters.counts[code]:,}", str(characters.place(code))) for code in codes]
    return ["", *_table(("rarest", "times", "first"), rows)]


def _of_vocabularies(survey: Survey) -> list[str]:
    total, rows = int(survey.characters.counts.sum()), replaced(survey.characters)
    if survey.reading.as_bytes or not rows:
        return []
    shares = [
        (f"{row.size:,}", f"{row.distinct:,}", f"{row.characters:,} ({100 * row.characters / total:.3g} %)")
        for row in rows
    ]
    return ["", *_table((option("max_vocab"), "distinct ones replaced", "characters replaced"), shares)]


def _of_entropies(survey: Survey, entropies: list[float]) -> list[str]:
    unit, sampled, distinct = (
        "byte" if survey.reading.as_bytes else "character",
        len(survey.sample),
        len(survey.characters.by_frequency),
    )
    if not entropies:
        return ["", "n-grams: the text is too short to count them in nine tenths and score the rest"]
    rows = [("none", f"{math.log2(distinct):.4f}", f"{math.log(distinct):.4f}")]
    rows += [(str(order), f"{bits:.4f}", f"{bits * math.log(2):.4f}") for order, bits in enumerate(entropies)]
    whole = "the text's" if sampled == survey.characters.counts.sum() else f"the first {sampled:,} {unit}s'"
    return [
        "",
        f"to beat: n-grams counted in {counted(sampled):,} {unit}s and scored on {whole} last {sampled // HELD_OUT:,}",
        *_table(("context", f"bits per {unit}", "nats"), rows),
    ]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns, which are flush right but for the last one."""
    columns = list(zip(*[names, *rows], strict=True))
    widths = [max(map(len, column)) for column in columns[:-1]]
    flush = [[value.rjust(width) for value in column] for column, width in zip(columns, widths, strict=False)]
    return ["  ".join(row) for row in zip(*flush, columns[-1], strict=True)]


def _name(survey: Survey, code: int) -> str:
    """A character as it looks, if it can be shown by itself, and its number if it is not ASCII."""
    if survey.reading.as_bytes:
        return f"0x{code:02x}"
    character, number = chr(code), f"U+{code:04X}"
    if character.isascii():
        return repr(character)
    can_stand_alone = character.isprintable() and not unicodedata.category(character).startswith("M")
    return f"{character} {number}" if can_stand_alone else number


def print_json(survey: Survey, entropies: list[float]) -> None:
    """Print what `print_survey` does, and every distinct character, as one JSON object."""
    characters, lines, repeats = survey.characters, survey.lines, survey.repeats
    length, place = lines.longest
    codes = characters.by_frequency.tolist()
    found: dict[str, Any] = {
        "files": [str(file) for file in survey.files],
        "left_out": survey.left_out,
        "bytes": survey.size,
        "characters": int(characters.counts.sum()),
        "distinct": [
            {"code": code, "count": int(characters.counts[code]), "first": str(characters.place(code))} for code in codes
        ],
        "lines": {
            "count": lines.count, "median": lines.median, "longest": length, "longest_at": place and str(place),
            "lf": lines.lf.count, "crlf": lines.crlf.count, "cr": lines.cr.count,
        },
        "repeated": {"share": repeats.share, "sampled": repeats.sampled, "equal_files": repeats.files},
        "max_vocab": [vars(row) for row in replaced(characters)],
        "entropies": {"bits": entropies, "characters": len(survey.sample), "counted": counted(len(survey.sample))},
        "findings": [finding.to_json() for finding in findings(survey)],
    }  # fmt: skip
    print(json.dumps(found))
