"""What the ranks of a group say to each other, one process a rank.

python tests/support/group_trial.py FOLDER          leave in FOLDER/RANK.npz what this rank has received
python tests/support/group_trial.py RANK MOMENT     wait for each other, while one rank kills itself at this moment
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from cuchar.ranks.join import join

SIZES = (0, 1, 2, 7, 100_001)
LARGE = 3_000_000


def numbers(rank: int, size: int, dtype: str) -> np.ndarray:
    """Numbers of a rank, of very different sizes, so that the bits of their sums depend on the order."""
    generator = np.random.default_rng([rank, size])
    return (generator.normal(size=size) * 10.0 ** generator.integers(-6, 6, size)).astype(dtype)


def talk(folder: Path) -> None:
    group = join()
    found = {}
    for _ in range(2):  # the second time memory of the first one is used again
        for dtype in ("f4", "f8"):
            for size in SIZES:
                array = numbers(group.rank, size, dtype)
                group.sum(array)
                found[f"{dtype} {size}"] = array
            matrix = numbers(group.rank, 35, dtype).reshape(5, 7)
            group.sum(matrix)
            found[f"{dtype} matrix"] = matrix
    leads = group.rank == 0
    found["scattered"] = np.array(group.scatter([f"for {rank}" for rank in range(group.size)] if leads else None))
    gathered = group.gather({"from": group.rank})
    assert (gathered is None) != leads
    found["gathered"] = np.array([answer["from"] for answer in gathered or []])
    found["exchanged"] = np.array(group.exchange(10 * group.rank))
    large = group.scatter([np.full(LARGE, rank) for rank in range(group.size)] if leads else None)
    found["large"] = np.unique(large)
    found["large answers"] = np.array([np.unique(answer).item() for answer in group.gather(large) or []])
    np.savez(folder / f"{group.rank}.npz", **found)


def end_early(rank: int, moment: str) -> None:
    group = join()
    group.exchange(None)
    if group.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "sum":
        group.sum(np.zeros(100_000))
    group.exchange(None)
    print("goes on")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        talk(Path(sys.argv[1]))
    else:
        end_early(int(sys.argv[1]), sys.argv[2])
