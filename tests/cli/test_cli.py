"""Every option and every mistake, through the command line."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from support.process import ROOT
from support.small_runs import TEXT

import cuchar
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


def test_sample_options(cli, trained, tmp_path):
    def out(*options):
        result = cli("sample", trained, "--length", 30, "--seed", 1, *options)
        assert result.status == 0, result.stderr
        return result.stdout.decode()

    base = out()
    assert len(base) == 31 and base.endswith("\n") and out() == base
    assert out("--device", "cpu") == base
    assert out("--temperature", 3) != base and out("--law", "exp") != base and out("--repeat-penalty", 3) != base
    assert (
        out("--top-k", 1, "--prime", "the ")
        == out("--argmax", "--prime", "the ")
        == out("--top-p", 1e-9, "--prime", "the ")
        == out("--min-p", 1, "--prime", "the ")
    )
    assert out("--prime", "the ").startswith("the ") and len(out("--prime", "the ")) == 35
    prime = tmp_path / "prime.txt"
    prime.write_text("the ")
    assert out("--prime-file", prime) == out("--prime", "the ")
    assert out("--prime", "É", "--unknown", "skip") == base
    stopped = out("--stop", "e", "--length", 0)
    assert stopped.endswith("e\n") and stopped.count("e") == 1
    several = out("--count", 3).split("\n\n")
    joined = out("--count", 3)
    assert joined.startswith(base + "\n") and len(joined) == 3 * 30 + 2 * 2 + 1 and len(several) >= 3
    assert cli("sample", trained / "last.safetensors", "--length", 30, "--seed", 1).stdout.decode() == base


def test_sample_says_its_seed(cli, trained):
    first = cli("sample", trained, "--length", 40)
    seed = re.fullmatch(r"--seed (\d+)\n", first.stderr)[1]
    assert cli("sample", trained, "--length", 40, "--seed", seed).stdout == first.stdout


def test_sample_mistakes(fails, trained, tmp_path):
    for words, expected in (
        ("--temperature 0", "--temperature: expected a number above 0 (argmax is its limit), found 0"),
        ("--temperature nan", "--temperature: expected"),
        ("--length -1", "--length: expected at least 0"),
        ("--top-k -1", "--top-k: expected at least 0"),
        ("--top-p 0", "--top-p: expected above 0 and at most 1, found 0"),
        ("--top-p 1.1", "--top-p: expected"),
        ("--law cauchy", "--law: expected softmax | exp, found cauchy"),
        ("--count 0", "--count: expected at least 1"),
        ("--count 2 --length 0", "--count: expected samples that end, by --length or --stop, found the endless"),
        ("--seed -1", "--seed: expected from 0 to 9223372036854775807, found -1"),
        ("--unknown maybe", "--unknown: expected error | skip, found maybe"),
        ("--device tpu", "--device: expected auto | cpu | cuda | cuda:N | emulate, found tpu"),
        ("--prime a --prime-file b", "--prime: expected it or --prime-file"),
        ("--length many", "many"),
    ):
        assert expected in fails(2, "sample", trained, *words.split())
    unknown = "character 'É' (U+00C9) is not among the model's 28"
    assert f"--prime: position 1: {unknown}; --unknown skip" in fails(1, "sample", trained, "--prime", "tÉ")
    assert fails(1, "sample", trained, "--stop", "tÉ").endswith(f"--stop: position 1: {unknown}\n")
    prime = tmp_path / "prime.txt"
    prime.write_text("the\nfÉ")
    assert f"cuchar: {prime}:2:2: {unknown}; --unknown skip" in fails(1, "sample", trained, "--prime-file", prime)
    prime.write_bytes(b"the\nfox\xff")
    assert f"{prime}:2:4: expected UTF-8, found byte 0xff" in fails(1, "sample", trained, "--prime-file", prime)
    assert "expected a text file, found no such file" in fails(1, "sample", trained, "--prime-file", tmp_path / "no")
    assert "found nothing there" in fails(1, "sample", tmp_path / "no")


# --- eval, info, export


def test_eval_prints_text_and_json(cli, trained, text, tmp_path):
    text.write_text(TEXT[:400])
    score = json.loads(cli("eval", trained, text, "--json").stdout)
    means = ["nats_per_char", "bits_per_char", "perplexity", "chars", "skipped"]
    assert list(score) == [*means, "files", "left_out"] and (score["chars"], score["skipped"]) == (399, 0)
    assert score["files"] == [{"path": str(text), **{name: score[name] for name in means}}] and score["left_out"] == []
    assert f"nats per character  {score['nats_per_char']:.4f}\n" in cli("eval", trained, text).stdout.decode()
    windows = json.loads(cli("eval", trained, text, "--json", "--window", 8, "--device", "cpu").stdout)
    assert windows["chars"] == 399 and windows["nats_per_char"] != score["nats_per_char"]
    table = tmp_path / "out.tsv"
    cli("eval", trained, text, "--per-char", table)
    rows = [row.split("\t") for row in table.read_text().splitlines()]
    assert rows[0] == ["position", "character", "nats", "file"] and len(rows) == 400
    assert "".join(json.loads(row[1]) for row in rows[1:]) == TEXT[1:400]
    assert [int(row[0]) for row in rows[1:]] == list(range(1, 400))
    assert np.mean([float(row[2]) for row in rows[1:]]) == pytest.approx(score["nats_per_char"], abs=1e-5)
    both = json.loads(cli("eval", trained, text, text, "--json").stdout)
    assert both["chars"] == 799


def table_of(path) -> list[dict]:
    """The rows of a table, as pandas.read_csv(path, sep="\\t") reads them."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_positions_are_the_files_whatever_was_skipped(cli, trained, tmp_path):
    """A row's character is the one that its file has at the row's position; known characters have losses."""
    folder, table = tmp_path / "te\txts", tmp_path / "out.tsv"
    folder.mkdir()
    contents = {"1": "É", "2": "", "3": 'Éthe "fÖx\n\\É', "4": "Ü", "5": "jumps\t☃ over"}
    for name, content in contents.items():
        (folder / name).write_text(content)
    whole = "".join(contents.values())
    for options in ((), ("--window", 3)):
        command = ("eval", trained, folder, "--unknown", "skip", "--per-char", table, *options)
        score = json.loads(cli(*command, "--json").stdout)
        rows = table_of(table)
        read = [(row["file"], int(row["position"]), json.loads(f'"{row["character"]}"')) for row in rows]
        every = [
            (json.dumps(str(folder / name))[1:-1], at, character)
            for name, content in contents.items()
            for at, character in enumerate(content)
        ]
        assert read == [row for row in every if row[1:] != (1, "t")]  # nothing predicts the first known character
        model = cuchar.load(trained)
        known = [character for character in whole if character in model.vocabulary.characters()]
        ids = model.vocabulary.encode(model.reading.codes_of("".join(known)))
        losses = np.concatenate(list(model.losses(ids, *options[1:])))
        assert [row["nats"] for row in rows if row["nats"]] == [f"{nats:.6f}" for nats in losses]
        assert [row[2] for row, line in zip(read, rows, strict=True) if not line["nats"]] == list('ÉÉ"Ö\\ÉÜ\t☃')
        assert (score["chars"], score["skipped"], len(rows)) == (len(losses), 9, len(losses) + 9)


