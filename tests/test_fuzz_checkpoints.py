"""Hostile checkpoints that are signed all the same: each is refused in one line, or is a model that can be used.

A valid checkpoint is changed anywhere: in its metadata, its tensors, the bytes of its header. Whatever is read is used
as every command would use it: printed, sampled from in C++, trained on for a step. That happens in a process of its
own, so that a crash is a failure like any other (the case is left in FOLDER); memory and a case's time have bounds.

    python tests/test_fuzz_checkpoints.py 100000 FOLDER    # other cases every time; CI has the same 3,000
"""

import copy
import io
import json
import os
import resource
import struct
import subprocess
import sys
import warnings
from collections import Counter
from contextlib import redirect_stdout, suppress
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checkpoints import by_former_names, made, signed, tensors_and_metadata
from support.process import environment

from cuchar.adam import LossScaling
from cuchar.batches import Windows
from cuchar.checkpoint import read_checkpoint, write_checkpoint
from cuchar.config import TrainConfig
from cuchar.engines.base import TrainingState
from cuchar.engines.choose import choose_engine
from cuchar.errors import CheckpointError, DivergedError
from cuchar.model import Model
from cuchar.position import Position
from cuchar.reports import print_checkpoint

SECONDS, MEGABYTES = 2, 256  # a case's time, and what the process may take beyond what valid checkpoints need
ROUND = 3000  # cases that hypothesis is asked for at once, since it remembers them all
BASES = [
    {}, {"layers": 1, "hidden": 1}, {"dtype": "f8"}, {"precision": "fp16"}, {"carry_state": True, "dropout": 0.5},
    {"characters": "\0\x7f\xff", "bytes": True}, {"characters": "\0é\u2028\U0010ffff", "layers": 1, "hidden": 9},
]  # fmt: skip


# What a change may raise where another change of the same case has left nothing for it to change.
IMPOSSIBLE = (LookupError, TypeError, AttributeError, ArithmeticError, ValueError)


# --- changes, as data: (function, *arguments)


def places(value, path=()):
    """The paths, as tuples of keys, to `value` itself and to all values inside it."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


def nested(levels, kind):
    value = {} if kind is dict else []
    for _ in range(levels):
        value = {"": value} if kind is dict else [value]
    return value


def change_value(tensors, body, at, how, value):
    """Replace the value at one of the places, alter it a little, take it away, or put another one beside it."""
    *path, last = (ways := list(places(body))[1:])[at % len(ways)]
    for key in path:
        body = body[key]
    if how == "replace":
        body[last] = value
    elif how == "alter":
        old = body[last]
        body[last] = not old if isinstance(old, bool) else old + type(old)(1 if isinstance(old, float | int) else "~")
    elif how == "remove":
        del body[last]
    elif isinstance(body, list):
        body.insert(last, value)
    else:
        body[str(last) + "?"] = value


def resize(tensors, body, name, size):
    """Change a size in the metadata, and in the shapes of tensors unless it is too large or impossible for them."""
    old = {**body["model"], **body["run"]["train"]}[name]
    for sizes in (body["model"], body["run"]["train"]):
        sizes |= {name: size} if name in sizes else {}
    if name == "vocabulary_size":
        body["vocabulary"]["characters"] = "".join(chr(97 + at) for at in range(max(0, min(size, 70_000))))
    if not 0 <= size < 100:
        return
    for key, tensor in list(tensors.items()):
        lengths = {"layers": tensor.shape[:1] if key.startswith("state") else ()}.get(name, tensor.shape)
        shape = [size if length == old else 4 * size if length == 4 * old else length for length in lengths]
        tensors[key] = np.resize(tensor, (*shape, *tensor.shape[len(shape) :]))
        if name == "layers" and "_l" in key and int(key[-1]) >= size:
            del tensors[key]


def change_vocabulary(tensors, body, characters):
    body["vocabulary"]["characters"] = characters


def change_tensor(tensors, body, at, how, value):
    name = sorted(tensors)[at % len(tensors)]
    tensor = tensors[name]
    if how == "type":
        tensors[name] = tensor.astype(value)
    elif how == "all types":
        for each in tensors:
            tensors[each] = tensors[each].astype(value)
    elif how == "turn":
        tensors[name] = tensor.T
    elif how == "reshape":
        tensors[name] = tensor.reshape(1, *tensor.shape)
    elif how == "shorten":
        tensors[name] = tensor[:-1]
    elif how == "remove":
        del tensors[name]
    elif how == "rename":
        tensors[name + "\n\0"] = tensors.pop(name)
    elif how == "add":
        tensors["é" * 300] = tensor
    else:  # a value of one element, or of all
        tensors[name] = tensor.copy()
        tensors[name].reshape(-1)[slice(None) if how == "all values" else 0] = value


def change_metadata_text(data, old, new):
    """Replace something in the metadata's JSON after it was signed; `data` is the whole file."""
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    header["__metadata__"]["cuchar"] = header["__metadata__"]["cuchar"].replace(old, new, 1)
    return with_header(data, header)


