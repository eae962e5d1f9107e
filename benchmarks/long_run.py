"""Does float32 last? A small model trains for 200,000 steps in float32 and in float64, from several seeds.

    python benchmarks/long_run.py [--steps 200000] [--engine cpp|numpy] [--seeds 2] [--out benchmarks/results/NAME.json]

The first 1,000 steps read text with capitals and digits; all others read small letters, so that for the rest of the
run the weights and moments of the vanished characters get no gradient but what the softmax leaves them. Each run notes,
for every tenth of its steps, the mean loss, the time of a step, and how many moments are subnormal numbers; at its end
the loss on text that it did not see and the size of its weights.

Two runs that differ in one rounding are soon as far apart as two that differ in their seed. So float32 is held against
float64 by means: of the last tenth's losses, of the losses on unseen text, and of the weights' norms; and the spread of
the seeds says what such a difference weighs.
"""

import argparse
import json
import os
import platform
from datetime import date
from pathlib import Path
from time import process_time

import numpy as np

import cuchar
from cuchar.adam import Adam
from cuchar.batches import Windows
from cuchar.config import ModelConfig, TrainConfig
from cuchar.corpus import load_corpus
from cuchar.engines.base import Engine, TrainingState
from cuchar.engines.cpu.engine import CpuEngine
from cuchar.engines.numpy_engine import NumpyEngine
from cuchar.parameters import initialise

TEXT = Path(__file__).parent.parent / "data/shakespeare.txt"
ENGINES = {"cpp": CpuEngine, "numpy": NumpyEngine}
VANISH = 1000  # steps after which the text has small letters alone
UNSEEN = 20_000  # characters at the end of the text that no step reads


def subnormal_count(values: np.ndarray) -> int:
    return int(np.count_nonzero((values != 0) & (np.abs(values) < np.finfo(values.dtype).tiny)))


def run(engine: Engine, seed: int, steps: int, ids: np.ndarray, small: np.ndarray) -> dict:
    """Train for `steps` steps, on `ids` first and then on `small`, and say how it went."""
    config = TrainConfig(hidden=engine.model.hidden, layers=1, window=8, batch=4, clip=5.0, carry_state=True, seed=seed)
    parameters = initialise(engine.model, seed, engine.dtype)
    adam = Adam(parameters.flat.size, engine.dtype)
    training = TrainingState(parameters, adam, engine.zero_state(config.batch))
    generator = np.random.default_rng(seed)

    def windows(text: np.ndarray) -> Windows:
        return Windows(text, config.batch, config.window, config.window, int(generator.integers(config.window)))

    present = windows(ids)
    learner = engine.learner(config, training, present)
    losses, norms, tenths, window = np.empty(steps), np.empty(steps), [], 0
    began = process_time()
    for step in range(1, steps + 1):
        if window == len(present) or step == VANISH + 1:
            present, window = windows(small[:-UNSEEN] if step > VANISH else ids), 0
            learner.begin_epoch(present)
        loss, norm = learner.train(window, step, [config.lr])
        losses[step - 1], norms[step - 1], window = loss[0], norm[0], window + 1
        if step % (steps // 10) == 0:
            learner.fetch()
            now, some = process_time(), slice(step - steps // 10, step)
            tenths.append({
                "step": step, "loss": round(float(losses[some].mean()), 4),
                "largest_norm": round(float(norms[some].max()), 2),
                "cpu_us_a_step": round((now - began) / (steps // 10) * 1e6, 1),
                "subnormal_moments": [subnormal_count(values) for values in (adam.m, adam.v)],
                "zero_moments": [int(np.count_nonzero(values == 0)) for values in (adam.m, adam.v)],
            })  # fmt: skip
            began = process_time()
    unseen = Windows(small[-UNSEEN:], 1, UNSEEN - 1, UNSEEN - 1)
    scores, _ = engine.losses(engine.fold(parameters), *unseen[0], engine.zero_state(1))
    return {
        "seed": seed, "type": engine.dtype.name, "finite": bool(np.isfinite(losses).all() and np.isfinite(norms).all()),
        "last_tenth": tenths[-1]["loss"], "unseen": round(float(scores.mean(dtype=float)), 4),
        "weights_norm": round(float(np.linalg.norm(parameters.flat.astype(float))), 2),
        "largest_weight": round(float(np.abs(parameters.flat).max()), 2), "tenths": tenths,
    }  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--steps", type=int, default=200_000)
    arguments.add_argument("--engine", choices=ENGINES, default="cpp")
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--hidden", type=int, default=16)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    corpus = load_corpus([TEXT])
    characters = [chr(code) for code in corpus.vocabulary.codes]
    lower = np.array([characters.index(c.lower()) if c.lower() in characters else i for i, c in enumerate(characters)])
    space = characters.index(" ")
    lower[[i for i, c in enumerate(characters) if not (c.islower() or c.isupper() or c in " \n,.;'")]] = space
    ids, small = corpus.ids[:-UNSEEN], lower[corpus.ids].astype(corpus.ids.dtype)
    model, runs = ModelConfig(len(characters), options.hidden, 1), []
    for seed in range(options.seeds):
        for dtype in ("float32", "float64"):
            found = run(ENGINES[options.engine](model, np.dtype(dtype)), seed, options.steps, ids, small)
            runs.append(found)
            print({name: value for name, value in found.items() if name != "tenths"}, flush=True)
    for name in ("last_tenth", "unseen", "weights_norm"):
        single, double = (np.array([r[name] for r in runs if r["type"] == t]) for t in ("float32", "float64"))
        print(f"{name}: float32 {single.mean():.4f}, float64 {double.mean():.4f}, seeds spread by {np.ptp(double):.4f}")
    if options.out:
        result = {
            "date": date.today().isoformat(), "machine": platform.processor() or platform.machine(),
            "threads": len(os.sched_getaffinity(0)), "engine": options.engine, "hidden": options.hidden,
            "versions": {"cuchar": cuchar.__version__, "numpy": np.__version__, "python": platform.python_version()},
            "runs": runs,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