def test_files_have_scores_of_their_own(cli, trained, tmp_path):
    """The files are read as one stream: the first character of a file is predicted from the file before it."""
    files = [tmp_path / name for name in ("a", "b", "c", "d")]
    for file, content in zip(files, ("t", "he quick", "É", " brown Éfox"), strict=True):
        file.write_text(content)
    command = ("eval", trained, *files, "--unknown", "skip", "--per-char", tmp_path / "out.tsv")
    score = json.loads(cli(*command, "--json").stdout)
    assert [file["path"] for file in score["files"]] == list(map(str, files))
    assert [(file["chars"], file["skipped"]) for file in score["files"]] == [(0, 0), (8, 0), (0, 1), (10, 1)]
    assert (score["chars"], score["skipped"]) == (18, 2)
    rows = table_of(tmp_path / "out.tsv")
    for file in score["files"]:
        losses = [float(row["nats"]) for row in rows if row["file"] == file["path"] and row["nats"]]
        assert (file["nats_per_char"] is None) == (not losses)
        if losses:
            assert file["nats_per_char"] == pytest.approx(np.mean(losses), abs=1e-6)
            assert file["bits_per_char"] == file["nats_per_char"] / np.log(2)
            assert file["perplexity"] == pytest.approx(np.exp(file["nats_per_char"]))
    joined = cuchar.load(trained).score("the quick brown fox")
    assert (score["nats_per_char"], score["chars"]) == (joined.nats_per_char, joined.chars)
    total, table = cli(*command).stdout.decode().split("\n\n")
    assert total.endswith("characters scored   18\ncharacters skipped  2")
    shown = [line.split() for line in table.splitlines()]
    assert shown[0] == ["nats", "bits", "perplexity", "scored", "skipped", "file"]
    assert shown[1] == ["-", "-", "-", "0", "0", str(files[0])] and shown[3] == ["-", "-", "-", "0", "1", str(files[2])]
    for line, file in zip((shown[2], shown[4]), (score["files"][1], score["files"][3]), strict=True):
        assert line[:3] == [f"{file[name]:.4f}" for name in ("nats_per_char", "bits_per_char", "perplexity")]
        assert line[3:] == [str(file["chars"]), str(file["skipped"]), file["path"]]


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


