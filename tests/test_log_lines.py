"""Lines as they come from files and pipes, and the threshold that a clean text gives."""

import codecs
import os
import threading
import tracemalloc

import numpy as np
import pytest
from support.checkpoints import made
from support.small_runs import TEXT

import cuchar
from cuchar import log_lines
from cuchar.checkpoint import write_checkpoint
from cuchar.errors import DivergedError, OptionError, TextError
from cuchar.log_lines import calibrate, scored_lines


def lines_of_pipe(folder, pieces):
    """What `_ready_lines` yields of a pipe into which these pieces are written one after the other."""
    pipe = folder / "pipe"
    if not pipe.exists():
        os.mkfifo(pipe)

    def write():
        with pipe.open("wb", buffering=0) as file:
            for piece in pieces:
                file.write(piece)

    writer = threading.Thread(target=write)
    writer.start()
    yield from log_lines._ready_lines(pipe)
    writer.join()


def joined(blocks):
    return [line for block in blocks for line in block]


@pytest.mark.parametrize("longest", [5, 1 << 16])
@pytest.mark.parametrize("end", ["", "\n", "no newline at its end", "très"])
def test_lines_do_not_depend_on_how_they_are_read(tmp_path, monkeypatch, longest, end):
    """A line is whole or cut at the same places, whether it comes byte by byte or in a moment."""
    monkeypatch.setattr(log_lines, "LONGEST", longest)
    data = ("a\n\nexact\n" + "bc\r\néééé and so on\n12345\n123456\n" + end).encode()
    (tmp_path / "log").write_bytes(data)
    whole = joined(log_lines._ready_lines(tmp_path / "log"))
    for size in (1, 2, 7, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert joined(lines_of_pipe(tmp_path, pieces)) == whole
    by_number = {at: b"".join(part for number, part in whole if number == at) for at, _ in whole}
    assert list(by_number.values()) == data.removesuffix(b"\n").split(b"\n")
    assert all(0 < len(part) <= longest and part.decode() for _, part in whole if part)


def test_bytes_that_only_continue_characters_are_cut_all_the_same(monkeypatch):
    monkeypatch.setattr(log_lines, "LONGEST", 5)
    parts = log_lines._parts(b"\x80" * 13)
    assert b"".join(parts) == b"\x80" * 13 and all(0 < len(part) <= 5 for part in parts)


def test_a_line_without_an_end_takes_no_more_memory_than_its_parts(tmp_path):
    total = 0
    tracemalloc.start()
    for block in lines_of_pipe(tmp_path, (bytes([97]) * (1 << 16) for _ in range(400))):
        total += sum(len(part) for _, part in block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 400 << 16 and peak < 8 * (log_lines.AT_ONCE + log_lines.LONGEST)


@pytest.mark.parametrize("at_once", [1, 4096])
def test_lines_are_scored_with_their_files_and_numbers(trained, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(log_lines, "SCORED_AT_ONCE", at_once)
    model = cuchar.load(trained)
    (tmp_path / "a").write_bytes(codecs.BOM_UTF8 + b"the dog\nthe fox\n")
    (tmp_path / "b").write_bytes(b"\n" + codecs.BOM_UTF8 + b"over")
    blocks = list(scored_lines(model, [tmp_path / "a", tmp_path / "b"]))
    assert max(map(len, blocks)) == min(2, at_once)
    found = joined(blocks)
    texts = ["the dog", "the fox", "", "\ufeffover"]  # it is a mark at a file's beginning alone
    assert [line.score for line in found] == model.score_lines(texts)
    assert [(line.path.name, line.number) for line in found] == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    with pytest.raises(TextError, match="gone: expected a text file, found no such file"):
        joined(scored_lines(model, [tmp_path / "gone"]))


@pytest.mark.parametrize("quantile,most", [(0, 200), (0.5, 100), (0.9, 20), (0.95, 10), (1, 0)])
def test_no_more_lines_than_the_quantile_says_exceed_the_threshold(trained, tmp_path, quantile, most):
    model, lines = cuchar.load(trained), [TEXT[at : at + at % 40].replace("\n", " ") for at in range(200)]
    (tmp_path / "clean").write_text("".join(f"{line}\n" for line in lines))
    bits = np.array([score.bits_per_char for score in model.score_lines(lines)])
    threshold, count = calibrate(model, [tmp_path / "clean"], quantile)
    assert np.count_nonzero(bits > threshold) <= most and count == 200
    assert threshold == round(threshold, 4)  # so that it can be typed
    lower = bits[bits < threshold - 1e-4]  # the next lower score would have been too low
    assert not len(lower) or np.count_nonzero(bits > lower.max()) > most


def test_a_threshold_needs_a_line_and_a_share(trained, tmp_path):
    model, clean = cuchar.load(trained), tmp_path / "clean"
    clean.write_text("")
    with pytest.raises(TextError, match="clean: expected at least one line, found none"):
        calibrate(model, [clean], 0.9)
    for quantile in (-0.1, 1.5, float("nan")):
        with pytest.raises(OptionError, match=r"^quantile: expected (from 0 to 1|a finite number)"):
            calibrate(model, [clean], quantile)


@pytest.mark.parametrize("scale", [0, 3e38], ids=["infinite", "NaN"])
def test_a_model_without_finite_scores_gives_no_threshold(tmp_path, scale):
    checkpoint = made("\nabc")
    checkpoint.parameters.flat[:] = scale
    checkpoint.parameters["head.bias"][:] = [3e38, -3e38, 3e38, -3e38]
    write_checkpoint(tmp_path / "made.safetensors", checkpoint)
    (tmp_path / "clean").write_text("abc\n")
    with pytest.raises(DivergedError, match="expected finite scores of lines, found others"):
        calibrate(cuchar.load(tmp_path / "made.safetensors", device="cpu"), [tmp_path / "clean"], 0.9)
