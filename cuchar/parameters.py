"""All parameters of a model in one flat buffer, with a named view into it for every tensor.

So Adam and clipping are each one call over one array, and a checkpoint is a table of
views. Gradients and Adam's moments have the same layout.
"""

from collections.abc import Iterator

import numpy as np

from cuchar.config import ModelConfig


def parameter_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors, in the order of the buffer.

    They are PyTorch's, but a layer has one bias, which is the sum of PyTorch's two.
    """
    V, H = model.vocabulary_size, model.hidden
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(model.layers):
        shapes[f"lstm.weight_ih_l{layer}"] = (4 * H, H if layer else V)
        shapes[f"lstm.weight_hh_l{layer}"] = (4 * H, H)
        shapes[f"lstm.bias_l{layer}"] = (4 * H,)
    shapes["head.weight"] = (V, H)
    shapes["head.bias"] = (V,)
    return shapes


def parameter_count(model: ModelConfig) -> int:
    return sum(int(np.prod(shape)) for shape in parameter_shapes(model).values())


class Parameters:
    """A flat buffer with a named view for every tensor; `parameters[name]` is writable.

    Args:
        flat: [P], the buffer; None makes one of zeros.
    """

    def __init__(self, model: ModelConfig, dtype: np.typing.DTypeLike = np.float32, flat: np.ndarray | None = None):
        self.model = model
        shapes = parameter_shapes(model)
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        self.flat = np.zeros(sum(sizes), dtype) if flat is None else flat
        pieces = np.split(self.flat, np.cumsum(sizes)[:-1])
        self._views = {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}

    def __getitem__(self, name: str) -> np.ndarray:
        return self._views[name]

    def items(self) -> Iterator[tuple[str, np.ndarray]]:
        return iter(self._views.items())


def initialise(model: ModelConfig, seed: int, dtype: np.typing.DTypeLike = np.float32) -> Parameters:
    """Initial parameters: Glorot-uniform weights, forget biases 1, all other biases 0.

    A layer's two matrices share one limit, sqrt(6 / (inputs + H + 4H)), since they are one
    matrix in TensorFlow's BasicLSTMCell, which the notebook used.
    Source: Glorot and Bengio 2010; Jozefowicz et al. 2015 for the forget bias.
    """
    parameters, H = Parameters(model, dtype), model.hidden
    generator = np.random.default_rng(seed)
    for name, view in parameters.items():
        if name.startswith("lstm.bias"):
            view[H : 2 * H] = 1
        elif name != "head.bias":
            inputs = model.vocabulary_size if name == "lstm.weight_ih_l0" or name == "lstm.weight_hh_l0" else H
            fans = H + model.vocabulary_size if name == "head.weight" else inputs + 5 * H
            limit = np.sqrt(6 / fans)
            view[...] = generator.uniform(-limit, limit, view.shape)
    return parameters
