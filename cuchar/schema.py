"""What a checkpoint's metadata and a run folder's config.json may contain, which is checked before they are used.

A digest protects from damage, not from malice, since anyone who writes a file can compute it. Whatever is not
described here is refused, so that code which reads the values can rely on their types, their ranges, and that they
agree with each other.
"""

import json
from itertools import pairwise
from typing import Any

import numpy as np

from cuchar.config import MODEL, STORED, ModelConfig, TrainConfig
from cuchar.errors import OptionError
from cuchar.kinds import (
    FILE_NAME,
    FLAG,
    SHA256,
    Choice,
    Kind,
    ListOf,
    Mismatch,
    OneOrMore,
    Optional,
    Record,
    Value,
    integer,
    number,
    text,
)
from cuchar.position import MOST_HALVINGS
from cuchar.vocabulary import MAX_VOCABULARY

FORMAT = 1
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
MOST_JSON = 1 << 25  # characters of JSON, at most; they hold the history of 700 million training steps

AT_LEAST_0 = number("at least 0", lambda value: value >= 0)
FACTS: dict[str, Kind] = {
    "texts": ListOf(FILE_NAME),
    "sha256": SHA256,
    "characters": integer(2),
    "val": Optional(OneOrMore(FILE_NAME)),
    "val_sha256": Optional(SHA256),
    "train": STORED,
}
ORIGIN: dict[str, Kind] = {"init_from": Record({"path": FILE_NAME, "sha256": SHA256})}  # runs by --init-from have it
CONFIG = Record(FACTS, optional=ORIGIN)  # what config.json contains

MEAN = Record({"total": number(), "count": integer(), "seconds": AT_LEAST_0})
POSITION = Record(
    {
        "step": integer(),
        "epoch": integer(),
        "window": integer(),
        "offset": integer(),
        "elapsed_s": AT_LEAST_0,
        "lr": AT_LEAST_0,
        "grad_norm": AT_LEAST_0,
        "history": ListOf(Record({"step": integer(1), "loss": number()})),
        "since_line": MEAN,
        "since_summary": MEAN,
        "since_epoch": MEAN,
    },
    optional={"worse": integer(), "halvings": integer(0, MOST_HALVINGS)},  # older files have neither
)
GENERATOR = Record(
    {
        "bit_generator": Choice(("PCG64",)),
        "state": Record({"state": integer(0, 2**128 - 1), "inc": integer(0, 2**128 - 1)}),
        "has_uint32": integer(0, 1),
        "uinteger": integer(0, 2**32 - 1),
    }
)
LOSS_SCALING = Record(
    {
        "scale": number("from 1 to what a float32 holds", lambda scale: 1 <= scale <= LARGEST_FLOAT32),
        "good_steps": integer(0, 1999),  # kernels/training/adam.cu begins again at 2000
    }
)
IMPORTED = Record({"path": FILE_NAME, "sha256": SHA256})  # where the parameters came from, if no run made them
# What `Trainer._validate` has found.
LOGIT_SCALE = Record({"factor": number("from 0.5 to 1.5", lambda factor: 0.5 <= factor <= 1.5), "val_loss": number()})
RUN = Record(
    {
        **FACTS,
        "characters": integer(0),  # 0 only where no run has read a text, since the parameters are imported
        "position": POSITION,
        "generators": Record({"batches": GENERATOR}, optional={"sampler": GENERATOR}),  # older files have a sampler
        "lengths": Record({"metrics.jsonl": integer(), "samples.txt": integer()}),
        "best": Optional(number()),
    },
    optional={
        **ORIGIN,
        "best_step": Optional(integer(1)),
        "loss_scaling": LOSS_SCALING,
        "logit_scale": LOGIT_SCALE,
        "imported": IMPORTED,
    },
)

