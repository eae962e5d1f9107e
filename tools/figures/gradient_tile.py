# ruff: noqa: RUF001
"""A weight gradient of the resident regime: from the matrix to one thread's sums, and the order of additions."""

from figures.drawing import Drawing
from figures.persistent_grid import H100

from cuchar.config import ModelConfig
from cuchar.engines.cuda.resident import plan_window
from cuchar.engines.cuda.target import Window

MODEL, TIME_STEPS, BATCH = ModelConfig(84, 64, 2), 32, 32  # the notebook's
# As in weight_gradients.cu: rows and columns of a tile, threads of half a block, rows and columns of a thread.
TILE, HALF, ROWS, COLUMNS = 64, 128, 8, 4
DEPTH = 16  # how many n are in a buffer: 64 bytes of float32
CHOSEN_SPLIT, CHOSEN_TILE, CHOSEN_X, CHOSEN_Y = 2, 1, 5, 2
GATES = "ifgo"


def splits() -> int:
    """How many splits the planner makes on an H100."""
    plan = plan_window(H100.target(MODEL), Window(TIME_STEPS, BATCH))
    if plan is None:
        raise ValueError("expected a model of the resident regime")
    return plan.splits


def split_range(split: int, count: int) -> range:
    """The n of a split; the first splits have one more, if N is not a multiple of their count."""
    N = TIME_STEPS * BATCH
    begin = N // count * split + min(split, N % count)
    return range(begin, begin + N // count + (split < N % count))


def gradient_tile() -> Drawing:
    H, N, S = MODEL.hidden, TIME_STEPS * BATCH, splits()
    n = split_range(CHOSEN_SPLIT, S)
    picture = Drawing(
        800, 790, "A tile of a weight gradient, from the matrix to one thread's sums",
        f"The gradient of a layer's W, 4H by H, for H = {H}, is the sum over n of da of n times h of n; n counts the "
        f"N = T times B = {N} characters of the window. The matrix is cut into tiles of {TILE} by {TILE}, here one "
        f"for each gate, and N into {S} splits. A block has one tile of one split, such as the n from {n.start} to "
        f"{n[-1]}. Its {2 * HALF} threads are two halves; each half adds over half of these n and takes them {DEPTH} "
        f"at a time through two buffers in shared memory. A thread has {ROWS} by {COLUMNS} of the tile: for each n it "
        f"reads {ROWS} numbers of da and {COLUMNS} of h and does {ROWS * COLUMNS} multiply-adds. The order of "
        "additions is fixed: n ascending in a thread, then the second half's sums, then the splits in their order, "
        "in gradient_norm.cu.",
    )  # fmt: skip
    _matrix(picture, H)
    _splits(picture, S)
    _halves(picture, n)
    _thread(picture)
    _order(picture, S)
    return picture


def _matrix(picture: Drawing, H: int) -> None:
    """Draw the matrix, divided into tiles."""
    picture.text(20, 28, f"1  d W_hh [4H,H] in tiles of {TILE} × {TILE}", bold=True)
    for tile in range(4 * H // TILE):
        y = 44 + 37 * tile
        picture.rectangle(20, y, 110, 34, GATES[tile], tile=tile)
        picture.text(75, y + 22, f"tile {tile}: gate {GATES[tile]}", anchor="middle", size=12, bold=tile == CHOSEN_TILE)
        if tile == CHOSEN_TILE:
            picture.outline(20, y, 110, 34)
    picture.lines(
        146, 62, [
            f"H = {H}: each tile is one gate's.",
            "d W = sum over n of da[n]ᵀ h[n]",
            f"N = T·B = {TIME_STEPS} · {BATCH} = {TIME_STEPS * BATCH}",
        ],
    )  # fmt: skip


def _splits(picture: Drawing, S: int) -> None:
    """Draw the characters n, divided into splits."""
    picture.text(420, 28, f"2  N in {S} splits: a block has one tile of one split", bold=True)
    left, each = 420, 360 / (TIME_STEPS * BATCH)
    for split in range(S):
        n = split_range(split, S)
        x = left + each * n.start
        picture.rectangle(x + 0.5, 60, each * len(n) - 1, 30, radius=2, split=split, first=n.start, last=n[-1])
        picture.text(x + each * len(n) / 2, 80, str(split), anchor="middle", size=12, bold=split == CHOSEN_SPLIT)
        if split == CHOSEN_SPLIT:
            picture.outline(x + 0.5, 60, each * len(n) - 1, 30)
    n, tiles = split_range(CHOSEN_SPLIT, S), 4 * MODEL.hidden // TILE
    picture.text(left, 52, "n = 0", size=12, faint=True)
    picture.text(780, 52, f"n = {TIME_STEPS * BATCH - 1}", size=12, faint=True, anchor="end")
    picture.lines(
        left, 114, [
            f"Split {CHOSEN_SPLIT}: n = {n.start} to {n[-1]}, {len(n)} characters.",
            f"{tiles} tiles × {S} splits = {tiles * S} blocks for this matrix;",
            "the other matrices are in the same launch.",
        ],
    )  # fmt: skip


def _halves(picture: Drawing, n: range) -> None:
    """Draw a block's two halves, and what each has in shared memory."""
    top, middle = 222, n.start + (len(n) + 1) // 2
    picture.text(
        20,
        top,
        f"3  The block of tile {CHOSEN_TILE}, split {CHOSEN_SPLIT}: two halves of {HALF} threads, each over half of these n",
        bold=True,
    )
    for half, (first, last) in enumerate(((n.start, middle - 1), (middle, n[-1]))):
        y = top + 16 + 76 * half
        picture.box(20, y, 200, 62, f"half {half}", [f"n = {first} to {last}"], half=half, first=first, last=last)
        picture.rectangle(262, y, 518, 62, "plain-line", dashed=True)
        picture.text(274, y + 24, "shared memory", size=12)
        picture.text(274, y + 42, f"{DEPTH} of n at once", size=12)
        for buffer in range(2):
            x = 384 + 196 * buffer
            picture.box(x, y + 8, 92, 46, "da", [f"{DEPTH} × {TILE}"], kind=GATES[CHOSEN_TILE], size=12)
            picture.box(x + 96, y + 8, 92, 46, "h", [f"{DEPTH} × {TILE}"], size=12)
        picture.arrow((220, y + 31), (262, y + 31))
    picture.text(
        20,
        top + 186,
        f"Two buffers a half: while one is multiplied, the next {DEPTH} of n are on their way from global memory.",
        size=12,
    )


def _thread(picture: Drawing) -> None:
    """Draw the tile's threads, and the sums of one thread."""
    top, left, width, height = 500, 118, 17, 21
    picture.text(20, top - 54, f"4  A thread has {ROWS} × {COLUMNS} of the tile", bold=True)
    columns, rows = TILE // COLUMNS, TILE // ROWS
    for y in range(rows):
        for x in range(columns):
            picture.rectangle(
                left + x * width, top + y * height, width - 1, height - 1, GATES[CHOSEN_TILE], radius=1, stroke=0.7,
                thread=y * columns + x, m=ROWS * y, k=COLUMNS * x,
            )  # fmt: skip
    picture.outline(left + CHOSEN_X * width, top + CHOSEN_Y * height, width - 1, height - 1)
    for x in range(columns):
        chosen = x == CHOSEN_X
        picture.rectangle(left + x * width, top - 26, width - 1, 16, radius=1, stroke=0.7)
        if chosen:
            picture.outline(left + x * width, top - 26, width - 1, 16)
    for y in range(rows):
        picture.rectangle(left - 28, top + y * height, 18, height - 1, GATES[CHOSEN_TILE], radius=1, stroke=0.7)
        if y == CHOSEN_Y:
            picture.outline(left - 28, top + y * height, 18, height - 1)
    picture.text(left + columns * width + 10, top - 13, "h of one n", size=12)
    picture.text(20, top + 14, "da of", size=12)
    picture.text(20, top + 32, "one n", size=12)
    picture.text(left, top + rows * height + 18, f"{columns} × {rows} threads of a half hold the whole tile", size=12)
    m, k = ROWS * CHOSEN_Y, COLUMNS * CHOSEN_X
    thread = CHOSEN_Y * columns + CHOSEN_X
    picture.box(
        506,
        top - 26,
        274,
        60,
        f"thread {thread} (x = {CHOSEN_X}, y = {CHOSEN_Y})",
        [f"rows {m} to {m + ROWS - 1}, columns {k} to {k + COLUMNS - 1}"],
    )
    picture.lines(
        506, top + 60, [
            f"For each n it reads {ROWS} numbers of da and",
            f"{COLUMNS} of h, three times 16 bytes, and does",
            f"{ROWS} × {COLUMNS} = {ROWS * COLUMNS} multiply-adds in registers.",
        ],
    )  # fmt: skip
    picture.arrow(
        (left + (CHOSEN_X + 1) * width, top + CHOSEN_Y * height + 10),
        (470, top + CHOSEN_Y * height + 10),
        (470, top + 4),
        (506, top + 4),
    )


def _order(picture: Drawing, S: int) -> None:
    """Draw the order of additions."""
    y = 716
    picture.text(20, y + 4, "5  One order of additions", bold=True)
    steps = [
        (208, "n ascending", "in a thread"),
        (190, "half 0 + half 1", "in the block"),
        (240, f"split 0 + 1 + … + {S - 1}", "training/gradient_norm.cu"),
    ]
    x = 20.0
    for place, (width, heading, where) in enumerate(steps):
        picture.box(
            x, y + 16, width, 46, heading, [] if "." in where else [where], code=where if "." in where else "", size=12
        )
        if place < 2:
            picture.arrow((x + width, y + 39), (x + width + 36, y + 39))
        x += width + 36
