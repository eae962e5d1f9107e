"""Documents' links lead somewhere, the files that they name exist, and commands have the options that they show."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
import typer

from cuchar.cli.app import app

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md", "docs/*.ipynb", "kernels/README.md", "benchmarks/README.md", "data/README.md")
    for path in ROOT.glob(pattern)
)  # fmt: skip
FOLDERS = "cuchar kernels tests tools benchmarks docs data".split()
FENCE = re.compile(r"^( *)(`{3,}|~{3,})([^\n]*)\n(.*?)^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(
    r"!?\[(?:[^\[\]]|\[[^\[\]]*\]|!\[[^\[\]]*\]\([^()]*\))*\]\(\s*<?([^\s()<>]+)>?(?:\s+\"[^\"]*\")?\s*\)"
)
INNER_IMAGE = re.compile(r"!\[[^\[\]]*\]\(([^\s()]+)\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
ATTRIBUTE = re.compile(r"<(?:img|source|a)\b[^>]*?\b(?:src|srcset|href)=\"([^\"]+)\"")
EXTERNAL = re.compile(r"[a-z]+:")
FILE = re.compile(rf"(?<![\w./*<-])(?:{'|'.join(FOLDERS)})/[\w./*-]*")
PLACEHOLDER = re.compile(r"\b(?:[A-Z]{3,}|NAME)\b|\.\.\.")  # OUT.json, benchmarks/results/NAME.json
COMMAND = re.compile(r"(?<![\w./-])(?:[\w./]*/)?cuchar (?=(\w+))([^\n|#]*)")
CAPITAL_FILES = ("README.md", "CONTRIBUTING.md", "LICENSE")


@cache
def text_of(document: str) -> str:
    """A document's text in Markdown; a notebook's cells of code are blocks of Python."""
    text = (ROOT / document).read_text("utf-8")
    if not document.endswith(".ipynb"):
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(source if kind == "markdown" else f"```python\n{source}\n```" for kind, source in cells)


def fenced(document: str) -> list[tuple[str, str]]:
    """Blocks of code: the language that each names, and its text."""
    return [(found[3].strip(), found[4]) for found in FENCE.finditer(text_of(document))]


def prose(document: str) -> str:
    return FENCE.sub("", text_of(document))


def code(document: str) -> list[str]:
    """Everything in backticks, and the lines that an indentation by four makes code."""
    inline = [found[2] for found in INLINE_CODE.finditer(prose(document))]
    indented = [line[4:] for line in prose(document).splitlines() if line.startswith("    ")]
    return [block for _, block in fenced(document)] + inline + indented


def slugs(document: str) -> set[str]:
    """The anchors that GitHub gives to a document's headings; of equal ones, all but the first have a number."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*\s*$", prose(document), re.MULTILINE):
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found | set(re.findall(r"<a (?:name|id)=\"([^\"]+)\"", prose(document)))


def links(document: str) -> list[str]:
    without_code = INLINE_CODE.sub("`code`", prose(document))
    targets: list[str] = []
    for pattern in (LINK, INNER_IMAGE, REFERENCE, ATTRIBUTE):
        targets += pattern.findall(without_code)
    return [target for target in targets if not EXTERNAL.match(target)]


def missing_links(document: str) -> list[str]:
    missing = []
    for target in dict.fromkeys(links(document)):
        name, _, anchor = target.partition("#")
        path = (ROOT / document).parent / name if name else ROOT / document
        path = path.resolve()
        found = path.exists() and path.is_relative_to(ROOT)
        if found and anchor and path.suffix == ".md":
            found = anchor in slugs(str(path.relative_to(ROOT)))
        if not found:
            missing.append(target)
    return missing


def missing_files(document: str) -> list[str]:
    missing = []
    for piece in code(document):
        for found in FILE.finditer(piece):
            name = found[0].rstrip(".")
            if found.end() < len(piece) and piece[found.end()] in "<{$":
                continue  # a name with a gap to fill in
            without_capitals = name
            for capital in CAPITAL_FILES:
                without_capitals = without_capitals.removesuffix(capital)
            if not PLACEHOLDER.search(without_capitals) and not list(ROOT.glob(name.rstrip("/"))):
                missing.append(name)
    return missing


