"""Makes a checkpoint of a PyTorch model: an LSTM and a linear layer, in a safetensors file under PyTorch's names.

The file need not come from someone who is trusted: names, types and shapes are checked before anything is made of them.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from cuchar.adam import Adam
from cuchar.checkpoint import Checkpoint, checkpoint_bytes, expect_regular
from cuchar.config import MODEL, ModelConfig, TrainConfig
from cuchar.engines.base import State
from cuchar.errors import CheckpointError
from cuchar.files import write_output
from cuchar.kinds import Mismatch, describe
from cuchar.parameters import Parameters
from cuchar.position import Position
from cuchar.schema import parse_json
from cuchar.text_files import absolute
from cuchar.vocabulary import UNKNOWN_CODE, Vocabulary
from cuchar.wording import option

MOST_HEADER = 1 << 22  # bytes of a file's header: a vocabulary of 65,536 characters takes some 2 MB
MOST_TENSORS = 100  # eight layers, a head and an embedding have 35
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # NumPy has no bfloat16: `_array` widens it
LSTM_NAME = re.compile(r"(.*?)(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh)_l(\d)(_reverse)?")
KIND = "a safetensors file"
SAVE_HINT = "safetensors.torch.save_file(model.state_dict(), FILE) writes one"


@dataclass(frozen=True)
class Layout:
    """Which tensor of a file plays which part, and the sizes that their shapes say.

    lstm: the names by kind and layer, such as ("weight_ih", 0).
    head: the name of the linear layer's weight; `head_bias` that of its bias, or None.
    embedding: the name of the table through which the LSTM reads characters, or None if it reads them one-hot.
    """

    model: ModelConfig
    lstm: Mapping[tuple[str, int], str]
    head: str
    head_bias: str | None
    embedding: str | None


def import_pytorch(file: Path, out: Path, vocabulary_file: Path | None = None) -> list[str]:
    """Write a checkpoint of a PyTorch model.

    Args:
        file: a safetensors file.
        out: the checkpoint, or `-` for standard output.
        vocabulary_file: a JSON list of the characters in the order of their ids, or of numbers for a model of bytes;
            None reads the list from the metadata `vocabulary` of `file`.
    Returns:
        lines of text that say what was found.
    Raises:
        CheckpointError: a file cannot be read, or is not of such a model.
        OutputError: the checkpoint could not be written.
    """
    try:
        checkpoint, lines = _read(file, vocabulary_file)
    except Mismatch as mismatch:
        raise CheckpointError(f"{file}: {mismatch}") from None
    write_output(out, checkpoint_bytes(checkpoint))
    return lines


def _read(file: Path, vocabulary_file: Path | None) -> tuple[Checkpoint, list[str]]:
    data = _read_file(file)
    try:
        tensors = dict(sorted(deserialize(data)))  # by name, since safetensors gives them in any order
    except SafetensorError as error:
        found = describe(str(error))
        raise Mismatch("contents", f"{KIND} that is whole ({SAVE_HINT})", f"damage: {found}") from None
    layout = find_layout({name: tuple(tensor["shape"]) for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        if tensor["dtype"] not in DTYPES:
            raise Mismatch(describe(name), " | ".join(DTYPES), tensor["dtype"])
    is_double = {tensor["dtype"] for tensor in tensors.values()} == {"F64"}
    vocabulary, order = _vocabulary(data, vocabulary_file, layout.model.vocabulary_size)
    parameters = Parameters(layout.model, np.float64 if is_double else np.float32)
    _fill(parameters, {name: _array(tensor) for name, tensor in tensors.items()}, layout, order)
    for name, view in parameters.items():
        if not np.isfinite(view).all():
            raise Mismatch(name, "finite numbers", "NaN or infinity")
    source = {"path": absolute(file), "sha256": hashlib.sha256(data).hexdigest()}
    return _untrained(parameters, vocabulary, source), _describe(layout, tensors, parameters)


def _read_file(file: Path) -> bytes:
    """All of a file, of which the size of its header is checked before."""
    expect_regular(file, KIND)
    try:
        with file.open("rb") as opened:
            start = opened.read(8)
            if start.startswith(b"PK"):
                raise Mismatch("contents", f"{KIND} ({SAVE_HINT})", "what torch.save writes")
            header = int.from_bytes(start, "little")
            if header > MOST_HEADER:
                found = f"one whose header has {header:,} bytes" if header < 1 << 40 else "another kind of file"
                raise Mismatch("contents", f"{KIND} ({SAVE_HINT})", found)
            return start + opened.read()
    except OSError as error:
        raise Mismatch("contents", "a readable file", str(error.strerror or error)) from None


def find_layout(shapes: Mapping[str, tuple[int, ...]]) -> Layout:
    """Which tensors are the LSTM's, the head's and the embedding's; prefixes may be any.

    The head is the one other matrix that has a bias; a matrix without one is the embedding. Without any bias, a single
    matrix is the head.

    Raises:
        Mismatch: a tensor is missing, unknown, or of a shape that does not fit the others.
    """
    if len(shapes) > MOST_TENSORS:
        raise Mismatch("tensors", f"at most {MOST_TENSORS}", f"{len(shapes):,}")
    lstm, prefixes = {}, set()
    for name in shapes:
        found = LSTM_NAME.fullmatch(name)
        if found:
            if found[4]:
                raise Mismatch(describe(name), "an LSTM that reads forwards alone", "a bidirectional one")
            if found[2] == "weight_hr":
                raise Mismatch(describe(name), "an LSTM without projections", "one with proj_size")
            lstm[found[2], int(found[3])] = name
            prefixes.add(found[1])
    if len(prefixes) != 1:
        several = describe(", ".join(sorted(prefixes)))
        raise Mismatch("tensors", "one LSTM's, such as lstm.weight_ih_l0", several if prefixes else "none")
    head, head_bias, embedding = _matrices({name: shape for name, shape in shapes.items() if name not in lstm.values()})

    layers = 1 + max(layer for _, layer in lstm)
    kinds = ("weight_ih", "weight_hh") + (("bias_ih", "bias_hh") if any("bias" in kind for kind, _ in lstm) else ())
    for layer in range(layers):
        for kind in kinds:
            if (kind, layer) not in lstm:
                raise Mismatch(f"{describe(next(iter(prefixes)))}: {kind}_l{layer}", "a tensor", "none")
    recurrent = shapes[lstm["weight_hh", 0]]
    if len(recurrent) != 2 or recurrent[0] != 4 * recurrent[1]:
        raise Mismatch(describe(lstm["weight_hh", 0]), "shape (4H, H), as an LSTM has", str(recurrent[:4]))
    H, V = recurrent[1], shapes[head][0]
    for name, size in (("hidden", H), ("vocabulary_size", V), ("layers", layers)):
        MODEL[name].check(size, name)
    inputs = V if embedding is None else shapes[embedding][1]
    expected: dict[str | None, tuple[int, ...]] = {
        name: (4 * H, inputs if layer == 0 else H) if kind == "weight_ih" else (4 * H, H) if kind == "weight_hh" else (4 * H,)
        for (kind, layer), name in lstm.items()
    }  # fmt: skip
    expected |= {head: (V, H), head_bias: (V,), embedding: (V, inputs)}
    for name, shape in shapes.items():
        if shape != expected[name]:
            raise Mismatch(describe(name), f"shape {expected[name]}", str(shape) if len(shape) < 5 else "another")
    return Layout(ModelConfig(V, H, layers), lstm, head, head_bias, embedding)


def _matrices(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str | None, str | None]:
    """The names of the head's weight and bias, and of the embedding, among the tensors that are not the LSTM's."""
    weights = [name for name, shape in shapes.items() if name.endswith("weight") and len(shape) == 2]
    biases = {name: name.removesuffix("weight") + "bias" for name in weights}
    for name in sorted(shapes.keys() - {*weights, *biases.values()}):
        raise Mismatch("tensors", "an LSTM's, a linear layer's and an embedding's alone", describe(name))
    heads = weights if len(weights) == 1 else [name for name in weights if biases[name] in shapes]
    others = [name for name in weights if name not in heads]
    if len(heads) != 1 or len(others) > 1:
        found = describe(", ".join(sorted(weights))) if weights else "none"
        raise Mismatch("tensors", "one linear layer with a bias, such as head.weight, and at most one embedding", found)
    bias = biases[heads[0]]
    return heads[0], bias if bias in shapes else None, others[0] if others else None


def _array(tensor: Mapping[str, Any]) -> np.ndarray:
    values = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
    # A bfloat16 is the upper half of a float32.
    return (values.astype("<u4") << 16).view("<f4") if tensor["dtype"] == "BF16" else values


def _vocabulary(data: bytes, file: Path | None, V: int) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary, which is sorted here, and for each of its entries the id that the file's model has for it."""
    unknown = None
    if file is not None:
        expect_regular(file, "a JSON file")
        try:
            where, written = option("vocabulary"), file.read_bytes().decode()
        except (OSError, ValueError):
            raise Mismatch(option("vocabulary"), "a readable file in UTF-8", describe(str(file))) from None
    else:
        header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")].decode(), "header")
        metadata = header.get("__metadata__") or {}  # an object of texts, or null: safetensors refuses all else
        where = "metadata.vocabulary"
        if "vocabulary" not in metadata:
            raise Mismatch(where, f"a JSON list of characters, there or in {option('vocabulary')}", "none")
        written = metadata["vocabulary"]
        unknown = metadata.get("unknown")
    entries = parse_json(written, where)
    if type(entries) is not list or len(entries) != V:
        found = f"a list of {len(entries):,}" if type(entries) is list else describe(entries)
        raise Mismatch(where, f"a list of {V:,}, one entry for each of the head's rows", found)
    is_bytes = type(entries[0]) is int
    codes = np.array([_code(entry, is_bytes, f"{where}[{at}]") for at, entry in enumerate(entries)], np.uint32)
    order = np.argsort(codes)
    repeated = np.flatnonzero(codes[order][1:] == codes[order][:-1])
    if len(repeated) or V < 2:
        found = describe(entries[order[repeated[0]]]) + " twice" if len(repeated) else f"{V}"
        raise Mismatch(where, "at least two entries, all distinct", found)
    if unknown is not None and (is_bytes or unknown != chr(UNKNOWN_CODE) or UNKNOWN_CODE not in codes):
        raise Mismatch("metadata.unknown", "U+FFFD, which is in the vocabulary", describe(unknown))
    return Vocabulary(codes[order], is_bytes, has_unknown=unknown is not None), order


