"""What `cuchar train` makes of its options, and the mistakes of all commands, through the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.process import ROOT
from support.small_runs import TEXT

from cuchar import reports
from cuchar.checkpoint import read_checkpoint
from cuchar.config import TrainConfig
from cuchar.engines.cpu import library as cpu_library
from cuchar.errors import TextError
from cuchar.text import read_text

SMALL = "--hidden 7 --layers 1 --window 6 --batch 3 --max-steps 4".split()


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in metrics(run)]


@pytest.fixture
def run(cli, text, tmp_path):
    """Train with further options; returns the run's folder."""
    made = []

    def train(*options, text=text):
        out = tmp_path / f"run{len(made)}"
        made.append(out)
        result = cli("train", text, *SMALL, "--log-every", 1, "--out", out, *options)
        assert result.status == 0, result.stderr
        return out

    return train


def test_defaults_are_the_notebooks():
    config = TrainConfig()
    assert (config.hidden, config.layers, config.window, config.batch, config.epochs) == (64, 2, 32, 32, 4)
    assert (
        config.lr == 0.001 and config.window_stride == 32 and (config.sample_every, config.sample_length) == (1000, 200)
    )
    assert (config.clip, config.dropout, config.weight_decay, config.schedule) == (0, 0, 0, "constant")


def test_run_folder_holds_what_the_manual_says(run):
    out = run("--val-fraction", 0.1)
    assert sorted(file.name for file in out.iterdir()) == [
        "best.safetensors", "config.json", "last.safetensors", "metrics.jsonl", "samples.txt",
    ]  # fmt: skip
    config = json.loads((out / "config.json").read_text())
    assert config["train"]["hidden"] == 7 and config["characters"] == len(TEXT)
    assert config["texts"][0].endswith("fox.txt") and len(config["sha256"]) == 64


@pytest.mark.parametrize(
    "option,value,field",
    [
        ("--hidden", 5, "hidden"), ("--layers", 3, "layers"), ("--window", 4, "window"), ("--batch", 2, "batch"),
        ("--stride", 2, "stride"), ("--epochs", 2, "epochs"), ("--max-steps", 3, "max_steps"), ("--lr", 0.1, "lr"),
        ("--seed", 9, "seed"), ("--clip", 0.01, "clip"), ("--weight-decay", 0.5, "weight_decay"),
        ("--schedule", "step", "schedule"), ("--warmup", 3, "warmup"), ("--val-fraction", 0.2, "val_fraction"),
        ("--sample-every", 2, "sample_every"), ("--sample-length", 5, "sample_length"),
        ("--temperature", 0.5, "temperature"), ("--log-every", 2, "log_every"), ("--save-every", 2, "save_every"),
        ("--on-nan", "rollback", "on_nan"), ("--law", "exp", "law"),
    ],
)  # fmt: skip
def test_option_reaches_the_run(run, option, value, field):
    out = run(option, value)
    assert json.loads((out / "config.json").read_text())["train"][field] == value
    assert read_checkpoint(out).run["train"][field] == value


def test_sizes_shape_the_model(run):
    shapes = {name: view.shape for name, view in read_checkpoint(run("--hidden", 5, "--layers", 2)).parameters.items()}
    assert shapes["lstm.weight_hh_l1"] == (20, 5) and shapes["head.weight"] == (len(set(TEXT)), 5)
    assert "lstm.weight_hh_l2" not in shapes


def test_options_that_change_training_change_it(run):
    base = losses(run())
    assert losses(run()) == base
    for options in (
        ["--seed", 1], ["--lr", 0.01], ["--weight-decay", 5], ["--warmup", 4], ["--window", 5], ["--batch", 4],
        ["--carry-state"], ["--layers", 2], ["--schedule", "cosine"],
    ):  # fmt: skip
        assert losses(run(*options)) != base, options
    clipped = run("--clip", 0.001)
    assert read_checkpoint(clipped).adam.m.any() and np.linalg.norm(read_checkpoint(clipped).adam.m) < 0.001
    two = losses(run("--layers", 2))
    assert losses(run("--layers", 2, "--dropout", 0.5)) != two