VOCABULARY_FIELDS = Record(
    {
        "bytes": FLAG,
        "characters": text(
            (f"from 2 to {MAX_VOCABULARY:,} characters", lambda characters: 2 <= len(characters) <= MAX_VOCABULARY),
            ("characters in ascending order", lambda characters: all(a < b for a, b in pairwise(characters))),
            ("no surrogates", lambda characters: not any("\ud800" <= c <= "\udfff" for c in characters)),
        ),
    },
    optional={"unknown": Value((("true", lambda value: value is True),))},  # U+FFFD stands for all other characters
)


class _Vocabulary:
    """What `Vocabulary.to_json` returns."""

    def check(self, value: Any, where: str) -> Any:
        checked = VOCABULARY_FIELDS.check(value, where)
        if "unknown" in checked and (checked["bytes"] or "\ufffd" not in checked["characters"]):
            raise Mismatch(f"{where}.unknown", "U+FFFD among the characters", "none")
        return checked


VOCABULARY: Kind = _Vocabulary()
METADATA = Record(
    {
        "format": Value(((f"checkpoint format {FORMAT}", lambda value: type(value) is int and value == FORMAT),)),
        "model": Record(MODEL),
        "vocabulary": VOCABULARY,
        "run": RUN,
        "sha256": SHA256,
    }
)


def parse_json(data: str, where: str) -> Any:
    """Parse a JSON text from a file that need not be trusted; of a key that is there twice, the last value counts.

    Raises:
        Mismatch: the text is not JSON, has NaN or infinity in it, or is too long or too deeply nested.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} in it")

    if len(data) > MOST_JSON:
        raise Mismatch(where, f"at most {MOST_JSON:,} characters of JSON", f"{len(data):,}")
    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError:
        raise Mismatch(where, "JSON of a few levels", "a deeper one") from None
    except ValueError as error:
        raise Mismatch(where, "JSON", str(error)) from None


def check_metadata(body: Any) -> tuple[ModelConfig, TrainConfig]:
    """Check all of a checkpoint's metadata, and return the model and the options that it states.

    Args:
        body: the parsed JSON.
    Raises:
        Mismatch: a value is missing, unknown, of another type, out of range, or contradicts another one.
    """
    run, model = METADATA.check(body, "metadata")["run"], ModelConfig(**body["model"])
    if "imported" not in run:
        FACTS["characters"].check(run["characters"], "metadata.run.characters")
    is_bytes, characters = body["vocabulary"]["bytes"], body["vocabulary"]["characters"]
    position, step = run["position"], run["position"]["step"]
    try:
        train = TrainConfig(**run["train"])
    except OptionError as error:
        raise Mismatch("metadata.run.train", "options that agree", str(error)) from None
    for where, found, expected in (
        ("model.hidden", model.hidden, train.hidden),
        ("model.layers", model.layers, train.layers),
        ("model.vocabulary_size", model.vocabulary_size, len(characters)),
        ("vocabulary.bytes", is_bytes, train.bytes),
        ("run: val and val_sha256 together", (run["val"] is None) == (run["val_sha256"] is None), True),
        ("run: loss_scaling", "loss_scaling" in run, train.precision == "fp16"),
    ):
        if found != expected:
            raise Mismatch(f"metadata.{where}", str(expected), str(found))
    means = {f"run.position.{name}": position[name] for name in ("since_line", "since_summary", "since_epoch")}
    for where, found, most in (
        ("vocabulary.characters: the last one's number", ord(characters[-1]), 0xFF if is_bytes else 0x10FFFF),
        ("run.position.offset", position["offset"], train.window - 1),
        ("run.position.epoch", position["epoch"], step),
        ("run.position.window", position["window"], step),
        ("run.position.worse", position.get("worse", 0), position["epoch"]),
        *((f"{name}.count", mean["count"], step) for name, mean in means.items()),
    ):
        if found > most:
            raise Mismatch(f"metadata.{where}", f"at most {most}", str(found))
    for name, mean in means.items():
        if mean["seconds"] < 1e-9 * mean["count"]:
            raise Mismatch(f"metadata.{name}.seconds", "at least a nanosecond a step", str(mean["seconds"]))
    return model, train
