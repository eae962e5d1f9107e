"""Every kernel runs under AddressSanitizer with UBSan and under ThreadSanitizer: training, scoring and sampling."""

import subprocess
import sys

import pytest
from support.fingerprint import WORKLOADS
from support.process import ROOT, environment

from cuchar.devices.emulator import sanitizer_environment

SMALL = [workload for workload in WORKLOADS if workload.startswith("small")]


@pytest.mark.parametrize("workload", SMALL)
@pytest.mark.parametrize("sanitize", ["address", "thread"])
def test_kernels_are_clean(sanitize, workload):
    env = environment() | sanitizer_environment(sanitize) | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, ROOT / "tests/support/fingerprint.py", ROOT / "kernels", workload, sanitize, "shuffled"]
    run = subprocess.run(command, capture_output=True, text=True, env=env)
    assert run.returncode == 0 and len(run.stdout) == 65, run.stderr[:3000]
