"""Presets: options that belong together, which `--preset` uses for all options that are not given."""

from collections.abc import Mapping
from typing import Any

from cuchar.config import TRAIN, TrainConfig, check_option
from cuchar.kinds import Choice
from cuchar.wording import option

SHARED = {
    "hidden": 128, "layers": 2, "window": 50, "batch": 50, "epochs": 50, "lr": 0.002, "clip": 5.0,
    "carry_state": True, "schedule": "step",
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "notebook": {},
    # The defaults of these two programs, but with Adam, and with a decay of the learning rate after every epoch:
    # char-rnn decays it from epoch 10 on, torch-rnn halves it every fifth epoch.
    "char-rnn": {**SHARED, "decay": 0.97, "val_fraction": 0.05, "val_split": "streams"},
    "torch-rnn": {**SHARED, "decay": 0.87, "val_fraction": 0.1},
    # The best options that were found for a text of a million characters: docs/benchmarks.md.
    "best": {
        "hidden": 768, "layers": 2, "window": 64, "batch": 32, "epochs": 25, "lr": 0.002, "warmup": 400, "clip": 1.0,
        "dropout": 0.5, "weight_dropout": 0.2, "weight_decay": 0.1, "carry_state": True, "schedule": "cosine", "decay": 0.02,
        "val_fraction": 0.1, "scale_logits": True,
    },
}  # fmt: skip

AUTO = "auto"
# For texts of at least so many characters, the settings that predicted unseen text best within minutes on two cores:
# docs/benchmarks.md says how they were found.
FITTED = {
    "layers": 2, "clip": 1.0, "carry_state": True, "schedule": "cosine", "decay": 0.02, "val_fraction": 0.1, "patience": 8,
}  # fmt: skip
BY_SIZE: dict[int, dict[str, Any]] = {
    0: {"hidden": 64, "window": 20, "batch": 1, "dropout": 0.3, "lr": 0.004, "epochs": 50},
    4_000: {"hidden": 64, "window": 50, "batch": 2, "dropout": 0.3, "lr": 0.004, "epochs": 30},
    20_000: {
        "hidden": 128, "window": 50, "batch": 5, "dropout": 0.5, "lr": 0.004, "weight_decay": 0.1, "epochs": 30,
    },
    60_000: {
        "hidden": 256, "window": 50, "batch": 10, "dropout": 0.5, "lr": 0.003, "weight_decay": 0.1, "epochs": 20,
    },
    200_000: {
        "hidden": 256, "window": 50, "batch": 20, "dropout": 0.4, "lr": 0.003, "weight_decay": 0.01, "epochs": 15,
    },
    600_000: {
        "hidden": 256, "window": 64, "batch": 32, "dropout": 0.4, "lr": 0.003, "weight_decay": 0.01, "epochs": 15,
    },
    2_000_000: {"hidden": 256, "window": 64, "batch": 32, "dropout": 0.2, "lr": 0.003, "epochs": 4},
}  # fmt: skip


def fitted(characters: int | None, processes: int = 1) -> dict[str, Any]:
    """The settings of `--preset auto` for a text of so many characters; of None, those that every text gets.

    Args:
        processes: how many train together; each gets a row of the batch at least.
    """
    if characters is None:
        return dict(FITTED)
    settings: dict[str, Any] = FITTED | BY_SIZE[max(size for size in BY_SIZE if size <= characters)]
    return {**settings, "batch": max(settings["batch"], processes)}


def describe_auto(options: Mapping[str, Any], given: Mapping[str, Any], characters: int, processes: int = 1) -> str:
    """What `--preset auto` chose, as a line of text.

    Args:
        options: what `with_preset` returned for `given`, a text of so many characters and so many processes.
    """
    together = f" and {processes} processes" if processes > 1 else ""
    words = [option(name, value) for name, value in options.items() if name not in given]
    return f"{option('preset', AUTO)}, for {characters:,} characters{together}: {' '.join(words)}"


def before_reading(name: str | None, given: Mapping[str, Any], own_validation: bool) -> TrainConfig:
    """The configuration as far as it is known before the text's length is.

    Raises:
        OptionError: the options are wrong, whatever the text's length.
    """
    options = with_preset(name, given, own_validation)
    if name == AUTO and "stride" in given and "window" not in given:  # whether they go together, the length will tell
        check_option("stride", TRAIN["stride"], options.pop("stride"))
    return TrainConfig(**options)


def with_preset(
    name: str | None,
    given: Mapping[str, Any],
    own_validation: bool = False,
    characters: int | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    """Fields of `cuchar.config.TrainConfig`: those that are given, and the preset's for the others.

    Args:
        own_validation: whether there is another text to validate on, so that no part of this one is needed.
        characters: the text's length, by which "auto" goes; None leaves out what goes by it.
        processes: how many train together, by which "auto" goes too.
    Raises:
        OptionError: there is no preset of that name.
    """
    if name is None:
        return dict(given)
    check_option("preset", Choice((*PRESETS, AUTO)), name)
    options = fitted(characters, processes) if name == AUTO else dict(PRESETS[name])
    if "schedule" in given:
        options.pop("decay", None)
    if own_validation or given.get("val_fraction") == 0:
        options.pop("val_fraction", None)
        options.pop("val_split", None)
    if given.get("val_fraction") == 0 and not own_validation:
        options.pop("patience", None)
        options.pop("scale_logits", None)
    return {**options, **given}
