# ruff: noqa: RUF001
"""The ladder of docs/kernels.md: a picture for each rung shows who reads what from where, in the same three columns."""

from figures.drawing import Drawing
from figures.wavefront import SUBSCRIPTS

H, LAYERS, T = 64, 2, 32  # the notebook's sizes, for the numbers in the pictures
MATRIX_KIB = 4 * H * H * 4 // 1024
GLOBAL, SHARED, THREADS = 20, 330, 580  # left edges of the columns
GLOBAL_WIDTH, SHARED_WIDTH, THREADS_WIDTH = 170, 140, 200
ROWS, ROW_HEIGHT = (76, 136, 196), 46  # top edges of the three rows


def _rung(number: int, name: str, description: str, facts: list[str]) -> Drawing:
    """A picture with the columns' headings, the block's frame and, below, the facts about a time step's cost."""
    picture = Drawing(800, 284 + 20 * len(facts), f"Rung {number}: {name}", " ".join([description, *facts]))
    picture.text(20, 26, f"Rung {number}: {name}", bold=True, size=14)
    picture.rectangle(SHARED - 24, 40, 800 - SHARED + 14, 226, "faint-line", dashed=True, radius=6)
    picture.text(SHARED - 14, 259, "one block, one batch row", size=12, faint=True)
    picture.text(GLOBAL + GLOBAL_WIDTH / 2, 62, "global memory", anchor="middle", bold=True, size=12)
    picture.text(SHARED + SHARED_WIDTH / 2, 62, "shared memory", anchor="middle", bold=True, size=12)
    picture.text(THREADS + THREADS_WIDTH / 2, 62, "threads, registers", anchor="middle", bold=True, size=12)
    picture.lines(20, 292, facts, spacing=20, size=13)
    return picture


def _in_global(picture: Drawing, row: int, heading: str, line: str, kind: str = "plain") -> None:
    picture.box(GLOBAL, ROWS[row], GLOBAL_WIDTH, ROW_HEIGHT, heading, [line], kind=kind, size=12)


def _in_shared(picture: Drawing, row: int, heading: str, line: str, kind: str = "plain") -> None:
    picture.box(SHARED, ROWS[row], SHARED_WIDTH, ROW_HEIGHT, heading, [line], kind=kind, size=12)


def _vectors(picture: Drawing) -> None:
    """Draw h and the gates of rungs 2 and 3, which threads keep in shared memory and also write to the tape."""
    for row, (heading, line) in enumerate((("h [H]", "read by all"), ("gates [4H]", "read by the cell")), 1):
        y = ROWS[row] - 4
        picture.box(SHARED, y, SHARED_WIDTH, 36, heading, [line], size=12)
        picture.arrow((FROM_SHARED, y + 10), (THREADS, y + 10))
        picture.arrow((THREADS, y + 26), (FROM_SHARED, y + 26))
        picture.arrow((THREADS, y + 45), (FROM_GLOBAL, y + 45))


def _gate_threads(picture: Drawing, line: str) -> None:
    """Draw a row of threads for each gate."""
    for place, gate in enumerate("ifgo"):
        picture.box(THREADS, ROWS[0] + 42.5 * place, THREADS_WIDTH, 38.5, "", [f"{gate}: {line}"], kind=gate, size=12)


def _right(picture: Drawing, x0: float, x1: float, y: float, label: str = "", dashed: bool = False) -> None:
    """Draw an arrow into the block, with a label inside the block."""
    picture.arrow((x0, y), (x1, y), dashed=dashed)
    if label:
        picture.text((SHARED - 24 + x1) / 2, y - 6, label, anchor="middle", size=12)


FROM_GLOBAL, FROM_SHARED = GLOBAL + GLOBAL_WIDTH, SHARED + SHARED_WIDTH


