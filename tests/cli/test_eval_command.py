"""`cuchar eval`: scores as text and JSON, of files and of each character, and its mistakes."""

import csv
import json

import numpy as np
import pytest
from support.small_runs import TEXT

import cuchar


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
    found = fails(1, "eval", trained, text)
    assert found == f"cuchar: {text}: expected at least 2 known characters to score, found 1\n"
    (tmp_path / "short").write_text("h")  # tuning would complain of it, but may take long, and comes after
    found = fails(1, "eval", trained, text, "--dynamic", "--tune", tmp_path / "short")
    assert found == f"cuchar: {text}: expected at least 2 known characters to score, found 1\n"
    text.write_text("")
    found = fails(1, "eval", trained, text, text)
    assert found == "cuchar: 2 files: expected at least 2 known characters to score, found 0\n"
    assert "found no such file" in fails(1, "eval", trained, tmp_path / "no")
    assert "TEXT" in fails(2, "eval", trained)
    text.write_text("the")
    lost = fails(1, "eval", trained, text, "--per-char", tmp_path / "no/out.tsv")
    assert f"expected a file in a folder that is there, found no {tmp_path}/no" in lost


def test_eval_in_a_reduced_precision(cli, trained, text):
    text.write_text(TEXT[:60])
    command = ("eval", trained, text, "--json", "--device", "emulate", "--precision")
    exact, reduced = (json.loads(cli(*command, of).stdout)["nats_per_char"] for of in ("fp32", "bf16"))
    assert reduced != exact and reduced == pytest.approx(exact, rel=0.02)


def test_bytes_that_a_model_does_not_know_have_an_offset(cli, fails, text, tmp_path):
    out = tmp_path / "run"
    sizes = "--hidden 7 --layers 1 --window 6 --batch 3 --max-steps 4".split()
    assert cli("train", text, "--bytes", *sizes, "--out", out).status == 0
    text.write_bytes(b"the\nf\xff\x00x")
    unknown = "byte 0xff is not among the model's 28; --unknown skip leaves such characters out"
    assert fails(1, "eval", out, text) == f"cuchar: {text}: offset 5: {unknown}\n"
    cli("eval", out, text, "--unknown", "skip", "--per-char", tmp_path / "out.tsv")
    rows = table_of(tmp_path / "out.tsv")
    assert [row["position"] for row in rows if not row["nats"]] == ["5", "6"] and len(rows) == 7