def change_header(data, at, how, value):
    """Change what the file's header says of one tensor."""
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    name = sorted(header.keys() - {"__metadata__"})[at % (len(header) - 1)]
    if how == "offset":
        header[name]["data_offsets"][at % 2] = value
    elif how in header[name]:
        header[name][how] = value
    else:
        header[name] = value
    return with_header(data, header)


def with_header(data, header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + struct.unpack("<Q", data[:8])[0] :]


def change_bytes(data, at, how, value):
    at %= len(data)
    if how == "cut":
        return data[:at]
    if how == "add":
        return data[:at] + value + data[at:]
    if how == "end":
        return data + value
    if how == "length":
        return struct.pack("<Q", at) + data[8:]
    return data[:at] + value + data[at + len(value) :]


ODD_NUMBERS = [
    0, 1, -1, -3, 2, 7, 8, 9, 255, 256, 65_535, 65_536, 65_537, 10**9, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64,
    2**128, 10**4000, -(10**4000), 0.0, -0.0, 1.0, 16.0, 0.5, -1e-300, 5e-324, 1e308, float("inf"), float("nan"),
]  # fmt: skip
LETTERS = "ab~\0\n\x1b\xff\ud800\udce9\u2028\U0010ffff"
values = st.one_of(
    st.sampled_from([None, True, False, "", "fp16", "a\0b", "\ud800", "ab\ud800", "\udce9", "x" * 5000, [], {}]),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from([(5, dict), (5, list), (400, dict), (400, list)]).map(lambda pair: nested(*pair)),
    st.integers(-(2**70), 2**140),
    st.floats(),
    st.text(LETTERS, max_size=6),
    st.lists(st.integers(0, 9) | st.text(LETTERS, max_size=2), max_size=3),
)
anywhere = st.integers(0, 10_000)
sizes = st.sampled_from(["vocabulary_size", "hidden", "layers", "batch"])
content_changes = st.one_of(
    st.tuples(st.just(change_value), anywhere, st.sampled_from(["replace", "alter", "remove", "beside"]), values),
    st.tuples(st.just(change_vocabulary), st.text(LETTERS, min_size=2, max_size=4)),
    st.tuples(st.just(resize), sizes, st.integers(1, 9) | st.sampled_from([0, -1, True, 40, 65_536, 65_537, 10**9])),
    st.tuples(
        st.just(change_tensor), anywhere, st.sampled_from(["type", "all types"]),
        st.sampled_from(["i1", "u1", "?", "f2", "f4", "f8", "i4", "u8", "c8"]),
    ),
    st.tuples(
        st.just(change_tensor), anywhere,
        st.sampled_from(["turn", "reshape", "shorten", "remove", "rename", "add"]), st.none(),
    ),
    st.tuples(
        st.just(change_tensor), anywhere, st.sampled_from(["one value", "all values"]),
        st.sampled_from([0, -0.0, 1, -1, 100, -1e30, 1e-45, 3e38, -3e38, float("nan"), float("inf")]),
    ),
)  # fmt: skip
file_changes = st.one_of(
    st.tuples(
        st.just(change_metadata_text), st.sampled_from(["1.25", "true", "{", "}", '"format": 1', "7", ":", ","]),
        st.sampled_from([
            "NaN", "-Infinity", "1e999", "-0", "9" * 5000, "[" * 5000, '{"a":' * 5000, "[" * 400 + "]" * 400, "", "//",
            '"format": 2, "format": 1', "0x10", "'", "\ud83d\ude00", "01",
        ]),
    ),
    st.tuples(
        st.just(change_header), anywhere, st.sampled_from(["offset", "dtype", "shape", "data_offsets", "all"]),
        st.sampled_from([
            0, -1, 1, 8, 2**32, 2**62, 2**63, 2**64 - 1, 1.5, None, "F64", "F32", "F8_E5M2", "F4", "BOOL", "X", [], [0],
            [0, 0], [2**32, 2**32], [2**63, 2], [-1], [1.5], [4, 0], {}, "", [1] * 5000,
        ]),
    ),
    st.tuples(
        st.just(change_bytes), st.integers(0, 20) | st.integers(0, 10_000),
        st.sampled_from(["cut", "add", "end", "length", "put"]),
        st.binary(min_size=1, max_size=9) | st.sampled_from([b"\xff\xfe", b"\0" * 64, b"[" * 2000, b"\xed\xa0\x80"]),
    ),
)  # fmt: skip
cases = st.tuples(
    st.integers(0, len(BASES)),  # the last is an older version's
    st.lists(content_changes, max_size=3),
    st.none() | st.none() | st.none() | file_changes,
)


