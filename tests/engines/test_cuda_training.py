"""Training by the CUDA engine on the emulator: beside `--device cpu`, resumed, in chunks, and where it has to stop."""

from dataclasses import replace

import numpy as np
import pytest
from support.learners import learner_of
from support.run_records import expect_resumed_runs_to_end_as, metrics, records_without_times
from support.small_runs import DISCIPLINES, SMALL
from support.tensor_library import TensorLibrary

from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.corpus import load_corpus
from cuchar.devices.device import Limits
from cuchar.devices.emulator import EmulatedDevice
from cuchar.engines.cuda.engine import CudaEngine
from cuchar.errors import DeviceError, DivergedError
from cuchar.model import Model
from cuchar.runs import resume_run, start_run

TEXT_10K = "data/shakespeare_10K.txt"
TWENTY = TrainConfig(max_steps=20, log_every=1, save_every=100)
OPTIONS = {"dropout": 0.3, "weight_dropout": 0.2, "clip": 0.05, "weight_decay": 0.1}
WEIGHTS = OPTIONS | {"dropout": 0.0}


@pytest.mark.parametrize(
    "config",
    [
        replace(TWENTY, **OPTIONS, schedule="cosine", warmup=5),
        replace(TWENTY, **WEIGHTS, schedule="step", carry_state=True),
        replace(TWENTY, hidden=96, layers=2, batch=8, carry_state=True, **OPTIONS, schedule="cosine"),
        replace(TWENTY, hidden=72, layers=3, batch=8, stride=5, **WEIGHTS, schedule="step"),
        replace(TWENTY, hidden=72, layers=2, batch=8, window=16, carry_state=True, **OPTIONS, schedule="cosine"),
        replace(TWENTY, hidden=72, layers=3, batch=8, window=8, stride=5, **WEIGHTS, schedule="step"),
    ],
    ids=[
        "resident windows", "resident carried", "stepwise carried", "stepwise windows", "persistent carried",
        "persistent windows",
    ],
)  # fmt: skip
def test_losses_of_twenty_steps_are_those_on_a_processor(config, tmp_path, monkeypatch, request):
    if "stepwise" in request.node.callspec.id:
        monkeypatch.setattr("cuchar.engines.cuda.persistent.plan_window", lambda *_: None)
    if "persistent" in request.node.callspec.id:
        on(monkeypatch, limits=Limits(90, 10, 232_448))
    for device in ("emulate", "cpu"):
        start_run([TEXT_10K], config, out=tmp_path / device, device=device)
    ours, theirs = metrics(tmp_path / "emulate"), metrics(tmp_path / "cpu")
    assert [line["step"] for line in ours] == list(range(1, 21))
    for line, expected in zip(ours, theirs, strict=True):
        assert line["lr"] == expected["lr"] and line["grad_norm"] > config.clip  # so that clipping acts
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


def on(monkeypatch, **device):
    """Make `--device emulate` an emulated device with these options."""
    monkeypatch.setattr("cuchar.devices.emulator.EmulatedDevice", lambda notice: EmulatedDevice(**device))


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("registers", [65_536, 0], ids=["resident", "stepwise"])
def test_resumed_run_ends_as_the_uninterrupted_one(registers, discipline, text, tmp_path, monkeypatch):
    on(monkeypatch, limits=Limits(90, 132, 232_448, registers))
    config = replace(DISCIPLINES[discipline], epochs=1, sample_every=20, save_every=25)
    start_run([text], config, out=tmp_path / "whole", device="emulate")
    expected = records_without_times(tmp_path / "whole")
    expect_resumed_runs_to_end_as(expected, text, config, tmp_path, (3, 28), monkeypatch, device="emulate")


def test_a_chunk_of_steps_leaves_the_same_bits_as_one_at_a_time(text, tmp_path, monkeypatch):
    config = replace(SMALL, epochs=1, carry_state=True, dropout=0.2, log_every=100, sample_every=40, save_every=100)
    for seconds in (0, 1000):  # one step a call; as many steps as there are, most of them captured together
        monkeypatch.setattr("cuchar.engines.cuda.learner.CHUNK_SECONDS", seconds)
        start_run([text], config, out=tmp_path / f"{seconds}", device="emulate")
    assert records_without_times(tmp_path / "0") == records_without_times(tmp_path / "1000")


def test_a_checkpoint_goes_to_another_engine_and_back(text, tmp_path):
    config = replace(SMALL, epochs=1, max_steps=36, carry_state=True, dropout=0.2)
    start_run([text], config, out=tmp_path / "whole", device="cpu")
    for number, device in enumerate(("emulate", "cpu", "emulate"), 1):
        if number == 1:
            start_run([text], replace(config, max_steps=12), out=tmp_path / "parts", device=device)
        else:
            resume_run(tmp_path / "parts", options={"max_steps": 12 * number}, device=device)
    expected, found = metrics(tmp_path / "whole"), metrics(tmp_path / "parts")
    assert [line["step"] for line in found] == [line["step"] for line in expected] == list(range(6, 37, 6))
    for line, other in zip(expected, found, strict=True):
        assert other["loss"] == pytest.approx(line["loss"], rel=1e-4)


