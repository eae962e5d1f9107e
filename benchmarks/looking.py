"""How long does `cuchar look` take? Times the page's making for a text of a megabyte.

    python benchmarks/looking.py [TEXT] [--out benchmarks/results/NAME.json]

Models of two layers of 64, 128 and 256 units with initial weights read the first million characters of TEXT,
data/shakespeare.txt by default: activations, ranking, and a page of 20,000 characters. The script prints the medians of
three turns each, in seconds, the page's size, and the most memory that the process has held. There is no peer: no other
program that the author knows of ranks cells.
"""

import argparse
import json
import resource
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter

from cuchar.bench.machine import processor, versions
from cuchar.config import ModelConfig
from cuchar.corpus import load_corpus
from cuchar.look.page import CHARS, make_page
from cuchar.parameters import initialise

TEXT = Path(__file__).parent.parent / "data/shakespeare.txt"
CHARACTERS = 1_000_000
HIDDEN = (64, 128, 256)
ROUNDS = 3


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("text", type=Path, nargs="?", default=TEXT)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    corpus = load_corpus([options.text])
    ids, rows = corpus.ids[:CHARACTERS], []
    for hidden in HIDDEN:
        parameters, seconds = initialise(ModelConfig(len(corpus.vocabulary), hidden, 2), 0), []
        for _ in range(ROUNDS):
            began = perf_counter()
            page = make_page(parameters, corpus.vocabulary, ids, "A text", CHARS)
            seconds.append(perf_counter() - began)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts it in KiB
        rows.append({"hidden": hidden, "layers": 2, "seconds": seconds, "page_bytes": len(page), "peak_bytes": peak})
        print(f"2x{hidden}: {median(seconds):.1f} s, page {len(page) / 1e6:.1f} MB, peak {peak / 2**20:.0f} MiB")
    if options.out:
        result = {
            "date": str(date.today()), "device": processor(), "versions": versions(), "characters": len(ids),
            "models": rows,
        }  # fmt: skip
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