def _code(entry: Any, is_byte: bool, where: str) -> int:
    if is_byte:
        if type(entry) is int and 0 <= entry <= 0xFF:
            return entry
        raise Mismatch(where, "a byte, from 0 to 255", describe(entry))
    if type(entry) is str and len(entry) == 1 and not "\ud800" <= entry <= "\udfff":
        return ord(entry)
    raise Mismatch(where, "a text of one character", describe(entry))


def _fill(parameters: Parameters, arrays: Mapping[str, np.ndarray], layout: Layout, order: np.ndarray) -> None:
    """Set parameters from PyTorch's tensors, with the characters in `order`.

    A layer's bias is the sum of PyTorch's two. An embedding E is folded into the first layer's table: W_ih E^T.
    """
    lstm = layout.lstm
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
        for layer in range(layout.model.layers):
            inputs = arrays[lstm["weight_ih", layer]]
            if layer == 0:
                if layout.embedding is not None:
                    inputs = inputs.astype(np.float64) @ arrays[layout.embedding].T.astype(np.float64)
                inputs = inputs[:, order]
            parameters[f"lstm.weight_ih_l{layer}"][...] = inputs
            parameters[f"lstm.weight_hh_l{layer}"][...] = arrays[lstm["weight_hh", layer]]
            for kind in ("bias_ih", "bias_hh"):
                if (kind, layer) in lstm:
                    parameters[f"lstm.bias_l{layer}"][...] += arrays[lstm[kind, layer]]
        parameters["head.weight"][...] = arrays[layout.head][order]
        if layout.head_bias is not None:
            parameters["head.bias"][...] = arrays[layout.head_bias][order]