@pytest.mark.parametrize("registers", [65_536, 0], ids=["resident", "stepwise"])
def test_divergence_ends_a_call_at_its_step_and_changes_nothing(registers, text, tmp_path, monkeypatch):
    monkeypatch.setattr("cuchar.engines.cuda.learner.CHUNK_SECONDS", 1000)
    corpus = load_corpus([text])
    model = ModelConfig(len(corpus.vocabulary), SMALL.hidden, SMALL.layers)
    config = replace(SMALL, epochs=1, log_every=100, save_every=100, sample_every=0)
    engine = CudaEngine(model, EmulatedDevice(limits=Limits(90, 132, 232_448, registers)))
    learner, training = learner_of(engine, config, corpus.ids)
    learner.train(0, 1, [0.01] * 3)
    learner.fetch()
    parameters, adam = training.parameters, training.adam
    good, before = parameters.flat.copy(), adam.m.copy()
    parameters.flat[-1] = np.nan  # a head bias: the loss is not finite from here on
    learner, _ = learner_of(engine, config, corpus.ids, parameters, adam)
    losses, norms = learner.train(3, 4, [0.01] * 5)
    assert len(losses) == len(norms) == 1 and np.isnan(losses[0])
    learner.fetch()
    assert np.array_equal(parameters.flat[:-1], good[:-1]) and np.array_equal(adam.m, before)


def test_exploding_parameters_stop_at_the_step_where_they_do_on_a_processor(text, tmp_path):
    messages = []
    for device in ("cpu", "emulate"):
        with pytest.raises(DivergedError) as error:
            start_run([text], replace(SMALL, lr=1e38), out=tmp_path / device, device=device)
        messages.append(str(error.value).split(":")[0])
        assert not (tmp_path / device / "last.safetensors").exists()
    assert messages[0] == messages[1]


def test_too_little_memory_is_said_before_anything_is_allocated(text, tmp_path, monkeypatch):
    on(monkeypatch, memory_bytes=8 << 20)
    allocated = []
    monkeypatch.setattr(EmulatedDevice, "empty", lambda self, shape, dtype: allocated.append(shape))
    with pytest.raises(DeviceError, match=r"batch=200: expected .* MiB of device memory, found 8 free; batch=\d+"):
        start_run([text], replace(SMALL, hidden=64, batch=200), out=tmp_path / "run", device="emulate")
    assert not allocated and not (tmp_path / "run").exists()


@pytest.fixture
def watched(monkeypatch):
    """Watch a device: returns it, the arrays that are allocated on it, and the bytes that learners say they need."""

    def watch(device):
        allocated, needed, empty = [], [], device.empty
        monkeypatch.setattr(device, "empty", lambda *of: allocated.append(empty(*of)) or allocated[-1])
        monkeypatch.setattr(
            "cuchar.engines.cuda.learner.expect_memory", lambda count, _, rows: needed.append(count(rows))
        )
        return device, allocated, needed

    return watch


@pytest.mark.parametrize(
    "options",
    [{}, {"dropout": 0.5}, {"weight_dropout": 0.5}, {"hidden": 300, "dropout": 0.5}, {"hidden": 30, "layers": 4}],
)
def test_memory_needed_is_what_is_allocated(options, text, watched):
    device, allocated, needed = watched(EmulatedDevice())
    config, ids = replace(SMALL, **options), load_corpus([text]).ids
    engine = CudaEngine(ModelConfig(29, config.hidden, config.layers), device)
    learner_of(engine, config, ids)
    assert needed == [sum(array.nbytes for array in allocated)]
    assert engine.training_bytes(config, Windows(ids, config.batch, config.window, config.window)) == needed[0]


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("shared_bytes", [232_448, 0], ids=["persistent", "stepwise"])
def test_memory_needed_has_room_for_what_is_rounded_for_a_library(shared_bytes, precision, text, watched):
    device, allocated, needed = watched(TensorLibrary(limits=Limits(90, 132, shared_bytes)))
    config, ids = replace(SMALL, hidden=80, layers=2, precision=precision), load_corpus([text]).ids
    model = ModelConfig(30, config.hidden, config.layers)  # every matrix has an even number of elements: whole words
    learner, _ = learner_of(CudaEngine(model, device, precision=precision), config, ids)
    learner.train(0, 1, [0.01] * 2)
    operands = {operand.dtype.type for _, *both in device.products for operand in both}
    assert operands == {np.float32 if precision == "tf32" else np.uint16}
    H, B, N = config.hidden, config.batch, config.batch * config.window
    # Operands of products in the recurrence. They are counted for any regime, but only the stepwise one rounds them.
    of_recurrence = 4 * N * H + 8 * H * H + 5 * B * H
    unused = 2 * of_recurrence if shared_bytes and precision != "tf32" else 0
    assert needed == [sum(array.nbytes for array in allocated) + unused]


def test_sampling_and_scoring_agree_with_those_on_a_processor(trained):
    theirs, ours = Model(trained, "cpu"), Model(trained, "emulate")
    text = "the quick brown fox " * 30  # stream_losses needs more than one block for it
    assert ours.score(text).nats_per_char == pytest.approx(theirs.score(text).nats_per_char, rel=1e-6)
    windowed = (model.score(text, window=7).nats_per_char for model in (ours, theirs))
    assert next(windowed) == pytest.approx(next(windowed), rel=1e-6)
    for options in ({"seed": 3}, {"argmax": True, "prime": "the "}):
        assert ours.sample(60, **options) == theirs.sample(60, **options)


def test_a_large_text_reaches_the_device_in_pieces(text, tmp_path, monkeypatch):
    config = replace(SMALL, val_fraction=0.2, val_split="streams", max_steps=5)
    start_run([text], config, out=tmp_path / "whole", device="emulate")
    monkeypatch.setattr("cuchar.batches.LARGE", 0)
    monkeypatch.setattr("cuchar.engines.cuda.learner.BROUGHT_AT_ONCE", 7)
    start_run([text], config, out=tmp_path / "pieces", device="emulate")
    assert records_without_times(tmp_path / "pieces") == records_without_times(tmp_path / "whole")
