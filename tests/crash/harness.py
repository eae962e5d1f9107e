"""Trainings that are killed again and again, against ones that nobody touches.

python tests/crash/harness.py [KILLS [SEED [FOLDER]]]

Every training is a process of its own, forked from this one, and every end of it a real SIGKILL: half of them at a
moment that a clock picks, a quarter at one of the calls by which the process changes files, a quarter at one of the
last such calls. A call that writes can also be killed when half of its data is written. What has been killed is
resumed, perhaps killed once more, and resumed to its end; then all that is in its folder must be what the untouched
training left, but for times.
"""

import builtins
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.divergence import diverging_step
from support.run_records import records_without_times
from support.small_runs import SMALL

from cuchar.config import TrainConfig
from cuchar.engines.host import HostLearner
from cuchar.runs import resume_run, start_run

TEXT = "the quick brown fox jumps over the lazy dog\n" * 30
KILLS_A_RUN = 2
LAST_CALLS = 40  # of the some 300 of a run: from the last save on
VALIDATED = replace(SMALL, val_fraction=0.1)
CONFIGURATIONS = {
    "windows": SMALL,
    "carried state": replace(SMALL, carry_state=True),
    "validated at every epoch": replace(
        VALIDATED, carry_state=True, schedule="step", dropout=0.2, scale_logits=True
    ),
    "ends in an epoch's middle": replace(VALIDATED, max_steps=91, scale_logits=True),
    "ends between two lines": replace(VALIDATED, max_steps=16, sample_every=5),
    "streams, cosine, everything": replace(
        SMALL, stride=3, dropout=0.3, weight_dropout=0.2, clip=0.5, weight_decay=0.1, schedule="cosine", warmup=9,
        val_fraction=0.1, val_split="streams", temperature=0.8, epochs=2,
    ),
    "short epochs, never saved between": replace(VALIDATED, batch=30, epochs=9, save_every=10_000, sample_every=1),
    "bytes, saved at every step": replace(VALIDATED, bytes=True, layers=1, epochs=1, save_every=1, log_every=1),
    "gone back twice, out of patience": replace(VALIDATED, epochs=9, patience=1, lr=0.8, on_nan="rollback"),
    "gone back twice, ends between two saves": replace(SMALL, max_steps=34, on_nan="rollback"),
}  # fmt: skip


class Killer:
    """Kills this process at the `fatal`-th of its moments, which are before and after every call that changes files."""

    def __init__(self, fatal: int):
        self.fatal, self.moments = fatal, 0

    def look(self) -> bool:
        self.moments += 1
        return self.moments == self.fatal

    def kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Any) -> Any:
        def watched(*arguments: Any, **options: Any) -> Any:
            if self.look():
                self.kill()
            result = call(*arguments, **options)
            if self.look():
                self.kill()
            return result

        return watched

    def watch(self) -> None:
        """Put this object around all calls by which cuchar changes files."""
        for name in ("fsync", "replace", "rename", "unlink", "mkdir"):
            setattr(os, name, self.around(getattr(os, name)))
        for module, name in ((builtins, "open"), (os, "fdopen")):
            setattr(module, name, self.opening(getattr(module, name)))

    def opening(self, open_file: Any) -> Any:
        def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            found = open_file(file, mode, *arguments, **options)
            return Torn(found, self) if mode in ("wb", "ab") else found

        return opened


@dataclass
class Torn:
    """A file whose writer may be killed when half of its data is written."""

    file: Any
    killer: Killer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Torn":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        if self.killer.look():
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            self.killer.kill()
        self.file.write(data)


def run_process(text: Path, config: TrainConfig, run: Path, call: int = 0, seconds: float = 0) -> tuple[bool, int]:
    """Start or resume a run in a process, which is killed at a call or after some seconds.

    Returns:
        whether it was killed, and the number of moments at which a call of its could have been its last.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if config.on_nan == "rollback":
                HostLearner._step = diverging_step({13: 0.6 * config.lr, 27: 0.3 * config.lr})
            killer = Killer(call)
            killer.watch()
            if (run / "config.json").exists():
                resume_run(run)
            else:
                start_run([text], config, out=run)
            os.write(writing, str(killer.moments).encode())
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(writing)
    if seconds:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    moments = os.read(reading, 20)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    if status not in (0, signal.SIGKILL):
        raise SystemExit(f"{run}: expected the training to end or to be killed, found status {status}")
    return status == signal.SIGKILL, int(moments or 0)


def crash(kills: int, seed: int, folder: Path) -> list[str]:
    """The runs that differ from the one that nobody killed, in words; their folders stay."""
    chance, different, done = random.Random(seed), [], 0
    text = folder / "fox.txt"
    text.write_text(TEXT)
    for number, (name, config) in enumerate(CONFIGURATIONS.items()):
        whole = folder / f"{number}-whole"
        began = time.monotonic()
        _, moments = run_process(text, config, whole)
        took = time.monotonic() - began
        expected, goal = records_without_times(whole), kills * (number + 1) // len(CONFIGURATIONS)
        while done < goal:
            run, aims = folder / f"{number}-{done}", []
            for _ in range(min(KILLS_A_RUN, goal - done)):
                earliest = 1 if chance.random() < 0.5 else max(1, moments - LAST_CALLS)
                call, seconds = chance.randint(earliest, moments), chance.uniform(0, took)
                aim = {"call": call} if chance.random() < 0.5 else {"seconds": seconds}
                killed, _ = run_process(text, config, run, **aim)
                if killed:
                    aims.append(aim)
            killed, _ = run_process(text, config, run)
            done += len(aims)
            if killed or records_without_times(run) != expected or names(run) != names(whole):
                different.append(f"{name}: killed at {aims}: {run}")
            else:
                shutil.rmtree(run)
        print(f"{name}: {done} killed so far, {len(different)} different", flush=True)
    return different


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


if __name__ == "__main__":
    kills, seed, folder = [*sys.argv[1:], *["100", "0", tempfile.mkdtemp()][len(sys.argv) - 1 :]]
    found = crash(int(kills), int(seed), Path(folder))
    if not found:
        shutil.rmtree(folder)
    sys.exit("\n".join(found) or 0)
