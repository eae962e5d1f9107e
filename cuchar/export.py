"""Writes a model's weights under PyTorch's names, so that `nn.LSTM` and `nn.Linear` can load them."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from cuchar.checkpoint import Checkpoint
from cuchar.files import write_output


def export_pytorch(checkpoint: Checkpoint, path: Path) -> None:
    """Write `lstm.weight_ih_l0`, ..., `head.bias`, and the vocabulary as metadata.

    PyTorch has two biases a layer: cuchar's single one becomes `bias_ih`, and `bias_hh` is zero.
    The metadata `vocabulary` is a JSON list of the characters in the order of their ids; a byte
    is the character of the same number.

    Raises:
        OutputError: the file could not be written.
    """
    tensors = {}
    for name, view in checkpoint.parameters.items():
        if name.startswith("lstm.bias"):
            layer = name.rsplit("_", 1)[1]
            tensors[f"lstm.bias_ih_{layer}"] = np.ascontiguousarray(view)
            tensors[f"lstm.bias_hh_{layer}"] = np.zeros_like(view)
        else:
            tensors[name] = np.ascontiguousarray(view)
    write_output(path, save(tensors, {"vocabulary": json.dumps(checkpoint.vocabulary.characters())}))
