"""The command line: it parses options, calls what does the work, and prints. Commands import what is slow to import."""

import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from cuchar import __version__
from cuchar.config import FORMER_NAMES, TrainConfig, with_present_names
from cuchar.errors import CucharError, OptionError

app = typer.Typer(
    help="Character-level LSTM language models: text in, a model that writes like it out.",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)
DEFAULT = TrainConfig()
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N | emulate, the CUDA kernels on the CPU.")]
Window = Annotated[
    int, typer.Option(help="Characters in a window: the sequence length of truncated back-propagation through time.")
]
FormerWindow = Annotated[int | None, typer.Option("--steps", hidden=True)]
Batch = Annotated[int, typer.Option(help="Rows of text side by side in a window: the batch size.")]
Precision = Annotated[str, typer.Option(help="Of matrix products, on a GPU: fp32 | tf32 | bf16 | fp16.")]
CheckpointArgument = Annotated[Path, typer.Argument(help="A checkpoint file or a run folder.")]
Glob = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="Of folders, read the files so named, such as '*.txt'.",
        show_default="all but hidden ones",
    ),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out files that are not text or may not be read.")
]
Unknown = Annotated[str, typer.Option(help="A character outside the vocabulary: error | skip.")]


@app.callback(invoke_without_command=True)
def cuchar(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Print the version, or without a command the help."""
    if version:
        print(f"cuchar {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def train(
    context: typer.Context,
    texts: Annotated[list[Path] | None, typer.Argument(metavar="TEXT...", readable=False, help="Text files or folders; - is standard input.")] = None,
    preset: Annotated[str | None, typer.Option(help="Other defaults: notebook | char-rnn | torch-rnn | best.", show_default="notebook")] = None,
    hidden: Annotated[int, typer.Option(help="Hidden units a layer.")] = DEFAULT.hidden,
    layers: Annotated[int, typer.Option(help="LSTM layers, 1 to 8.")] = DEFAULT.layers,
    window: Window = DEFAULT.window,
    steps: FormerWindow = None,
    batch: Batch = DEFAULT.batch,
    stride: Annotated[int | None, typer.Option(help="Characters from a window's start to the next one's.", show_default="--window")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the text, in total.")] = DEFAULT.epochs,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many training steps, in total.")] = None,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = DEFAULT.lr,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same bits.")] = DEFAULT.seed,
    device: Device = "auto",
    precision: Precision = DEFAULT.precision,
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/<text>-<time>")] = None,
    carry_state: Annotated[bool, typer.Option("--carry-state", help="Windows follow each other, with their state.")] = False,
    dropout: Annotated[float, typer.Option(help="Of each layer's output.")] = DEFAULT.dropout,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0 is off.")] = DEFAULT.clip,
    weight_decay: Annotated[float, typer.Option(help="Decoupled, as AdamW's.")] = DEFAULT.weight_decay,
    schedule: Annotated[str, typer.Option(help="Learning rate: constant | step | cosine.")] = DEFAULT.schedule,
    warmup: Annotated[int, typer.Option(help="Training steps in which the learning rate rises to --lr.")] = DEFAULT.warmup,
    decay: Annotated[float | None, typer.Option(help="step: factor an epoch; cosine: factor at the end.", show_default="step 0.5, cosine 0.1")] = None,
    val: Annotated[Path | None, typer.Option(metavar="TEXT", help="Validate on this text after every epoch.")] = None,
    val_fraction: Annotated[float, typer.Option(help="Validate on this part of TEXT.")] = DEFAULT.val_fraction,
    val_split: Annotated[str, typer.Option(help="That part: tail | streams, the end of the text or of each of its B streams.")] = DEFAULT.val_split,
    sample_every: Annotated[int, typer.Option(help="Training steps between samples, besides those at an epoch's and the run's end; 0 is never.")] = DEFAULT.sample_every,
    sample_length: Annotated[int, typer.Option(help="Characters a sample.")] = DEFAULT.sample_length,
    temperature: Annotated[float, typer.Option(help="Of samples.")] = DEFAULT.temperature,
    log_every: Annotated[int, typer.Option(help="Training steps a line of metrics.jsonl.")] = DEFAULT.log_every,
    save_every: Annotated[int, typer.Option(help="Training steps between saves.")] = DEFAULT.save_every,
    bytes_: Annotated[bool, typer.Option("--bytes", help="Train on bytes: any file will do.")] = False,
    glob: Glob = None,
    skip_unreadable: SkipUnreadable = False,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with this run folder.")] = None,
) -> None:  # fmt: skip
    """Train a model on TEXT; every run has a folder of its own."""
    from cuchar.files import say
    from cuchar.presets import with_preset
    from cuchar.runs import resume_run, start_run
    from cuchar.terminal import terminal_listener

    chosen = {**context.params, "bytes": bytes_}
    fields = [name for name in chosen if name in {*TrainConfig.__dataclass_fields__, *FORMER_NAMES}]
    given = {name: chosen[name] for name in fields if _was_given(context, "bytes_" if name == "bytes" else name)}
    given = with_present_names(given, say)
    reading: dict[str, Any] = {"glob": glob, "skip_unreadable": skip_unreadable}
    if resume is None:
        if not texts:
            raise OptionError("TEXT: expected a text file or folder (or --resume RUN), found none")
        config = TrainConfig(**with_preset(preset, given, own_validation=val is not None))
        start_run(texts, config, val=val, out=out, device=device, **reading, listener=terminal_listener())
        return
    for name, value in (("--out", out), ("--preset", preset)):
        if value is not None:
            raise OptionError(f"{name}: expected --resume {resume} alone, which has its own, found both")
    TrainConfig(**_alone(given))
    listener, texts = terminal_listener(), texts or []
    resume_run(resume, texts=texts, val=val, options=given, device=device, **reading, listener=listener)


@app.command()
def sample(
    checkpoint: CheckpointArgument,
    device: Device = "auto",
    length: Annotated[int, typer.Option(help="Characters to make; 0 is endless.")] = 500,
    temperature: Annotated[float, typer.Option(help="Divides the logits: below 1 the text keeps to what is likely, above 1 it dares more.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest only; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that reach this probability.")] = 1.0,
    prime: Annotated[str, typer.Option(metavar="TEXT", help="Begin with this text.")] = "",
    prime_file: Annotated[Path | None, typer.Option(help="Begin with this file's text; - is standard input.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a sample.", show_default="a new one")] = None,
    count: Annotated[int, typer.Option(help="How many samples.")] = 1,
    argmax: Annotated[bool, typer.Option("--argmax", help="Always the likeliest character.")] = False,
    stop: Annotated[str, typer.Option(metavar="TEXT", help="End once this text was made.")] = "",
    law: Annotated[str, typer.Option(help="softmax | exp, the 2017 notebook's.")] = "softmax",
    unknown: Unknown = "error",
    raw: Annotated[bool, typer.Option("--raw", help="Control characters to a terminal as they are.")] = False,
) -> None:  # fmt: skip
    """Write text with a trained model, character by character, to standard output."""
    import secrets

    from cuchar.corpus import read_text
    from cuchar.files import TextOutput, say
    from cuchar.model import Model
    from cuchar.sampling import SampleConfig, expect_seed

    config = SampleConfig(length, temperature, top_k, top_p, argmax, law, stop)
    if count < 1:
        raise OptionError(f"--count: expected at least 1, found {count}")
    if count > 1 and not length and not stop:
        raise OptionError(f"--count: expected 1 with the endless --length 0, found {count}")
    if seed is not None:
        expect_seed(seed)
    if prime and prime_file:
        raise OptionError("--prime: expected it or --prime-file, found both")
    model = Model(checkpoint, device)
    vocabulary = model.vocabulary
    if prime_file:
        read = read_text([prime_file], vocabulary.is_bytes)
        ids = vocabulary.encode(read.codes, unknown, read.place)
    else:
        ids = vocabulary.encode(vocabulary.codes_of(prime), unknown, "--prime: position {}".format)
    known = vocabulary.decode(ids)
    vocabulary.encode(vocabulary.codes_of(stop), place="--stop: position {}".format, hint="")
    if seed is None:
        seed = secrets.randbits(31)
        if not argmax or not known:
            say(f"--seed {seed}")
    output, begun = TextOutput(raw), -1
    for number, text in model.samples(config, count, prime=known, seed=seed):
        if number > begun:
            output.write((b"\n\n" if number else b"") + known)
            begun = number
        output.write(text)
    output.write(b"\n")


@app.command("eval")
def evaluate(
    checkpoint: CheckpointArgument,
    texts: Annotated[list[Path], typer.Argument(metavar="TEXT...", readable=False, help="Text files or folders; - is standard input.")],
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    device: Device = "auto",
    precision: Precision = DEFAULT.precision,
    window: Annotated[int | None, typer.Option(help="Characters in a window; every window begins from a zero state, as the notebook's do.", show_default="one stream")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Read even a long text as one stream, not in chunks side by side.")] = False,
    per_char: Annotated[Path | None, typer.Option(metavar="OUT.TSV", help="Every character's loss; to -, standard output, the score then to standard error.")] = None,
    unknown: Unknown = "error",
    glob: Glob = None,
    skip_unreadable: SkipUnreadable = False,
) -> None:  # fmt: skip
    """Score TEXT: nats and bits per character, perplexity."""
    from contextlib import redirect_stdout

    from cuchar.corpus import read_text, text_files
    from cuchar.files import STREAM
    from cuchar.model import Model
    from cuchar.reports import print_score, score_files

    if window is not None and window < 1:
        raise OptionError(f"--window: expected at least 1, found {window}")
    if window is not None and exact:
        raise OptionError("--window: expected it or --exact, found both")
    if per_char is not None:
        _expect_output("--per-char", per_char, checkpoint, text_files(texts, glob))
    model = Model(checkpoint, device, precision)
    text = read_text(texts, model.vocabulary.is_bytes, glob, skip_unreadable)
    score = score_files(model, text, unknown, window, exact, per_char)
    with redirect_stdout(sys.stderr if per_char == STREAM else sys.stdout):
        print_score(score, json)


@app.command()
def info(
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint file or a run folder.")] = None,
) -> None:
    """Describe this machine, or a checkpoint."""
    from cuchar.reports import print_checkpoint, print_machine

    if checkpoint is None:
        print_machine()
    else:
        print_checkpoint(checkpoint)


@app.command()
def export(
    checkpoint: CheckpointArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="Where to write; - is standard output.")],
) -> None:
    """Write the weights under PyTorch's names."""
    from cuchar.checkpoint import read_checkpoint
    from cuchar.export import export_pytorch
    from cuchar.files import say

    _expect_output("OUT", out, checkpoint, binary=True)
    export_pytorch(read_checkpoint(checkpoint), out)
    say(f"wrote {out}")


@app.command()
def bench(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="a | b | c | d | 2x128 | 2x256 | 2x512 | 3x512 | torch-rnn, the last four; else the sizes below, which are a's.", show_default=False)] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="Of matrix products, on a GPU: fp32 | tf32 | bf16 | fp16.", show_default="the configuration's")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="eager | graph | stacked | compile, or all that there are, or none; may be repeated.", show_default="those that are quick to prepare")] = None,
    hidden: Annotated[int, typer.Option(help="Hidden units a layer.")] = DEFAULT.hidden,
    layers: Annotated[int, typer.Option(help="LSTM layers, 1 to 8.")] = DEFAULT.layers,
    window: Window = DEFAULT.window,
    steps: FormerWindow = None,
    batch: Batch = DEFAULT.batch,
    sweep: Annotated[str | None, typer.Option(metavar="SIZE", help="Scaling along hidden | batch | window | layers.")] = None,
    sampling: Annotated[bool, typer.Option("--sampling", help="Draw characters too: 1, 64 and 4096 streams.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="What a training step is made of, too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the results there, in <device>-<date>.json.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Bars against the peers.")] = None,
    compare: Annotated[Path | None, typer.Option(metavar="OLD.json", help="Time what it has, again; exit status 1 if a ratio to a peer has become worse.")] = None,
) -> int:  # fmt: skip
    """Time a training step, in turns with PyTorch's."""
    from cuchar.bench.command import Request, run_request
    from cuchar.files import say

    given = {
        name: context.params[name]
        for name in ("hidden", "layers", "window", "steps", "batch")
        if _was_given(context, name)
    }
    given = with_present_names(given, say)
    sizes = {"H": hidden, "L": layers, "T": given.get("window", window), "B": batch} if given else None
    if sweep in FORMER_NAMES:
        say(f"--sweep {sweep} is now called --sweep {FORMER_NAMES[sweep]}; the former name goes on working")
        sweep = FORMER_NAMES[sweep]
    return run_request(
        Request(names or [], sizes, precision, device, peer or [], sweep, sampling, profile, json, out, plot, compare)
    )


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _alone(given: dict[str, Any]) -> dict[str, Any]:
    """Those of `given` that can be checked without knowing the run's other options."""
    pairs = {"stride", "decay", "val_split"}
    return {name: value for name, value in given.items() if name not in pairs}


def _expect_output(
    option: str, output: Path, checkpoint: Path, texts: Iterable[Path] = (), binary: bool = False
) -> None:
    """Check that `output` is a place for a result.

    Raises:
        OutputError: it would replace a text, the checkpoint, or a file of the checkpoint's run or of another run.
    """
    from cuchar.checkpoint import checkpoint_file
    from cuchar.files import expect_output
    from cuchar.run_folder import FILES

    file = checkpoint_file(checkpoint)
    folders = [
        folder for folder in {file.parent, Path(os.path.realpath(output)).parent} if (folder / "config.json").is_file()
    ]
    kept = [folder / name for folder in folders for name in FILES]
    expect_output(option, output, [*texts, file, *kept], binary)


def main() -> None:
    """Run a command; every error is one line on standard error and an exit status."""
    from cuchar.files import ReaderGone, silence_stdout
    from cuchar.interrupts import Interrupted

    try:
        status = _run()
        sys.stdout.flush()
        sys.exit(status)
    except CucharError as error:
        _fail(str(error), error.exit_status)
    except Interrupted as interrupted:
        _fail(f"stopped by {interrupted}; what was done is saved", interrupted.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)
    except ReaderGone:
        sys.exit(0)
    except MemoryError as error:
        _fail(": ".join(filter(None, ("expected enough memory, found too little", str(error)))), 1)
    except OSError as error:
        silence_stdout()
        _fail(f"{error.filename or 'standard output'}: expected to read or write, found: {error.strerror}", 1)
    except Exception as error:
        if not hasattr(error, "format_message"):  # only typer's errors have it, for words that it cannot parse
            raise
        message = " ".join(error.format_message().split())
        _fail(message + _found(message), getattr(error, "exit_code", 2))


def _run() -> int | None:
    """Run the command, and return its exit status.

    This does not call app(), since typer would handle every KeyboardInterrupt and EPIPE in its own way there.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("cuchar", sys.argv[1:]) as context:
            return command.invoke(context)
    except typer.Exit as ended:  # --help, --version
        return ended.exit_code


def _found(message: str) -> str:
    """The value given for the option that typer's message names, as an ending of that message, which lacks it."""
    named = re.search(r"'(--[\w-]+)'", message)
    if named and named[1] in sys.argv[:-1]:
        return f", found {sys.argv[sys.argv.index(named[1]) + 1]}"
    return ""


def _fail(message: str, status: int) -> None:
    from cuchar.files import say

    say(f"cuchar: {message}")
    sys.exit(status)
