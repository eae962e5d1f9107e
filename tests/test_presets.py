"""Presets: which options they stand for, and how `--preset auto` goes by the text's size."""

import re

import pytest
from support.notes import Notes
from support.process import ROOT
from support.small_runs import TEXT

import cuchar
from cuchar.batches import check_length
from cuchar.checkpoint import read_checkpoint
from cuchar.config import TrainConfig
from cuchar.presets import BY_SIZE, FITTED, PRESETS, describe_auto, fitted, with_preset
from cuchar.wording import command_line_wording, option

SIZES = sorted(BY_SIZE)


def said(note: str) -> dict[str, str]:
    """The options in the note of what "auto" chose, and their values as they are spelled."""
    return dict(word.split("=") for word in note.split(" characters: ")[1].split())


@pytest.mark.parametrize("size", SIZES)
def test_a_size_has_its_settings_from_its_first_character_on(size):
    assert fitted(size) == FITTED | BY_SIZE[size]
    if size:
        below = max(other for other in SIZES if other < size)
        assert fitted(size - 1) == FITTED | BY_SIZE[below]


@pytest.mark.parametrize("size", [*(size for size in SIZES if size), 50, 10**9])
def test_every_text_is_long_enough_for_the_settings_it_gets(size):
    config = TrainConfig(**with_preset("auto", {}, characters=size))
    assert config.to_json().items() >= fitted(size).items()
    check_length(size - round(size * config.val_fraction), config)
    assert config.val_fraction and config.patience


@pytest.mark.parametrize("processes,batch", [(1, 5), (4, 5), (5, 5), (6, 6), (40, 40)])
def test_every_process_gets_a_row(processes, batch):
    size = 30_000
    assert fitted(size, processes) == {**fitted(size), "batch": batch}
    chosen = with_preset("auto", {}, characters=size, processes=processes)
    assert chosen["batch"] == batch and with_preset("auto", {"batch": 3}, False, size, processes)["batch"] == 3
    among = f"for 30,000 characters and {processes} processes: " if processes > 1 else "for 30,000 characters: "
    note = describe_auto(chosen, {}, size, processes)
    assert among in note and f" batch={batch} " in note


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
    assert said(note) == {name: repr(value) for name, value in chosen.items() if name != "hidden"}


@pytest.mark.parametrize("given", [{"lr": 0.1}, {"val": True}, {"val_fraction": 0}, {"schedule": "constant"}])
def test_what_is_said_is_what_the_run_has_and_was_not_given(text, tmp_path, given):
    notes, run = Notes(), tmp_path / "run"
    options = {name: text if name == "val" else value for name, value in given.items()}
    cuchar.train(text, preset="auto", max_steps=1, out=run, callbacks=[notes], **options)
    (note,) = [note for note in notes.notes if "auto" in note]
    stored = read_checkpoint(run).run["train"]
    assert not said(note).keys() & given.keys()
    assert said(note) == {name: repr(stored[name]) for name in said(note)}
    unlike_defaults = {name for name, value in stored.items() if value != getattr(TrainConfig(), name)}
    assert unlike_defaults <= said(note).keys() | given.keys() | {"max_steps"}


def test_sizes_of_a_checkpoint_are_not_its_choice(trained, text, tmp_path):
    notes = Notes()
    cuchar.train(text, preset="auto", init_from=trained, max_steps=1, out=tmp_path / "run", callbacks=[notes])
    (note,) = [note for note in notes.notes if "preset=" in note]
    assert not said(note).keys() & {"hidden", "layers"} and "window" in said(note)


def test_a_stride_has_to_be_the_window_that_fits_the_text(fails, cli, tmp_path):
    """30,000 characters get windows of 50, and a million windows of 64."""
    file, out = tmp_path / "text.txt", tmp_path / "run"
    file.write_text((TEXT * 18)[:30_000])
    command = ("train", file, "--preset", "auto", "--max-steps", 1, "--out", out, "--carry-state", "--stride")
    assert "--stride: expected --window (50) with --carry-state" in fails(2, *command, 64)
    assert not out.exists()
    assert cli(*command, 50).status == 0
    stored = read_checkpoint(out).run["train"]
    assert (stored["window"], stored["stride"], stored["carry_state"]) == (50, 50, True)


@pytest.mark.parametrize(
    "options,expected",
    [
        ("--stride 0", "--stride: expected at least 1, found 0"),
        ("--stride 49 --window 50", "--stride: expected --window (50) with --carry-state"),
        ("--lr 0", "--lr: expected a number above 0, found 0.0"),
        ("--hidden 0", "--hidden: expected from 1 to 65536, found 0"),
        ("--decay 0.5 --schedule constant", "--decay: expected --schedule step or"),
        ("--val-split streams --val-fraction 0", "--val-split streams: expected --val-fraction"),
        ("--val x --val-fraction 0.1", "--val: expected it or --val-fraction, found both"),
    ],
)
def test_what_is_wrong_for_any_text_is_said_before_one_is_read(fails, tmp_path, options, expected):
    assert expected in fails(2, "train", tmp_path / "no text", "--preset", "auto", *options.split())


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
