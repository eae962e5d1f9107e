"""Checkpoints for tests: valid ones, and ones with other contents that are signed all the same."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from cuchar.adam import Adam, LossScaling
from cuchar.checkpoint import Checkpoint, _digest
from cuchar.config import ModelConfig, TrainConfig
from cuchar.engines.base import State
from cuchar.parameters import initialise
from cuchar.position import Mean, Position
from cuchar.vocabulary import Vocabulary


def made(
    characters: str = "abé",
    hidden: int = 2,
    layers: int = 2,
    dtype: str = "f4",
    precision: str = "fp32",
    **options: Any,
) -> Checkpoint:
    """What a run of 7 steps with windows of 5 characters, 4 at once, may have saved."""
    model, generator = ModelConfig(len(characters), hidden, layers), np.random.default_rng(0)
    config = TrainConfig(hidden=hidden, layers=layers, window=5, batch=4, precision=precision, **options)
    parameters = initialise(model, 0, dtype)
    adam = Adam(parameters.flat.size, dtype)
    adam.m[:] = generator.normal(size=adam.m.size)
    adam.v[:] = generator.random(size=adam.v.size)
    seven = Mean(14.5, 7, 0.1)
    run = {
        "texts": ["/texts/fox.txt"],
        "sha256": "0123456789abcdef" * 4,
        "characters": 1000,
        "val": None,
        "val_sha256": None,
        "train": config.to_json(),
        "position": asdict(Position(7, 0, 7, 2, 1.5, 0.001, 0.25, [{"step": 1, "loss": 2.5}], seven, seven, seven)),
        "generators": {"batches": np.random.default_rng([0, 1]).bit_generator.state},
        "lengths": {"metrics.jsonl": 120, "samples.txt": 0},
        "best": 1.25,
    }
    if precision == "fp16":
        run["loss_scaling"] = asdict(LossScaling())
    return Checkpoint(
        parameters,
        Vocabulary(np.array([ord(character) for character in characters], np.uint32), config.bytes),
        adam,
        State(*generator.uniform(-1, 1, (2, layers, config.batch, hidden)).astype(dtype)),
        run,
    )


def tensors_and_metadata(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors and metadata of a checkpoint file, without its digest."""
    with safe_open(path, "np") as opened:
        body = json.loads(opened.metadata()["cuchar"])
    del body["sha256"]
    return load_file(path), body


def by_former_names(train: dict[str, Any]) -> None:
    """Change the options of training into those that an older version wrote."""
    items = [("steps" if name == "window" else name, value) for name, value in train.items()]
    train.clear()
    train.update(items)


def signed(tensors: dict[str, np.ndarray], body: dict[str, Any]) -> bytes:
    """The bytes of a file with these contents, whatever they are, and with the digest that fits them."""
    body = {**body, "sha256": _digest(tensors, body)}
    return save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, {"cuchar": json.dumps(body)})
