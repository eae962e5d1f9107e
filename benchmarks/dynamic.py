"""What does dynamic evaluation gain? Scores what a run held out, as the model is, and while it learns from that text.

    python benchmarks/dynamic.py RUN [--rate 0.4] [--decay 0.00025] [--segment 16] [--tune] [--device cpu] [--out OUT.json]

RUN is a run folder that `cuchar train` made with --val-fraction, or a checkpoint in it; its text must still be where it was.
The text that was held out is scored by the checkpoint, or the run's best one. A run of `--val-split streams` held out the end
of each of its rows: these are scored one after the other, each from a zero state, by a model that goes on learning from all of
them. The settings must come from elsewhere, such as `cuchar eval --tune` on a text that is neither the training text nor this one. With
--tune, for a run of several rows, they are tuned on the first, third, fifth row and so on, and the others are scored.
"""

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from time import perf_counter

import numpy as np

from cuchar.batches import split_validation
from cuchar.bench.machine import processor, versions
from cuchar.checkpoint import read_checkpoint
from cuchar.config import TrainConfig
from cuchar.corpus import load_corpus
from cuchar.dynamic import DynamicConfig
from cuchar.dynamic_scorer import DynamicScorer
from cuchar.dynamic_tuning import tune
from cuchar.engines.choose import choose_engine
from cuchar.errors import DivergedError
from cuchar.evaluation import LossSum, stream_losses
from cuchar.reading import Reading


def timed(blocks: Iterable[np.ndarray]) -> dict[str, float]:
    """The mean loss of a text, and how long scoring it took."""
    began, added = perf_counter(), LossSum()
    for losses in blocks:
        added.add(losses)
    return {"nats_per_char": added.mean, "chars": added.count, "seconds": round(perf_counter() - began, 1)}


def main() -> None:
    usual = DynamicConfig()
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run", type=Path)
    arguments.add_argument("--rate", type=float, default=usual.rate)
    arguments.add_argument("--decay", type=float, default=usual.decay)
    arguments.add_argument("--segment", type=int, default=usual.segment)
    arguments.add_argument("--tune", action="store_true")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    checkpoint = read_checkpoint(options.run)
    train, dynamic = TrainConfig(**checkpoint.run["train"]), DynamicConfig(options.rate, options.decay, options.segment)
    corpus = load_corpus(checkpoint.run["texts"], Reading.of(checkpoint.run["train"]), vocabulary=checkpoint.vocabulary)
    _, rows = split_validation(corpus.ids, train)
    parameters = checkpoint.parameters
    engine, _ = choose_engine(options.device, parameters.model, parameters.flat.dtype)

    def learning(rows: np.ndarray, dynamic: DynamicConfig) -> Iterator[np.ndarray]:
        scorer = DynamicScorer(engine, parameters, checkpoint.adam.v, dynamic)
        for row in rows:
            yield from scorer.losses(row)

    def score(config: DynamicConfig) -> float:
        try:
            return timed(learning(rows[::2], config))["nats_per_char"]
        except DivergedError:
            return math.inf

    if options.tune:
        if len(rows) < 2:
            arguments.error("--tune: expected a run of --val-split streams, found one row")
        (dynamic, _), rows = tune(score, dynamic), rows[1::2]
    found = {
        "date": str(date.today()), "processor": processor(), "versions": versions(), "engine": engine.name,
        "options": checkpoint.run["train"], "position": checkpoint.run["position"] | {"history": None},
        "dynamic": asdict(dynamic), "tuned_on_other_rows": options.tune,
        "static_score": timed(stream_losses(engine, engine.fold(parameters), rows)),
        "dynamic_score": timed(learning(rows, dynamic)),
    }  # fmt: skip
    print(dynamic)
    for kind in ("static_score", "dynamic_score"):
        print(f"{kind}: {found[kind]['nats_per_char']:.4f} nats per character, {found[kind]['seconds']} s")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
