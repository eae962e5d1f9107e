"""Messages name options as their reader spells them: `--max-steps 5` in a terminal, `max_steps=5` in Python."""

import ast
import re

import pytest
from support.process import ROOT

import cuchar
from cuchar.wording import command_line_wording, command_to_resume, command_to_sample, option


def test_two_spellings():
    def spelled():
        return [
            option("max_steps"), option("max_steps", 5), option("bytes", True), option("device", "cuda:1"),
            command_to_resume("my run"), command_to_sample("my run"),
        ]  # fmt: skip

    python = [
        "max_steps", "max_steps=5", "bytes=True", "device='cuda:1'",
        "cuchar.resume('my run')", "cuchar.load('my run').sample()",
    ]  # fmt: skip
    assert spelled() == python
    with command_line_wording():
        assert spelled() == [
            "--max-steps", "--max-steps 5", "--bytes", "--device cuda:1",
            "cuchar train --resume 'my run'", "cuchar sample 'my run'",
        ]  # fmt: skip
    assert spelled() == python


@pytest.mark.parametrize(
    "options,python,typed",
    [
        ({"max_steps": 0}, "max_steps: expected at least 1, found 0", "--max-steps: expected at least 1, found 0"),
        ({"decay": 0.5}, "schedule='step'", "--schedule step"),
        ({"batch": 2_000, "bytes": True}, "batch=2000 window=32, found", "--batch 2000 --window 32, found"),
        ({"device": "gpu"}, "device: expected auto", "--device: expected auto"),
    ],
)
def test_the_same_mistake_in_both_spellings(fails, text, tmp_path, options, python, typed):
    with pytest.raises(cuchar.CucharError) as raised:
        cuchar.train(text, out=tmp_path / "run", **options)
    assert python in str(raised.value) and "--" not in str(raised.value)
    words = [
        word for name, value in options.items()
        for word in (["--" + name.replace("_", "-")] + ([] if value is True else [value]))
    ]  # fmt: skip
    status = 1 if "batch" in options else 2
    assert typed in fails(status, "train", text, "--out", tmp_path / "run", *words)


def test_no_message_spells_an_option_itself():
    """Outside of what only the command line calls, every message asks `option` for the spelling."""
    spelled = []
    files = [
        file
        for file in (ROOT / "cuchar").rglob("*.py")
        if not {"cli", "bench", "wording.py", "reports.py"} & {*file.parts}
    ]
    for file in files:
        tree = ast.parse(file.read_text())
        documents = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
        }
        options = cuchar.config.TrainConfig.__dataclass_fields__
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documents:
                names = [name.replace("-", "_") for name in re.findall(r"--([a-z][a-z-]*)", node.value)]
                if {*names} & {*options, "val", "out", "resume", "device", "preset", "glob", "unknown"}:
                    spelled.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.value}")
    assert len(files) > 60 and spelled == []
