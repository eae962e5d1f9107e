"""What Python passes as an option is held to what the command line takes."""

import numpy as np
import pytest

import cuchar
from cuchar.config import TRAIN, ModelConfig, TrainConfig
from cuchar.errors import OptionError
from cuchar.kinds import LONGEST_SHOWN, Choice, Mismatch, describe, integer
from cuchar.sampling import SAMPLE, SampleConfig


@pytest.mark.parametrize(
    "options,message",
    [
        ({"hidden": 16.0}, "hidden: expected an integer, found 16.0"),
        ({"hidden": True}, "hidden: expected an integer, found True"),
        ({"hidden": np.float32(16)}, "hidden: expected an integer, found 16.0"),
        ({"hidden": np.arange(3)}, "hidden: expected an integer, found a ndarray"),
        ({"hidden": None}, "hidden: expected an integer, found None"),
        ({"layers": "2"}, "layers: expected an integer, found '2'"),
        ({"window": 2**53 + 1}, "window: expected at most 9007199254740992, found 9007199254740993"),
        ({"batch": 10**5000}, "batch: expected at most 9007199254740992, found an integer of 16610 bits"),
        ({"lr": "0.1"}, "lr: expected a number, found '0.1'"),
        ({"lr": 10**400}, "lr: expected a number above 0, found an integer of 1329 bits"),
        ({"lr": True}, "lr: expected a number, found True"),
        ({"lr": 1 + 0j}, "lr: expected a number, found a complex"),
        ({"carry_state": 1}, "carry_state: expected true or false, found 1"),
        ({"bytes": "no"}, "bytes: expected true or false, found 'no'"),
        ({"schedule": None}, "schedule: expected constant | step | cosine, found None"),
        ({"schedule": ["step"]}, "schedule: expected constant | step | cosine, found a list"),
        ({"precision": "fp8"}, "precision: expected fp32 | tf32 | bf16 | fp16, found fp8"),
        ({"seed": 2**64}, f"seed: expected from 0 to {2**63 - 1}, found {2**64}"),
        ({"max_steps": 2.5}, "max_steps: expected an integer, found 2.5"),
        ({"decay": "half", "schedule": "step"}, "decay: expected a number, found 'half'"),
        ({"val_fraction": float("nan")}, "val_fraction: expected from 0 up to, not including, 1, found nan"),
        ({"hiden": 3}, "hiden: expected the name of an option, found none; is it hidden?"),
        ({"learning_rate": 3}, "learning_rate: expected the name of an option, found none"),
        ({"out": 3}, "out: expected a path, found 3"),
        ({"val": "a\0b"}, "val: expected a path that a file can have, found 'a\\x00b'"),
        ({"glob": 3}, "glob: expected text, found 3"),
        ({"skip_unreadable": 1}, "skip_unreadable: expected true or false, found 1"),
        ({"preset": ["best"]}, "preset: expected notebook | char-rnn | torch-rnn | best | auto, found a list"),
        ({"device": 3}, "device: expected auto | cpu | cuda | cuda:N | emulate, found 3"),
        ({"devise": "cpu"}, "devise: expected the name of an option, found none; is it device?"),
    ],
)
def test_train_names_what_is_no_option(text, tmp_path, options, message):
    with pytest.raises(OptionError) as refused:
        cuchar.train(text, **{"out": tmp_path / "run", **options})
    assert str(refused.value).startswith(message) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("texts", [3, None, [None], b"text"])
def test_train_names_what_is_no_path(texts):
    with pytest.raises(OptionError, match=r"^texts\[0\]: expected a path, found "):
        cuchar.train(texts)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"length": "3"}, "length: expected an integer, found '3'"),
        ({"length": 0}, "length: expected at least 1 (stream() can be endless), found 0"),
        ({"temperature": "hot"}, "temperature: expected a number, found 'hot'"),
        ({"top_k": 1.5}, "top_k: expected an integer, found 1.5"),
        ({"top_p": True}, "top_p: expected a number, found True"),
        ({"min_p": 1.5}, "min_p: expected at least 0 (off) and at most 1, found 1.5"),
        ({"repeat_penalty": 0.9}, "repeat_penalty: expected at least 1 (off) and at most 1000, found 0.9"),
        ({"argmax": 1}, "argmax: expected true or false, found 1"),
        ({"law": "cauchy"}, "law: expected softmax | exp, found cauchy"),
        ({"stop": 5}, "stop: expected text or bytes, found 5"),
        ({"prime": 5}, "prime: expected text or bytes, found 5"),
        ({"seed": "1"}, "seed: expected an integer, found '1'"),
        ({"topk": 3}, "topk: expected the name of an option, found none; is it top_k?"),
        ({"primer": "a"}, "primer: expected the name of an option, found none; is it prime?"),
    ],
)
def test_sample_names_what_is_no_option(trained, options, message):
    with pytest.raises(OptionError) as refused:
        cuchar.load(trained, device="cpu").sample(**options)
    assert str(refused.value) == message


def test_score_names_what_is_no_argument(trained):
    model = cuchar.load(trained, device="cpu")
    with pytest.raises(OptionError, match="window: expected an integer, found '8'"):
        model.score("the fox", window="8")
    with pytest.raises(OptionError, match="text: expected text or bytes, found a PosixPath"):
        model.score(trained)


def test_scalars_of_numpy_become_pythons():
    config = TrainConfig(hidden=np.int64(5), lr=np.float32(0.5), carry_state=np.bool_(True), max_steps=np.uint8(7))
    assert config == TrainConfig(hidden=5, lr=0.5, carry_state=True, max_steps=7)
    assert [type(value) for value in (config.hidden, config.lr, config.carry_state)] == [int, float, bool]
    assert hash(ModelConfig(np.int16(5), np.int8(3), 1)) == hash(ModelConfig(5, 3, 1))
    assert SampleConfig(length=np.int32(3), top_p=np.float64(0.5)) == SampleConfig(length=3, top_p=0.5)
    assert TrainConfig.from_json(config.to_json()) == config


def test_every_option_has_a_kind():
    assert list(TRAIN) == list(TrainConfig.__dataclass_fields__)
    assert list(SAMPLE) == list(SampleConfig.__dataclass_fields__)


def test_whatever_was_found_is_described_in_a_few_printable_characters():
    odd = "a\n\0\x1b[31m\ud800é" * 1000
    for value in (odd, b"\xff" * 1000, 10**5000, -(10**5000), 1e308, [[]] * 9, object(), None):
        assert len(describe(value)) < 12 * LONGEST_SHOWN and describe(value).isprintable()
        with pytest.raises(Mismatch):
            integer(0, 1).check(value, "x")
        with pytest.raises(Mismatch):
            Choice(("a", "b")).check(value, "x")
