"""What ranks say to each other, one process a rank.

python tests/support/exchange_trial.py FOLDER          leave in FOLDER/RANK.npz what this rank has received
python tests/support/exchange_trial.py RANK MOMENT     wait for each other, while one rank kills itself at this moment
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
    ranks = join()
    found = {}
    for _ in range(2):  # the second time memory of the first one is used again
        for dtype in ("f4", "f8"):
            for size in SIZES:
                array = numbers(ranks.rank, size, dtype)
                ranks.sum(array)
                found[f"{dtype} {size}"] = array
            matrix = numbers(ranks.rank, 35, dtype).reshape(5, 7)
            ranks.sum(matrix)
            found[f"{dtype} matrix"] = matrix
    leads = ranks.rank == 0
    found["scattered"] = np.array(ranks.scatter([f"for {rank}" for rank in range(ranks.size)] if leads else None))
    gathered = ranks.gather({"from": ranks.rank})
    assert (gathered is None) != leads
    found["gathered"] = np.array([answer["from"] for answer in gathered or []])
    found["exchanged"] = np.array(ranks.exchange(10 * ranks.rank))
    large = ranks.scatter([np.full(LARGE, rank) for rank in range(ranks.size)] if leads else None)
    found["large"] = np.unique(large)
    found["large answers"] = np.array([np.unique(answer).item() for answer in ranks.gather(large) or []])
    np.savez(folder / f"{ranks.rank}.npz", **found)


def end_early(rank: int, moment: str) -> None:
    ranks = join()
    ranks.exchange(None)
    if ranks.rank == rank:
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "sum":
        ranks.sum(np.zeros(100_000))
    ranks.exchange(None)
    print("goes on")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        talk(Path(sys.argv[1]))
    else:
        end_early(int(sys.argv[1]), sys.argv[2])
