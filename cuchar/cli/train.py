"""`cuchar train`: starts a run, or goes on with one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cuchar.cli.options import (
    DEFAULT,
    Batch,
    Device,
    Encoding,
    FormerWindow,
    Glob,
    Normalize,
    Precision,
    SkipUnreadable,
    Window,
    was_given,
)
from cuchar.config import FORMER_NAMES, TrainConfig, expect_bytes_alone, with_present_names
from cuchar.errors import OptionError


def train(
    context: typer.Context,
    texts: Annotated[list[Path] | None, typer.Argument(metavar="TEXT...", readable=False, help="Text files or folders; - is standard input.")] = None,
    preset: Annotated[str | None, typer.Option(help="Other defaults: notebook | char-rnn | torch-rnn | best | auto, by the text's size.", show_default="notebook")] = None,
    init_from: Annotated[Path | None, typer.Option(metavar="CHECKPOINT", help="Begin with the weights of this file or run: fine-tuning.")] = None,
    hidden: Annotated[int, typer.Option(help="Hidden units a layer.")] = DEFAULT.hidden,
    layers: Annotated[int, typer.Option(help="LSTM layers, 1 to 8.")] = DEFAULT.layers,
    window: Window = DEFAULT.window,
    steps: FormerWindow = None,
    batch: Batch = DEFAULT.batch,
    stride: Annotated[int | None, typer.Option(help="Characters from a window's start to the next one's.", show_default="--window")] = None,
    carry_state: Annotated[bool, typer.Option("--carry-state", help="Windows follow each other, with their state.")] = False,
    bytes_: Annotated[bool, typer.Option("--bytes", help="Train on bytes: any file will do.")] = False,
    encoding: Encoding = DEFAULT.encoding,
    normalize: Normalize = None,
    max_vocab: Annotated[int | None, typer.Option(help="Tell apart so many characters, the most frequent; all others become one unknown symbol.", show_default="all")] = None,
    glob: Glob = None,
    skip_unreadable: SkipUnreadable = False,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Where texts of more than 64 MiB are kept, encoded.", show_default=".texts beside the run")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the text, in total.")] = DEFAULT.epochs,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many training steps, in total.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop when so many validations in a row brought no lower loss.")] = None,
    on_nan: Annotated[str, typer.Option(help="A number is not finite: stop | rollback to the last checkpoint that was due, at half the rate.")] = DEFAULT.on_nan,
    lr: Annotated[float, typer.Option(help="Adam's learning rate.")] = DEFAULT.lr,
    schedule: Annotated[str, typer.Option(help="Learning rate: constant | step | cosine.")] = DEFAULT.schedule,
    decay: Annotated[float | None, typer.Option(help="step: factor an epoch; cosine: factor at the end.", show_default="step 0.5, cosine 0.1")] = None,
    warmup: Annotated[int, typer.Option(help="Training steps in which the learning rate rises to --lr.")] = DEFAULT.warmup,
    clip: Annotated[float, typer.Option(help="Largest norm of the gradient; 0 is off.")] = DEFAULT.clip,
    dropout: Annotated[float, typer.Option(help="Of each layer's output.")] = DEFAULT.dropout,
    weight_dropout: Annotated[float, typer.Option(help="Of the recurrent weights: the probability that one is dropped in a training step.")] = DEFAULT.weight_dropout,
    weight_decay: Annotated[float, typer.Option(help="Decoupled, as AdamW's.")] = DEFAULT.weight_decay,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same bits.")] = DEFAULT.seed,
    val: Annotated[Path | None, typer.Option(metavar="TEXT", help="Validate on this text after every epoch.")] = None,
    val_fraction: Annotated[float, typer.Option(help="Validate on this part of TEXT.")] = DEFAULT.val_fraction,
    val_split: Annotated[str, typer.Option(help="That part: tail | streams, the end of the text or of each of its B streams.")] = DEFAULT.val_split,
    scale_logits: Annotated[bool, typer.Option("--scale-logits/--no-scale-logits", help="Scale the model's logits to suit the validation text, at every validation.", show_default="off")] = False,
    out: Annotated[Path | None, typer.Option(help="Run folder.", show_default="runs/<text>-<time>")] = None,
    log_every: Annotated[int, typer.Option(help="Training steps a line of metrics.jsonl.")] = DEFAULT.log_every,
    sample_every: Annotated[int, typer.Option(help="Training steps between samples, besides those at an epoch's and the run's end; 0 is never.")] = DEFAULT.sample_every,
    sample_length: Annotated[int, typer.Option(help="Characters a sample.")] = DEFAULT.sample_length,
    temperature: Annotated[float, typer.Option(help="Of samples.")] = DEFAULT.temperature,
    law: Annotated[str, typer.Option(help="Of samples: softmax | exp, the notebook's double exponential.")] = DEFAULT.law,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write to the run folder what TensorBoard shows.")] = False,
    save_every: Annotated[int, typer.Option(help="Training steps between saves.")] = DEFAULT.save_every,
    device: Device = "auto",
    precision: Precision = DEFAULT.precision,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with this run folder.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what a run would do, and how long it would take; train nothing.")] = False,
) -> None:  # fmt: skip
    """Train a model on TEXT; every run has a folder of its own."""
    from cuchar.callbacks import Callback
    from cuchar.files import say
    from cuchar.plan import print_plan
    from cuchar.runs import resume_run, start_run
    from cuchar.terminal import terminal_progress

    chosen = {**context.params, "bytes": bytes_}
    fields = [name for name in chosen if name in {*TrainConfig.__dataclass_fields__, *FORMER_NAMES}]
    given = {name: chosen[name] for name in fields if was_given(context, "bytes_" if name == "bytes" else name)}
    given = with_present_names(given, say)
    expect_bytes_alone(given)
    callbacks: list[Callback] = [terminal_progress()]
    if tensorboard:
        from cuchar.tensorboard.callback import TensorBoard

        callbacks.append(TensorBoard())
    reading: dict[str, Any] = {"glob": glob, "skip_unreadable": skip_unreadable, "cache": cache}
    if resume is None:
        if not texts:
            raise OptionError("TEXT: expected a text file or folder (or --resume RUN), found none")
        start = {"preset": preset, "init_from": init_from, "val": val, "out": out, "device": device, **reading}
        if dry_run:
            print_plan(texts, given, **start, reading=callbacks[0].reading)
        else:
            start_run(texts, given, **start, callbacks=callbacks)
        return
    if dry_run:
        raise OptionError(f"--dry-run: expected a new run on TEXT, found --resume {resume}")
    alone = {"--out": out, "--preset": preset, "--init-from": init_from}
    for name, value in alone.items():
        if value is not None:
            raise OptionError(f"{name}: expected --resume {resume} alone, which has its own, found both")
    TrainConfig(**_alone(given))
    resume_run(resume, texts=texts or [], val=val, options=given, device=device, **reading, callbacks=callbacks)


def _alone(given: dict[str, Any]) -> dict[str, Any]:
    """Those of `given` that can be checked without knowing the run's other options."""
    pairs = {"stride", "decay", "val_split"}
    return {name: value for name, value in given.items() if name not in pairs}
