"""The benchmark's PyTorch contenders do cuchar's work."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch

from cuchar.bench.configurations import Configuration
from cuchar.bench.cuchar_contender import CucharContender
from cuchar.bench.torch_contender import TorchPeer
from cuchar.engines.numpy_engine import NumpyEngine

ROOT = Path(__file__).parent.parent.parent
SIZES = Configuration("small", 9, 16, 2, 3, 5)


def losses(contender):
    return [contender.train(1).loss for _ in range(20)]


@pytest.mark.parametrize(
    "kind,precision,bound",
    [("eager", "fp32", 1e-5), ("eager", "bf16", 2**-8), ("eager", "fp16", 2**-11), ("stacked", "fp16", 2**-11)],
)
def test_twenty_steps_of_the_same_losses(kind, precision, bound, monkeypatch):
    """An operand is rounded by at most `bound`, and a loss is a mean over many; in fp32 sums alone have another order.

    CUDA graphs are left out.
    """
    monkeypatch.setattr(TorchPeer, "_captured", lambda self, step: step)
    sizes = Configuration("small", SIZES.V, SIZES.H, SIZES.L, SIZES.B, SIZES.T, precision)
    peer = TorchPeer(kind, "cpu", sizes)
    exact = losses(CucharContender(NumpyEngine(SIZES.model), SIZES))
    assert losses(peer) == pytest.approx(exact, rel=bound)
    assert len(set(exact)) == 20


def test_bench_with_pytorch():
    command = [sys.executable, "-m", "cuchar", "bench", "--device", "cpu", "--peer", "eager"]
    options = "--hidden 8 --layers 1 --window 4 --batch 3 --sampling --json".split()
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    (entry,) = result["configurations"]
    peer = entry["peers"]["eager"]
    assert result["versions"]["torch"] == torch.__version__
    pairs = [its / own for its, own in zip(peer["rounds"], entry["ours"]["rounds"], strict=True)]
    assert peer["ratio"]["value"] == pytest.approx(median(pairs))
    assert min(pairs) <= peer["ratio"]["low"] <= peer["ratio"]["value"] <= peer["ratio"]["high"] <= max(pairs)
    assert [drawing["streams"] for drawing in entry["sampling"]] == [1, 64, 4096]
    assert all(drawing["peers"]["eager"]["chars_per_s"] > 0 for drawing in entry["sampling"])
