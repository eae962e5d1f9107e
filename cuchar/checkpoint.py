"""Checkpoints: each is one safetensors file that holds all of a run's state, and is whole or not there.

Its tensors are the parameters under their own names, Adam's moments as `adam.m.NAME` and
`adam.v.NAME`, and the carried state as `state.h` and `state.c` [L, B, H]. Everything else is
one JSON value in the metadata (several values would be written in varying order), with a
SHA-256 over tensors and metadata, so that a damaged file is never taken for a good one.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cuchar.adam import Adam
from cuchar.config import STORED, ModelConfig
from cuchar.engines.base import State
from cuchar.errors import CheckpointError
from cuchar.files import write_file
from cuchar.kinds import PATH, Mismatch, describe
from cuchar.logit_scale import scaled
from cuchar.parameters import Parameters, parameter_shapes
from cuchar.position import Position
from cuchar.schema import FORMAT, check_metadata, parse_json
from cuchar.vocabulary import Vocabulary

KEY = "cuchar"  # the name of the JSON value in the metadata
PREFIXES = ("", "adam.m.", "adam.v.")  # before a parameter's name: the tensors of it, of m and of v
DTYPES: dict[str, np.dtype] = {"F32": np.dtype(np.float32), "F64": np.dtype(np.float64)}


@dataclass
class Checkpoint:
    """A model, and what training needs to go on with it: Adam's moments, the carried state and the run's position.

    run: JSON values for training alone: options, texts, position, generators, the logs' lengths (schema.RUN).
    """

    parameters: Parameters
    vocabulary: Vocabulary
    adam: Adam
    state: State
    run: dict[str, Any]

    @property
    def scaled_parameters(self) -> Parameters:
        """The parameters to predict with: the trained ones, with the logits scaled if the run has found by how much."""
        scale = self.run.get("logit_scale")
        return scaled(self.parameters, scale["factor"]) if scale else self.parameters


def write_checkpoint(path: Path, checkpoint: Checkpoint, folder: int | None = None) -> None:
    """Write a checkpoint to `path`, at which there is always either the old file or the whole new one.

    Args:
        folder: a descriptor of the folder that `path` is in; see `write_file`.
    Raises:
        OutputError: the file could not be written; the old file is still there.
    """
    write_file(path, checkpoint_bytes(checkpoint), folder)


def checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    """What a checkpoint's file contains."""
    tensors = _tensors(checkpoint)
    body = {
        "format": FORMAT,
        "model": asdict(checkpoint.parameters.model),
        "vocabulary": checkpoint.vocabulary.to_json(),
        "run": checkpoint.run,
    }
    body["sha256"] = _digest(tensors, body)
    return save(tensors, {KEY: json.dumps(body)})


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify a checkpoint.

    The file need not come from someone who is trusted. It is checked before anything is made of it, from the small to
    the large: the kind of file, the metadata (schema.py), then the tensors' names, types and shapes. Only then are the
    tensors read, into arrays that are no larger than the file.

    Args:
        path: a checkpoint file, or a run folder, of which the best checkpoint is read, or the last if there is no best.
    Raises:
        CheckpointError: the file is missing, damaged, not cuchar's, too large for this machine, or says something
            impossible.
    """
    file = checkpoint_file(path)
    with _opened(file) as (opened, body):
        model, train = check_metadata(body)
        dtype = _expect_header(opened, _shapes(model, train.batch))
        checkpoint = _empty(model, train.batch, dtype, body)
        tensors = _tensors(checkpoint)
        for name, tensor in tensors.items():
            tensor[...] = opened.get_tensor(name)
        if body.pop("sha256") != _digest(tensors, body):
            raise CheckpointError(f"{file}: expected the contents that were saved, found damaged ones")
        checkpoint.run["train"] = STORED.check(checkpoint.run["train"], "")  # renames options that had former names
        _expect_values(tensors)
    return checkpoint


def read_position(path: Path) -> Position:
    """How far a run had come when a checkpoint was written; the tensors are not read, so this is quick.

    Raises:
        CheckpointError: as for `read_checkpoint`, but damaged tensors are not noticed.
    """
    with _opened(path) as (_, body):
        check_metadata(body)
    return Position.from_json(body["run"]["position"])


@contextmanager
def _opened(file: Path) -> Iterator[tuple[Any, Any]]:
    """The open safetensors file, and its metadata as parsed JSON, which is not checked yet.

    Raises:
        CheckpointError: the file is not a checkpoint's, or what is done with it raised a Mismatch, an OSError or a
            SafetensorError.
    """
    expect_regular(file)
    try:
        with file.open("rb") as begun:  # if it may not be read, this says so; safe_open would say that it is not there
            header = int.from_bytes(begun.read(8), "little")
        if header > file.stat().st_size:
            raise CheckpointError(
                f"{file}: expected a whole safetensors file, found another kind of file, or the beginning of one"
            )
        with safe_open(file, "np") as opened:
            metadata = opened.metadata() or {}
            if KEY not in metadata:
                raise CheckpointError(
                    f"{file}: expected a checkpoint made by cuchar train, found another model's safetensors file; "
                    "cuchar import makes a checkpoint of PyTorch's"
                )
            yield opened, parse_json(metadata[KEY], "metadata")
    except Mismatch as mismatch:
        raise CheckpointError(f"{file}: {mismatch}") from None
    except OSError as error:
        raise CheckpointError(f"{file}: expected a readable file, found: {error.strerror or error}") from None
    except SafetensorError as error:  # its message can contain anything that is in the file
        found = describe(str(error))
        raise CheckpointError(f"{file}: expected a whole safetensors file, found damage: {found}") from None


def checkpoint_file(path: str | Path) -> Path:
    """`path` itself, or for a run folder its best.safetensors, or else its last.safetensors.

    Raises:
        CheckpointError: `path` is not a path, or there is no checkpoint.
    """
    try:
        path = Path(PATH.check(path, "checkpoint"))
    except Mismatch as mismatch:
        raise CheckpointError(str(mismatch)) from None
    if not stat.S_ISDIR(_stat(path).st_mode):
        return path
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).exists():
            return path / name
    raise CheckpointError(f"{path}: expected a run folder with a checkpoint in it, found none")


def _stat(path: Path, what: str = "a checkpoint or a run folder") -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: expected {what}, found nothing there") from None
    except OSError as error:
        raise CheckpointError(f"{path}: expected {what}, found: {error.strerror}") from None


def expect_regular(file: Path, what: str = "a checkpoint or a run folder") -> None:
    """Check that a file can be read: a pipe would be waited for, and a device or a huge file would fill the memory.

    Args:
        what: the words for what is expected if there is nothing.
    Raises:
        CheckpointError: it is not a regular file, or is larger than this machine's memory.
    """
    found = _stat(file, what)
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{file}: expected a file, found a folder, a pipe or a device")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if found.st_size > memory:
        raise CheckpointError(
            f"{file}: expected at most this machine's {memory / 2**30:,.1f} GiB of memory, "
            f"found {found.st_size / 2**30:,.1f} GiB"
        )


def _shapes(model: ModelConfig, batch: int) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all of a checkpoint's tensors."""
    parameters = parameter_shapes(model)
    shapes = {prefix + name: shape for prefix in PREFIXES for name, shape in parameters.items()}
    state = (model.layers, batch, model.hidden)
    return {**shapes, "state.h": state, "state.c": state}