# --- what is done with each


def hostile(base, case):
    """The bytes of a case's file: `base` is tensors and body."""
    _, content, file = case
    tensors, body = copy.deepcopy(base)
    for change, *arguments in content:
        if tensors and isinstance(body, dict):
            with suppress(*IMPOSSIBLE):
                change(tensors, body, *arguments)
    data = signed(tensors, body)
    if file:
        change, *arguments = file
        with suppress(*IMPOSSIBLE):
            data = change(data, *arguments)
    return data


def use(file):
    """Read a checkpoint and use it; says in a word what became of it."""
    try:
        checkpoint = read_checkpoint(file)
    except CheckpointError as error:
        message = str(error)
        assert message.startswith(f"{file}: ") and len(message) < len(str(file)) + 1000
        assert message.isprintable(), message
        return "refused"
    with redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        print_checkpoint(file)
    json.dumps(checkpoint.run, allow_nan=False)
    run, parameters, adam = checkpoint.run, checkpoint.parameters, checkpoint.adam
    config, position = TrainConfig.from_json(run["train"]), Position.from_json(run["position"])
    assert not position.since_line.count or np.isfinite([position.since_line.loss, position.finished(config)]).all()
    np.random.default_rng().bit_generator.state = run["generators"]["batches"]
    adam.scaling = LossScaling(**run.get("loss_scaling", {}))
    engine, _ = choose_engine("cpu", parameters.model, parameters.flat.dtype)
    if config.window * config.batch <= 1000:
        ids = np.zeros(config.batch * (config.window + 1), np.uint8)
        windows = Windows(ids, config.batch, config.window, config.window_stride)
        training = TrainingState(parameters, adam, checkpoint.state)
        learner = engine.learner(config, training, windows)
        with np.errstate(all="ignore"):
            learner.train(0, position.step + 1, [config.lr])
        learner.fetch()
        assert training.state.h.shape == checkpoint.state.h.shape
    model = Model(file, "cpu")
    model.vocabulary.decode(np.arange(len(model.vocabulary)))
    try:
        assert len(model.reading.codes_of(model.sample(3, seed=1))) >= 3
    except DivergedError:
        return "diverged"
    return "used"


def fuzz(examples, folder, derandomize):
    """Try so many cases; raises AssertionError, or what went wrong, with the smallest case that hypothesis finds."""
    warnings.simplefilter("ignore")  # of NumPy, where a change makes 3e38 an int8
    file, bases, found, longest, began = folder / "case.safetensors", [], Counter(), 0.0, perf_counter()
    for options in BASES:
        write_checkpoint(file, made(**options))
        assert use(file) == "used"
        bases.append(tensors_and_metadata(file))
    bases.append(copy.deepcopy(bases[0]))
    by_former_names(bases[-1][1]["run"]["train"])
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEGABYTES * 2**20,) * 2)

    def one(case):
        nonlocal longest
        file.write_bytes(hostile(bases[case[0]], case))
        start = process_time()  # a machine at work on other things makes no case slow
        found[use(file)] += 1
        seconds = process_time() - start
        assert seconds < SECONDS
        longest = max(longest, seconds)

    for first in range(0, examples, ROUND):
        options = settings(
            max_examples=min(ROUND, examples - first), database=None, deadline=None, derandomize=derandomize,
            print_blob=False, suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        options(given(cases)(one))()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used) / 1024
    print(
        f"{found.total():,} cases in {perf_counter() - began:.0f} s: {dict(found)}; "
        f"the longest took {longest:.2f} s; {grown:.0f} MiB more than valid ones"
    )


def test_a_hostile_checkpoint_is_refused_or_can_be_used(tmp_path):
    command = [sys.executable, __file__, "3000", tmp_path, "--same"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment())
    assert ended.returncode == 0, f"{ended.stderr[-3000:]}\nstatus {ended.returncode}; the case is in {tmp_path}"
    assert "'used': " in ended.stdout and "'refused': " in ended.stdout


if __name__ == "__main__":
    fuzz(int(sys.argv[1]), Path(sys.argv[2]), "--same" in sys.argv)
