"""Writes a model as an ONNX graph of standard operators, for ONNX Runtime and whatever else reads ONNX.

    ids [T,B] -> OneHot -> LSTM -> ... -> LSTM -> MatMul, Add -> logits [T,B,V]
    h0, c0 [L,B,H] -> Split -> a layer's state -> Concat -> h, c [L,B,H]

T and B are dynamic. Source: the operators' definitions, https://onnx.ai/onnx/operators/, in opset 17.
"""

import json
from typing import TYPE_CHECKING

import numpy as np

from cuchar.errors import DeviceError, OutputError
from cuchar.parameters import Parameters
from cuchar.vocabulary import Vocabulary
from cuchar.wording import option

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 17
IR_VERSION = 8  # the version of the file's format that came with opset 17
MOST_BYTES = 2**31 - 2**20  # a protocol buffer has less than 2 GiB; the graph around the weights takes a few KB
GATES = (0, 3, 1, 2)  # ONNX has the gates in the order i, o, f, g


def onnx_file(parameters: Parameters, vocabulary: Vocabulary) -> bytes:
    """The bytes of an ONNX file; see `onnx_model`, whose errors it has."""
    data: bytes = onnx_model(parameters, vocabulary).SerializeToString(deterministic=True)
    return data


def onnx_model(parameters: Parameters, vocabulary: Vocabulary) -> "ModelProto":
    """The model as an ONNX graph, in float32.

    Inputs are `ids` [T,B] int64 and the state before them, `h0` and `c0` [L,B,H]; outputs are `logits` [T,B,V] and the
    state after the last time step, `h` and `c` [L,B,H]. The metadata `vocabulary` is the JSON list that
    `Vocabulary.entries` returns; if one of its entries stands for all other characters, `unknown` is that entry.

    Raises:
        DeviceError: the package onnx is not installed.
        OutputError: the weights do not fit into an ONNX file.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise DeviceError(
            f"{option('format', 'onnx')}: expected the package onnx, found none; pip install 'cuchar[onnx]'"
        ) from None
    model, size = parameters.model, 4 * parameters.flat.size
    if size > MOST_BYTES:
        raise OutputError(
            f"{option('format', 'onnx')}: expected at most {MOST_BYTES:,} bytes of weights, found {size:,}"
        )
    V, H, L = model.vocabulary_size, model.hidden, model.layers
    nodes, weights = [], []

    def node(operator: str, inputs: list[str], outputs: list[str], **attributes: int) -> None:
        nodes.append(helper.make_node(operator, inputs, outputs, name=f"{operator}_{outputs[0]}", **attributes))

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    node("OneHot", ["ids", constant("depth", np.array(V)), constant("off_on", np.array([0, 1], np.float32))], ["x_l0"])
    each = constant("one_for_each_layer", np.ones(L, np.int64))
    for state in ("h", "c"):
        node("Split", [f"{state}0", each], [f"{state}0_l{layer}" for layer in range(L)], axis=0)
    direction = constant(
        "direction", np.array([1])
    )  # the axis of the LSTM's output in which it has two if bidirectional
    for layer in range(L):
        inputs = [
            f"x_l{layer}",
            constant(f"W_l{layer}", _in_onnx_order(parameters[f"lstm.weight_ih_l{layer}"])[None]),
            constant(f"R_l{layer}", _in_onnx_order(parameters[f"lstm.weight_hh_l{layer}"])[None]),
            constant(f"B_l{layer}", _two_biases(parameters[f"lstm.bias_l{layer}"])[None]),
            "",  # all sequences have T characters
            f"h0_l{layer}",
            f"c0_l{layer}",
        ]
        node("LSTM", inputs, [f"y_l{layer}", f"h_l{layer}", f"c_l{layer}"], hidden_size=H)
        node("Squeeze", [f"y_l{layer}", direction], [f"x_l{layer + 1}"])
    for state in ("h", "c"):
        node("Concat", [f"{state}_l{layer}" for layer in range(L)], [state], axis=0)
    node(
        "MatMul", [f"x_l{L}", constant("head_weight", parameters["head.weight"].T.astype(np.float32))], ["head_product"]
    )
    node("Add", ["head_product", constant("head_bias", parameters["head.bias"].astype(np.float32))], ["logits"])

    def value(name: str, *shape: int | str, integer: bool = False) -> object:
        return helper.make_tensor_value_info(name, TensorProto.INT64 if integer else TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        nodes,
        "cuchar",
        [value("ids", "T", "B", integer=True), value("h0", L, "B", H), value("c0", L, "B", H)],
        [value("logits", "T", "B", V), value("h", L, "B", H), value("c", L, "B", H)],
        weights,
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cuchar"
    )
    helper.set_model_props(made, {"vocabulary": json.dumps(vocabulary.entries()), **vocabulary.unknown_entry()})
    checker.check_model(made)
    return made


def _in_onnx_order(rows: np.ndarray) -> np.ndarray:
    """Rows [4H, ...] of the gates i, f, g, o in the order i, o, f, g, as float32."""
    gates = np.split(rows.astype(np.float32), 4)
    return np.concatenate([gates[gate] for gate in GATES])


def _two_biases(bias: np.ndarray) -> np.ndarray:
    """ONNX's biases [8H], of the input and of the recurrence; cuchar's one is the first, and the second is zero."""
    return np.concatenate([_in_onnx_order(bias), np.zeros(len(bias), np.float32)])
