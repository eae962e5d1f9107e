"""What `cuchar eval` and `cuchar info` print on standard output: tables for a person, or JSON for a program."""

import json
import math
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text as Cell

import cuchar
from cuchar.checkpoint import checkpoint_file, read_checkpoint
from cuchar.config import ModelConfig
from cuchar.engines.choose import choose_engine
from cuchar.engines.cpu.library import load, thread_count
from cuchar.errors import DeviceError
from cuchar.evaluation import Score
from cuchar.file_scores import FilesScore
from cuchar.files import escape, write_stdout
from cuchar.log_lines import ScoredLine
from cuchar.ranks.join import describe_launch
from cuchar.ranks.nccl import find_nccl


def print_score(score: FilesScore, as_json: bool) -> None:
    total = score.total
    if as_json:
        files = [{"path": str(file), **_json_values(part)} for file, part in score.files]
        print(json.dumps({**_json_values(total), "files": files, "left_out": score.left_out}))
        return
    if total.dynamic is not None:
        print(f"dynamic evaluation  {total.dynamic}")
    print(f"nats per character  {total.nats_per_char:.4f}")
    print(f"bits per character  {total.bits_per_char:.4f}")
    print(f"perplexity          {total.perplexity:.4f}")
    print(f"characters scored   {total.chars:,}")
    if total.skipped:
        print(f"characters skipped  {total.skipped:,}")
    if total.replaced is not None:
        print(f"characters replaced {total.replaced:,} outside the vocabulary, read and scored as the unknown symbol")
    if len(score.files) > 1:
        replaced = "" if total.replaced is None else f"{'replaced':>9}  "
        print(f"\n{'nats':>8}  {'bits':>8}  {'perplexity':>10}  {'scored':>12}  {'skipped':>9}  {replaced}file")
        for file, part in score.files:
            means = f"{part.nats_per_char:8.4f}  {part.bits_per_char:8.4f}  {part.perplexity:10.4f}"
            if not part.chars:
                means = f"{'-':>8}  {'-':>8}  {'-':>10}"
            replaced = "" if part.replaced is None else f"{part.replaced:9,}  "
            print(f"{means}  {part.chars:12,}  {part.skipped:9,}  {replaced}{escape(str(file))}")


def _json_values(score: Score) -> dict[str, float | None]:
    """A score as values for JSON, which has neither NaN nor infinity: both become None. What a model has not is left out."""
    values = {name: value for name, value in asdict(score).items() if value is not None}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def print_lines(lines: Sequence[ScoredLine], threshold: float | None) -> bool:
    """Print a JSON object for each line, all at once, and return whether one of them is an anomaly.

    Args:
        threshold: bits per character; a line with more of them is an anomaly. None says nothing about anomalies.
    """
    printed, anomalies = [], 0
    for line in lines:
        score = line.score
        values: dict[str, Any] = {
            "file": str(line.path), "line": line.number, "text": score.text, "length": score.length,
            "bits": _rounded(score.bits), "bits_per_char": _rounded(score.bits_per_char),
            "most_surprising": [{**asdict(one), "bits": _rounded(one.bits)} for one in score.most_surprising],
        }  # fmt: skip
        if threshold is not None:
            values["anomaly"] = not score.bits_per_char <= threshold  # NaN, of a model that diverged, is one
            anomalies += values["anomaly"]
        printed.append(json.dumps(values) + "\n")
    write_stdout("".join(printed).encode())
    return anomalies > 0


def _rounded(bits: float) -> float | None:
    """Bits with four decimals, since further ones may depend on the lines beside; None if they are not finite."""
    return round(bits, 4) if math.isfinite(bits) else None


def print_machine() -> None:
    """Print the versions, the GPU and its driver, and which engines `--device cpu` and `--device auto` choose."""
    engine, reason = choose_engine("auto", ModelConfig(2, 1, 1))
    table = _plain_table()
    table.add_row("cuchar", cuchar.__version__)
    table.add_row("Python, NumPy", f"{platform.python_version()}, {np.__version__}")
    facts = {**_cuda(), "--device cpu": _processors(), "--device auto": f"{engine.name}: {reason}"}
    for name, value in {**facts, "processes": describe_launch()}.items():
        table.add_row(name, Cell(value))  # which is no markup: cuchar[mpi] would lose its ending
    Console().print(table)