def test_eval_mistakes(cli, fails, trained, text, tmp_path):
    text.write_text("the\nthe É")
    unknown = "character 'É' (U+00C9) is not among the model's 28; --unknown skip leaves such characters out"
    assert fails(1, "eval", trained, text) == f"cuchar: {text}:2:5: {unknown}\n"
    (tmp_path / "fine").write_text("the\n")
    assert fails(1, "eval", trained, tmp_path / "fine", text) == f"cuchar: {text}:2:5: {unknown}\n"
    text.write_text("the É")
    score = json.loads(cli("eval", trained, text, "--unknown", "skip", "--json").stdout)
    assert (score["chars"], score["skipped"]) == (3, 1)
    assert "--window: expected at least 1, found 0" in fails(2, "eval", trained, text, "--window", 0)
    assert "--unknown: expected error | skip" in fails(2, "eval", trained, text, "--unknown", "x")
    text.write_text("t")
    assert "at least 2 known characters to score, found 1" in fails(1, "eval", trained, text)
    assert "found no such file" in fails(1, "eval", trained, tmp_path / "no")
    assert "TEXT" in fails(2, "eval", trained)
    text.write_text("the")
    lost = fails(1, "eval", trained, text, "--per-char", tmp_path / "no/out.tsv")
    assert f"expected a file in a folder that is there, found no {tmp_path}/no" in lost


def test_bytes_that_a_model_does_not_know_have_an_offset(cli, fails, run, text, tmp_path):
    out = run("--bytes")
    text.write_bytes(b"the\nf\xff\x00x")
    unknown = "byte 0xff is not among the model's 28; --unknown skip leaves such characters out"
    assert fails(1, "eval", out, text) == f"cuchar: {text}: offset 5: {unknown}\n"
    cli("eval", out, text, "--unknown", "skip", "--per-char", tmp_path / "out.tsv")
    rows = table_of(tmp_path / "out.tsv")
    assert [row["position"] for row in rows if not row["nats"]] == ["5", "6"] and len(rows) == 7


def test_a_precision_that_the_device_has_not(cli, fails, trained, text, tmp_path):
    out, few = tmp_path / "run", ("--window", 3, "--batch", 2, "--hidden", 4)
    expected = "--precision bf16: expected a GPU's tensor cores, found none (asked for); --precision fp32"
    chosen = ("--device", "cpu", "--precision", "bf16")
    assert expected in fails(1, "train", text, *chosen, "--out", out) and not out.exists()
    assert expected in fails(1, "eval", trained, text, *chosen)
    assert expected in fails(1, "bench", *few, *chosen)
    for command in (("eval", trained, text), ("bench", *few)):
        assert "--precision: expected fp32 | tf32 | bf16 | fp16, found fp8" in fails(2, *command, "--precision", "fp8")


def test_eval_in_a_reduced_precision(cli, trained, text):
    text.write_text(TEXT[:60])
    command = ("eval", trained, text, "--json", "--device", "emulate", "--precision")
    exact, reduced = (json.loads(cli(*command, of).stdout)["nats_per_char"] for of in ("fp32", "bf16"))
    assert reduced != exact and reduced == pytest.approx(exact, rel=0.02)


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
