"""A model's sizes and the options of training, as frozen and validated values that every checkpoint stores."""

import codecs
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cuchar.errors import OptionError
from cuchar.kinds import FLAG, Choice, Kind, Mismatch, Optional, Record, integer, number
from cuchar.wording import option

SCHEDULES = ("constant", "step", "cosine")
VALIDATION_SPLITS = ("tail", "streams")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
LAWS = ("softmax", "exp")  # by which characters are drawn: sampling.py
ON_NAN = ("stop", "rollback")
ENCODINGS = ("utf-8", "latin-1")  # of texts: reading.py
FORMS = ("nfc",)  # to which characters are brought: reading.py
DEFAULT_DECAY = {"constant": 1.0, "step": 0.5, "cosine": 0.1}


def _usual_encoding(name: str) -> str:
    """What is stored as the encoding's name: "utf-8" and "latin-1" for all that Python calls these two."""
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        return name
    return "latin-1" if found == "iso8859-1" else found


MODEL: dict[str, Kind] = {
    "vocabulary_size": integer(1, 65_536), "hidden": integer(1, 65_536), "layers": integer(1, 8),
}  # fmt: skip
PART = number("from 0 up to, not including, 1", lambda part: 0 <= part < 1)
TRAIN: dict[str, Kind] = {
    "hidden": MODEL["hidden"],
    "layers": MODEL["layers"],
    "window": integer(1),
    "batch": integer(1),
    "stride": Optional(integer(1)),
    "epochs": integer(1),
    "max_steps": Optional(integer(1)),
    "lr": number("a number above 0", lambda lr: lr > 0),
    "seed": integer(0, 2**63 - 1),
    "carry_state": FLAG,
    "dropout": PART,
    "clip": number("at least 0 (0 is off)", lambda clip: clip >= 0),
    "weight_decay": number("at least 0", lambda decay: decay >= 0),
    "schedule": Choice(SCHEDULES),
    "warmup": integer(0),
    "decay": Optional(number("above 0 and at most 1", lambda decay: 0 < decay <= 1)),
    "val_fraction": PART,
    "val_split": Choice(VALIDATION_SPLITS),
    "sample_every": integer(0),
    "sample_length": integer(1),
    "temperature": number("a number above 0", lambda temperature: temperature > 0),
    "log_every": integer(1),
    "save_every": integer(1),
    "bytes": FLAG,
    "precision": Choice(PRECISIONS),
    "patience": Optional(integer(1)),
    "on_nan": Choice(ON_NAN),
    "law": Choice(LAWS),
    "encoding": Choice(ENCODINGS, _usual_encoding),
    "normalize": Optional(Choice(FORMS, str.lower)),
    "max_vocab": Optional(integer(2, 65_536)),
    "scale_logits": FLAG,
    "weight_dropout": PART,
}
LATER = (
    "precision",
    "patience",
    "on_nan",
    "law",
    "encoding",
    "normalize",
    "max_vocab",
    "scale_logits",
    "weight_dropout",
)  # options that older files do not have
FORMER_NAMES = {"steps": "window"}  # names of options that older commands, programs and files have
STORED = Record(
    {name: kind for name, kind in TRAIN.items() if name not in LATER},
    optional={name: TRAIN[name] for name in LATER},
    former_names=FORMER_NAMES,
)


@dataclass(frozen=True)
class ModelConfig:
    """The architecture: V characters, H hidden units, L layers.

    Raises:
        OptionError: a size is out of range.
    """

    vocabulary_size: int
    hidden: int
    layers: int

    def __post_init__(self) -> None:
        check_options(self, MODEL)


