"""Files are read in blocks: wherever they are cut, the characters are those of the whole file."""

import os
import pty
import threading
import unicodedata
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cuchar.errors import TextError
from cuchar.reading import Reading, blocks, code_points, place
from cuchar.text_files import TextFile, text_files

NFC = Reading(normalize="nfc")
# Characters of one to four bytes, accents that follow letters, Hangul in parts and a vowel sign that joins the one before.
PIECES = ["a", "\n", "\r", "é", "☃", "🦊", "e\u0301", "\u0302", "\u0323", "\u1100", "\u1161", "\u11a8", "각", "\u09c7", "\u09be", "\ufeff"]  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("texts") / "text"


def characters(found):
    return "".join(chr(code) for block in found for code in block.codes.tolist())


@given(st.lists(st.sampled_from(PIECES), max_size=30), st.integers(1, 9), st.sampled_from([Reading(), NFC]))
def test_blocks_joined_are_the_text_and_each_end_is_a_place_to_go_on_from(file, pieces, size, reading):
    text = "".join(pieces)
    file.write_bytes(text.encode())
    found = list(blocks(TextFile(file), reading, size=size))
    expected = text.removeprefix("\ufeff")
    if reading.normalize:
        expected = unicodedata.normalize("NFC", expected)
    assert characters(found) == expected
    assert b"".join(block.raw for block in found) == text.encode()
    assert [block.has_bom for block in found] == [text.startswith("\ufeff"), *[False] * (len(found) - 1)][: len(found)]
    for number, block in enumerate(found):
        assert block.end == sum(len(earlier.raw) for earlier in found[: number + 1])
        if block.end:
            rest = list(blocks(TextFile(file), reading, block.end, size))
            assert characters(rest) == characters(found[number + 1 :])


def test_a_file_is_not_held_whole(file):
    file.write_bytes("aé☃\n".encode() * 1000)
    assert max(len(block.raw) for block in blocks(TextFile(file), NFC, size=64)) <= 64


@given(st.lists(st.sampled_from(["a", "é", "☃", "\n", "🦊"]), max_size=20), st.integers(1, 5), st.booleans())
def test_an_error_is_in_the_same_place_wherever_blocks_end(file, pieces, size, has_bom):
    before = "".join(pieces)
    data = b"\xef\xbb\xbf" * has_bom + before.encode()
    file.write_bytes(data + b"\xe2\x98(more")
    lines = before.split("\n")
    expected = f"{file}:{len(lines)}:{len(lines[-1]) + 1}: expected UTF-8, found byte 0xe2 at offset {len(data)} "
    with pytest.raises(TextError) as raised:
        list(blocks(TextFile(file), Reading(), size=size))
    assert str(raised.value).startswith(expected + "(invalid continuation byte)")


def test_an_error_is_in_the_same_place_in_whatever_pieces_it_is_looked_for(file, monkeypatch):
    file.write_bytes("\ufeffé\n☃🦊\n☃é".encode() + b"\xff")
    for at_once in range(1, 20):
        monkeypatch.setattr("cuchar.text_files.AT_ONCE", at_once)
        with pytest.raises(TextError, match=r"text:3:3: expected UTF-8, found byte 0xff at offset 19 "):
            list(blocks(TextFile(file), Reading()))


def test_a_last_character_that_lacks_bytes_is_an_error(file):
    file.write_bytes("ab☃".encode()[:-1])
    with pytest.raises(TextError, match=r":1:3: .*byte 0xe2 at offset 2 \(unexpected end of data\)"):
        list(blocks(TextFile(file), Reading(), size=4))


