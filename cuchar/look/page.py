"""Makes the page: what a model did on a text, as data, in one HTML file that needs nothing else.

The text is a row of numbers in it, as the activations are, and so can never become markup. What the data has of words
(names of files, of properties) stands in JSON without a `<`, and the script fills it in as text. As a second wall the page's
content security policy lets the browser run this script and no other, and load nothing at all.
"""

import base64
import json
import zlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np

from cuchar.config import check_option
from cuchar.errors import DivergedError, TextError
from cuchar.html_page import html_page
from cuchar.kinds import integer
from cuchar.look.activations import CELL_STEPS, GATE_STEPS, SURPRISE_STEPS, Shown, is_exact, read, rows_of
from cuchar.look.features import features
from cuchar.look.ranking import MARGIN, Correlations, Properties, Ranking
from cuchar.parameters import Parameters
from cuchar.vocabulary import Vocabulary

CHARS = 20_000  # characters that are shown unless a command says otherwise
MOST_CHARS = 100_000
LARGEST = 4_900_000  # bytes of a page, about: cells and gates that would exceed it are left out
FOR_CELLS = 0.7  # of the room for activations, the share that cells may take before gates get any
SCRIPTS = ("data", "view", "text", "panels", "passage", "events")  # in web/; they are joined to one
TRACKED = 4  # how many of the properties that a cell tracks best are told


def make_page(
    parameters: Parameters,
    vocabulary: Vocabulary,
    ids: np.ndarray,
    title: str,
    chars: int = CHARS,
    progress: Callable[[int], None] = lambda count: None,
) -> bytes:
    """Read a text with a model, and return the page about it.

    Args:
        ids: [n], the whole text, by which cells are ranked.
        title: words that stand at the page's head.
        chars: how many of the text's first characters are shown.
        progress: is told after each block how many more characters were read.
    Raises:
        OptionError: `chars` is not a number from 2 to MOST_CHARS.
        TextError: there are fewer than two ids.
        DivergedError: the model computes numbers that are not finite.
    """
    chars = check_option("chars", integer(2, MOST_CHARS), chars)
    if len(ids) < 2:
        raise TextError(f"expected at least 2 known characters to look at, found {len(ids)}")
    cells = parameters.model.layers * parameters.model.hidden
    properties = Properties(ids, features(vocabulary.codes[ids]))
    correlations, shown = Correlations(ids, properties, cells), Shown(ids[:chars], cells, len(vocabulary))
    with np.errstate(over="ignore", invalid="ignore"):  # a model that diverged is found out below
        for places, activations in read(parameters, ids):
            shown.keep(places, activations)
            correlations.add(places.reshape(-1), rows_of(activations.tanh_c))
            progress(int((places < len(ids)).sum()))
    ranking = correlations.ranking()
    if not (np.isfinite(shown.bits).all() and np.isfinite(ranking.scores).all()):
        raise DivergedError("the model: expected finite predictions and cells, found others: it has diverged")
    data = about_text(shown, vocabulary)
    data["title"], data["total"], data["exact"] = title, len(ids), is_exact(len(ids))
    data["layers"], data["hidden"] = parameters.model.layers, parameters.model.hidden
    data["parameters"] = parameters.flat.size
    data["properties"], data["margin"] = about_properties(properties, ranking, vocabulary), MARGIN
    room = LARGEST - len(fill_in(data))
    data["cells"], data["gates"] = about_cells(shown, ranking, len(properties.features), room)
    return fill_in(data)


def about_text(shown: Shown, vocabulary: Vocabulary) -> dict[str, Any]:
    """The characters that are shown, what was predicted at each place, and how much each surprised."""
    used, where = np.unique(np.concatenate([shown.ids[:, None], shown.guesses], axis=1), return_inverse=True)
    numbers = where.reshape(len(shown.ids), -1).astype("<u2")
    return {
        "bytes": vocabulary.is_bytes,
        "characters": vocabulary.codes[used].tolist(),
        "ids": packed(numbers[:, 0]),
        "guesses": packed(numbers[:, 1:]),
        "chances": packed(shown.chances),
        "surprise": packed(shown.surprise),
        "bits": round(float(shown.bits[1:].mean()), 3),
        "steps": {"cell": CELL_STEPS, "gate": GATE_STEPS, "surprise": SURPRISE_STEPS},
    }


def about_properties(properties: Properties, ranking: Ranking, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Each property's name, or the code points of its sequence, and its control."""
    sequences = [{"sequence": vocabulary.codes[ids].tolist()} for ids in properties.sequences]
    every: list[dict[str, Any]] = [{"name": name} for name in properties.features] + sequences
    return [
        {**each, "control": round(float(control), 3)} for each, control in zip(every, ranking.controls, strict=True)
    ]


def about_cells(shown: Shown, ranking: Ranking, features: int, room: int) -> tuple[list[dict[str, Any]], int]:
    """What is told of cells, the best ranked first, and of how many of them the gates are there too.

    Cells come as long as `room` bytes allow; then their gates come, the best ranked first again.
    """
    told: list[dict[str, Any]] = []
    order, left = ranking.order(), room
    for cell in order:
        tracked = ranking.tracked(cell)
        # All features are told, since the page can list the cells that track any of them; of the sequences, the best.
        tracked = [at for place, at in enumerate(tracked) if place < TRACKED or at < features]
        about: dict[str, Any] = {
            "cell": cell,
            "explained": round(float(ranking.explained[cell]), 3),
            "tracks": [
                [at, *np.round([table[cell, at] for table in (ranking.scores, ranking.plain)], 3).tolist()]
                for at in tracked
            ],
            "values": packed(shown.cells[:, cell]),
        }
        size = len(json.dumps(about))
        if told and left - size < room * (1 - FOR_CELLS):
            break
        left -= size
        told.append(about)
    for count, (cell, about) in enumerate(zip(order, told, strict=False)):
        gates = [packed(gate) for gate in shown.gates[:, :, cell].T]
        size = len(json.dumps(gates))
        if size > left:
            return told, count
        left -= size
        about["gates"] = gates
    return told, len(told)


def packed(values: np.ndarray) -> str:
    """An array's bytes, column after column, compressed (RFC 1950, `deflate` in a browser), in base64.

    Values of a cell do not repeat as words do: to code runs of equal ones takes a tenth of the time of looking for all
    repetitions, and 6 % less room.
    """
    compressor = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    data = np.asfortranarray(values).tobytes(order="A")
    return base64.b64encode(compressor.compress(data) + compressor.flush()).decode()


def fill_in(data: dict[str, Any]) -> bytes:
    """The page with these data in it."""
    folder = files("cuchar.look").joinpath("web")
    template, style = (folder.joinpath(name).read_text("utf-8") for name in ("page.html", "page.css"))
    script = "\n".join(folder.joinpath(f"{name}.js").read_text("utf-8") for name in SCRIPTS)
    return html_page(template, style, script, data)
