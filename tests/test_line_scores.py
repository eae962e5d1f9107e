"""Scores of lines, each by itself: what is counted, what is unknown, and the same bits alone and side by side."""

import math

import numpy as np
import pytest
from support.checkpoints import made
from support.small_runs import TEXT

import cuchar
from cuchar.checkpoint import write_checkpoint
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.errors import OptionError, TextError
from cuchar.evaluation import FEW_ROWS
from cuchar.line_scores import UNKNOWN_BITS
from cuchar.parameters import Parameters
from cuchar.vocabulary import Vocabulary

LINES = [
    "the quick brown fox", "", "the lazy dog jumps over the quick brown fox" * 3, "x", "jumps over", "zyx wvu tsr",
    *(TEXT[at : at + at % 90].replace("\n", " ") for at in range(130)),
]  # fmt: skip


def model_of(checkpoint, folder):
    write_checkpoint(folder / "made.safetensors", checkpoint)
    return cuchar.load(folder / "made.safetensors", device="cpu")


def bits_after_newline(model, line):
    """The bits of each character of a line and of its newline, in float64, by one window that begins with a newline."""
    ids = model.vocabulary.encode(model.reading.codes_of(f"\n{line}\n"))
    engine = NumpyEngine(model.parameters.model, np.float64)
    weights = engine.fold(Parameters(model.parameters.model, np.float64, model.parameters.flat.astype(np.float64)))
    losses, _ = engine.losses(weights, ids[:-1, None], ids[1:, None], engine.zero_state(1))
    return losses[:, 0] / math.log(2)


def test_a_line_is_read_after_a_newline_and_its_own_newline_is_predicted(trained):
    model = cuchar.load(trained, device="cpu")
    for line, score in zip(LINES, model.score_lines(LINES), strict=True):
        expected = bits_after_newline(model, line)
        assert (score.text, score.length) == (line, len(line)) and len(expected) == len(line) + 1
        assert score.bits == pytest.approx(expected.sum(), rel=1e-5)
        assert score.bits_per_char == score.bits / (len(line) + 1)
        most = sorted(range(len(expected)), key=lambda at: -expected[at])[:3]
        assert [one.bits for one in score.most_surprising] == pytest.approx(expected[most].tolist(), rel=1e-4)
        for one in score.most_surprising:
            assert one.character == f"{line}\n"[one.position]
            assert one.bits == pytest.approx(expected[one.position], rel=1e-4)


def test_a_line_has_the_same_bits_alone_and_beside_others(trained):
    model = cuchar.load(trained, device="cpu")
    assert model.engine.name == "C++"
    together = model.score_lines(LINES)
    assert [model.score_lines([line])[0] for line in LINES] == together
    assert model.score_lines(LINES[::-1]) == together[::-1]


@pytest.mark.parametrize("few", [FEW_ROWS, FEW_ROWS + 1])
def test_the_longer_lines_go_on_in_a_narrower_window_if_all_of_them_fit_into_it(trained, few):
    model, lines = cuchar.load(trained, device="cpu"), ["the fox"] * 12 + [TEXT[at : at + 44] for at in range(12)]
    lines = [line.replace("\n", " ")[: None if at < 12 + few else 9] for at, line in enumerate(lines)]
    assert model.score_lines(lines) == [model.score_lines([line])[0] for line in lines]


@pytest.mark.parametrize("device", ["numpy", "emulate"])
def test_other_engines_give_the_same_alone_and_beside_others_but_for_rounding(trained, device):
    model = cuchar.load(trained, device="emulate" if device == "emulate" else "cpu")
    if device == "numpy":
        model.engine = NumpyEngine(model.parameters.model)
        model._weights = model.engine.fold(model.parameters)
    lines = LINES[:12]
    exact = [pytest.approx(bits_after_newline(model, line).sum(), rel=1e-5) for line in lines]
    assert [score.bits for score in model.score_lines(lines)] == exact
    assert [model.score_lines([line])[0].bits for line in lines] == exact


def test_lines_may_have_their_newlines_and_equal_ones_have_equal_scores(trained, text):
    model = cuchar.load(trained)
    plain, *others = model.score_lines(["the dog", "the dog\n", b"the dog", b"the dog\n", "the dog"])
    assert others == [plain] * 4 and model.score_lines([]) == []
    with text.open() as lines:
        assert [score.text for score in model.score_lines(lines)] == TEXT.splitlines()


def test_equal_surprises_come_in_their_order(tmp_path):
    checkpoint = made("\nab")
    checkpoint.parameters.flat[:] = 0  # every character is equally likely
    (score,) = model_of(checkpoint, tmp_path).score_lines(["abab"])
    assert [(one.position, one.character) for one in score.most_surprising] == [(0, "a"), (1, "b"), (2, "a")]
    assert score.bits == pytest.approx(5 * math.log2(3))
    (empty,) = model_of(checkpoint, tmp_path).score_lines([""])
    assert [(one.position, one.character) for one in empty.most_surprising] == [(0, "\n")]


def test_an_unknown_character_costs_as_much_as_any_code_point_and_is_not_read(trained):
    model = cuchar.load(trained)
    known, unknown, damaged, all_unknown, empty = model.score_lines(
        ["the dog", "the ÉdÖog", b"the \xffdog\xfe", "ÉÖ", ""]
    )
    for score, places in ((unknown, [4, 6]), (damaged, [4, 8])):
        assert score.bits == pytest.approx(known.bits + 2 * UNKNOWN_BITS)
        assert [(one.position, one.bits) for one in score.most_surprising[:2]] == [(at, UNKNOWN_BITS) for at in places]
    assert damaged.text == "the \ufffddog\ufffd"
    assert all_unknown.bits == pytest.approx(empty.bits + 2 * UNKNOWN_BITS)
    assert pytest.approx(math.log2(1_114_112)) == UNKNOWN_BITS


def test_a_model_with_the_unknown_symbol_reads_and_scores_it(tmp_path):
    checkpoint = made("\nab\ufffd")
    checkpoint.vocabulary = Vocabulary(checkpoint.vocabulary.codes, has_unknown=True)
    symbol, unknown = model_of(checkpoint, tmp_path).score_lines(["a\ufffdb", "a☃b"])
    assert unknown.bits == symbol.bits and (symbol.text, unknown.text) == ("a\ufffdb", "a☃b")


def test_a_model_of_bytes_scores_bytes(tmp_path):
    text, data = model_of(made("\n\xa9\xc3", bytes=True), tmp_path).score_lines(["é", b"\xc3\xa9"])
    assert text == data and (data.text, data.length) == ("\xc3\xa9", 2)
    assert not any(one.bits == UNKNOWN_BITS for one in data.most_surprising)


def test_what_is_no_list_of_lines_is_refused(trained, tmp_path):
    model = cuchar.load(trained)
    for lines in ("the dog", b"the dog", 5):
        with pytest.raises(OptionError, match=r"^lines: expected lines, found "):
            model.score_lines(lines)
    with pytest.raises(OptionError, match=r"^lines: expected text or bytes, found 5"):
        model.score_lines(["the dog", 5])
    with pytest.raises(TextError, match=r"^expected a model of lines, found one whose 3 characters have no newline"):
        model_of(made("abé"), tmp_path).score_lines(["a"])
    checkpoint = made("ab\ufffd")
    checkpoint.vocabulary = Vocabulary(checkpoint.vocabulary.codes, has_unknown=True)
    with pytest.raises(TextError, match=r"^expected a model of lines, found one whose 3 characters have no newline"):
        model_of(checkpoint, tmp_path).score_lines(["a"])
