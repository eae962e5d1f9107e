"""Presets: which options they stand for, and how `--preset auto` goes by the text's size."""

import re

import pytest
from support.process import ROOT
from support.small_runs import TEXT

import cuchar
from cuchar.batches import check_length
from cuchar.callbacks import Callback
from cuchar.checkpoint import read_checkpoint
from cuchar.config import TrainConfig
from cuchar.presets import BY_SIZE, FITTED, PRESETS, fitted, with_preset
from cuchar.wording import command_line_wording, option

SIZES = sorted(BY_SIZE)


class Notes(Callback):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.mark.parametrize("size", SIZES)
def test_a_size_has_its_settings_from_its_first_character_on(size):
    assert fitted(size) == FITTED | BY_SIZE[size]
    if size:
        below = max(other for other in SIZES if other < size)
        assert fitted(size - 1) == FITTED | BY_SIZE[below]


@pytest.mark.parametrize("size", [*(size for size in SIZES if size), 50, 10**9])
def test_every_text_is_long_enough_for_the_settings_it_gets(size):
    config = TrainConfig(**with_preset("auto", {}, characters=size))
    check_length(size - round(size * config.val_fraction), config)
    assert config.val_fraction and config.patience


def test_the_manual_has_the_settings():
    manual = (ROOT / "docs/manual.md").read_text()
    rows = [line for line in manual.splitlines() if re.match(r"\| [\d,]+ \| \d+ \| \d+ \| \d+ \|", line)]
    names = ("hidden", "window", "batch", "dropout", "lr", "weight_decay", "epochs")
    expected = [(f"{size:,}", *(str(row.get(name, 0)) for name in names)) for size, row in BY_SIZE.items()]
    assert [tuple(cell.strip() for cell in row.split("|")[1:9]) for row in rows] == expected
    common = manual[manual.index("All its rows have") :].split(":")[0]
    with command_line_wording():
        for name, value in FITTED.items():
            assert name == "layers" or option(name, value).replace(" 1.0", " 1") in common, name


def test_longer_texts_get_wider_models_more_rows_and_fewer_epochs():
    rows = [BY_SIZE[size] for size in SIZES]
    for name, rises in (("hidden", True), ("batch", True), ("epochs", False)):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=not rises), name


def test_options_that_are_given_win_and_what_is_chosen_is_said(text, tmp_path):
    notes, run = Notes(), tmp_path / "run"
    cuchar.train(text, preset="auto", hidden=9, max_steps=4, out=run, callbacks=[notes])
    (note,) = [note for note in notes.notes if "auto" in note]
    chosen, stored = fitted(len(TEXT)), read_checkpoint(run).run["train"]
    assert {name: stored[name] for name in chosen} == {**chosen, "hidden": 9} and stored["max_steps"] == 4
    assert note.startswith(f"preset='auto', for {len(TEXT):,} characters: layers=2 ")
    assert " hidden=9 " in note and " carry_state=True " in note and f"patience={chosen['patience']}" in note


def test_it_goes_by_the_length_of_the_text(tmp_path, cli):
    file, run = tmp_path / "long.txt", tmp_path / "run"
    file.write_text(TEXT * 30)
    assert cli("train", file, "--preset", "auto", "--max-steps", 1, "--out", run).status == 0
    stored = read_checkpoint(run).run["train"]
    assert fitted(len(TEXT) * 30) != fitted(len(TEXT))
    assert {name: stored[name] for name in fitted(len(TEXT) * 30)} == fitted(len(TEXT) * 30)


def test_validation_and_patience_go_together():
    assert {"val_fraction", "patience"} <= with_preset("auto", {}).keys()
    own = with_preset("auto", {}, own_validation=True)
    assert "val_fraction" not in own and "patience" in own
    without = with_preset("auto", {"val_fraction": 0})
    assert "patience" not in without and without["val_fraction"] == 0
    TrainConfig(**without)


def test_a_schedule_that_is_given_brings_its_own_decay():
    for name in (*PRESETS, "auto"):
        assert "decay" not in with_preset(name, {"schedule": "constant"}) or name == "notebook"
