"""`cuchar train`: starts a run, or goes on with one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cuchar.cli.options import DEFAULT, Batch, Device, FormerWindow, Glob, Precision, SkipUnreadable, Window, was_given
from cuchar.config import FORMER_NAMES, TrainConfig, with_present_names
from cuchar.errors import OptionError


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
    from cuchar.terminal import terminal_progress

    chosen = {**context.params, "bytes": bytes_}
    fields = [name for name in chosen if name in {*TrainConfig.__dataclass_fields__, *FORMER_NAMES}]
    given = {name: chosen[name] for name in fields if was_given(context, "bytes_" if name == "bytes" else name)}
    given = with_present_names(given, say)
    reading: dict[str, Any] = {"glob": glob, "skip_unreadable": skip_unreadable}
    if resume is None:
        if not texts:
            raise OptionError("TEXT: expected a text file or folder (or --resume RUN), found none")
        config = TrainConfig(**with_preset(preset, given, own_validation=val is not None))
        start_run(texts, config, val=val, out=out, device=device, **reading, callbacks=[terminal_progress()])
        return
    for name, value in (("--out", out), ("--preset", preset)):
        if value is not None:
            raise OptionError(f"{name}: expected --resume {resume} alone, which has its own, found both")
    TrainConfig(**_alone(given))
    resume_run(
        resume, texts=texts or [], val=val, options=given, device=device, **reading, callbacks=[terminal_progress()]
    )


def _alone(given: dict[str, Any]) -> dict[str, Any]:
    """Those of `given` that can be checked without knowing the run's other options."""
    pairs = {"stride", "decay", "val_split"}
    return {name: value for name, value in given.items() if name not in pairs}