@cache
def options_of(command: str) -> dict[str, object]:
    """The options of a command that --help shows, by their spelling; empty where there is no such command."""
    found = typer.main.get_command(app).commands.get(command)
    parameters = found.params if found else []
    shown = [parameter for parameter in parameters if not getattr(parameter, "hidden", False)]
    return {spelling: parameter for parameter in shown for spelling in parameter.opts if spelling.startswith("--")}


def commands() -> list[str]:
    return list(typer.main.get_command(app).commands)


def unknown_options(pieces: list[str]) -> list[str]:
    unknown = []
    for piece in pieces:
        for found in COMMAND.finditer(piece.replace("\\\n", " ")):
            command, arguments = found[1], found[2]
            if command in commands():
                known = {*options_of(command), "--help"}
                used = re.findall(r"(?<![\w-])--[a-z][\w-]*", arguments)
                unknown += [f"cuchar {command} {option}" for option in used if option not in known]
    return unknown


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    assert missing_links(document) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document):
    assert missing_files(document) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_the_options_that_are_shown(document):
    assert unknown_options(code(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_has_the_targets_that_are_named(document):
    rules = re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = [target for rule in rules for target in rule.split()]
    named = {name for piece in code(document) for name in re.findall(r"(?<![\w./-])make ([a-z]+)", piece)}
    assert named <= set(targets)


def test_the_readme_promises_two_commands_and_is_short():
    readme = text_of("README.md")
    assert {"make train", "make test"} <= {line.split("#")[0].strip() for line in code("README.md")[1].splitlines()}
    assert "Python 3.11" in readme and "g++ 12" in readme  # what they need
    assert len(readme.splitlines()) <= 80


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_that_is_shown_is_python(document):
    for language, block in fenced(document):
        if language == "python":
            ast.parse(block)


def test_these_tests_would_notice(tmp_path, monkeypatch):
    """A document with one defect of each kind, and beside each something that looks like it and is right."""
    assert len(DOCUMENTS) > 8  # they are found
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/there.txt").write_text("")
    text = """# A title: of `two` parts

[good](data/there.txt) [self](#a-title-of-two-parts) ![no picture](gone.svg) [no anchor](#a-title) `[code](gone.md)`
<img src="gone.png"> [![badge](gone2.svg)](data/there.txt)
`data/there.txt`, `data/gone.txt`, `data/*.txt`, `data/results/NAME.json`, `runs/data/x.txt`

```
$ .venv/bin/cuchar train data/there.txt --window 5 --stepz 3   # --not-an-option
cuchar eval --lr 1
```
"""
    (tmp_path / "noticed-by-test-docs.md").write_text(text)
    document = "noticed-by-test-docs.md"
    assert sorted(missing_links(document)) == ["#a-title", "gone.png", "gone.svg", "gone2.svg"]
    assert missing_files(document) == ["data/gone.txt"]
    assert unknown_options(code(document)) == ["cuchar train --stepz", "cuchar eval --lr"]


def manual_section(command: str) -> str:
    """From the manual's heading `cuchar COMMAND` to the next one of its rank."""
    found = re.search(
        rf"^## `?cuchar {command}`?\n(.*?)(?=^## |\Z)", text_of("docs/manual.md"), re.MULTILINE | re.DOTALL
    )
    assert found, f"docs/manual.md: expected a section for cuchar {command}, found none"
    return found[1]


@pytest.mark.parametrize("command", commands())
def test_the_manual_has_every_option_and_its_default(command):
    section = manual_section(command)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:1] == "|"]
    documented = {spelling: row for row in rows for spelling in re.findall(r"--[a-z][a-z-]*", row[0])}
    shown = {spelling: option for spelling, option in options_of(command).items() if spelling != "--help"}
    assert set(documented) == set(shown)
    for spelling, option in shown.items():
        default = option.show_default if isinstance(option.show_default, str) else option.default
        if default not in (None, False, ""):
            stated = documented[spelling][-1].strip("`")
            assert stated == str(default) or float(stated) == default, spelling