@pytest.mark.parametrize(
    "encoding,name", [("utf-16", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32", "UTF-32"), ("utf-32-be", "UTF-32")]
)
def test_other_byte_order_marks_are_named(file, encoding, name):
    file.write_bytes("\ufefftext".encode(encoding))
    with pytest.raises(TextError, match=rf"expected UTF-8, found {name} .*; iconv -f {name} -t UTF-8 converts it$"):
        list(blocks(TextFile(file), Reading()))
    assert next(blocks(TextFile(file), Reading(as_bytes=True))).raw == file.read_bytes()


def test_every_byte_is_a_character_of_latin_1(file):
    data = bytes(range(256))
    file.write_bytes(data)
    assert characters(blocks(TextFile(file), Reading(encoding="latin-1"), size=7)) == data.decode("latin-1")


# Bytes for each range that UTF-8 treats alike (RFC 3629, section 4): of the first byte, the second, and all others.
FIRST = bytes(
    [0x41, 0x80, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
)
SECOND, OTHERS = bytes([0x41, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC2]), bytes([0x41, 0x80, 0xBF, 0xC2])


def read(file, data, reading, size):
    """What blocks of about so many bytes make of data: its characters, or the error's byte, offset and reason."""
    os.pwrite(file.fileno(), data, 0)
    os.ftruncate(file.fileno(), len(data))
    try:
        return characters(blocks(TextFile(Path(file.name)), reading, size=size))
    except TextError as error:
        return str(error).split("found byte ")[1].split(";")[0]


def test_every_sequence_of_utf_8_may_be_cut_anywhere(tmp_path):
    """Also those that are none: too short, too long, overlong, of surrogates, or beyond the last character."""
    with (tmp_path / "text").open("wb") as file:
        for length in range(1, 5):
            for sequence in product(*[FIRST, SECOND, OTHERS, OTHERS][:length]):
                data = b"x" + bytes(sequence) + b"y" * (length % 2)  # the last byte may be the sequence's
                try:
                    expected = data.decode()
                except UnicodeDecodeError as error:
                    expected = f"0x{data[error.start]:02x} at offset {error.start} ({error.reason})"
                for size in range(1, len(data)):
                    assert read(file, data, Reading(), size) == expected, (data, size)


def test_every_character_that_composes_may_be_cut_after_each_of_its_parts(tmp_path):
    """All of Unicode's, which has none beyond plane 2; of Hangul's syllables those that begin and end in all ways."""
    syllables = {*range(0xAC00, 0xD7A4, 28), *range(0xAC00, 0xAC1C)}
    composed = [chr(code) for code in range(0x30000) if not 0xAC00 <= code < 0xD7A4 or code in syllables]
    apart = {unicodedata.normalize("NFD", character) for character in composed if not "\ud800" <= character <= "\udfff"}
    accents = [character for character in composed if unicodedata.combining(character)]
    texts = [text for text in apart if len(text) > 1] + [
        f"a\u0345{accent}" for accent in accents
    ]  # which change places
    assert len(texts) > 2000
    with (tmp_path / "text").open("wb") as file:
        for text in texts:
            expected = unicodedata.normalize("NFC", text + "x")
            for at in range(1, len(text) + 1):
                size = len(text[:at].encode())
                assert read(file, (text + "x").encode(), NFC, size) == expected, (text, size)


def test_places_are_counted_across_blocks(file, monkeypatch):
    monkeypatch.setattr("cuchar.reading.BLOCK", 3)
    text = "\ufeffé\n☃☃\r\n🦊x"
    file.write_bytes(text.encode())
    places = [place(TextFile(file), Reading(), index) for index in range(8)]
    expected = ["1:1", "1:2", "2:1", "2:2", "2:3", "2:4", "3:1", "3:2"]
    assert places == [f"{file}:{where}" for where in expected]
    assert place(TextFile(file), Reading(as_bytes=True), 5) == f"{file}: offset 5"


@pytest.mark.parametrize("text,dtype", [("aé", np.uint8), ("aĀ", np.uint16), ("a🦊", np.uint32), ("\ud800", np.uint16)])
def test_code_points_take_the_smallest_type(text, dtype):
    codes = code_points(text)
    assert codes.dtype == dtype and codes.tolist() == [ord(character) for character in text]


def test_texts_in_memory_are_read_as_files_are():
    assert NFC.codes_of("e\u0301").tolist() == NFC.codes_of("e\u0301".encode()).tolist() == [0xE9]
    assert Reading().codes_of("e\u0301").tolist() == [0x65, 0x301]
    assert Reading(encoding="latin-1").codes_of(b"\xe9").tolist() == [0xE9]
    assert Reading(as_bytes=True).codes_of("é").tolist() == [0xC3, 0xA9]


def test_a_pipe_can_be_read_twice(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("text in a pipe"))
    writer.start()
    read_once = TextFile(pipe)
    writer.join()
    assert [characters(blocks(read_once, Reading())) for _ in range(2)] == ["text in a pipe"] * 2


def test_no_room_for_the_copy_of_a_pipe(monkeypatch):
    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(TextError, match=r"^/dev/null: expected room for a copy .*: No space left on device; .*TMPDIR"):
        TextFile(Path("/dev/null"))


def test_caches_are_no_texts(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/CACHEDIR.TAG").write_text("Signature: 8a477f597d28d172789f06886806bc55")
    for name in ("a.txt", "cache/b.ids"):
        (tmp_path / name).write_text("text")
    assert text_files([tmp_path]) == [tmp_path / "a.txt"]


def test_one_ctrl_d_ends_what_is_typed():
    """At a terminal, where it ends a read and not the file."""
    terminal, typed_at = pty.openpty()
    read = []
    reading = threading.Thread(target=lambda: read.append(TextFile(Path(os.ttyname(typed_at)))), daemon=True)
    reading.start()
    os.write(terminal, b"two\nlines\n\x04")
    reading.join(10)
    found = [characters(blocks(file, Reading())) for file in read]
    for descriptor in (terminal, typed_at):
        os.close(descriptor)
    assert found == ["two\nlines\n"]
