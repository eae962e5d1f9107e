"""`cuchar sample`: writes text with a model."""

from pathlib import Path
from typing import Annotated

import typer

from cuchar.cli.options import CheckpointArgument, Device, Unknown, was_given
from cuchar.config import check_option
from cuchar.errors import OptionError
from cuchar.wording import option

NOT_TOGETHER = {
    "interactive": "json complete beam sweep_temperature prime prime_file count",
    "complete": "beam sweep_temperature prime prime_file count",
    "beam": "sweep_temperature count seed stop temperature top_k top_p min_p repeat_penalty argmax law",
    "sweep_temperature": "temperature argmax",
    "argmax": "temperature top_k top_p min_p law",
    "prime": "prime_file",
}


def sample(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    device: Device = "auto",
    length: Annotated[int, typer.Option("--length", "-n", help="Characters to make; 0 is endless.")] = 500,
    temperature: Annotated[float, typer.Option("--temperature", "--temp", help="Divides the logits: below 1 the text keeps to what is likely, above 1 it dares more.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Draw from the k likeliest only; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that reach this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Draw from those at least so many times as likely as the likeliest; 0 is off.")] = 0.0,
    repeat_penalty: Annotated[float, typer.Option(help="Makes the last 64 characters less likely to come again; 1 is off.")] = 1.0,
    prime: Annotated[str, typer.Option("--prime", "-p", metavar="TEXT", help="Begin with this text.")] = "",
    prime_file: Annotated[Path | None, typer.Option(help="Begin with this file's text; - is standard input.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeats a sample.", show_default="a new one")] = None,
    count: Annotated[int, typer.Option(help="How many samples.")] = 1,
    argmax: Annotated[bool, typer.Option("--argmax", help="Always the likeliest character.")] = False,
    stop: Annotated[str | None, typer.Option(metavar="TEXT", help="End once this text was made.", show_default="none, or with --complete the end of the line")] = None,
    law: Annotated[str, typer.Option(help="softmax | exp, the 2017 notebook's.")] = "softmax",
    interactive: Annotated[bool, typer.Option("--interactive", help="Go on from what is typed, line by line; Ctrl-C ends a sample, Ctrl-D the command.")] = False,
    complete: Annotated[Path | None, typer.Option(metavar="FILE", help="Go on from every line of this file; - is standard input.")] = None,
    beam: Annotated[int | None, typer.Option(metavar="K", help="The likeliest text that a search with the K likeliest beginnings finds.")] = None,
    sweep_temperature: Annotated[str | None, typer.Option(metavar="X,X,...", help="The same seed at each of these temperatures.")] = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON object a line for each sample, with its log-probability.")] = False,
    unknown: Unknown = "error",
    raw: Annotated[bool, typer.Option("--raw", help="Control characters to a terminal as they are.")] = False,
) -> None:  # fmt: skip
    """Write text with a trained model, character by character, to standard output."""
    import secrets
    from dataclasses import replace

    from cuchar.beam import WIDTH
    from cuchar.files import TextOutput, say
    from cuchar.interactive import interact
    from cuchar.model import Model
    from cuchar.sampling import SampleConfig, expect_seed
    from cuchar.written_samples import (
        line_end,
        read_lines,
        read_prime,
        write_beam,
        write_lines,
        write_samples,
        write_sweep,
    )

    _expect_apart(context)
    config = SampleConfig(length, temperature, top_k, top_p, min_p, repeat_penalty, argmax, law, stop or "")
    temperatures = [] if sweep_temperature is None else _temperatures(sweep_temperature)
    configs = [replace(config, temperature=each) for each in temperatures] or [config]
    if count < 1:
        raise OptionError(f"--count: expected at least 1, found {count}")
    if not length and not stop:
        waiting = {
            "count": count > 1,
            "json": json,
            "complete": complete and stop == "",
            "sweep_temperature": temperatures,
        }
        for name in filter(waiting.get, waiting):
            raise OptionError(
                f"{option(name)}: expected samples that end, by --length or --stop, found the endless --length 0"
            )
    if seed is not None:
        expect_seed(seed)
    if beam is not None:
        check_option("beam", WIDTH, beam)
        if not length:
            raise OptionError("--beam: expected a --length of at least 1 with it, found 0")
        if not prime and not prime_file:
            raise OptionError("--beam: expected --prime or --prime-file with it, found none")
    model, output = Model(checkpoint, device), None if json else TextOutput(raw)
    if complete and stop is None:
        configs = [replace(config, stop=line_end(model))]
    chosen = secrets.randbits(31) if seed is None else seed
    sweep = [model.continuations(each, chosen) for each in configs]
    primes = read_lines(model, complete, unknown) if complete else [read_prime(model, prime, prime_file, unknown)]
    if seed is None and beam is None and not (argmax and all(map(len, primes))):
        say(f"--seed {chosen}")
    if interactive:
        interact(model, config, chosen, unknown, raw)
    elif complete:
        write_lines(sweep[0], primes, output)
    elif beam is not None:
        write_beam(sweep[0], primes[0], beam, output)
    elif temperatures:
        write_sweep(sweep, primes[0], count, output)
    else:
        write_samples(sweep[0], primes[0], count, output)


def _expect_apart(context: typer.Context) -> None:
    """Check that of the options given none contradicts another one."""
    given = [name for name in context.params if was_given(context, name)]
    for name in given:
        for other in NOT_TOGETHER.get(name, "").split():
            if other in given:
                raise OptionError(f"{option(name)}: expected it or {option(other)}, found both")


def _temperatures(words: str) -> list[float]:
    from cuchar.sampling import SAMPLE

    try:
        return [check_option("sweep_temperature", SAMPLE["temperature"], float(word)) for word in words.split(",")]
    except ValueError:
        raise OptionError(f"--sweep-temperature: expected numbers, with commas between them, found {words!r}") from None
