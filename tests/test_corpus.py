"""Texts become ids: vocabularies, files and folders, and complaints that name the file, the line and the column."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.process import ROOT

from cuchar.corpus import load_corpus
from cuchar.errors import OptionError, TextError
from cuchar.reading import AS_UTF8, Reading
from cuchar.text import read_text
from cuchar.text_files import text_files
from cuchar.unreadable import left_out_notes
from cuchar.vocabulary import Vocabulary

AS_BYTES = Reading(as_bytes=True)


@pytest.mark.parametrize("name", ["shakespeare.txt", "shakespeare_10K.txt"])
def test_committed_text_is_the_one_the_data_card_describes(name):
    data = (ROOT / "data" / name).read_bytes()
    row = next(line for line in (ROOT / "data/README.md").read_text().splitlines() if f"`{name}`" in line)
    digest, characters = hashlib.sha256(data).hexdigest(), data.decode()
    assert row == f"| `{name}` | {len(characters):,} | {len(set(characters))} | `{digest}` |"


def test_excerpt_is_the_first_ten_thousand_lines():
    lines = (ROOT / "data/shakespeare.txt").read_bytes().splitlines(keepends=True)
    assert (ROOT / "data/shakespeare_10K.txt").read_bytes() == b"".join(lines[:10_000])


def test_five_megabytes_encode_within_three_tenths_of_a_second():
    load_corpus([ROOT / "data/shakespeare_10K.txt"])
    taken = []
    for _ in range(3):
        began = time.process_time()
        corpus = load_corpus([ROOT / "data/shakespeare.txt"])
        taken.append(time.process_time() - began)
    assert min(taken) < 0.3
    assert corpus.ids.dtype == np.uint8 and len(corpus.ids) == 5_057_198 and len(corpus.vocabulary) == 84


def test_vocabulary_is_sorted_and_ids_are_places_in_it(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("héllo 🦊\r\n".encode())
    corpus = load_corpus([path])
    assert corpus.vocabulary.characters() == sorted(set("héllo 🦊\r\n"))
    assert [corpus.vocabulary.characters()[i] for i in corpus.ids] == list("héllo 🦊\r\n")
    assert corpus.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("distinct,dtype", [(2, np.uint8), (256, np.uint8), (257, np.uint16), (65_536, np.uint16)])
def test_ids_take_the_smallest_unsigned_type(distinct, dtype):
    codes = np.arange(distinct, dtype=np.uint32) + 0x10000
    vocabulary = Vocabulary.of(codes)
    ids = vocabulary.encode(codes)
    assert ids.dtype == dtype and np.array_equal(ids, np.arange(distinct))


def test_more_than_65536_characters_are_refused(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("".join(map(chr, range(0x10000, 0x10000 + 65_537))), "utf-8")
    with pytest.raises(TextError, match=r"at most 65,536 distinct characters, found 65,537; bytes=True"):
        load_corpus([path])
    assert len(load_corpus([path], AS_BYTES).vocabulary) < 256


def test_files_and_folders_join_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    for name, content in (("b/2.txt", "two"), ("b/1.txt", "one"), ("a.txt", "zero"), ("b/.hidden", "no")):
        (tmp_path / name).write_text(content)
    assert text_files([tmp_path / "b", tmp_path / "a.txt"]) == [
        tmp_path / "b/1.txt", tmp_path / "b/2.txt", tmp_path / "a.txt",
    ]  # fmt: skip
    text = read_text([tmp_path / "b", tmp_path / "a.txt"])
    assert bytes(text.codes.astype(np.uint8)) == b"onetwozero"
    assert load_corpus([tmp_path / "b", tmp_path / "a.txt"]).sha256 == hashlib.sha256(b"onetwozero").hexdigest()


def test_ascii_and_wide_files_join(tmp_path):
    (tmp_path / "1").write_text("ab")
    (tmp_path / "2").write_text("é")
    assert read_text([tmp_path]).codes.tolist() == [97, 98, 233]


def test_invalid_utf8_names_file_line_column_and_offset(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("né".encode() + b"\xff!")
    with pytest.raises(
        TextError, match=r"t\.txt:1:3: expected UTF-8, found byte 0xff at offset 3 \(invalid start byte\)"
    ):
        load_corpus([path])
    assert load_corpus([path], AS_BYTES).vocabulary.codes.tolist() == sorted({0x6E, 0xC3, 0xA9, 0xFF, 0x21})


def test_unknown_characters_are_named_or_skipped():
    vocabulary = Vocabulary.of(np.frombuffer(b"abc", np.uint8))
    codes = AS_UTF8.codes_of("ab☃c\x00")
    assert vocabulary.has(codes).tolist() == [True, True, False, True, False]
    with pytest.raises(
        TextError, match=r"^position 2: character '☃' \(U\+2603\) is not among the model's 3; unknown='skip'"
    ):
        vocabulary.encode(codes)
    assert vocabulary.encode(codes, "skip").tolist() == [0, 1, 2]
    with pytest.raises(OptionError, match=r"error \| skip"):
        vocabulary.encode(codes, "maybe")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=2).filter(lambda t: len(set(t)) > 1))
def test_text_survives_encode_and_decode(text):
    codes = AS_UTF8.codes_of(text)
    vocabulary = Vocabulary.from_json(Vocabulary.of(codes).to_json())
    assert vocabulary.decode(vocabulary.encode(codes)).decode() == text
    assert vocabulary == Vocabulary.of(codes)


@given(st.binary(min_size=2).filter(lambda b: len(set(b)) > 1))
def test_bytes_survive_encode_and_decode(data):
    vocabulary = Vocabulary.of(np.frombuffer(data, np.uint8), is_bytes=True)
    assert vocabulary.decode(vocabulary.encode(Reading(as_bytes=True).codes_of(data))) == data


# --- places in files


def test_every_place_has_the_file_line_and_column_that_an_editor_shows(tmp_path):
    contents = {"a": "one\r\ntwo\n", "b": "", "c": "é☃\n\n🦊x", "d": "\n", "e": "end"}
    files = [tmp_path / name for name in contents]
    for file, content in zip(files, contents.values(), strict=True):
        file.write_bytes(content.encode())
    text = read_text(files)
    expected = [
        f"{file}:{line}:{column}"
        for file, content in zip(files, contents.values(), strict=True)
        for line, characters in enumerate(content.split("\n"), 1)
        for column in range(1, len(characters) + 2)  # the line's end has a column too
    ]
    ends = {f"{tmp_path}/{place}" for place in ("a:3:1", "b:1:1", "c:3:3", "d:2:1", "e:1:4")}  # where a file ends
    assert [text.place(at) for at in range(len(text.codes))] == [place for place in expected if place not in ends]
    assert [file.name for file in text.files] == list(contents)
    as_bytes = read_text(files, AS_BYTES)
    assert [as_bytes.place(at) for at in (0, 8, 9, 17, 19, 20)] == [
        f"{files[file]}: offset {offset}" for file, offset in ((0, 0), (0, 8), (2, 0), (2, 8), (2, 10), (2, 11))
    ]


def test_invalid_utf8_is_found_in_the_right_file_and_line(tmp_path):
    (tmp_path / "a").write_text("fine\n")
    (tmp_path / "b").write_bytes("é\n☃ü".encode() + b"\xc3(")
    message = (
        f"{tmp_path}/b:2:3: expected UTF-8, found byte 0xc3 at offset 8 (invalid continuation byte); "
        "a model that is trained with encoding='latin-1' or bytes=True reads any file"
    )
    # What reads the text whole, as cuchar look does, has no option that leaves files out.
    for read, hint in ((load_corpus, "; skip_unreadable=True leaves such files out"), (read_text, "")):
        with pytest.raises(TextError) as raised:
            read([tmp_path])
        assert str(raised.value) == message + hint


# --- folders


def names(files, folder):
    return [str(file.relative_to(folder)) for file in files]


def test_a_folder_gives_its_regular_files_sorted_and_never_waits(tmp_path):
    for name in "b.txt a/2.md a/1.txt a/.secret .git/x.txt run/config.json run/metrics.jsonl [z].txt".split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    os.mkfifo(tmp_path / "fifo.txt")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "a/link.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "config.json").write_text("{}")  # alone it does not make a run's folder
    found = ["[z].txt", "a/1.txt", "a/2.md", "a/link.txt", "b.txt", "config.json"]
    assert names(text_files([tmp_path]), tmp_path) == found
    matching = text_files([tmp_path, tmp_path / "a/2.md", tmp_path / "a"], "*.txt")  # a file that was named is read
    assert names(matching, tmp_path) == [
        "[z].txt", "a/1.txt", "a/link.txt", "b.txt", "a/2.md", "a/1.txt", "a/link.txt",
    ]  # fmt: skip
    with pytest.raises(TextError, match=r"found none in it whose name matches glob='\*\.rst'$"):
        text_files([tmp_path], "*.rst")


def test_a_runs_folder_is_no_text(trained):
    with pytest.raises(TextError) as raised:
        load_corpus([trained])
    expected = f"{trained}: expected a text, found the folder of a run; cuchar.resume({str(trained)!r}) goes on with it"
    assert str(raised.value) == expected


def test_what_cannot_be_read_is_an_error_or_left_out(tmp_path, monkeypatch):
    for name, content in (("a.txt", b"one"), ("b.png", b"\x89PNG"), ("c.txt", b"two"), ("d.txt", b"three")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "locked").mkdir()
    opened, scandir = os.open, os.scandir

    def open_some(path, *rest, **folder):  # root may read anything, so modes would prove nothing
        if Path(path).name in ("c.txt", "locked"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest, **folder)

    def list_some(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "open", open_some)
    monkeypatch.setattr(os, "scandir", list_some)
    with pytest.raises(TextError, match=r"b\.png:1:1: expected UTF-8.*; skip_unreadable=True leaves such files out$"):
        load_corpus([tmp_path])
    corpus = load_corpus([tmp_path], skip_unreadable=True)
    assert names(corpus.files, tmp_path) == ["a.txt", "d.txt"] and len(corpus.ids) == 8
    assert corpus.sha256 == hashlib.sha256(b"onethree").hexdigest()
    assert list(corpus.left_out) == [
        f"{tmp_path}/b.png:1:1: expected UTF-8, found byte 0x89 at offset 0 (invalid start byte); "
        "a model that is trained with encoding='latin-1' or bytes=True reads any file",
        f"{tmp_path}/broken: expected a text file, found no such file",
        f"{tmp_path}/c.txt: expected a readable file, found: Permission denied",
        f"{tmp_path}/locked: expected a readable file, found: Permission denied",
    ]
    assert left_out_notes(corpus.left_out, len(corpus.files))[-1] == "left out 4 of 6 files"
    assert load_corpus([tmp_path], AS_BYTES, skip_unreadable=True).ids.size == 12
    with pytest.raises(TextError, match=r"^expected a readable text file, found none: .*b\.png:1:1: expected UTF-8"):
        load_corpus([tmp_path / "b.png"], skip_unreadable=True)
    with pytest.raises(TextError, match=r"nope: expected a text file, found no such file$"):  # a name that was mistyped
        load_corpus([tmp_path, tmp_path / "nope"], skip_unreadable=True)


@pytest.mark.parametrize(
    "text", ["To be, or not to be: " * 100, "To be,\nor not to be", "be\0", "/".join(["to be"] * 999)]
)
def test_a_text_in_the_place_of_its_path(text):
    for read in (read_text, load_corpus, text_files):
        with pytest.raises(TextError) as raised:
            read([text])
        assert str(raised.value) == f"expected the path of a text file, found a text of {len(text):,} characters"