def rung_1() -> Drawing:
    picture = _rung(
        1, "one thread a gate sum, everything from global memory",
        "A block has a batch row and a thread for each of the 4H gate sums. Each thread reads its row of W_hh and all of h from "
        "global memory and writes its gate back; then a thread a unit reads four gates and makes c and h.",
        [
            "Launches: one for each time step and layer, T·L a window forward.",
            f"A row reads 4H·H weights at every time step: {MATRIX_KIB} KiB a layer at H = {H}.",
        ],
    )  # fmt: skip
    _in_global(picture, 0, "W_hh [4H,H]", "every weight", "recurrent")
    _in_global(picture, 1, "h, c [B,H]", "of t and of t + 1")
    _in_global(picture, 2, "gates [B,4H]", "written, read again")
    _gate_threads(picture, "H threads, a sum each")
    _right(picture, FROM_GLOBAL, THREADS, ROWS[0] + 23, "4H·H weights, at every time step")
    _right(picture, FROM_GLOBAL, THREADS, ROWS[1] + 15, "h: H numbers for each thread")
    picture.arrow((THREADS, ROWS[1] + 33), (FROM_GLOBAL, ROWS[1] + 33))
    _right(picture, FROM_GLOBAL, THREADS, ROWS[2] + 15, "four gates of a unit")
    picture.arrow((THREADS, ROWS[2] + 33), (FROM_GLOBAL, ROWS[2] + 33))
    return picture


def rung_2() -> Drawing:
    picture = _rung(
        2, "one block a row, h in shared memory",
        "A block takes its batch row through all time steps. h and the activated gates are in shared memory, c is in a register "
        "of the thread that needs it; the weights still come from global memory at every time step. h, c and the gates go to the tape.",
        [
            "Launches: one a layer for all T time steps. No block waits for another.",
            f"The weights travel again at every time step: {MATRIX_KIB} KiB a row at H = {H}, by then from the L1 cache.",
        ],
    )  # fmt: skip
    _in_global(picture, 0, "W_hh [4H,H]", "every weight", "recurrent")
    _in_global(picture, 1, "tape: h, c", "only written")
    _in_global(picture, 2, "tape: gates", "only written")
    _gate_threads(picture, "H threads, a sum each")
    _right(picture, FROM_GLOBAL, THREADS, ROWS[0] + 23, "4H·H weights, at every time step")
    _vectors(picture)
    return picture


def rung_3() -> Drawing:
    picture = _rung(
        3, "weights in registers",
        "Each thread loads its row of W_hh into registers once and keeps it for the whole window. A time step then reads h from shared "
        "memory, and nothing that is large from global memory.",
        [
            f"A time step reads no weight: {4 * H} threads × {H} weights stay in registers.",
            f"What is left: each of the 4H threads reads all of h, {H // 4} times 16 bytes; two barriers.",
        ],
    )  # fmt: skip
    _in_global(picture, 0, "W_hh [4H,H]", "read once a window", "recurrent")
    _in_global(picture, 1, "tape: h, c", "only written")
    _in_global(picture, 2, "tape: gates", "only written")
    _gate_threads(picture, f"H threads, {H} weights each")
    _right(picture, FROM_GLOBAL, THREADS, ROWS[0] + 23, "once, before the first time step", dashed=True)
    _vectors(picture)
    return picture


