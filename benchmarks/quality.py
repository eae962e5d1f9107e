"""How well do the presets predict held-out text? On both splits for which others publish figures, beside these.

    python benchmarks/quality.py TEXT [--preset char-rnn ...] [--split tail] [--device cpu]
                                 [--out benchmarks/results/NAME.json]

TEXT must be tinyshakespeare (1,115,394 characters, github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt), or
else it cannot be compared with the published figures. Every preset is trained twice, in a folder that is removed
afterwards: once without the last 5 % of each of 50 streams, which is char-rnn's split, and once without the last 10 %
of the text, which is nanoGPT's. The figure is the lowest validation loss of an epoch, in nats per character, as
`cuchar train` reports it.
"""

import argparse
import hashlib
import json
import tempfile
from datetime import date
from pathlib import Path

from cuchar.bench.machine import processor, versions
from cuchar.config import TrainConfig
from cuchar.presets import PRESETS, with_preset
from cuchar.runs import start_run
from cuchar.terminal import terminal_progress

SPLITS = {
    "streams": {"val_fraction": 0.05, "val_split": "streams", "batch": 50},
    "tail": {"val_fraction": 0.1, "val_split": "tail"},
}
PUBLISHED = {
    "streams": {"char-rnn's README, epoch 30": 1.3950},
    "tail": {"nanoGPT, 10.7 M parameters, 3 minutes on an A100": 1.4697, "minLSTM, arXiv 2410.01201": 1.555},
}


def train(text: Path, preset: str, split: str, device: str, folder: Path) -> dict[str, object]:
    """Train with a preset, and return the options, every epoch's validation loss, and the seconds it took."""
    config = TrainConfig(**with_preset(preset, {**SPLITS[split], "sample_every": 0}))
    run = start_run([text], config, out=folder, device=device, callbacks=[terminal_progress()])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if "val_loss" in line]
    return {
        "preset": preset, "split": split, "options": config.to_json(), "seconds": lines[-1]["elapsed_s"],
        "validation_loss_by_epoch": [line["val_loss"] for line in epochs],
        "best": min(line["val_loss"] for line in epochs),
    }  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("text", type=Path)
    arguments.add_argument("--preset", nargs="+", choices=PRESETS, default=["char-rnn"])
    arguments.add_argument("--split", nargs="+", choices=SPLITS, default=list(SPLITS))
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    found = {
        "date": str(date.today()), "processor": processor(), "versions": versions(), "device": options.device,
        "text_sha256": hashlib.sha256(options.text.read_bytes()).hexdigest(), "published": PUBLISHED, "runs": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.preset:
            for split in options.split:
                found["runs"].append(
                    train(options.text, preset, split, options.device, Path(folder) / f"{preset}-{split}")
                )
                if options.out:  # after every run, so that a stop loses nothing
                    options.out.write_text(json.dumps(found, indent=1) + "\n")
    for run in found["runs"]:
        print(f"{run['preset']}, {run['split']}: {run['best']:.4f} nats per character, {run['seconds']:.0f} s")
    for split, figures in PUBLISHED.items():
        for name, nats in figures.items():
            print(f"{name}, {split}: {nats:.4f}")


if __name__ == "__main__":
    main()
