"""A trained model for Python programs: they load it, then sample, score or look inside."""

import codecs
import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.checkpoint import checkpoint_file, read_checkpoint
from cuchar.config import check_option, expect_options
from cuchar.continuations import Continuation, Continuations
from cuchar.dynamic import DynamicConfig, read_settings
from cuchar.dynamic_scorer import DynamicScorer
from cuchar.engines.choose import choose_engine
from cuchar.errors import OptionError
from cuchar.evaluation import Ids, TextScore, chunk_losses, expect_scorable, stream_losses, window_losses
from cuchar.files import escape, write_output
from cuchar.kinds import PATH, TEXT_OR_BYTES, Optional, Value, integer
from cuchar.line_scores import LineScore, line_codes, score_lines
from cuchar.outputs import expect_new_output
from cuchar.reading import Reading
from cuchar.sampling import SAMPLE, SampleConfig, expect_seed
from cuchar.wording import option

DYNAMIC = Value((("true, false or a cuchar.DynamicConfig", lambda value: type(value) is bool),))
LINES, PRIMES = (
    Value(((what, lambda value: isinstance(value, Iterable) and not isinstance(value, str | bytes)),))
    for what in ("lines", "primes")
)


class Model:
    """Weights and vocabulary of a checkpoint, ready to use.

    Args:
        path: a checkpoint file, or a run folder, of which the best checkpoint is read, or the last if there is no best.
        device: auto | cpu | cuda | cuda:N | emulate.
        precision: fp32 | tf32 | bf16 | fp16, to which matrix products round; on processors fp32 alone.
    Raises:
        CheckpointError: there is no checkpoint, or it is damaged.
        DeviceError: this machine does not have the device, or the device not the precision.
        OptionError: there is no device or precision of that name.
    """

    def __init__(self, path: str | Path, device: str = "auto", precision: str = "fp32"):
        self.file = checkpoint_file(path)
        checkpoint = read_checkpoint(self.file)
        self.parameters, self.vocabulary = checkpoint.scaled_parameters, checkpoint.vocabulary
        self.reading = Reading.of(checkpoint.run["train"])
        self.engine, _ = choose_engine(device, self.parameters.model, self.parameters.flat.dtype, precision)
        self._weights = self.engine.fold(self.parameters)
        self._trained, self._squares = checkpoint.parameters, checkpoint.adam.v

    def __repr__(self) -> str:
        model, unit = self.parameters.model, "bytes" if self.vocabulary.is_bytes else "characters"
        return (
            f"<cuchar.Model {model.layers}x{model.hidden}, {model.vocabulary_size:,} {unit}, "
            f"{self.parameters.flat.size:,} parameters, engine: {self.engine.name}, from {escape(str(self.file))}>"
        )

    def sample(self, length: int = 500, *, prime: str | bytes = "", seed: int | None = None, **options: Any) -> str:
        """Draw `length` characters that follow `prime`, and return them as text.

        Bytes of a byte model that are not UTF-8 become U+FFFD.

        Args:
            length: how many characters, at most.
            prime: the text that the sample goes on from; it is not part of what is returned.
            seed: the same seed gives the same sample; None draws a new one.
            options: temperature, top_k, top_p, min_p, repeat_penalty, argmax, law, stop, as in `SampleConfig`;
                unknown="skip" leaves out the prime's unknown characters.
        Raises:
            OptionError: an argument is of another type, is out of range, or has an unknown name.
            TextError: the prime or the stop text has a character that the model does not know.
        """
        check_option("length", integer(1, note=" (stream() can be endless)"), length)
        return "".join(self.stream(length, prime=prime, seed=seed, **options))

    def stream(
        self, length: int = 500, *, prime: str | bytes = "", seed: int | None = None, **options: Any
    ) -> Iterator[str]:
        """Draw the sample that `sample` returns for the same arguments, and yield its characters as they are made.

        They are made in blocks that take some tenth of a second each. A character of which a byte model has made some
        bytes comes once its last byte is made.

        Args:
            length: as for `sample`; 0 never ends, unless the text `stop` is made.
        Raises:
            OptionError, TextError: as for `sample`, when this is called and not when the first character is asked for.
        """
        config, unknown = _sample_config(length, options, "prime")
        prime_ids, drawn = self._ids(prime, unknown), self.continuations(config, seed)
        pieces = (self.vocabulary.decode(ids[: taken[0], 0]) for ids, taken in drawn.pieces(range(1), prime_ids))
        return chain.from_iterable(codecs.iterdecode(pieces, "utf-8", "replace"))

    def complete(
        self, primes: Iterable[str | bytes], length: int = 500, *, seed: int | None = None, **options: Any
    ) -> Iterator[Continuation]:
        """Draw what follows each of some primes, several of them side by side, and yield it in the primes' order.

        What follows `primes[n]` is what follows it in sample n of the seed (`cuchar sample --count`), whatever the other
        primes are. After an empty prime nothing follows.

        Args:
            length, seed, options: as for `sample`. The length may be 0 where there is a `stop`.
        Raises:
            OptionError, TextError: as for `sample`, when this is called. The continuations would never end: an
                OptionError, when the first is asked for.
        """
        config, unknown = _sample_config(length, options, "primes")
        check_option("primes", PRIMES, primes)
        ids = [self._ids(prime, unknown, f"primes[{n}]: position {{}}") for n, prime in enumerate(primes)]
        return self.continuations(config, seed).complete(ids)

    def beam(self, prime: str | bytes, length: int = 500, *, width: int = 4, unknown: str = "error") -> Continuation:
        """The likeliest text of `length` characters after `prime` that a beam search finds (`cuchar.beam`).

        Args:
            width: how many beginnings are kept after every character; 1 always takes the likeliest character.
        Raises:
            OptionError: an argument is of another type, or out of range.
            TextError: the prime is empty, or has a character that the model does not know.
        """
        return self.continuations(SampleConfig(length=length)).beam(self._ids(prime, unknown), width)

    def continuations(self, config: SampleConfig, seed: int | None = None) -> Continuations:
        """What the model goes on with by a configuration and a seed, for who has ids or wants samples side by side.

        Raises:
            OptionError: the seed is out of range.
            TextError: the configuration's stop text has a character that the model does not know.
        """
        place = f"{option('stop')}: position {{}}".format
        stop = self.vocabulary.encode(self.reading.codes_of(config.stop), place=place, hint="")
        key = secrets.randbits(63) if seed is None else seed
        expect_seed(key)
        return Continuations(self.engine, self._weights, self.vocabulary, config, key, stop)

    def _ids(self, prime: str | bytes, unknown: str = "error", place: str = "position {}") -> np.ndarray:
        check_option("prime", TEXT_OR_BYTES, prime)
        return self.vocabulary.encode(self.reading.codes_of(prime), unknown, place.format)

    def export(self, path: str | Path, format: str | None = None, **options: Any) -> None:
        """Write the model for other programs.

        Args:
            path: the file; its ending says the format where `format` is None.
            format: "safetensors" (PyTorch's names), "onnx", "web" (a page that samples) or "json".
            options: for "web" weights="int8", a quarter of the size, and text=PATH, on which its loss is measured.
        Raises:
            OptionError: the format or an option is wrong.
            OutputError: the file could not be written, or is the model's own, the text's or one that a run keeps.
            DeviceError: a package that the format needs is not installed.
        """
        from cuchar.export import export_model

        expect_options(options, ["weights", "text"])
        path, text = check_option("path", PATH, path), check_option("text", Optional(PATH), options.get("text"))
        self._expect_new("path", path, [] if text is None else [Path(text)])
        export_model(self.parameters, self.vocabulary, self.reading, Path(path), format, **options)

    def losses(
        self, ids: Ids, window: int | None = None, chunked: bool = False, dynamic: DynamicConfig | None = None
    ) -> Iterator[np.ndarray]:
        """Yield the losses, in nats, of characters 1, 2, ... of a text, in blocks in the text's order.

        Args:
            ids: the whole text.
            window: as for `score`.
            chunked: score chunks of the text side by side instead of one stream (evaluation.chunk_losses).
            dynamic: learn from the text with these settings; it is then read as one stream.
        Raises:
            TextError: there are fewer than two characters.
        """
        expect_scorable(ids)
        if dynamic is not None:
            return DynamicScorer(self.engine, self._trained, self._squares, dynamic).losses(ids)
        if window is not None:
            return window_losses(self.engine, self._weights, ids, window)
        if chunked:
            return chunk_losses(self.engine, self._weights, ids)
        return (block[0] for block in stream_losses(self.engine, self._weights, [ids]))

    def score(
        self,
        text: str | bytes,
        *,
        window: int | None = None,
        dynamic: bool | DynamicConfig = False,
        unknown: str = "error",
    ) -> TextScore:
        """How well the model predicts `text`. The first of N characters is not predicted, so N - 1 are scored.

        In a model of bytes, what is said here of characters is true of the bytes of the text's UTF-8.

        Args:
            window: None reads the text as one stream with carried state. With a number, the
                state becomes zero again after every so many characters, as the notebook trains.
            dynamic: the model goes on learning from what it has just scored (dynamic_scorer.py), with the given settings,
                or those that `cuchar eval --tune TEXT --save` kept. The model itself stays as it is.
            unknown: "error" or "skip", for characters outside the vocabulary.
        Raises:
            TextError: there is an unknown character, or there are fewer than two known ones.
            OptionError: an argument is of another type, or out of range, or both `window` and `dynamic` are given.
            DivergedError: the rate of `dynamic` is too large for the model.
            CheckpointError: the settings beside the checkpoint cannot be read.
        """
        check_option("text", TEXT_OR_BYTES, text)
        if isinstance(dynamic, DynamicConfig):
            config: DynamicConfig | None = dynamic
        else:
            config = read_settings(self.file) if check_option("dynamic", DYNAMIC, dynamic) else None
        if config is not None and window is not None:
            raise OptionError(f"{option('window')}: expected it or {option('dynamic', True)}, found both")
        codes = self.reading.codes_of(text)
        ids = self.vocabulary.encode(codes, unknown)
        losses = np.concatenate(list(self.losses(ids, window, dynamic=config)))
        replaced = self.vocabulary.count_replaced(codes) if self.vocabulary.has_unknown else None
        return TextScore.of_text(codes, self.vocabulary.has(codes), losses, replaced, config)

    def score_lines(self, lines: Iterable[str | bytes]) -> list[LineScore]:
        """How well the model predicts each line by itself, as `cuchar eval --per-line` says, in the order of the lines.

        Args:
            lines: each with or without its newline, such as an open file. Bytes that are not UTF-8 become U+FFFD.
        Raises:
            OptionError: a line is neither text nor bytes, or `lines` is a text and no list of lines.
            TextError: the model knows no newline.
        """
        check_option("lines", LINES, lines)
        codes = [line_codes(self.reading, check_option("lines", TEXT_OR_BYTES, line)) for line in lines]
        return score_lines(self.engine, self._weights, self.vocabulary, codes)

    def look(
        self, text: str | bytes, page: str | Path, *, chars: int = 20_000, unknown: str = "error", title: str = "A text"
    ) -> None:
        """Show what the model's cells do on `text`: write one HTML page, for a browser.

        Args:
            page: where the page goes; a file there is replaced.
            chars: how many of the text's first characters are shown; all of it ranks the cells.
            unknown: "error" or "skip", for characters outside the vocabulary.
            title: words at the page's head.
        Raises:
            TextError: there is an unknown character, or there are fewer than two known ones.
            OptionError: an argument is of another type, or out of range.
            OutputError: the page could not be written, or its place is the model's own or one that a run keeps.
        """
        from cuchar.look.page import make_page

        check_option("text", TEXT_OR_BYTES, text)
        check_option("page", PATH, page)
        self._expect_new("page", page)
        ids = self.vocabulary.encode(self.reading.codes_of(text), unknown)
        write_output(Path(page), make_page(self.parameters, self.vocabulary, ids, title, chars))

    def _expect_new(self, name: str, output: str | Path, inputs: Sequence[Path] = ()) -> None:
        """Check that the argument of this name may be written to; the model's file may be gone by now."""
        expect_new_output(option(name), Path(output), None, [self.file, *inputs], binary=True)


def _sample_config(length: int, options: dict[str, Any], primes: str) -> tuple[SampleConfig, str]:
    """The configuration, and what is done about unknown characters, from keywords; `primes` is another argument's name."""
    expect_options(options, [*SAMPLE, primes, "seed", "unknown"])
    unknown = options.pop("unknown", "error")
    return SampleConfig(length=length, **options), unknown
