"""Every kernel, in training and in scoring, under AddressSanitizer, UBSan and ThreadSanitizer."""

import subprocess
import sys

import pytest
from support.process import ROOT, environment

from cuchar.devices.emulator import sanitizer_environment

SMALL = (
    "small cluster",
    "small block",
    "small stepwise",
    "small persistent",
    "small persistent fp16",
    "small persistent fp16 library",
    "small large vocabulary",
    "small stepwise bf16",
    "small stepwise fp16",
)


@pytest.mark.parametrize("workload", SMALL)
@pytest.mark.parametrize("sanitize", ["address", "thread"])
def test_kernels_are_clean(sanitize, workload):
    env = environment() | sanitizer_environment(sanitize) | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tests/support/fingerprint.py", ROOT / "kernels", workload, sanitize, "shuffled"]
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert run.returncode == 0 and len(run.stdout) == 65, run.stderr[:3000]
