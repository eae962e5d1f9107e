"""`cuchar sample`: writes text with a model."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import CheckpointArgument, Device, Unknown
from cuchar.errors import OptionError


def sample(
    checkpoint: CheckpointArgument,
    device: Device = "auto",
    length: Annotated[int, typer.Option(help="Characters to make; 0 is endless.")] = 500,
    temperature: Annotated[float, typer.Option(help="Divides the logits: below 1 the text keeps to what is likely, above 1 it dares more.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest only; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that reach this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Draw from those at least so many times as likely as the likeliest; 0 is off.")] = 0.0,
    repeat_penalty: Annotated[float, typer.Option(help="Makes the last 64 characters less likely to come again; 1 is off.")] = 1.0,
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

    from cuchar.files import TextOutput, say
    from cuchar.model import Model
    from cuchar.sampling import SampleConfig, expect_seed
    from cuchar.text import read_text

    config = SampleConfig(length, temperature, top_k, top_p, min_p, repeat_penalty, argmax, law, stop)
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
        read = read_text([prime_file], model.reading)
        ids = vocabulary.encode(read.codes, unknown, read.place)
    else:
        ids = vocabulary.encode(model.reading.codes_of(prime), unknown, "--prime: position {}".format)
    known = vocabulary.decode(ids)
    begun_with = known if vocabulary.is_bytes else known.decode()
    vocabulary.encode(model.reading.codes_of(stop), place="--stop: position {}".format, hint="")
    if seed is None:
        seed = secrets.randbits(31)
        if not argmax or not known:
            say(f"--seed {seed}")
    output, begun = TextOutput(raw), -1
    for number, text in model.samples(config, count, prime=begun_with, seed=seed):
        if number > begun:
            output.write((b"\n\n" if number else b"") + known)
            begun = number
        output.write(text)
    output.write(b"\n")
