"""`cuchar bench`: times a training step beside PyTorch's, and drawing and scoring beside others'."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import DEFAULT, Batch, Device, FormerWindow, Window, was_given
from cuchar.config import FORMER_NAMES, with_present_names


def bench(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="a | b | c | d | 2x128 | 2x256 | 2x512 | 3x512 | torch-rnn, the last four; else the sizes below, which are a's.", show_default=False)] = None,
    device: Device = "auto",
    precision: Annotated[str | None, typer.Option(help="Of matrix products, on a GPU: fp32 | tf32 | bf16 | fp16.", show_default="the configuration's")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="eager | graph | stacked | compile | jax | onnxruntime | openvino, or all that there are, or none; may be repeated.", show_default="eager, graph and stacked where they can")] = None,
    hidden: Annotated[int, typer.Option(help="Hidden units a layer.")] = DEFAULT.hidden,
    layers: Annotated[int, typer.Option(help="LSTM layers, 1 to 8.")] = DEFAULT.layers,
    window: Window = DEFAULT.window,
    steps: FormerWindow = None,
    batch: Batch = DEFAULT.batch,
    sweep: Annotated[str | None, typer.Option(metavar="SIZE", help="Scaling along hidden | batch | window | layers.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Scaling: so many processes share every batch, and divide the processors.", show_default=False)] = None,
    load: Annotated[int | None, typer.Option(help="A step beside so many other processes, each of which keeps a processor busy.", show_default=False)] = None,
    sampling: Annotated[bool, typer.Option("--sampling", help="Draw characters too: 1, 64 and 4096 streams.")] = False,
    scoring: Annotated[bool, typer.Option("--scoring", help="Score a text too, 64 rows at once.")] = False,
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
        if was_given(context, name)
    }
    given = with_present_names(given, say)
    sizes = {"H": hidden, "L": layers, "T": given.get("window", window), "B": batch} if given else None
    if sweep in FORMER_NAMES:
        say(f"--sweep {sweep} is now called --sweep {FORMER_NAMES[sweep]}; the former name goes on working")
        sweep = FORMER_NAMES[sweep]
    return run_request(
        Request(
            names or [],
            sizes,
            precision,
            device,
            peer or [],
            sweep,
            sampling,
            scoring,
            profile,
            json,
            out,
            plot,
            compare,
            ranks,
            load,
        )
    )