def _expect_header(opened: Any, shapes: dict[str, tuple[int, ...]]) -> np.dtype:
    """The type of a file's tensors, which must have exactly these names and shapes and all be of one type.

    Raises:
        Mismatch: a tensor is missing, unknown, or of another shape or type.
    """
    names, dtypes = set(opened.keys()), set()
    for name, shape in shapes.items():
        if name not in names:
            raise Mismatch(name, f"shape {shape}", "no such tensor")
        tensor = opened.get_slice(name)
        found = tuple(tensor.get_shape())
        if found != shape:
            raise Mismatch(name, f"shape {shape}", str(found) if len(found) < 9 else f"{len(found):,} dimensions")
        dtypes.add(tensor.get_dtype())
    if names > shapes.keys():
        raise Mismatch("tensors", "no others than a checkpoint's", describe(min(names - shapes.keys())))
    if len(dtypes) > 1 or not dtypes <= DTYPES.keys():
        raise Mismatch("tensors", "one type, F32 or F64", " and ".join(sorted(dtypes)))
    return DTYPES[dtypes.pop()]


def _empty(model: ModelConfig, batch: int, dtype: np.dtype, body: dict[str, Any]) -> Checkpoint:
    parameters, state = Parameters(model, dtype), (model.layers, batch, model.hidden)
    return Checkpoint(
        parameters,
        Vocabulary.from_json(body["vocabulary"]),
        Adam(parameters.flat.size, dtype),
        State(np.empty(state, dtype), np.empty(state, dtype)),
        body["run"],
    )


def _expect_values(tensors: Mapping[str, np.ndarray]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise Mismatch(name, "finite numbers", "NaN" if np.isnan(tensor).any() else "infinity")
        if name.startswith("adam.v.") and tensor.min() < 0:
            raise Mismatch(name, "means of squares", str(tensor.min()))


def _tensors(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Views of all of a checkpoint's arrays, by their names in the file."""
    parameters, adam = checkpoint.parameters, checkpoint.adam
    tensors = {}
    for prefix, flat in zip(PREFIXES, (parameters.flat, adam.m, adam.v), strict=True):
        start = 0
        for name, shape in parameter_shapes(parameters.model).items():
            size = int(np.prod(shape))
            tensors[prefix + name] = flat[start : start + size].reshape(shape)
            start += size
    tensors["state.h"] = np.ascontiguousarray(checkpoint.state.h)
    tensors["state.c"] = np.ascontiguousarray(checkpoint.state.c)
    return tensors


def _digest(tensors: Mapping[str, np.ndarray], body: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype.str} {tensor.shape}".encode())
        digest.update(np.ascontiguousarray(tensor).data)
    return digest.hexdigest()
