"""What do scaled logits gain on text that did not choose the factor? Scores each half of what a run held out.

    python benchmarks/scaled.py RUN [--device cpu] [--out OUT.json]

RUN is a run folder that `cuchar train` made with --val-fraction, or a checkpoint in it; its text must still be where it was.
The text that was held out is scored by the checkpoint, or the run's best one, as one stream by chunks, with the logits as
they were trained and times every factor that is tried. Each half of its characters is then scored with the factor that
suits the other half best.
"""

import argparse
import json
from datetime import date
from pathlib import Path

import numpy as np

from cuchar.batches import split_validation
from cuchar.bench.machine import processor, versions
from cuchar.checkpoint import read_checkpoint
from cuchar.config import TrainConfig
from cuchar.corpus import load_corpus
from cuchar.engines.choose import choose_engine
from cuchar.evaluation import chunk_losses
from cuchar.logit_scale import FACTORS, ScaledLosses
from cuchar.reading import Reading


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run", metavar="RUN", type=Path)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    checkpoint = read_checkpoint(options.run)
    corpus = load_corpus(checkpoint.run["texts"], Reading.of(checkpoint.run["train"]), vocabulary=checkpoint.vocabulary)
    _, rows = split_validation(corpus.ids, TrainConfig(**checkpoint.run["train"]))
    if len(rows) != 1:
        arguments.error("expected a run of --val-split tail, found one of several rows")
    parameters = checkpoint.parameters
    engine, _ = choose_engine(options.device, parameters.model, parameters.flat.dtype)
    blocks = chunk_losses(engine, engine.fold(parameters), rows[0], ScaledLosses(engine).losses)
    losses = np.concatenate([*blocks])  # [n - 1, factors]
    middle = len(losses) // 2
    parts = {"whole": slice(None), "first half": slice(middle), "second half": slice(middle, None)}
    means = {name: losses[part].mean(axis=0, dtype=np.float64) for name, part in parts.items()}
    suits = {name: int(np.argmin(mean)) for name, mean in means.items()}
    found = {
        name: {
            "as trained": mean[FACTORS == 1].item(), "factor": FACTORS[suits[name]], "with it": mean[suits[name]],
        }
        for name, mean in means.items()
    }  # fmt: skip
    for name, other in (("first half", "second half"), ("second half", "first half")):
        found[name]["with the other half's factor"] = means[name][suits[other]]
    for name, values in found.items():
        print(name, ", ".join(f"{what}: {value:.4f}" for what, value in values.items()))
    if options.out:
        folder = options.run if options.run.is_dir() else options.run.parent
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        made = {
            "date": str(date.today()), "processor": processor(), "versions": versions(), "engine": engine.name,
            "options": checkpoint.run["train"], "position": checkpoint.run["position"] | {"history": None},
            "seconds": lines[-1]["elapsed_s"],
            "validation_loss_by_epoch": [line["val_loss"] for line in lines if "val_loss" in line],
            "characters": len(rows[0]), "nats_per_char": found,
        }  # fmt: skip
        options.out.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
