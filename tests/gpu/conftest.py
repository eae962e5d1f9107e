"""The device under test: a GPU, or the emulator with CUCHAR_GPU_DRY_RUN=1. Without either, every test fails."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from tools.gpu_stages.device import device_under_test


@pytest.fixture(scope="session")
def device():
    return device_under_test()
