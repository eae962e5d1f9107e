"""What `cuchar eval` and `cuchar info` print on standard output: tables for a person, or JSON for a program."""

import json
import math
import platform
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text as Cell

import cuchar
from cuchar.checkpoint import checkpoint_file, read_checkpoint
from cuchar.config import ModelConfig
from cuchar.engines.choose import choose_engine
from cuchar.engines.cpu.library import load, thread_count
from cuchar.errors import DeviceError
from cuchar.evaluation import CHUNK, LONG_TEXT, WARM_UP, Score
from cuchar.files import escape, say, write_output
from cuchar.model import Model
from cuchar.ranks.join import describe_launch
from cuchar.ranks.nccl import find_nccl
from cuchar.text import Text, left_out_notes
from cuchar.wording import option


@dataclass(frozen=True)
class FilesScore:
    """How well a model predicts files that are read as one text: the score of the whole text, and of each file."""

    total: Score
    files: list[tuple[Path, Score]]
    left_out: tuple[str, ...]


def score_files(
    model: Model, text: Text, unknown: str, window: int | None, exact: bool, per_char: Path | None
) -> FilesScore:
    """Score files that were read as one text.

    The first character of a file is predicted from the end of the file before it; the first character of the first file
    is not predicted.

    Args:
        unknown: "error" or "skip", for characters outside the vocabulary.
        window: characters after which the state becomes zero again, or None for never.
        exact: whether even a long text is scored as one stream, not in chunks.
        per_char: a file that receives a row for every character, or None.
    """
    for line in left_out_notes(text.left_out, len(text.files)):
        say(line)
    ids = model.vocabulary.encode(text.codes, unknown, text.place)
    chunked = window is None and not exact and len(ids) > LONG_TEXT
    if chunked:
        say(
            f"scored in chunks of at most {CHUNK:,} characters, each after the {WARM_UP} before it, which warm its state; "
            f"{option('exact', True)} reads one stream"
        )
    console, blocks = Console(stderr=True), []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("scoring", total=len(ids) - 1)
        for block in model.losses(ids, window, chunked):
            blocks.append(block)
            bar.advance(task, len(block))
    losses = np.concatenate(blocks)
    known = model.vocabulary.has(text.codes)
    if per_char is not None:
        write_output(per_char, _table_of_losses(text, known, losses))
    files, before = [], 0  # `before`: how many known characters come before the file
    for file, start, end in text.parts():
        inside = int(known[start:end].sum())
        scored = losses[max(0, before - 1) : max(0, before + inside - 1)]
        files.append((file, Score.of(scored, end - start - inside)))
        before += inside
    return FilesScore(Score.of(losses, len(text.codes) - len(ids)), files, text.left_out)


def _table_of_losses(text: Text, known: np.ndarray, losses: np.ndarray) -> bytes:
    """A table in tab-separated values with a row for every character but the first known one, which is not predicted.

    Characters that were skipped have an empty loss.
    """
    table, nats, first = bytearray(b"position\tcharacter\tnats\tfile\n"), iter(losses.tolist()), int(np.argmax(known))
    for file, start, end in text.parts():
        name, codes = _quoted(str(file)), text.codes[start:end].tolist()
        for at, (code, is_known) in enumerate(zip(codes, known[start:end].tolist(), strict=True)):
            if start + at != first:
                loss = f"{next(nats):.6f}" if is_known else ""
                table += f"{at}\t{_quoted(chr(code))}\t{loss}\t{name}\n".encode()
    return bytes(table)


@cache
def _quoted(value: str) -> str:
    """`value` as a JSON string without quotation marks inside, since a reader of tables would take them for its end."""
    inside = json.dumps(value)[1:-1].replace('\\"', "\\u0022")
    return f'"{inside}"'


def print_score(score: FilesScore, as_json: bool) -> None:
    total = score.total
    if as_json:
        files = [{"path": str(file), **_json_values(part)} for file, part in score.files]
        print(json.dumps({**_json_values(total), "files": files, "left_out": score.left_out}))
        return
    print(f"nats per character  {total.nats_per_char:.4f}")
    print(f"bits per character  {total.bits_per_char:.4f}")
    print(f"perplexity          {total.perplexity:.4f}")
    print(f"characters scored   {total.chars:,}")
    if total.skipped:
        print(f"characters skipped  {total.skipped:,}")
    if len(score.files) > 1:
        print(f"\n{'nats':>8}  {'bits':>8}  {'perplexity':>10}  {'scored':>12}  {'skipped':>9}  file")
        for file, part in score.files:
            means = f"{part.nats_per_char:8.4f}  {part.bits_per_char:8.4f}  {part.perplexity:10.4f}"
            if not part.chars:
                means = f"{'-':>8}  {'-':>8}  {'-':>10}"
            print(f"{means}  {part.chars:12,}  {part.skipped:9,}  {escape(str(file))}")


def _json_values(score: Score) -> dict[str, float | None]:
    """A score as values for JSON, which has neither NaN nor infinity: both become None."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(score).items()}


def print_machine() -> None:
    """Print the versions, the GPU and its driver, and which engines `--device cpu` and `--device auto` choose."""
    engine, reason = choose_engine("auto", ModelConfig(2, 1, 1))
    table = _plain_table()
    table.add_row("cuchar", cuchar.__version__)
    table.add_row("Python, NumPy", f"{platform.python_version()}, {np.__version__}")
    for name, value in _cuda().items():
        table.add_row(name, value)
    table.add_row("--device cpu", _processors())
    table.add_row("--device auto", f"{engine.name}: {reason}")
    table.add_row("processes", describe_launch())
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
