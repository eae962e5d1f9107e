"""Checkpoints: one safetensors file that holds everything, and is whole or not there.

Tensors: parameters under their own names, `adam.m.NAME`, `adam.v.NAME`, `state.h` and
`state.c` [L, B, H]. Everything else is one JSON value in the metadata (several would
come out in varying order), with a SHA-256 over tensors and metadata, so that a damaged
file is never taken for a good one.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cuchar.adam import Adam
from cuchar.config import ModelConfig
from cuchar.corpus import Vocabulary
from cuchar.engines.base import State
from cuchar.errors import CheckpointError, CucharError
from cuchar.files import write_file
from cuchar.parameters import Parameters, parameter_shapes

FORMAT = 1
KEY = "cuchar"


@dataclass
class Checkpoint:
    """A model and, to go on with it, the moments, the carried state and the run's position.

    run: JSON values that only training reads: configuration, texts, step, generators, sums.
    """

    parameters: Parameters
    vocabulary: Vocabulary
    adam: Adam
    state: State
    run: dict[str, Any]


def write_checkpoint(path: Path, checkpoint: Checkpoint, folder: int | None = None) -> None:
    """Write to a temporary file beside `path`, fsync, rename: `path` is the old file or the new one.

    Args:
        folder: a descriptor of the folder that `path` is in; see `write_file`.
    Raises:
        OutputError: the file could not be written; what was at `path` is still there.
    """
    tensors = _tensors(checkpoint)
    body = {
        "format": FORMAT,
        "model": asdict(checkpoint.parameters.model),
        "vocabulary": checkpoint.vocabulary.to_json(),
        "run": checkpoint.run,
    }
    body["sha256"] = _digest(tensors, body)
    write_file(path, save(tensors, {KEY: json.dumps(body)}), folder)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint: a file, or a run folder's best one (its last where there is no best).

    Raises:
        CheckpointError: missing, damaged, not cuchar's, or with a value that is not finite.
    """
    file = checkpoint_file(path)
    tensors, body = _read(file)
    try:
        if body["sha256"] != _digest(tensors, {key: body[key] for key in body if key != "sha256"}):
            raise CheckpointError(f"{file}: expected the contents that were saved, found damaged ones")
        if body["format"] != FORMAT:
            raise CheckpointError(f"{file}: expected checkpoint format {FORMAT}, found {body['format']}")
        model = ModelConfig(**body["model"])
        _expect_tensors(file, tensors, model)
        vocabulary, run = Vocabulary.from_json(body["vocabulary"]), body["run"]
    except CucharError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{file}: expected a checkpoint made by cuchar train, found unreadable metadata ({error!r})"
        ) from None
    parameters = Parameters(model, tensors["head.bias"].dtype)
    adam = Adam(parameters.flat.size, parameters.flat.dtype)
    for flat, prefix in ((parameters.flat, ""), (adam.m, "adam.m."), (adam.v, "adam.v.")):
        names = parameter_shapes(model)
        np.concatenate([tensors[prefix + name].reshape(-1) for name in names], out=flat)
    return Checkpoint(parameters, vocabulary, adam, State(tensors["state.h"], tensors["state.c"]), run)


def checkpoint_file(path: str | Path) -> Path:
    """The file that `path` names: itself, or in a run folder best.safetensors, else last.safetensors."""
    path = Path(path)
    if not path.is_dir():
        return path
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).exists():
            return path / name
    raise CheckpointError(f"{path}: expected a run folder with a checkpoint in it, found none")


def _tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    parameters, adam = checkpoint.parameters, checkpoint.adam
    tensors = {}
    for prefix, flat in (("", parameters.flat), ("adam.m.", adam.m), ("adam.v.", adam.v)):
        start = 0
        for name, shape in parameter_shapes(parameters.model).items():
            size = int(np.prod(shape))
            tensors[prefix + name] = flat[start : start + size].reshape(shape)
            start += size
    tensors["state.h"] = np.ascontiguousarray(checkpoint.state.h)
    tensors["state.c"] = np.ascontiguousarray(checkpoint.state.c)
    return tensors


def _read(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    if not file.exists():
        raise CheckpointError(f"{file}: expected a checkpoint or a run folder, found nothing there")
    try:
        with safe_open(file, "np") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  not a dict
        body = json.loads(metadata[KEY])
    except OSError as error:
        raise CheckpointError(f"{file}: expected a readable file, found: {error.strerror or error}") from None
    except KeyError:
        raise CheckpointError(
            f"{file}: expected a checkpoint made by cuchar train, found another model's safetensors file"
        ) from None
    except (SafetensorError, ValueError, TypeError, AttributeError) as error:
        found = " ".join(str(error).split())
        raise CheckpointError(f"{file}: expected a whole safetensors file, found damage: {found}") from None
    if not isinstance(body, dict):
        raise CheckpointError(f"{file}: expected a checkpoint made by cuchar train, found other metadata")
    return tensors, body


def _expect_tensors(file: Path, tensors: Mapping[str, np.ndarray], model: ModelConfig) -> None:
    for name, shape in parameter_shapes(model).items():
        for full_name in (name, "adam.m." + name, "adam.v." + name):
            found = tensors.get(full_name)
            if found is None or found.shape != shape:
                raise CheckpointError(
                    f"{file}: {full_name}: expected shape {shape}, "
                    f"found {'no such tensor' if found is None else found.shape}"
                )
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            bad = "NaN" if np.isnan(tensor).any() else "infinity"
            raise CheckpointError(f"{file}: {name}: expected finite numbers, found {bad}")


def _digest(tensors: Mapping[str, np.ndarray], body: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
