"""What `cuchar sample` reads and writes: primes and lines to go on from; samples as text, or as a JSON object a line."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cuchar.continuations import Continuation, Continuations
from cuchar.files import TextOutput
from cuchar.model import Model
from cuchar.reading import LINE_END
from cuchar.text import read_text
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option


def read_prime(model: Model, prime: str, file: Path | None, unknown: str) -> np.ndarray:
    """The ids of a prime, or of the one that a file has.

    Raises:
        TextError: the file cannot be read, or there is a character that the model does not know.
    """
    if file is None:
        return model.vocabulary.encode(
            model.reading.codes_of(prime), unknown, f"{option('prime')}: position {{}}".format
        )
    text = read_text([file], model.reading)
    return model.vocabulary.encode(text.codes, unknown, text.place)


def read_lines(model: Model, file: Path, unknown: str) -> list[np.ndarray]:
    """The ids of a file's lines, without their ends; the errors are those of `read_prime`."""
    text = read_text([file], model.reading)
    ends = [*np.flatnonzero(text.codes == LINE_END).tolist(), len(text.codes)]
    starts = [0, *(end + 1 for end in ends[:-1])]
    if starts[-1] == ends[-1]:  # the file ends with a line's end
        del starts[-1], ends[-1]

    def place_after(start: int) -> Callable[[int], str]:
        return lambda at: text.place(start + at)

    return [
        model.vocabulary.encode(text.codes[start:end], unknown, place_after(start))
        for start, end in zip(starts, ends, strict=True)
    ]


def line_end(model: Model) -> str:
    """What ends a line for the model: nothing if it does not know that character."""
    return "\n" if LINE_END in model.vocabulary.codes else ""


def write_sweep(sweep: Sequence[Continuations], prime: np.ndarray, count: int, output: TextOutput | None) -> None:
    """Write `count` samples at each of several temperatures, which is a heading or, in JSON, stands in the object."""
    for draws in sweep:
        if output is None:
            write_samples(draws, prime, count, output, temperature=draws.config.temperature)
        else:
            output.write(f"--- temperature {draws.config.temperature:g} ---\n".encode())
            write_samples(draws, prime, count, output)
            output.write(b"\n")


def write_samples(
    draws: Continuations, prime: np.ndarray, count: int, output: TextOutput | None, **facts: float
) -> None:
    """Write `count` samples.

    Args:
        output: where text goes; None is JSON on standard output.
        facts: what else the JSON objects are to say.
    """
    if output is None:
        for number, continuation in enumerate(draws.whole_samples(count, prime)):
            _print_object(draws.vocabulary, prime, continuation, **facts, seed=draws.seed, number=number)
        return
    begun = -1
    for number, text in draws.samples(count, prime):
        if number > begun:
            output.write((b"\n\n" if number else b"") + draws.vocabulary.decode(prime))
            begun = number
        output.write(text)
    output.write(b"\n")


def write_lines(draws: Continuations, lines: Sequence[np.ndarray], output: TextOutput | None) -> None:
    """Write every line and its continuation; `output` is as for `write_samples`."""
    for number, (line, continuation) in enumerate(
        zip(lines, draws.complete(lines, scored=output is None), strict=True)
    ):
        if output is None:
            _print_object(draws.vocabulary, line, continuation, seed=draws.seed, number=number)
        else:
            output.write(draws.vocabulary.decode(line) + continuation.encoded.removesuffix(b"\n") + b"\n")


def write_beam(draws: Continuations, prime: np.ndarray, width: int, output: TextOutput | None) -> None:
    """Write the likeliest continuation that a beam search finds; `output` is as for `write_samples`."""
    continuation = draws.beam(prime, width)
    if output is None:
        _print_object(draws.vocabulary, prime, continuation)
    else:
        output.write(draws.vocabulary.decode(prime) + continuation.encoded + b"\n")


def _print_object(vocabulary: Vocabulary, prime: np.ndarray, continuation: Continuation, **facts: float) -> None:
    """Print a continuation and some facts about it as a JSON object on one line, all in ASCII.

    JSON has no infinity: a probability that is too small for a number becomes null.
    """
    of_prime, found = vocabulary.decode(prime).decode("utf-8", "replace"), continuation.log_probability
    values = {"prime": of_prime, "text": continuation.text, "log_probability": found if math.isfinite(found) else None}
    print(json.dumps({**facts, **values}))
