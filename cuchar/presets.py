"""Presets: options that belong together, which `--preset` uses for all options that are not given."""

from typing import Any

from cuchar.config import check_option
from cuchar.kinds import Choice

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
        "hidden": 512, "layers": 2, "window": 64, "batch": 32, "epochs": 25, "lr": 0.002, "clip": 1.0, "dropout": 0.5,
        "weight_decay": 0.1, "carry_state": True, "schedule": "cosine", "decay": 0.02, "val_fraction": 0.1,
    },
}  # fmt: skip


def with_preset(name: str | None, given: dict[str, Any], own_validation: bool = False) -> dict[str, Any]:
    """Fields of `cuchar.config.TrainConfig`: those that are given, and the preset's for the others.

    Args:
        own_validation: whether there is another text to validate on, so that no part of this one is needed.
    Raises:
        OptionError: there is no preset of that name.
    """
    if name is None:
        return given
    options = dict(PRESETS[check_option("preset", Choice(tuple(PRESETS)), name)])
    if "schedule" in given:
        options.pop("decay", None)
    if own_validation or given.get("val_fraction") == 0:
        options.pop("val_fraction", None)
        options.pop("val_split", None)
    return options | given