def test_rates_follow_the_schedule(run):
    out = run("--schedule", "cosine", "--decay", 0.5, "--lr", 0.1)
    assert [line["lr"] for line in metrics(out)][-1] == pytest.approx(0.05)
    out = run("--schedule", "step", "--decay", 0.5, "--max-steps", 300, "--epochs", 3)
    assert {line["epoch"]: line["lr"] for line in metrics(out)} == {0: 0.001, 1: 0.0005, 2: 0.00025}


def test_totals_end_the_run(run):
    assert metrics(run("--max-steps", 3))[-1]["step"] == 3
    by_epochs = metrics(run("--max-steps", 10_000, "--epochs", 2))
    assert by_epochs[-1]["epoch"] == 1 and by_epochs[-1]["step"] > 100


def test_a_line_is_logged_every_so_many_steps_and_at_the_end(run):
    out = run("--max-steps", 5, "--log-every", 2)
    assert [line["step"] for line in metrics(out)] == [2, 4, 5]


def test_samples_go_to_standard_output_and_the_folder(cli, text, tmp_path):
    out = tmp_path / "run"
    result = cli("train", text, *SMALL, "--sample-every", 2, "--sample-length", 9, "--temperature", 0.5, "--out", out)
    assert result.stdout == (out / "samples.txt").read_bytes()
    assert re.fullmatch(r"--- step 2 ---\n[\w\n ]{9}\n\n--- step 4 ---\n[\w\n ]{9}\n\n", result.stdout.decode())
    assert "engine: C++ (" in result.stderr and "step 4/4  epoch 0  loss " in result.stderr
    assert cli("train", text, *SMALL, "--sample-every", 0, "--out", tmp_path / "quiet").stdout == b""


def test_temperature_changes_samples(run):
    cold, warm = (run("--sample-every", 4, "--temperature", t) / "samples.txt" for t in (0.01, 1.0))
    assert cold.read_bytes() != warm.read_bytes()
    assert len(set(cold.read_text().split("---\n")[1])) < len(set(warm.read_text().split("---\n")[1]))


