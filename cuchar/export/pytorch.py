"""Writes a model's weights under PyTorch's names, so that `nn.LSTM` and `nn.Linear` can load them."""

import json

import numpy as np
from safetensors.numpy import save

from cuchar.parameters import Parameters
from cuchar.vocabulary import Vocabulary


def pytorch_file(parameters: Parameters, vocabulary: Vocabulary) -> bytes:
    """A safetensors file with `lstm.weight_ih_l0`, ..., `head.bias`, and with the vocabulary as metadata.

    PyTorch has two biases a layer: cuchar's single one becomes `bias_ih`, and `bias_hh` is zero. The metadata
    `vocabulary` is the JSON list that `Vocabulary.entries` returns; if one of its entries stands for all other
    characters, `unknown` is that entry.
    """
    tensors = {}
    for name, view in parameters.items():
        if name.startswith("lstm.bias"):
            layer = name.rsplit("_", 1)[1]
            tensors[f"lstm.bias_ih_{layer}"] = np.ascontiguousarray(view)
            tensors[f"lstm.bias_hh_{layer}"] = np.zeros_like(view)
        else:
            tensors[name] = np.ascontiguousarray(view)
    return save(tensors, {"vocabulary": json.dumps(vocabulary.entries()), **vocabulary.unknown_entry()})
