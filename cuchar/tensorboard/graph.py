"""The computation graph of a training step, for TensorBoard's GRAPHS: an LSTM's gates, the head, the loss and Adam.

It is written by hand, as TensorBoard's own kind of message. The ONNX graph of `cuchar export` would need another
package, has an LSTM as a single node, so none of the gates, and ends with the logits, before the loss. The names before
a slash are boxes in TensorBoard, which a double click opens; every edge shows its array's shape, that of all time steps
of a window. The edges from h and c back to the state of the time step before are the recurrence.
"""

from collections.abc import Sequence

from tensorboardX.proto.attr_value_pb2 import AttrValue
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.node_def_pb2 import NodeDef
from tensorboardX.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboardX.proto.types_pb2 import DT_FLOAT, DT_INT32
from tensorboardX.proto.versions_pb2 import VersionDef

from cuchar.config import ModelConfig, TrainConfig
from cuchar.parameters import parameter_count

GATES = {"input_gate": "Sigmoid", "forget_gate": "Sigmoid", "candidate": "Tanh", "output_gate": "Sigmoid"}


def training_step(model: ModelConfig, config: TrainConfig) -> GraphDef:
    """What one training step computes, with the sizes of this model and of its windows."""
    nodes: list[NodeDef] = []
    V, H, B, T = model.vocabulary_size, model.hidden, config.batch, config.window

    def add(name: str, op: str, inputs: Sequence[str], *shape: int, dtype: int = DT_FLOAT) -> str:
        sizes = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in shape])
        shapes = AttrValue(list=AttrValue.ListValue(shape=[sizes]))
        nodes.append(
            NodeDef(name=name, op=op, input=inputs, attr={"_output_shapes": shapes, "dtype": AttrValue(type=dtype)})
        )
        return name

    characters = add("window/inputs", "Placeholder", [], T, B, dtype=DT_INT32)
    targets = add("window/targets", "Placeholder", [], T, B, dtype=DT_INT32)
    below = characters
    for layer in range(model.layers):
        box = f"lstm/layer_{layer}"
        # The state comes first, so that TensorBoard lays the layer out from it upwards, and the recurrence downwards.
        first = "Placeholder" if config.carry_state else "ZerosLike"
        h_before, c_before = (
            add(
                f"{box}/state/{name}_before",
                "Merge",
                [add(f"{box}/state/{name}_first", first, [], B, H), after],
                T,
                B,
                H,
            )
            for name, after in (("h", f"{box}/h"), ("c", f"{box}/c"))
        )
        table = add(f"{box}/weight_ih", "VariableV2", [], 4 * H, H if layer else V)
        recurrent = add(f"{box}/weight_hh", "VariableV2", [], 4 * H, H)
        bias = add(f"{box}/bias", "VariableV2", [], 4 * H)
        from_input = add(f"{box}/from_input", "MatMul" if layer else "Gather", [table, below], T, B, 4 * H)
        if config.weight_dropout:
            recurrent = add(f"{box}/weight_dropout", "Dropout", [recurrent], 4 * H, H)
        from_state = add(f"{box}/from_state", "MatMul", [recurrent, h_before], T, B, 4 * H)
        sums = add(f"{box}/gates/sum", "AddN", [from_input, from_state, bias], T, B, 4 * H)
        split = add(f"{box}/gates/split", "Split", [sums], T, B, H)
        i, f, g, o = (add(f"{box}/gates/{gate}", op, [split], T, B, H) for gate, op in GATES.items())
        kept = add(f"{box}/kept", "Mul", [f, c_before], T, B, H)
        written = add(f"{box}/written", "Mul", [i, g], T, B, H)
        c = add(f"{box}/c", "Add", [kept, written], T, B, H)
        below = add(f"{box}/h", "Mul", [o, add(f"{box}/tanh_c", "Tanh", [c], T, B, H)], T, B, H)
        if config.dropout:
            below = add(f"{box}/dropout", "Dropout", [below], T, B, H)
    weight, bias = add("head/weight", "VariableV2", [], V, H), add("head/bias", "VariableV2", [], V)
    product = add("head/product", "MatMul", [weight, below], T, B, V)
    logits = add("head/logits", "BiasAdd", [product, bias], T, B, V)
    add("head/softmax", "Softmax", [logits], T, B, V)
    losses = add("loss/cross_entropy", "SparseSoftmaxCrossEntropyWithLogits", [logits, targets], T, B)
    loss = add("loss/mean", "Mean", [losses])
    size = parameter_count(model)
    gradients = add("training/gradients", "SymbolicGradient", [loss], size)
    if config.clip:
        gradients = add("training/clip", "ClipByGlobalNorm", [gradients], size)
    add("training/adam", "ApplyAdam", [gradients], size)
    return GraphDef(node=nodes, versions=VersionDef(producer=22))