def _untrained(parameters: Parameters, vocabulary: Vocabulary, source: dict[str, str]) -> Checkpoint:
    """The checkpoint of a run that has read no text and done no step, whose parameters come from a file."""
    model, dtype = parameters.model, parameters.flat.dtype
    config = TrainConfig(hidden=model.hidden, layers=model.layers, bytes=vocabulary.is_bytes)
    run = {
        "texts": [],
        "sha256": hashlib.sha256().hexdigest(),
        "characters": 0,
        "val": None,
        "val_sha256": None,
        "train": config.to_json(),
        "position": asdict(Position()),
        "generators": {"batches": np.random.default_rng([config.seed, 1]).bit_generator.state},
        "lengths": {"metrics.jsonl": 0, "samples.txt": 0},
        "best": None,
        "imported": source,
    }
    state = State(*np.zeros((2, model.layers, config.batch, model.hidden), dtype))
    return Checkpoint(parameters, vocabulary, Adam(parameters.flat.size, dtype), state, run)


def _describe(layout: Layout, tensors: Mapping[str, Mapping[str, Any]], parameters: Parameters) -> list[str]:
    model = layout.model
    lines = [f"{model.layers} layers of {model.hidden}, {model.vocabulary_size} characters, {parameters.flat.dtype}"]
    if layout.embedding is not None:
        width = tensors[layout.embedding]["shape"][1]
        lines.append(f"the embedding, of {width} numbers a character, was folded into the first layer's table")
    narrow = sorted({tensor["dtype"] for tensor in tensors.values()} & {"F16", "BF16"})
    if narrow:
        lines.append(f"{' and '.join(narrow)} became float32, which holds the same values")
    return lines
