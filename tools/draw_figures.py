"""Draws docs/figures/*.svg: `python tools/draw_figures.py [FIGURE...] [--out FOLDER]`.

A figure has the same bytes on every machine. tests/tools/test_figures.py fails if a committed
figure is not what this script draws.
"""

import argparse
from pathlib import Path

from figures.drawing import Drawing
from figures.gradient_tile import gradient_tile
from figures.ladder import rung_1, rung_2, rung_3, rung_4, rung_5, rung_6
from figures.lanes import fragment_lanes, slices
from figures.learning import learning_curve, terminal
from figures.persistent_grid import persistent_grid
from figures.reading import reading
from figures.training_step import training_step
from figures.wavefront import wavefront

ROOT = Path(__file__).resolve().parent.parent

FIGURES = {
    "training-step": training_step,
    "wavefront": wavefront,
    "persistent-grid": persistent_grid,
    "fragment-lanes": fragment_lanes,
    "slices": slices,
    "gradient-tile": gradient_tile,
    "learning-curve": learning_curve,
    "terminal": terminal,
    "reading": reading,
    "rung-1": rung_1,
    "rung-2": rung_2,
    "rung-3": rung_3,
    "rung-4": rung_4,
    "rung-5": rung_5,
    "rung-6": rung_6,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", nargs="*", metavar="FIGURE", help=f"all, or some of {', '.join(FIGURES)}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures")
    options = parser.parse_args()
    if unknown := set(options.figure) - set(FIGURES):
        parser.error(f"no figure is called {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.figure or FIGURES:
        (options.out / f"{name}.svg").write_text(draw(name).svg(name), encoding="utf-8", newline="\n")


def draw(name: str) -> Drawing:
    return FIGURES[name]()


if __name__ == "__main__":
    main()