@dataclass(frozen=True)
class TrainConfig:
    """How to train; the defaults are the 2017 notebook's.

    `window` is T, the number of characters in a window, which is the sequence length of truncated back-propagation
    through time. `stride=None` means `window`. `decay=None` means the schedule's own decay: the factor 0.5 after every
    epoch for "step", down to the factor 0.1 for "cosine". `epochs` and `max_steps` are totals, and the run ends when it
    has reached either; `max_steps=None` sets no limit. `patience` ends it once so many validations in a row have found no
    lower loss than the best; None waits for ever. `on_nan` says what a loss, gradient or parameter that is not finite
    does: "stop" ends the run, "rollback" goes back to the last checkpoint that was due and halves the learning rate.
    `temperature` and `law` are those of the samples in training (`cuchar.sampling.SampleConfig`). `bytes`, `encoding` and
    `normalize` say how texts are read (`cuchar.reading.Reading`), `max_vocab` how many characters are told apart
    (`cuchar.vocabulary.Vocabulary.of_counts`). `scale_logits` validates with the logits scaled to suit the validation
    text (`cuchar.logit_scale`), and checkpoints say by which factor they are to be scaled. `dropout` is the probability
    with which an element of a layer's output is dropped, `weight_dropout` that of a recurrent weight, in each training step
    anew (`cuchar.philox`).

    Raises:
        OptionError: a value is out of range, or options contradict each other.
    """

    hidden: int = 64
    layers: int = 2
    window: int = 32
    batch: int = 32
    stride: int | None = None
    epochs: int = 4
    max_steps: int | None = None
    lr: float = 0.001
    seed: int = 0
    carry_state: bool = False
    dropout: float = 0.0
    clip: float = 0.0
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0
    decay: float | None = None
    val_fraction: float = 0.0
    val_split: str = "tail"
    sample_every: int = 1000
    sample_length: int = 200
    temperature: float = 1.0
    log_every: int = 100
    save_every: int = 1000
    bytes: bool = False
    precision: str = "fp32"
    patience: int | None = None
    on_nan: str = "stop"
    law: str = "softmax"
    encoding: str = "utf-8"
    normalize: str | None = None
    max_vocab: int | None = None
    scale_logits: bool = False
    weight_dropout: float = 0.0

    def __post_init__(self) -> None:
        check_options(self, TRAIN)
        if self.decay is not None and self.schedule == "constant":
            raise OptionError(
                f"{option('decay')}: expected {option('schedule', 'step')} or {option('schedule', 'cosine')} with it, "
                f"found {option('schedule', 'constant')}"
            )
        if self.carry_state and self.stride not in (None, self.window):
            raise OptionError(
                f"{option('stride')}: expected {option('window')} ({self.window}) with {option('carry_state', True)}, "
                f"whose windows follow each other, found {self.stride}"
            )
        expect_bytes_alone({**self.to_json(), "encoding": None if self.encoding == "utf-8" else self.encoding})
        if self.val_split == "streams" and not self.val_fraction:
            raise OptionError(
                f"{option('val_split', 'streams')}: expected {option('val_fraction')} with it, found none"
            )

    @property
    def window_stride(self) -> int:
        return self.window if self.stride is None else self.stride

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "TrainConfig":
        """The configuration from what `to_json` of this or of an older version returned.

        Raises:
            OptionError: an option is missing, unknown or wrong, as in a file that was edited by hand.
        """
        try:
            return cls(**STORED.check(values, "train"))
        except Mismatch as mismatch:
            raise OptionError(str(mismatch)) from None


def check_option(name: str, kind: Kind, value: Any) -> Any:
    """Check the value of an option, and return what `Kind.check` makes of it.

    Raises:
        OptionError: the value is not of the kind.
    """
    try:
        return kind.check(value, option(name))
    except Mismatch as mismatch:
        raise OptionError(str(mismatch)) from None


def check_options(config: Any, kinds: Mapping[str, Kind]) -> None:
    """Check every field of a frozen dataclass by its kind, and set the field to what `Kind.check` makes of it.

    Raises:
        OptionError: a value is not of its kind.
    """
    for name, kind in kinds.items():
        object.__setattr__(config, name, check_option(name, kind, getattr(config, name)))


def expect_bytes_alone(given: Mapping[str, Any]) -> None:
    """Check that bytes are read without an option that is about characters.

    Args:
        given: the options that are given; None stands for one that is not.
    Raises:
        OptionError: one of these options is given with bytes.
    """
    for name in ("encoding", "normalize", "max_vocab"):
        if given.get("bytes") is True and given.get(name) is not None:
            raise OptionError(f"{option(name, given[name])}: expected it or {option('bytes', True)}, found both")


def with_present_names(given: Mapping[str, Any], note: Callable[[str], None]) -> dict[str, Any]:
    """The given options by their present names.

    Args:
        note: is called with a line of text for each option that was given by a former name.
    Raises:
        OptionError: a value is wrong, or the present and the former name were given different values.
    """
    options = dict(given)
    for former, present in FORMER_NAMES.items():
        if former not in options:
            continue
        value = check_option(former, TRAIN[present], options.pop(former))
        options[present] = check_option(present, TRAIN[present], options.get(present, value))
        if options[present] != value:
            raise OptionError(
                f"{option(former)} is the former name of {option(present)}: expected one value, "
                f"found {value} and {options[present]}"
            )
        note(f"{option(former)} is now called {option(present)}; the former name goes on working")
    return options


def expect_options(given: Iterable[str], known: Iterable[str]) -> None:
    """Check that all given names are known names of options.

    Raises:
        OptionError: one is not; the message says which known name is like it, if one is.
    """
    known = list(known)
    for name in given:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; is it {option(nearest[0])}?" if nearest else ""
            raise OptionError(f"{option(name)}: expected the name of an option, found none{hint}")


def learning_rate(config: TrainConfig, step: int, epoch: int, total_steps: int) -> float:
    """The learning rate of training step `step`, counted from 1, in epoch `epoch`, counted from 0.

    With the schedule "constant" it is lr, with "step" lr * decay^epoch. With "cosine" it falls along half a cosine,
    from lr at step 0 to lr * decay at step `total_steps`. In the first `warmup` steps it is multiplied by
    step / warmup.
    Source: Loshchilov and Hutter 2017 (SGDR), without restarts.
    """
    decay = DEFAULT_DECAY[config.schedule] if config.decay is None else config.decay
    rate = config.lr
    if config.schedule == "step":
        rate *= decay**epoch
    elif config.schedule == "cosine":
        progress = min(1.0, step / total_steps)
        rate *= decay + (1 - decay) * 0.5 * (1 + math.cos(math.pi * progress))
    if step < config.warmup:
        rate *= step / config.warmup
    return rate
