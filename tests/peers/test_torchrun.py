"""PyTorch's launcher starts the processes that train together."""

import subprocess
import sys

from support.ranks import PATIENCE_S, alone
from support.run_records import metrics
from support.small_runs import TEXT

OPTIONS = "--hidden 12 --window 8 --batch 5 --max-steps 12 --log-every 1 --sample-every 0 --device cpu --out".split()
LOSS_BOUND = 1e-6  # as in tests/ranks


def test_torchrun_starts_two_ranks(tmp_path):
    (tmp_path / "fox.txt").write_text(TEXT)
    for ranks in (1, 2):
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", f"{ranks}"]
        command = [*launcher, "-m", "cuchar", "train", tmp_path / "fox.txt", *OPTIONS, tmp_path / f"{ranks}"]
        done = subprocess.run(command, env=alone(), capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("2 processes, through TCP, as torchrun says") == (ranks == 2)
        assert done.stderr.count("12 steps in") == 1
    for one, two in zip(metrics(tmp_path / "1"), metrics(tmp_path / "2"), strict=True):
        assert abs(one["loss"] - two["loss"]) <= LOSS_BOUND