def _processors() -> str:
    """Which of the two engines for processors `--device cpu` chooses, and why."""
    try:
        library = load(np.dtype(np.float32))
    except DeviceError as error:
        return f"NumPy: for C++ {error}"
    return f"C++: {library.instructions().decode()}, {thread_count()} threads"


def _cuda() -> dict[str, str]:
    """What CuPy says about itself, the driver and the GPUs, as far as it can."""
    version = next(
        (
            f"{distribution} {metadata.version(distribution)}"
            for distribution in ("cupy-cuda12x", "cupy-cuda13x")
            if _installed(distribution)
        ),
        "not installed",
    )
    try:
        import cupy

        runtime = cupy.cuda.runtime
        driver = runtime.driverGetVersion()
        count = runtime.getDeviceCount() if driver else 0
        names = [runtime.getDeviceProperties(number)["name"].decode() for number in range(count)]
        nccl = find_nccl() if count > 1 else None
    except Exception as error:  # an absent or broken CUDA installation fails in many ways; each is an answer here
        found = " ".join(str(error).split()) or type(error).__name__
        return {"CuPy": version, "CUDA driver": f"none ({found[:100]})", "GPU": "none"}
    drivers = f"CUDA {driver // 1000}.{driver % 1000 // 10}" if driver else "none"
    facts = {"CuPy": version, "CUDA driver": drivers, "GPU": ", ".join(names) or "none"}
    if count > 1:
        facts["NCCL"] = str(nccl.get_version()) if nccl else "none; the GPUs' gradients are added up on the host"
    return facts


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def print_checkpoint(path: Path) -> None:
    """Print a checkpoint's model, its vocabulary, how it was trained, and statistics of its parameters."""
    checkpoint, console = read_checkpoint(path), Console()
    model, run = checkpoint.parameters.model, checkpoint.run
    position, config = run["position"], run["train"]
    facts = _plain_table()
    options = ", ".join(f"{name}={value}" for name, value in config.items() if value not in (None, False))
    if "imported" in run:
        origin = [("imported", f"{run['imported']['path']} (SHA-256 {run['imported']['sha256'][:12]})")]
    else:
        origin = [
            ("text", f"{_first(run['texts'])} ({run['characters']:,} characters)"),
            ("trained", f"{position['step']:,} steps, {position['epoch']} epochs, {position['elapsed_s']:.0f} s"),
            ("options", options),
            ("best validation loss", "none" if run["best"] is None else f"{run['best']:.4f}"),
        ]
    if "logit_scale" in run:
        factor, loss = run["logit_scale"]["factor"], run["logit_scale"]["val_loss"]
        origin.append(("logits", f"multiplied by {factor:.2f}, which makes the validation loss {loss:.4f}"))
    for name, value in (
        ("checkpoint", str(checkpoint_file(path))),
        ("model", f"{model.layers} layers of {model.hidden}, {checkpoint.parameters.flat.size:,} parameters"),
        ("vocabulary", _describe(checkpoint.vocabulary.characters())),
        *origin,
    ):  # fmt: skip
        facts.add_row(name, Cell(escape(value)))  # the file may come from anyone and may contain anything
    console.print(facts)
    parameters = Table("parameter", "shape", "values", "mean", "standard deviation")
    for name, view in checkpoint.parameters.items():
        shape = " x ".join(map(str, view.shape))
        parameters.add_row(name, shape, f"{view.size:,}", f"{view.mean():.4f}", f"{view.std():.4f}")
    console.print(parameters)
    if position["history"]:
        history = Table("step", "mean loss of the steps before")
        for entry in position["history"]:
            history.add_row(f"{entry['step']:,}", f"{entry['loss']:.4f}")
        console.print(history)


def _describe(characters: list[str]) -> str:
    shown = json.dumps("".join(characters[:200]), ensure_ascii=False)
    return f"{len(characters)} characters: {shown}{' ...' if len(characters) > 200 else ''}"


def _first(texts: list[str]) -> str:
    """The first three texts, and how many more there are: a folder may have had thousands."""
    more = f" and {len(texts) - 3:,} more" if len(texts) > 3 else ""
    return f"{', '.join(texts[:3])}{more}"


def _plain_table() -> Table:
    return Table.grid(padding=(0, 2))
