"""Texts of any size are scored as those in memory are: ids that are read on the way give the same bits."""

import math

import numpy as np
import pytest
from support.small_runs import TEXT

import cuchar
from cuchar import evaluation, id_stream
from cuchar.errors import OptionError, TextError
from cuchar.evaluation import ADDED, LossSum
from cuchar.id_stream import Alphabet, IdStream, count_text
from cuchar.reading import Reading
from cuchar.vocabulary import Vocabulary


def in_pieces(ids: np.ndarray, seed: int, taken: list[int] | None = None):
    """The ids in pieces of 0 to 40; `taken` is told how many were asked for."""
    rng, at = np.random.default_rng(seed), 0
    while at < len(ids):
        piece = ids[at : at + rng.integers(0, 41)]
        at += len(piece)
        if taken is not None:
            taken.append(len(piece))
        yield piece


@pytest.mark.parametrize("seed", range(20))
def test_slices_are_those_of_an_array(seed):
    rng, taken = np.random.default_rng(seed), []
    ids = rng.integers(0, 250, 500).astype(np.uint8)
    stream, start = IdStream(len(ids), in_pieces(ids, seed, taken)), 0
    furthest = 1
    assert len(stream) == 500
    while start < 500:
        end = int(rng.integers(start, 520))
        assert np.array_equal(stream[start:end], ids[start:end])
        furthest = max(furthest, end)
        assert sum(taken[:-1]) < furthest  # no piece is read that is not needed
        start += int(rng.integers(0, 60))


def test_only_what_is_needed_is_held():
    """However long the stream, it has no more than the last slice and one piece."""
    stream = IdStream(100_000_000, (np.zeros(1000, np.uint8) for _ in range(100_000)))
    for start in range(0, 2_000_000, 300):
        stream[start : start + 301]
        assert len(stream._held) <= 1301


@pytest.mark.parametrize("way", [{}, {"window": 7}, {"window": 1000}, {"chunked": True}])
def test_losses_have_the_bits_of_those_of_an_array(way, trained, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK", 300)
    monkeypatch.setattr(evaluation, "CHUNKS", 2)
    model = cuchar.load(trained)
    ids = model.vocabulary.encode(model.reading.codes_of(TEXT))
    whole = np.concatenate(list(model.losses(ids, **way)))
    stream = IdStream(len(ids), in_pieces(ids, 0))
    assert np.array_equal(np.concatenate(list(model.losses(stream, **way))), whole)
    assert len(whole) == len(TEXT) - 1


@pytest.mark.parametrize("count", [0, 1, ADDED - 1, ADDED, ADDED + 1, 5 * ADDED + 77])
def test_sums_have_the_same_bits_however_losses_come(count):
    rng = np.random.default_rng(count)
    losses, whole = rng.exponential(2, count).astype(np.float32), LossSum()
    whole.add(losses)
    for most in (100, 9000, 30_000):
        pieces, at = LossSum(), 0
        while at < count:
            size = int(rng.integers(0, most))
            pieces.add(losses[at : at + size])
            at += size
        assert pieces.count == whole.count == count
        assert pieces.mean == whole.mean or count == 0
    if count == 0:
        assert math.isnan(whole.mean)
        return
    # A sum of positive numbers is wrong by as many halves of an ulp as additions follow each other, at most.
    following = ADDED + count // ADDED + 2
    assert whole.mean == pytest.approx(math.fsum(losses.tolist()) / count, rel=following * 2**-53)


# --- counting


def alphabet(characters: str = "abc") -> Alphabet:
    return Alphabet(Reading(), Vocabulary.of(np.array(list(map(ord, characters)))))


def write(folder, **contents: str) -> list:
    for name, content in contents.items():
        (folder / name).write_text(content)
    return [folder / name for name in contents]


@pytest.mark.parametrize("block", [2, 1 << 22])
def test_characters_of_each_file_are_counted(block, tmp_path, monkeypatch):
    monkeypatch.setattr(id_stream, "BLOCK", block)
    files, read = write(tmp_path, one="abxca", two="", three="zz\nz", four="cba"), []
    text = count_text(files, alphabet(), "skip", advance=read.append)
    assert [(file.known, file.unknown) for file in text.files] == [(4, 1), (0, 0), (0, 4), (3, 0)]
    assert (text.known, text.unknown, sum(read)) == (7, 5, 12)
    assert text.ids()[0:7].tolist() == [0, 1, 2, 0, 2, 1, 0]


def test_mistakes_are_found_before_anything_is_scored(tmp_path):
    files = write(tmp_path, one="ab\nc")
    with pytest.raises(TextError, match=r"one:1:3: character '\\n' .*; unknown='skip' leaves such characters out$"):
        count_text(files, alphabet())
    assert count_text(files, alphabet("abc\n")).known == 4
    with pytest.raises(OptionError, match=r"unknown: expected error \| skip, found x"):
        count_text(files, alphabet("abc\n"), "x")
    (tmp_path / "bad").write_bytes(b"abx\xff")
    with pytest.raises(TextError, match=r"bad:1:4: expected UTF-8.*; skip_unreadable=True leaves such files out$"):
        count_text([*files, tmp_path / "bad"], alphabet("abc\n"))
    text = count_text([tmp_path / "bad", *files], alphabet("abc\n"), skip_unreadable=True)
    assert [file.file.path for file in text.files] == files and len(text.left_out) == 1
    with pytest.raises(TextError, match="expected a readable text file, found none"):
        count_text([tmp_path / "bad"], alphabet(), skip_unreadable=True)


@pytest.mark.parametrize("later", ["ab", "abab", "abx", ""])
def test_a_file_that_changes_meanwhile(later, tmp_path):
    files = write(tmp_path, one="abc", two="c")
    text = count_text(files, alphabet(), "skip")
    (tmp_path / "one").write_text(later)
    with pytest.raises(TextError, match="one: expected a text that stays as it is while it is read, found it changed"):
        text.ids()[0:4]
