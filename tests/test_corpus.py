import hashlib
import time

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from cuchar.corpus import Vocabulary, load_corpus, read_codes, text_files
from cuchar.errors import OptionError, TextError


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
        began = time.perf_counter()
        corpus = load_corpus([ROOT / "data/shakespeare.txt"])
        taken.append(time.perf_counter() - began)
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
    with pytest.raises(TextError, match=r"at most 65,536 distinct characters, found 65,537; --bytes"):
        load_corpus([path])
    assert len(load_corpus([path], as_bytes=True).vocabulary) < 256


def test_files_and_folders_join_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    for name, content in (("b/2.txt", "two"), ("b/1.txt", "one"), ("a.txt", "zero"), ("b/.hidden", "no")):
        (tmp_path / name).write_text(content)
    assert text_files([tmp_path / "b", tmp_path / "a.txt"]) == [
        tmp_path / "b/1.txt", tmp_path / "b/2.txt", tmp_path / "a.txt",
    ]  # fmt: skip
    codes, digest = read_codes([tmp_path / "b", tmp_path / "a.txt"])
    assert bytes(codes.astype(np.uint8)) == b"onetwozero"
    assert digest == hashlib.sha256(b"onetwozero").hexdigest()


def test_ascii_and_wide_files_join(tmp_path):
    (tmp_path / "1").write_text("ab")
    (tmp_path / "2").write_text("é")
    assert read_codes([tmp_path])[0].tolist() == [97, 98, 233]


def test_invalid_utf8_names_file_and_offset(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes("né".encode() + b"\xff!")
    with pytest.raises(TextError, match=r"t\.txt: expected UTF-8, found byte 0xff at offset 3"):
        load_corpus([path])
    assert load_corpus([path], as_bytes=True).vocabulary.codes.tolist() == sorted({0x6E, 0xC3, 0xA9, 0xFF, 0x21})


def test_unknown_characters_are_named_or_skipped():
    vocabulary = Vocabulary.of(np.frombuffer(b"abc", np.uint8))
    codes = vocabulary.codes_of("ab☃c\x00")
    with pytest.raises(TextError, match=r"'☃' \(U\+2603\) at position 2 is not among the model's 3"):
        vocabulary.encode(codes)
    assert vocabulary.encode(codes, "skip").tolist() == [0, 1, 2]
    with pytest.raises(OptionError, match=r"error \| skip"):
        vocabulary.encode(codes, "maybe")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=2).filter(lambda t: len(set(t)) > 1))
def test_text_survives_encode_and_decode(text):
    codes = Vocabulary.of(np.array([97, 98])).codes_of(text)
    vocabulary = Vocabulary.from_json(Vocabulary.of(codes).to_json())
    assert vocabulary.decode(vocabulary.encode(codes)).decode() == text
    assert vocabulary == Vocabulary.of(codes)


@given(st.binary(min_size=2).filter(lambda b: len(set(b)) > 1))
def test_bytes_survive_encode_and_decode(data):
    vocabulary = Vocabulary.of(np.frombuffer(data, np.uint8), is_bytes=True)
    assert vocabulary.decode(vocabulary.encode(vocabulary.codes_of(data))) == data