def rung_4() -> Drawing:
    half = H // 2
    picture = _rung(
        4, "two lanes a unit, a slice of h each",
        "Two lanes, 16 apart in a warp, have a unit: each the four gates' weights for half of k. They exchange halves of sums by "
        "shuffles, so that one has the sums of i and g and the other those of f and o, and the cell needs no shared memory.",
        [
            f"{2 * H} threads × {4 * half} weights. A number read from shared memory serves four gates: {half // 4} times 16 bytes a thread.",
            "One barrier a time step; the gates no longer pass through shared memory.",
        ],
    )  # fmt: skip
    _in_global(picture, 0, "W_hh [4H,H]", "read once a window", "recurrent")
    _in_global(picture, 1, "tape: h, c", "only written")
    _in_global(picture, 2, "tape: gates", "only written")
    slice_height = 30
    for number in range(2):
        y = ROWS[1] - 18 + number * (slice_height + 12)
        picture.box(
            SHARED, y, SHARED_WIDTH, slice_height, "", [f"h {number * half} to {number * half + half - 1}"], size=12
        )
    for number, (name, sums) in enumerate((("low lane", "then i, g"), ("high lane", "then f, o; c and h"))):
        y = ROWS[0] + 92 * number
        picture.rectangle(THREADS, y, THREADS_WIDTH, 74, radius=4)
        picture.text(THREADS + 10, y + 18, name, bold=True, size=12)
        picture.text(THREADS + THREADS_WIDTH - 10, y + 18, sums, anchor="end", size=12)
        for place, gate in enumerate("ifgo"):
            picture.box(THREADS + 10 + 45.5 * place, y + 28, 42, 36, gate, [str(half)], kind=gate, size=12)
    middle = THREADS + THREADS_WIDTH / 2
    picture.arrow((middle - 8, ROWS[0] + 74), (middle - 8, ROWS[0] + 92), head=6)
    picture.arrow((middle + 8, ROWS[0] + 92), (middle + 8, ROWS[0] + 74), head=6)
    picture.text(middle + 20, ROWS[0] + 87, "shuffles", size=12)
    _right(picture, FROM_GLOBAL, THREADS, ROWS[0] + 18, "once, before the first time step", dashed=True)
    picture.arrow((FROM_SHARED, ROWS[1] - 3), (THREADS, ROWS[1] - 3))
    picture.arrow((FROM_SHARED, ROWS[1] + 39), (THREADS, ROWS[1] + 39))
    picture.arrow((THREADS, ROWS[2] + 13), (FROM_GLOBAL, ROWS[2] + 13))
    picture.text((SHARED - 24 + THREADS) / 2, ROWS[2] + 28, "gates; h and c", anchor="middle", size=12)
    picture.arrow((THREADS, ROWS[2] + 36), (220, ROWS[2] + 36), (220, ROWS[1] + 23), (FROM_GLOBAL, ROWS[1] + 23))
    return picture


def rung_5() -> Drawing:
    stages, team = 2 * LAYERS - 1, 2 * H
    ticks = T + stages - 1
    picture = _rung(
        5, "a wavefront over the layers",
        f"A block has {stages} teams of {team} threads, one for each matrix: R0, P1 and R1. While R0 is at time step t, P1 is at t - 1 and R1 at t - 2. "
        "h of a layer passes through shared memory; what P1 computes reaches R1 through the slots of a channel.",
        [
            f"{T} + {stages} − 1 = {ticks} ticks instead of {stages} × {T} = {stages * T} products after each other, for L = {LAYERS}, T = {T}.",
            "The projection of a layer's input lies beside the recurrence, not in its way. One barrier a tick.",
            "From compute capability 9.0 on, two layers may have a block each: a cluster, and a channel between its blocks.",
        ],
    )  # fmt: skip
    _in_global(picture, 0, "W of all stages", "read once a window", "plain")
    _in_global(picture, 1, "tape: h, c, gates", "only written")
    _in_global(picture, 2, "table: W_ih of layer 0", "a row each tick")
    teams = [("R", 0, "t"), ("P", 1, "t − 1"), ("R", 1, "t − 2")]
    for row, (name, layer, at) in enumerate(teams):
        kind = "recurrent" if name == "R" else "projection"
        picture.box(
            THREADS,
            ROWS[row],
            THREADS_WIDTH,
            ROW_HEIGHT,
            f"{name}{SUBSCRIPTS[layer]} at {at}",
            [f"{team} threads"],
            kind=kind,
            size=12,
        )
    _in_shared(picture, 0, f"h{SUBSCRIPTS[0]}", "of t and t − 1")
    _in_shared(picture, 1, "channel", "two slots")
    _in_shared(picture, 2, f"h{SUBSCRIPTS[1]}", "of t − 2 and t − 3")
    picture.arrow((THREADS, ROWS[0] + 12), (FROM_SHARED, ROWS[0] + 12))
    picture.arrow((FROM_SHARED, ROWS[0] + 24), (THREADS, ROWS[0] + 24))
    picture.arrow((FROM_SHARED, ROWS[0] + 38), (THREADS, ROWS[1] + 10))
    picture.arrow((THREADS, ROWS[1] + 28), (FROM_SHARED, ROWS[1] + 28))
    picture.arrow((FROM_SHARED, ROWS[1] + 40), (THREADS, ROWS[2] + 8))
    picture.arrow((FROM_SHARED, ROWS[2] + 22), (THREADS, ROWS[2] + 22))
    picture.arrow((THREADS, ROWS[2] + 36), (FROM_SHARED, ROWS[2] + 36))
    _right(picture, FROM_GLOBAL, SHARED - 24, ROWS[0] + 23, "", dashed=True)
    picture.text((FROM_GLOBAL + SHARED - 24) / 2, ROWS[0] + 17, "to registers", anchor="middle", size=12)
    picture.arrow((SHARED - 24, ROWS[1] + 23), (FROM_GLOBAL, ROWS[1] + 23))
    picture.text((FROM_GLOBAL + SHARED - 24) / 2, ROWS[1] + 17, "written", anchor="middle", size=12)
    _right(picture, FROM_GLOBAL, SHARED - 24, ROWS[2] + 23)
    picture.text((FROM_GLOBAL + SHARED - 24) / 2, ROWS[2] + 17, "read", anchor="middle", size=12)
    return picture


