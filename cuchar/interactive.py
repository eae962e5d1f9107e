"""`cuchar sample --interactive`: a person types primes, and the model goes on from each of them.

At the prompt Ctrl-C drops what was typed, and Ctrl-D ends. While the model writes, Ctrl-C ends that sample alone. It is
noted then and looked for between blocks of characters, since an exception in the midst of an engine's work could become
another one. Where standard input or output is no terminal, every line of standard input is a prime, nothing is prompted
for, and Ctrl-C ends the command as it ends any other.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import suppress

from cuchar.errors import TextError
from cuchar.files import STREAM, TextOutput, opened_stdin, say
from cuchar.model import Model
from cuchar.sampling import SampleConfig
from cuchar.text_files import unreadable

PROMPT = "> "
SEEDS = 2**63  # how many there are


def interact(model: Model, config: SampleConfig, seed: int, unknown: str, raw: bool) -> None:
    """Write a sample for every prime until the input ends; sample n, counted from 0, is that of the seed `seed` + n."""
    noted: list[int] = []
    at_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if at_terminal:
        signal.signal(signal.SIGINT, lambda signum, _frame: noted.append(signum))
        say("Ctrl-C ends a sample, Ctrl-D the session")
    primes: Iterator[str | bytes] = _typed() if at_terminal else _lines()
    vocabulary, number = model.vocabulary, 0
    for line, prime in enumerate(primes, 1):
        try:
            ids = vocabulary.encode(model.reading.codes_of(prime), unknown)
        except TextError as error:
            say(str(error) if at_terminal else f"line {line}: {error}")
            continue
        noted.clear()
        output = TextOutput(raw)
        output.write(vocabulary.decode(ids))
        for _, text in model.continuations(config, (seed + number) % SEEDS).samples(1, ids):
            output.write(text)
            if noted:
                break
        output.write(b"\n")
        number += 1


def _lines() -> Iterator[bytes]:
    """The lines of standard input as they come, without their ends.

    Raises:
        TextError: it cannot be read.
    """
    try:
        with opened_stdin() as lines:
            for line in lines:
                yield line.removesuffix(b"\n")
    except OSError as error:
        raise unreadable(STREAM, error) from None


def _typed() -> Iterator[str]:
    """The lines that are typed at the prompt, with editing and a history where Python has readline."""
    with suppress(ImportError):
        import readline  # noqa: F401  (input() uses it once it is imported)
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    noting = signal.getsignal(signal.SIGINT)
    while True:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            line = input(PROMPT)
        except KeyboardInterrupt:
            print()
            continue
        except EOFError:
            print()
            return
        finally:
            signal.signal(signal.SIGINT, noting)
        yield line
