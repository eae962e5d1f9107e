"""Which settings predict unseen text best, by the text's size? `--preset auto` goes by what this measured.

    taskset -c 0 python benchmarks/trials.py SIZES.json --out benchmarks/results/NAME.json

SIZES.json maps numbers of characters to lists of settings, which are fields of TrainConfig. For each the script trains
on so many characters of data/shakespeare.txt, of which the last tenth is validated on, as `cuchar train` would. Then it
scores the best model on the 20,000 characters that follow, which took no part in anything; characters that the model
does not know are left out. It does so for several places in the corpus (--places). Every run is appended to the file
as it ends: options, validation loss by epoch, the score on unseen text, the seconds.
"""

import argparse
import json
import tempfile
from datetime import date
from pathlib import Path
from time import perf_counter

import cuchar
from cuchar.bench.machine import processor, versions
from cuchar.config import TrainConfig
from cuchar.engines.cpu.library import thread_count
from cuchar.runs import start_run

CORPUS = Path(__file__).parent.parent / "data/shakespeare.txt"
UNSEEN = 20_000  # characters that the best model is scored on
COMMON = {
    "layers": 2, "clip": 1.0, "carry_state": True, "schedule": "cosine", "decay": 0.02, "val_fraction": 0.1,
    "sample_every": 0, "save_every": 100_000,
}  # fmt: skip


def trial(text: str, unseen: str, options: dict[str, object], folder: Path) -> dict[str, object]:
    """Train on `text`, and return the options and what they led to."""
    file = folder / "part.txt"
    file.write_text(text)
    began = perf_counter()
    run = start_run([file], TrainConfig(**COMMON | options), out=folder / "run", device="cpu")
    seconds = perf_counter() - began
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["val_loss"] for line in lines if "val_loss" in line]
    score = cuchar.load(run, device="cpu").score(unseen, unknown="skip")
    return {
        "options": options, "steps": lines[-1]["step"], "seconds": round(seconds, 1), "unseen": score.nats_per_char,
        "best": min(losses), "best_epoch": 1 + losses.index(min(losses)), "validation_loss_by_epoch": losses,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=Path)
    parser.add_argument("--places", type=int, nargs="+", default=[1_000_000], help="where the texts begin")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    corpus = CORPUS.read_text()
    found = {
        "date": str(date.today()), "processor": processor(), "threads": thread_count(), "versions": versions(),
        "text": "data/shakespeare.txt", "unseen_characters": UNSEEN, "common": COMMON, "runs": [],
    }  # fmt: skip
    if given.out.exists():
        found["runs"] = json.loads(given.out.read_text())["runs"]
    for size, settings in json.loads(given.sizes.read_text()).items():
        for options in settings:
            for place in given.places:
                end = place + int(size)
                with tempfile.TemporaryDirectory() as folder:
                    ended = trial(corpus[place:end], corpus[end : end + UNSEEN], options, Path(folder))
                found["runs"].append({"characters": int(size), "place": place, **ended})
                given.out.write_text(json.dumps(found, indent=1) + "\n")
                shown = {name: value for name, value in ended.items() if name != "validation_loss_by_epoch"}
                print(size, place, json.dumps(shown), flush=True)


if __name__ == "__main__":
    main()