def test_default_folder_is_named_after_text_and_time(cli, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        assert cli("train", text, *SMALL).status == 0
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(names) == 3 and all(re.fullmatch(r"fox-\d{8}-\d{6}(\.\d)?", name) for name in names)


def test_bytes_folders_and_line_ends(cli, run, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.bin").write_bytes(bytes(range(256)) * 2)
    (folder / "b.txt").write_bytes(b"x\r\n" * 30)
    out = run("--bytes", text=folder)
    vocabulary = read_checkpoint(out).vocabulary
    assert vocabulary.is_bytes and len(vocabulary) == 256
    assert len(cli("sample", out, "--length", 50, "--seed", 1).stdout) == 51
    crlf = run(text=folder / "b.txt")
    assert read_checkpoint(crlf).vocabulary.characters() == ["\n", "\r", "x"]


def test_several_texts_are_one(cli, run, text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("ÄÖÜ" * 30)
    assert cli("train", text, other, *SMALL, "--out", tmp_path / "both").status == 0
    assert "Ä" in read_checkpoint(tmp_path / "both").vocabulary.characters()


def test_validation_options(run, text, tmp_path):
    val = tmp_path / "val.txt"
    val.write_text(TEXT[:50])
    found = [
        metrics(run(*options))[-1]["val_loss"]
        for options in (
            ["--val", val], ["--val-fraction", 0.2], ["--val-fraction", 0.2, "--val-split", "streams"],
        )
    ]  # fmt: skip
    assert len(set(found)) == 3 and all(2 < loss < 4 for loss in found)


# --- resume


def test_resume_goes_on(cli, run, text):
    out, whole = run("--max-steps", 5), run("--max-steps", 9)
    result = cli("train", "--resume", out, "--max-steps", 9, "--hidden", 7)
    assert result.status == 0 and "resuming" in result.stderr
    assert losses(out) == losses(whole)
    again = cli("train", text, "--resume", out)
    assert again.status == 0 and "is finished at step 9" in again.stderr


def test_resume_without_a_checkpoint_starts_again(cli, run):
    out, whole = run(), run()
    (out / "last.safetensors").unlink()
    result = cli("train", "--resume", out)
    assert result.status == 0 and "has no checkpoint yet: starting again" in result.stderr
    assert losses(out) == losses(whole)


def test_resume_refusals(fails, run, text, tmp_path):
    out = run()
    assert "--hidden: expected the run's 7" in fails(1, "train", "--resume", out, "--hidden", 8)
    assert "--seed: expected the run's 0" in fails(1, "train", "--resume", out, "--seed", 8)
    assert "--carry-state: expected the run's False" in fails(1, "train", "--resume", out, "--carry-state")
    assert "--precision: expected the run's fp32" in fails(1, "train", "--resume", out, "--precision", "tf32")
    assert "--bytes: expected the run's False" in fails(1, "train", "--resume", out, "--bytes")
    assert "--layers: expected from 1 to 8, found 9" in fails(2, "train", "--resume", out, "--layers", 9)
    assert "--out: expected --resume" in fails(2, "train", "--resume", out, "--out", tmp_path / "x")
    assert "expected a run folder with a config.json, found none" in fails(1, "train", "--resume", tmp_path)
    text.write_text(TEXT[1:])
    assert "expected the run's text" in fails(1, "train", "--resume", out)
    text.write_text(TEXT)
    config = json.loads((out / "config.json").read_text())
    for value in ({**config, "train": {"hidden": "many"}}, {**config, "train": []}, {"texts": []}, [], None):
        (out / "config.json").write_text(json.dumps(value))
        assert "expected a run's " in fails(1, "train", "--resume", out)
    (out / "config.json").write_text("{")
    assert "expected a run's configuration" in fails(1, "train", "--resume", out)


# --- sample


# --- eval, info, export


def test_folders_of_all_sorts_are_trained_on_resumed_and_scored(cli, fails, tmp_path):
    """A run reads the very files that it began with, though a folder has more by now."""
    folder, val, out, whole = (tmp_path / name for name in ("texts", "val", "run", "whole"))
    for place in (folder, val):
        place.mkdir()
        (place / "fox.txt").write_text(TEXT)
        (place / "logo.png").write_bytes(b"\x89PNG")
        (place / "notes.md").write_text("Ünlike the fox")
    given = ["train", folder, "--val", val, *SMALL]
    assert f"{folder}/logo.png:1:1: expected UTF-8" in fails(1, *given, "--out", out) and not out.exists()
    reading = ["--glob", "*[tg]", "--skip-unreadable"]
    begun = cli(*given, *reading, "--out", out)
    assert begun.status == 0 and "notes.md" not in begun.stderr
    for place in (folder, val):
        assert f"left out {place}/logo.png:1:1: expected UTF-8, found byte 0x89 at offset 0" in begun.stderr
    assert begun.stderr.count("left out 1 of 2 files\n") == 2
    config = json.loads((out / "config.json").read_text())
    assert (config["texts"], config["val"]) == ([str(folder / "fox.txt")], [str(val / "fox.txt")])
    assert cli(*given, *reading, "--max-steps", 7, "--out", whole).status == 0
    for place in (folder, val):
        (place / "zoo.txt").write_text("another")
    assert cli("train", "--resume", out, "--max-steps", 7).status == 0
    assert losses(out) == losses(whole)
    assert "expected the run's text" in fails(1, "train", folder, "--glob", "*.txt", "--resume", out, "--max-steps", 8)
    moved = folder.rename(tmp_path / "moved")
    (moved / "zoo.txt").unlink()
    assert cli("train", moved, *reading, "--resume", out, "--max-steps", 8).status == 0
    assert f"{moved}/logo.png:1:1" in fails(1, "eval", out, moved)
    scored = cli("eval", out, moved, *reading, "--json")
    assert json.loads(scored.stdout)["chars"] == len(TEXT) - 1 and "left out 1 of 2 files\n" in scored.stderr
    (left_out,) = json.loads(scored.stdout)["left_out"]
    assert left_out.startswith(f"{moved}/logo.png:1:1: expected UTF-8, found byte 0x89")


def test_info_names_the_first_of_many_texts(cli, run, tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    for name in "abcde":
        (folder / name).write_text(TEXT[:200])
    shown = " ".join(cli("info", run(text=folder)).stdout.decode().split())
    assert " and 2 more (1,000 characters) " in shown


def test_a_run_is_resumed_and_not_trained_on(fails, trained, text, tmp_path):
    expected = f"{trained}: expected a text, found the folder of a run; cuchar train --resume {trained} goes on with it"
    for command in (("train", trained), ("train", text, "--val", trained), ("eval", trained, trained)):
        assert fails(1, *command) == f"cuchar: {expected}\n"


def test_a_text_in_the_place_of_its_path(fails, trained, text):
    line = "cuchar: expected the path of a text file, found a text of 1,760 characters\n"
    for command in (
        ("train", TEXT),
        ("train", text, "--val", TEXT),
        ("eval", trained, TEXT),
        ("sample", trained, "--prime-file", TEXT),
    ):
        assert fails(1, *command) == line


def test_a_precision_that_the_device_has_not(cli, fails, trained, text, tmp_path):
    out, few = tmp_path / "run", ("--window", 3, "--batch", 2, "--hidden", 4)
    expected = "--precision bf16: expected a GPU's tensor cores, found none (asked for); --precision fp32"
    chosen = ("--device", "cpu", "--precision", "bf16")
    assert expected in fails(1, "train", text, *chosen, "--out", out) and not out.exists()
    assert expected in fails(1, "eval", trained, text, *chosen)
    assert expected in fails(1, "bench", *few, *chosen)
    for command in (("eval", trained, text), ("bench", *few)):
        assert "--precision: expected fp32 | tf32 | bf16 | fp16, found fp8" in fails(2, *command, "--precision", "fp8")


def test_info_describes_a_checkpoint(cli, trained):
    shown = cli("info", trained).stdout.decode()
    parameters = read_checkpoint(trained).parameters
    assert f"2 layers of 12, {parameters.flat.size:,} parameters" in shown
    for name, view in parameters.items():
        assert re.search(rf"{name}\W+{' x '.join(map(str, view.shape))} ", shown), name
    assert "30 steps, " in shown and "max_steps=30" in shown and f"{len(set(TEXT))} characters: " in shown


def test_info_shows_what_looks_like_markup(cli, monkeypatch):
    monkeypatch.setattr(reports, "describe_launch", lambda: "pip install 'cuchar[mpi]' brings it")
    assert "cuchar[mpi]" in " ".join(cli("info").stdout.decode().split())


def test_info_describes_the_machine(cli):
    shown = cli("info").stdout.decode()
    for name in ("cuchar", "NumPy", "CuPy", "CUDA driver", "GPU", "--device auto"):
        assert name in shown
    assert re.search(r"--device cpu +C\+\+: [\w -]+, [1-9]\d* threads", shown)


def test_without_a_compiler_numpy_trains_and_info_says_why(cli, text, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(cpu_library, "loaded", {})
    why = "for C++ expected a C++20 compiler, found no no-such-compiler; install g++ 12 or set CXX"
    result = cli("train", text, *SMALL, "--out", tmp_path / "run")
    assert f"; {why})\n" in result.stderr and result.stderr.startswith("engine: NumPy (")
    assert f"--device cpu NumPy: {why}" in " ".join(cli("info").stdout.decode().split())
    assert cli("train", "--resume", tmp_path / "run", "--max-steps", 5).status == 0


def test_export_writes_the_file(cli, fails, trained, tmp_path):
    from safetensors.numpy import load_file

    out = tmp_path / "out.safetensors"
    result = cli("export", trained, out)
    assert result.status == 0 and result.stdout == b"" and f"wrote {out}" in result.stderr
    assert load_file(out)["lstm.bias_ih_l1"].shape == (48,)
    assert f"found no {tmp_path}/no" in fails(1, "export", trained, tmp_path / "no/out.safetensors")


# --- mistakes in training


@pytest.mark.parametrize(
    "options,expected",
    [
        ("--hidden 0", "--hidden: expected from 1 to 65536, found 0"),
        ("--layers 9", "--layers: expected from 1 to 8, found 9"),
        ("--window 0", "--window: expected at least 1, found 0"),
        ("--batch -1", "--batch: expected at least 1, found -1"),
        ("--stride 0", "--stride: expected at least 1, found 0"),
        ("--epochs 0", "--epochs: expected at least 1, found 0"),
        ("--max-steps 0", "--max-steps: expected at least 1, found 0"),
        ("--lr 0", "--lr: expected a number above 0, found 0.0"),
        ("--lr nan", "--lr: expected a number above 0, found nan"),
        ("--lr inf", "--lr: expected a number above 0, found inf"),
        ("--seed -1", "--seed: expected from 0"),
        ("--dropout 1", "--dropout: expected from 0 up to, not including, 1, found 1.0"),
        ("--clip -1", "--clip: expected at least 0"),
        ("--weight-decay -1", "--weight-decay: expected at least 0"),
        ("--schedule linear", "--schedule: expected constant | step | cosine, found linear"),
        ("--warmup -1", "--warmup: expected at least 0, found -1"),
        ("--decay 0.5", "--decay: expected --schedule step or --schedule cosine with it, found --schedule constant"),
        ("--decay 2 --schedule step", "--decay: expected above 0 and at most 1, found 2.0"),
        ("--val-fraction 1", "--val-fraction: expected from 0 up to, not including, 1, found 1.0"),
        ("--val-split head --val-fraction 0.1", "--val-split: expected tail | streams, found head"),
        ("--val-split streams", "--val-split streams: expected --val-fraction with it"),
        ("--val x --val-fraction 0.1", "--val: expected it or --val-fraction, found both"),
        ("--carry-state --stride 3", "--stride: expected --window (32) with --carry-state"),
        ("--sample-every -1", "--sample-every: expected at least 0"),
        ("--sample-length 0", "--sample-length: expected at least 1"),
        ("--temperature 0", "--temperature: expected a number above 0"),
        ("--log-every 0", "--log-every: expected at least 1"),
        ("--save-every 0", "--save-every: expected at least 1"),
        ("--device gpu", "--device: expected auto | cpu | cuda | cuda:N | emulate, found gpu"),
        ("--precision fp8", "--precision: expected fp32 | tf32 | bf16 | fp16, found fp8"),
        ("--hidden many", "many"),
        ("--no-such-option", "--no-such-option"),
    ],
)
def test_impossible_options(fails, text, tmp_path, options, expected):
    assert expected in fails(2, "train", text, *options.split(), "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_text_and_no_such_command(fails):
    assert "TEXT: expected a text file or folder" in fails(2, "train")
    assert "fly" in fails(2, "fly")


@pytest.mark.parametrize(
    "content,expected",
    [
        (b"", "expected text, found an empty file"),
        (
            b"ab",
            "expected at least 1,087 characters for --batch 32 --window 32, found 2; --batch 1 --window 1 would fit",
        ),
        (b"ab" * 500, "found 1,000; --batch 29 or --window 29 would fit"),
        (b"aaaa" * 999, "expected at least 2 distinct characters, found 1"),
        (b"ab\xff" * 999, "expected UTF-8, found byte 0xff at offset 2"),
    ],
)
def test_texts_that_cannot_train(fails, text, tmp_path, content, expected):
    text.write_bytes(content)
    assert expected in fails(1, "train", text, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_texts_that_are_not_there(fails, tmp_path):
    assert "expected a text file, found no such file" in fails(
        1, "train", tmp_path / "no.txt", "--out", tmp_path / "run"
    )
    (tmp_path / "empty").mkdir()
    line = fails(1, "train", tmp_path / "empty", "--out", tmp_path / "run")
    assert "expected a folder with text files, found none in it" in line
    assert not (tmp_path / "run").exists()


def test_texts_without_permission(text, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # root may read anything, so modes would prove nothing
    with pytest.raises(TextError, match=r"fox\.txt: expected a readable file, found: Permission denied"):
        read_text([text])


def test_wide_vocabulary_is_refused(fails, text, tmp_path):
    text.write_text("".join(map(chr, range(0x10000, 0x10000 + 65_537))), "utf-8")
    assert "at most 65,536 distinct characters, found 65,537" in fails(1, "train", text, "--out", tmp_path / "run")


def test_cuda_without_a_driver_is_refused_clearly_and_leaves_no_folder(
    fails, cli, text, trained, tmp_path, monkeypatch
):
    monkeypatch.setattr("cuchar.engines.choose.DRIVERS", ())
    line = fails(1, "train", text, "--device", "cuda", "--out", tmp_path / "run")
    assert "--device cuda: expected an NVIDIA GPU and its driver, found none; --device cpu needs none" in line
    assert not (tmp_path / "run").exists()
    assert "--device cuda:1: expected an NVIDIA GPU" in fails(1, "sample", trained, "--device", "cuda:1")
    assert b"C++: no NVIDIA driver found" in cli("info").stdout


def test_folder_that_holds_a_run_is_refused(fails, run, text):
    out = run()
    before = (out / "metrics.jsonl").read_bytes()
    assert "expected a new run folder, found a run in it (metrics.jsonl)" in fails(1, "train", text, "--out", out)
    assert (out / "metrics.jsonl").read_bytes() == before


def test_folder_in_use_is_refused(fails, run, text, tmp_path):
    from cuchar.run_folder import RunFolder

    out = run()
    held = RunFolder.reopen(out)
    line = fails(1, "train", "--resume", out, "--max-steps", 9)
    assert "expected a folder nobody trains in, found another training at work" in line
    held.close()
    (tmp_path / "file").write_text("")
    assert "expected to make a run folder, found: Not a directory" in fails(
        1, "train", text, *SMALL, "--out", tmp_path / "file"
    )


def test_damaged_checkpoint_is_one_line_everywhere(fails, run, text, tmp_path):
    out = run()
    last = out / "last.safetensors"
    data = last.read_bytes()
    for damaged in (data[:100], data[:-1], data[:60] + b"\x00" + data[61:], b""):
        last.write_bytes(damaged)
        for command in (["sample", out], ["eval", out, text], ["info", out], ["export", out, tmp_path / "x"]):
            assert "last.safetensors: expected " in fails(1, *command)
        assert "last.safetensors: expected " in fails(1, "train", "--resume", out, "--max-steps", 9)
    assert not (tmp_path / "x").exists()


def test_divergence_is_one_line(cli, text, tmp_path):
    result = cli("train", text, *SMALL, "--lr", "1e38", "--save-every", 1, "--out", tmp_path / "run")
    assert result.status == 1 and "Traceback" not in result.stderr
    assert re.search(r"cuchar: training stopped at step 1: expected a parameter to be finite", result.stderr)


def test_a_preset_gives_what_is_not_given(cli, text, tmp_path):
    def options(*arguments):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        result = cli(
            "train", text, "--hidden", 5, "--window", 6, "--batch", 3, "--max-steps", 2, *arguments, "--out", out
        )
        assert result.status == 0, result.stderr
        return json.loads((out / "config.json").read_text())["train"]

    found = options("--preset", "char-rnn")
    expected = {"hidden": 5, "window": 6, "batch": 3, "layers": 2, "lr": 0.002, "clip": 5.0, "carry_state": True}
    expected |= {"schedule": "step", "decay": 0.97, "val_fraction": 0.05, "val_split": "streams", "epochs": 50}
    assert expected.items() <= found.items()
    assert options("--preset", "notebook") == options()
    other = options("--preset", "torch-rnn", "--schedule", "cosine", "--lr", 0.5)
    assert (other["schedule"], other["decay"], other["lr"], other["val_fraction"]) == ("cosine", None, 0.5, 0.1)
    validated = options("--preset", "char-rnn", "--val", text)
    assert (validated["val_fraction"], validated["val_split"]) == (0.0, "tail")
    assert options("--preset", "char-rnn", "--val-fraction", 0)["val_split"] == "tail"
    best = options("--preset", "best", "--dropout", 0.25)
    expected = {"layers": 2, "lr": 0.002, "clip": 1.0, "dropout": 0.25, "weight_decay": 0.1, "epochs": 25}
    expected |= {"carry_state": True, "schedule": "cosine", "decay": 0.02, "val_fraction": 0.1, "val_split": "tail"}
    expected |= {"warmup": 400, "weight_dropout": 0.2, "scale_logits": True}
    assert expected.items() <= best.items()


def test_the_help_and_the_manual_say_where_a_rollback_leads(cli):
    (row,) = [line for line in (ROOT / "docs/manual.md").read_text().splitlines() if line.startswith("| `--on-nan ")]
    for said in (row, " ".join(re.sub("[│|]", " ", cli("train", "--help").stdout.decode()).split())):
        assert "to the last checkpoint that was due" in said


def test_unknown_presets_and_presets_for_a_resumed_run_are_refused(fails, trained, text, tmp_path):
    line = fails(2, "train", text, "--preset", "gpt", "--out", tmp_path / "run")
    assert "--preset: expected notebook | char-rnn | torch-rnn | best | auto, found gpt" in line
    line = fails(2, "train", "--resume", trained, "--preset", "char-rnn")
    assert f"--preset: expected --resume {trained} alone, which has its own, found both" in line
