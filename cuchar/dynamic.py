"""The settings of dynamic evaluation (dynamic_scorer.py), and the file beside a checkpoint that keeps them."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cuchar.checkpoint import expect_regular
from cuchar.config import check_options
from cuchar.errors import CheckpointError
from cuchar.files import write_file
from cuchar.kinds import Kind, Mismatch, Record, integer, number
from cuchar.schema import parse_json

KINDS: dict[str, Kind] = {
    "rate": number("at least 0", lambda rate: rate >= 0),
    "decay": number("from 0 to 1", lambda decay: 0 <= decay <= 1),
    "segment": integer(1, 65_536),
}


@dataclass(frozen=True)
class DynamicConfig:
    """How a model learns from the text that it is scored on (dynamic_scorer.py has the formula).

    rate: the learning rate; 0 learns nothing.
    decay: which part of its distance from the trained value a weight loses after every segment, if its gradients in
        training were of mean size; 0 never draws it back.
    segment: characters that are scored before the model learns from them.

    Raises:
        OptionError: a value is of another type, or out of range.
    """

    rate: float = 0.4
    decay: float = 0.00025
    segment: int = 16

    def __post_init__(self) -> None:
        check_options(self, KINDS)

    def __str__(self) -> str:
        return f"rate {self.rate:.4g}, decay {self.decay:.4g}, segments of {self.segment:,} characters"


def settings_file(checkpoint: Path) -> Path:
    """Where a checkpoint's settings are kept: best.safetensors has them in best.dynamic.json."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".safetensors") + ".dynamic.json")


def read_settings(checkpoint: Path) -> DynamicConfig:
    """The settings that are kept for a checkpoint's file, or the usual ones if none are.

    Raises:
        CheckpointError: the file that keeps them cannot be read, or says something impossible.
    """
    file = settings_file(checkpoint)
    if not os.path.lexists(file):
        return DynamicConfig()
    expect_regular(file)
    try:
        return DynamicConfig(**Record(KINDS).check(parse_json(file.read_text("utf-8"), "settings"), "settings"))
    except Mismatch as mismatch:
        raise CheckpointError(f"{file}: {mismatch}") from None
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: expected settings of dynamic evaluation, found: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{file}: expected a readable file, found: {error.strerror}") from None


def write_settings(checkpoint: Path, config: DynamicConfig) -> Path:
    """Keep settings for a checkpoint's file, and return where they are.

    Raises:
        OutputError: the file could not be written.
    """
    file = settings_file(checkpoint)
    write_file(file, json.dumps(asdict(config), indent=1).encode() + b"\n")
    return file
