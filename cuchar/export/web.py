"""Writes a model as a web page that samples from it: one HTML file with the weights in it, which asks for nothing else.

`sampler.html` is the page, `sampler.js` the model, `page.js` what connects the two.
"""

from base64 import b64encode
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cuchar.config import check_option
from cuchar.errors import OutputError
from cuchar.evaluation import expect_scorable
from cuchar.export.int8 import losses, quantised
from cuchar.files import say
from cuchar.html_page import html_page
from cuchar.kinds import PATH, Choice, Optional
from cuchar.parameters import Parameters
from cuchar.reading import Reading
from cuchar.text import read_text
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option

WEIGHTS = Choice(("float32", "int8"))
FOLDER = Path(__file__).parent
MOST_CHARACTERS = 20_000  # of a text, on which the losses are measured
MOST_BYTES = 300 << 20  # of weights; Chromium's strings hold 512 MiB, and base64 makes 4 characters of 3 bytes


def web_file(
    parameters: Parameters,
    vocabulary: Vocabulary,
    reading: Reading,
    weights: str = "float32",
    text: str | Path | None = None,
) -> bytes:
    """An HTML page that samples from the model in a browser.

    Args:
        reading: how the model's texts are read.
        weights: "float32", or "int8" for a page of a quarter of the size. What that costs is measured and said, on
            standard error and in the page.
        text: a file on whose first 20,000 known characters both losses are measured. None measures them with int8
            weights alone, on samples that the model draws.
    Raises:
        OptionError: an argument is of another type or name.
        TextError: the text cannot be read, or has fewer than two known characters.
        OutputError: a browser could not hold so many weights.
    """
    check_option("weights", WEIGHTS, weights)
    check_option("text", Optional(PATH), text)
    size = parameters.flat.size * (4 if weights == "float32" else 1)
    if size > MOST_BYTES:
        raise OutputError(
            f"{option('format', 'web')}: expected at most {MOST_BYTES:,} bytes of weights, found {size:,}"
        )
    loss = _loss(parameters, vocabulary, reading, text) if weights == "int8" or text is not None else ""
    if loss:
        say(loss)
    tensors = {name: _tensor(view, weights) for name, view in parameters.items()}
    value = {  # numbers and base64: no character of a text, which could end the element that this stands in
        "model": asdict(parameters.model),
        "bytes": vocabulary.is_bytes,
        "codes": vocabulary.codes.tolist(),
        "unknown": vocabulary.unknown_id,
        "composed": reading.normalize is not None,
        "weights": weights,
        "loss": loss,
        "tensors": tensors,
    }
    script = "".join((FOLDER / name).read_text("utf-8") for name in ("sampler.js", "page.js"))
    style = (FOLDER / "sampler.css").read_text("utf-8")
    template = (FOLDER / "sampler.html").read_text("utf-8")
    return html_page(template, style, script, value)


def _tensor(view: np.ndarray, weights: str) -> dict[str, Any]:
    """A tensor for the page: its numbers in base64, and for a matrix of 8-bit integers the rows' scales."""
    if weights == "int8" and view.ndim == 2:
        integers, scales = quantised(view)
        return {"int8": _base64(integers), "scales": _base64(scales.astype("<f4"))}
    return {"float32": _base64(view.astype("<f4"))}


def _base64(array: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _loss(parameters: Parameters, vocabulary: Vocabulary, reading: Reading, text: str | Path | None) -> str:
    """A sentence that says what predicting a text costs with either kind of weights."""
    ids, where = None, "the model's own writing"
    if text is not None:
        read = read_text([text], reading)
        ids = vocabulary.encode(read.codes, "skip")[:MOST_CHARACTERS]
        expect_scorable(ids)
        where = f"the text's first {len(ids):,} characters"
    exact, rounded = losses(parameters, ids)
    return f"On {where}, the loss is {exact:.4f} nats per character with float32 weights, {rounded:.4f} with int8."
