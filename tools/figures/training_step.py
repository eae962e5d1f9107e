# ruff: noqa: RUF001
"""One training step of the resident regime, from the text to Adam."""

from figures.drawing import Drawing

FORWARD, TAPE, BACKWARD = 36, 288, 508  # left edges of the three columns
WIDE, MIDDLE = 216, 184  # widths of the outer columns and of the one between them
LAYERS = 2


def training_step() -> Drawing:
    picture = Drawing(
        800, 906, "One training step, from the text to Adam",
        "The host tells the device of a chunk of K steps at once: for each its place in the text, learning rate and "
        "number. windows.cu cuts K windows of T by B characters out of the corpus, which stays on the device. A "
        "training step of the resident regime is then four launches. The first, lstm_step, takes the window forward "
        "through the layers, which leave h, c and the gates i, f, g and o on the tape, through the head, which "
        "leaves losses and dlogits, and backward through the layers, where da takes the gates' place. The second "
        "adds the weight gradients over the N = T times B characters, in splits. The third adds the splits and takes "
        "the gradient's norm and the mean loss. The fourth clips and takes Adam's step. The launches are captured "
        "once and replayed for each step; the host reads losses and norms once a chunk.",
    )  # fmt: skip
    _chunk(picture)
    picture.rectangle(16, 158, 728, 732, "faint-line", radius=8)
    picture.text(32, 182, "One training step: four launches, replayed K times", bold=True)
    _first_launch(picture)
    _other_launches(picture)
    return picture


def _chunk(picture: Drawing) -> None:
    """Draw what happens once for K training steps, above the training step itself."""
    picture.text(32, 28, "Once a chunk of K steps", bold=True)
    picture.box(FORWARD, 42, 184, 76, "corpus", ["ids of all characters,", "kept on the device"])
    picture.box(TAPE - 12, 42, 208, 76, "cut K windows [T,B]", ["inputs and targets"], code="training/windows.cu")
    picture.box(540, 42, 244, 76, "host", ["of each step: place in the", "text, learning rate, number"])
    picture.arrow((220, 80), (TAPE - 12, 80))
    picture.arrow((540, 80), (484, 80))
    picture.text(752, 144, "losses and norms, read once a chunk", anchor="end", size=12, faint=True)


def _first_launch(picture: Drawing) -> None:
    picture.rectangle(26, 194, 708, 464, "faint-line", dashed=True, radius=6)
    picture.text(36, 216, "Launch 1: lstm_step")
    picture.text(724, 216, "resident/lstm_resident.cu", code=True, size=12, faint=True, anchor="end")
    for left, width, heading in (
        (FORWARD, WIDE, "forward, t = 0 to T−1"), (TAPE, MIDDLE, "tape"), (BACKWARD, WIDE, "backward, t = T−1 to 0"),
    ):  # fmt: skip
        picture.text(left + width / 2, 246, heading, anchor="middle", bold=True)
    picture.box(FORWARD, 258, WIDE, 48, "input of layer 0", ["a row of W_ih, by character"])
    picture.box(TAPE, 258, MIDDLE, 48, "inputs, targets [T,B]")
    picture.arrow((TAPE + MIDDLE - 16, 118), (TAPE + MIDDLE - 16, 258))
    picture.arrow((TAPE, 282), (FORWARD + WIDE, 282))
    picture.lines(
        BACKWARD, 276, ["The tape is global memory: what", "forward leaves, backward reads."], size=12, faint=True
    )
    for layer in range(LAYERS):
        _layer(picture, layer, 334 + 112 * layer)
    top = 334 + 112 * LAYERS
    picture.box(
        FORWARD, top, WIDE, 82, "head", ["logits = W h' + b", "loss: softmax, cross-entropy"], code="head/head.cuh"
    )
    picture.box(TAPE, top, MIDDLE, 82, "", ["losses [N]", "dlogits [N,V]"])
    picture.box(BACKWARD, top, WIDE, 82, "head, backward", ["dh = Wᵀ dlogits"], code="resident/lstm_resident.cu")
    picture.arrow((FORWARD + WIDE, top + 41), (TAPE, top + 41))
    picture.arrow((TAPE + MIDDLE, top + 41), (BACKWARD, top + 41))
    for start in (306, 422, 534):
        picture.arrow((FORWARD + WIDE / 2, start), (FORWARD + WIDE / 2, start + (28 if start == 306 else 24)))


def _layer(picture: Drawing, layer: int, top: float) -> None:
    """Draw a layer's row: forward, what that leaves on the tape, and backward."""
    height, middle = 88, top + 44
    inputs = "x" if layer == 0 else "W_ih x"
    picture.box(
        FORWARD, top, WIDE, height, f"layer {layer}", [f"a = {inputs} + W_hh h + b", "c' = f·c + i·g,  h' = o·tanh c'"],
        code="resident/lstm_forward.cuh",
    )  # fmt: skip
    picture.rectangle(TAPE, top, MIDDLE, height)
    picture.text(TAPE + MIDDLE / 2, top + 22, f"layer {layer}", anchor="middle")
    for place, name in enumerate(["h", "c", "i", "f", "g", "o"]):
        left = TAPE + 12 + 26 * place + 6 * (place > 1)
        picture.rectangle(left, top + 32, 24, 24, name if place > 1 else "plain", radius=2)
        picture.text(left + 12, top + 49, name, anchor="middle", bold=True)
    picture.text(TAPE + MIDDLE / 2, top + 76, "i f g o, later da", anchor="middle", size=12, faint=True)
    handed = ["to t−1: dh = W_hhᵀ da"] + [f"to layer {layer - 1}: dh' = W_ihᵀ da"] * (layer > 0)
    picture.box(
        BACKWARD, top, WIDE, height, f"layer {layer}: da from dh, dc", handed, code="resident/lstm_backward.cuh",
    )  # fmt: skip
    picture.arrow((FORWARD + WIDE, middle), (TAPE, middle))
    picture.arrow((TAPE + MIDDLE, middle - 12), (BACKWARD, middle - 12))
    picture.arrow((BACKWARD, middle + 12), (TAPE + MIDDLE, middle + 12))
    picture.arrow((BACKWARD + WIDE / 2, top + 112), (BACKWARD + WIDE / 2, top + height))


def _other_launches(picture: Drawing) -> None:
    middle = TAPE + MIDDLE / 2
    picture.box(
        270,
        690,
        220,
        82,
        "Launch 2: weight gradients",
        ["sums over N = T·B, in splits"],
        code="resident/weight_gradients.cu",
    )
    picture.box(524, 690, 210, 82, "Launch 3: norm", ["adds the splits; mean loss"], code="training/gradient_norm.cu")
    picture.box(524, 796, 210, 82, "Launch 4: clip, Adam", ["and its moments m and v"], code="training/adam.cu")
    picture.box(270, 796, 220, 82, "parameters", ["one flat buffer"])
    picture.arrow((middle, 640), (middle, 690))
    picture.text(middle + 8, 678, "da, h, dlogits", size=12, faint=True)
    picture.arrow((490, 731), (524, 731))
    picture.arrow((629, 772), (629, 796))
    picture.arrow((524, 837), (490, 837))
    picture.arrow((270, 837), (52, 837), (52, 658))
    picture.lines(66, 806, ["the next step's weights,", "into registers"], size=12, faint=True)
    picture.lines(
        66,
        708,
        [
            "The launches are checked",
            "once, captured as a graph",
            "and replayed. Between two",
            "steps the host does nothing.",
        ],
        size=12,
        faint=True,
    )
    picture.arrow((734, 837), (764, 837), (764, 118))
