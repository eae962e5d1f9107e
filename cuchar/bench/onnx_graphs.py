"""The ONNX graphs that ONNX Runtime and OpenVINO run: one that scores a window, and one that draws a character.

Both have fixed sizes, and hand the state on: `Graph.feedback` says which output is which input of the next call.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from cuchar.bench.configurations import Configuration
from cuchar.evaluation import CHUNK_STEPS, CHUNKS
from cuchar.export.onnx import IR_VERSION, OPSET, onnx_model
from cuchar.vocabulary import Vocabulary

TYPES = {TensorProto.FLOAT: np.float32, TensorProto.INT64: np.int64}


@dataclass(frozen=True)
class Graph:
    """A model and the arrays that it reads and writes.

    Args:
        model: the serialised ModelProto.
        inputs: an array of zeros for each input, by name.
        feedback: by output, the input of the next call that it becomes.
        result: the name of an output that is none; None if there is none.
    """

    model: bytes
    inputs: Mapping[str, np.ndarray]
    feedback: Mapping[str, str]
    result: str | None = None


def scoring_graph(sizes: Configuration) -> Graph:
    """What `cuchar export` writes, with the mean loss instead of logits: of `ids` and `targets`, [T, B]."""
    made = onnx_model(sizes.parameters(), Vocabulary(np.arange(sizes.V, dtype=np.uint32)))
    graph = made.graph
    for value in graph.input:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_value = {"T": CHUNK_STEPS, "B": CHUNKS}[size.dim_param]
    graph.input.append(helper.make_tensor_value_info("targets", TensorProto.INT64, [CHUNK_STEPS, CHUNKS]))
    graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last_axis"))
    graph.node.extend(
        [
            helper.make_node("LogSoftmax", ["logits"], ["likelihoods"], axis=-1),
            helper.make_node("Unsqueeze", ["targets", "last_axis"], ["indices"]),
            helper.make_node("GatherElements", ["likelihoods", "indices"], ["of_targets"], axis=-1),
            helper.make_node("ReduceMean", ["of_targets"], ["likelihood"], keepdims=0),
            helper.make_node("Neg", ["likelihood"], ["loss"]),
        ]
    )
    shape = [sizes.L, CHUNKS, sizes.H]
    del graph.output[:]
    graph.output.extend(
        [
            helper.make_tensor_value_info("loss", TensorProto.FLOAT, []),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("h", "c")),
        ]
    )
    return _checked(made, {"h": "h0", "c": "c0"}, "loss")


def drawing_graph(sizes: Configuration, streams: int) -> Graph:
    """A cell for each layer, written out, then the draw by a cumulative sum; `uniform` [S, 1] is in [0, 1).

    Written out, the first layer's inputs are columns of its weights, which ONNX's LSTM operator would multiply by one-hot
    rows. The cumulative sum is a product of matrices: Multinomial, CumSum and the largest of noisy logits take longer.
    """
    parameters, V, H = sizes.parameters(), sizes.V, sizes.H
    nodes, weights = [], []
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [streams])]
    outputs = [helper.make_tensor_value_info("drawn", TensorProto.INT64, [streams])]
    feedback = {"drawn": "ids"}

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(name: str, values: np.ndarray) -> str:
        weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    x = "ids"
    for layer in range(sizes.L):
        for name in ("h", "c"):
            before, after = f"{name}_l{layer}", f"{name}_after_l{layer}"
            inputs.append(helper.make_tensor_value_info(before, TensorProto.FLOAT, [streams, H]))
            outputs.append(helper.make_tensor_value_info(after, TensorProto.FLOAT, [streams, H]))
            feedback[after] = before
        own, bias = parameters[f"lstm.weight_ih_l{layer}"].T, parameters[f"lstm.bias_l{layer}"]
        if layer == 0:
            below = node("Gather", [constant("table", own + bias), x], "below_l0")
        else:
            matrix = constant(f"W_l{layer}", own)
            below = node("Gemm", [x, matrix, constant(f"b_l{layer}", bias)], f"below_l{layer}")
        recurrent = constant(f"R_l{layer}", parameters[f"lstm.weight_hh_l{layer}"].T)
        gates = node("Gemm", [f"h_l{layer}", recurrent, below], f"gates_l{layer}")
        parts = [f"{gate}_before_l{layer}" for gate in "ifgo"]
        nodes.append(helper.make_node("Split", [gates], parts, axis=1))
        i, f, g, o = (
            node("Tanh" if gate == "g" else "Sigmoid", [part], f"{gate}_l{layer}")
            for gate, part in zip("ifgo", parts, strict=True)
        )
        kept = node("Mul", [f, f"c_l{layer}"], f"kept_l{layer}")
        added = node("Mul", [i, g], f"added_l{layer}")
        shown = node("Tanh", [node("Add", [kept, added], f"c_after_l{layer}")], f"shown_l{layer}")
        x = node("Mul", [o, shown], f"h_after_l{layer}")
    head = [x, constant("head_weight", parameters["head.weight"].T), constant("head_bias", parameters["head.bias"])]
    likely = node("Softmax", [node("Gemm", head, "logits")], "probabilities", axis=-1)
    reached = node("MatMul", [likely, constant("so_far", np.triu(np.ones((V, V), np.float32)))], "reached")
    inputs.append(helper.make_tensor_value_info("uniform", TensorProto.FLOAT, [streams, 1]))
    below_it = node("Cast", [node("Less", [reached, "uniform"], "is_below")], "below", to=TensorProto.FLOAT)
    counted = node("ReduceSum", [below_it, constant("last_axis", np.array([-1]))], "counted", keepdims=0)
    # Where rounding leaves all sums below the uniform number, the last id is drawn.
    node(
        "Cast",
        [node("Min", [counted, constant("last_id", np.array(V - 1, np.float32))], "id")],
        "drawn",
        to=TensorProto.INT64,
    )
    graph = helper.make_graph(nodes, "draw", inputs, outputs, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return _checked(made, feedback)


def _checked(made: ModelProto, feedback: Mapping[str, str], result: str | None = None) -> Graph:
    checker.check_model(made, full_check=True)
    inputs = {}
    for value in made.graph.input:
        tensor = value.type.tensor_type
        inputs[value.name] = np.zeros([size.dim_value for size in tensor.shape.dim], TYPES[tensor.elem_type])
    return Graph(made.SerializeToString(), inputs, feedback, result)