def rung_6() -> Drawing:
    picture = _rung(
        6, "one launch for the window, with head and backward; a graph of training steps",
        "A block takes its batch row forward, through the head and backward in one launch. Three more launches follow: weight gradients, "
        "norm and Adam. Sixteen training steps are captured as one graph.",
        [
            "Launches: four a training step, sixteen training steps in one graph.",
            "The head's weights are fetched while forward runs. Two layers may have a cluster of two blocks for a row.",
        ],
    )  # fmt: skip
    _in_global(picture, 0, "tape", "h, c, gates")
    _in_global(picture, 1, "losses, dlogits", "a row of V for each n")
    _in_global(picture, 2, "tape: c, gates, dh", "da takes the gates' place")
    for row, (heading, line) in enumerate(
        (("forward", "W in registers"), ("head", "softmax, loss, dh"), ("backward", "Wᵀ in registers"))
    ):
        picture.box(
            THREADS,
            ROWS[row],
            THREADS_WIDTH,
            ROW_HEIGHT,
            heading,
            [line],
            kind="plain" if row == 1 else "recurrent",
            size=12,
        )
    _in_shared(picture, 0, "h, channels", "by parity of t")
    _in_shared(picture, 1, "head's W [V,H]", "for all time steps")
    _in_shared(picture, 2, "da, channels", "by parity of t")
    for row in range(3):
        if row < 2:
            picture.arrow((SHARED - 24, ROWS[row] + 23), (FROM_GLOBAL, ROWS[row] + 23))
        else:
            _right(picture, FROM_GLOBAL, SHARED - 24, ROWS[row] + 15)
            picture.arrow((SHARED - 24, ROWS[row] + 31), (FROM_GLOBAL, ROWS[row] + 31))
        if row == 1:
            picture.arrow((FROM_SHARED, ROWS[row] + 23), (THREADS, ROWS[row] + 23))
        else:
            picture.arrow((FROM_SHARED, ROWS[row] + 15), (THREADS, ROWS[row] + 15))
            picture.arrow((THREADS, ROWS[row] + 31), (FROM_SHARED, ROWS[row] + 31))
    for row in range(2):
        middle = THREADS + THREADS_WIDTH / 2
        picture.arrow((middle, ROWS[row] + ROW_HEIGHT), (middle, ROWS[row + 1]))
    y = 346
    boxes = (
        ("lstm_step", "a block a row"),
        ("weight gradients", "sums over N"),
        ("norm", "and the mean loss"),
        ("clip, Adam", "parameters"),
    )
    picture.height = y + 78
    for place, (heading, line) in enumerate(boxes):
        x = 32 + 190 * place
        picture.box(x, y, 150, 46, heading, [line], size=12, stroke=2 if place == 0 else 1.2)
        if place < 3:
            picture.arrow((x + 150, y + 23), (x + 190, y + 23))
    picture.rectangle(20, y - 12, 744, 70, "faint-line", dashed=True, radius=6)
    return picture
