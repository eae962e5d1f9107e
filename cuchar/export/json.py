"""Writes a model as one JSON object, for programs that have nothing but a JSON parser."""

import json
from dataclasses import asdict

from cuchar.parameters import Parameters
from cuchar.vocabulary import Vocabulary

GATES = ["input", "forget", "cell", "output"]


def json_file(parameters: Parameters, vocabulary: Vocabulary) -> bytes:
    """A JSON object: `format`, `model` (the sizes), `vocabulary`, `gates` (their order) and `tensors`.

    The vocabulary is the JSON list that `Vocabulary.entries` returns; if one of its entries stands for all other
    characters, `unknown` is that entry. The tensors have cuchar's names and shapes
    (parameters.parameter_shapes) and are nested lists, row by row. Each number is written as the exact value of the
    float32 or float64 that it is, so that a reader who rounds it to that type has the same bits.
    """
    value = {
        "format": "cuchar-json-1",
        "model": asdict(parameters.model),
        "vocabulary": vocabulary.entries(),
        **vocabulary.unknown_entry(),
        "gates": GATES,
        "tensors": {name: view.tolist() for name, view in parameters.items()},
    }
    return (json.dumps(value) + "\n").encode()
