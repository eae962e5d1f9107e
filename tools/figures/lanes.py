# ruff: noqa: RUF001
"""Figures of which lane of a warp holds what: in fragments for tensor cores, and in the resident regime's slices."""

from collections.abc import Callable

from figures.drawing import Drawing

from cuchar.sizes import ceil_div

GATES = "ifgo"

# ---- Fragments: kernels/common/hardware.cuh ----

A_ROWS, WORDS, B_COLUMNS = 16, 8, 8
CHOSEN = 6  # the lane whose numbers are outlined
CELL_WIDTH, CELL_HEIGHT, GAP = 38, 21, 8


def lane_of_a(row: int, word: int) -> tuple[int, int]:
    """The lane, and its register, that hold a word of A."""
    return 4 * (row % 8) + word % 4, 2 * (word // 4) + row // 8


def lane_of_b(word: int, column: int) -> tuple[int, int]:
    """The lane, and its register, that hold a word of B."""
    return 4 * column + word % 4, word // 4


def lane_of_d(row: int, column: int) -> tuple[int, int]:
    """The lane, and its register, that hold a number of D."""
    return 4 * (row % 8) + column // 2, 2 * (row // 8) + column % 2


def held(rows: int, columns: int, lane_of: Callable[[int, int], tuple[int, int]]) -> list[tuple[int, int]]:
    """The rows and columns of a matrix's elements that the chosen lane holds, in the order of its registers."""
    places = [(row, column) for row in range(rows) for column in range(columns) if lane_of(row, column)[0] == CHOSEN]
    return sorted(places, key=lambda place: lane_of(*place)[1])


def fragment_lanes() -> Drawing:
    a, b, d = held(A_ROWS, WORDS, lane_of_a), held(WORDS, B_COLUMNS, lane_of_b), held(A_ROWS, B_COLUMNS, lane_of_d)

    def list_of(places: list[tuple[int, int]]) -> str:
        return " ".join(f"({row}, {column})" for row, column in places)

    picture = Drawing(
        800, 694, "Which lane holds what in a product of the tensor cores",
        "D, 16 by 8, grows by A, 16 by K, times B, K by 8, computed by the 32 lanes of a warp. K is 8 words of 32 "
        "bits: 8 Tf32 numbers, or 16 of bf16 or fp16, two in a word. Each cell shows the lane that holds it. With "
        "quad = lane / 4 and member = lane % 4, a lane has A's words (quad, member), (quad + 8, member), (quad, "
        "member + 4) and (quad + 8, member + 4); B's words (member, quad) and (member + 4, quad); and D's numbers "
        f"(quad, 2 member), (quad, 2 member + 1), (quad + 8, 2 member) and (quad + 8, 2 member + 1). Lane {CHOSEN} is "
        f"outlined: in A {list_of(a)}, in B {list_of(b)}, in D {list_of(d)}. In the forward kernel of the persistent "
        "regime the rows of A are the gates i, f, g and o of four units.",
    )  # fmt: skip
    picture.text(20, 28, "D [16,8] += A [16,K] · B [K,8], by one warp", bold=True, size=14)
    picture.lines(
        20, 56, [
            "A cell shows the lane that holds it.", "K is 8 words of 32 bits: 8 Tf32 numbers, or",
            "16 of bf16 or fp16, two in a word.", "quad = lane / 4,  member = lane % 4",
        ],
    )  # fmt: skip
    picture.text(20, 146, f"Lane {CHOSEN}, outlined, holds these (row, column)", bold=True)
    picture.text(20, 168, f"A  a[0..3]: {list_of(a)}", code=True, size=12)
    picture.text(20, 188, f"B  b[0..1]: {list_of(b)}", code=True, size=12)
    picture.text(20, 208, f"D  d[0..3]: {list_of(d)}", code=True, size=12)
    left, right, top = 72, 442, 290
    _fragment_b(picture, right, 40)
    _fragment_a(picture, left, top)
    _fragment_d(picture, right, top)
    picture.text(
        20, 678, "As the persistent regime uses it: A, weights of 4 units, stays in registers; B is h of 8 batch rows; D their sums.",
        size=12,
    )  # fmt: skip
    return picture


def _cell(picture: Drawing, x: float, y: float, kind: str, lane: int, **facts: object) -> None:
    picture.rectangle(x, y, CELL_WIDTH - 2, CELL_HEIGHT - 2, kind, radius=2, stroke=0.8, lane=lane, **facts)
    if lane == CHOSEN:
        picture.outline(x, y, CELL_WIDTH - 2, CELL_HEIGHT - 2)
    picture.text(x + CELL_WIDTH / 2 - 1, y + 14, str(lane), anchor="middle", size=12, bold=lane == CHOSEN)


def _fragment_a(picture: Drawing, left: float, top: float) -> None:
    picture.text(20, top - 34, "A: 16 outputs × 8 words of k", bold=True)
    for half, (above, below) in enumerate((("a[0]", "a[1]"), ("a[2]", "a[3]"))):
        x0 = left + half * (4 * CELL_WIDTH + GAP)
        middle, bottom = x0 + 2 * CELL_WIDTH, top + A_ROWS * CELL_HEIGHT + GAP
        picture.text(middle, top - 10, f"words {4 * half} to {4 * half + 3}: {above}", anchor="middle", size=12)
        picture.text(middle, bottom + 14, below, anchor="middle", size=12)
    for row in range(A_ROWS):
        y, gate = top + row * CELL_HEIGHT + row // 8 * GAP, GATES[row % 4]
        picture.text(left - 30, y + 14, str(row), anchor="end", size=12, faint=True)
        picture.text(left - 14, y + 14, gate, anchor="middle", size=13, bold=True)
        for word in range(WORDS):
            lane, register = lane_of_a(row, word)
            _cell(
                picture,
                left + word * CELL_WIDTH + word // 4 * GAP,
                y,
                gate,
                lane,
                operand="a",
                row=row,
                column=word,
                register=register,
            )


def _fragment_b(picture: Drawing, left: float, top: float) -> None:
    picture.text(left, top - 12, "B: 8 words of k × 8 columns", bold=True)
    for word in range(WORDS):
        y = top + word * CELL_HEIGHT + word // 4 * GAP
        picture.text(left - 8, y + 14, str(word), anchor="end", size=12, faint=True)
        for column in range(B_COLUMNS):
            lane, register = lane_of_b(word, column)
            _cell(
                picture,
                left + column * CELL_WIDTH,
                y,
                "plain",
                lane,
                operand="b",
                row=word,
                column=column,
                register=register,
            )
    for half in range(2):
        y = top + half * (4 * CELL_HEIGHT + GAP)
        picture.text(left + B_COLUMNS * CELL_WIDTH + 6, y + 46, f"b[{half}]", size=12)


def _fragment_d(picture: Drawing, left: float, top: float) -> None:
    picture.text(left, top - 34, "D: 16 outputs × 8 columns", bold=True)
    picture.text(left, top - 10, "even columns d[0], d[2];  odd columns d[1], d[3]", size=12)
    for row in range(A_ROWS):
        y, gate = top + row * CELL_HEIGHT + row // 8 * GAP, GATES[row % 4]
        picture.text(left - 24, y + 14, str(row), anchor="end", size=12, faint=True)
        picture.text(left - 11, y + 14, gate, anchor="middle", size=13, bold=True)
        for column in range(B_COLUMNS):
            lane, register = lane_of_d(row, column)
            _cell(
                picture,
                left + column * CELL_WIDTH,
                y,
                gate,
                lane,
                operand="d",
                row=row,
                column=column,
                register=register,
            )


# ---- Slices: kernels/resident/matvec.cuh ----

HIDDEN = 64
SLICE = 4 * ceil_div(ceil_div(HIDDEN, 2), 4)
STRIDE = SLICE + (0 if SLICE // 4 % 2 else 4)
SLICE_LANE = 5  # the lane whose numbers are outlined


def rows_lane(unit: int, half: int) -> int:
    """In forward, the lane of warp 0 that holds the four gates of `unit` for this half of K."""
    return unit % 16 + 16 * half


def columns_lane(gate: int, half: int, four: int) -> int:
    """In backward, the lane of warp 0 that holds outputs 4 * four to 4 * four + 3 for this half of a gate's units."""
    return 8 * gate + 4 * half + four


def unit_of(lane: int) -> int:
    """In backward, the unit of warp 0 whose whole sum the lane has after three shuffles."""
    return 4 * (lane % 4) + (2 if lane & 16 else 0) + (1 if lane & 8 else 0)


def slices() -> Drawing:
    picture = Drawing(
        800, 900, f"Which lane holds what of a row's slice, for H = {HIDDEN}",
        "Two pictures of warp 0. Forward, Rows: W, 4H by H, times h. A lane has the four gates i, f, g and o of one "
        f"unit and half of K, {SLICE} numbers; lanes 0 to 15 the first half, lanes 16 to 31 the second. Lanes 16 "
        "apart exchange halves of sums: the low lane then has the sums of i and g, the high one those of f and o. "
        "Backward, Columns: W transposed, H by 4H, times da. A lane has four outputs and half of one gate's units: "
        "lane / 4 is its slice of da, lane % 4 its four outputs. Three exchanges, with the lanes 16, 8 and 4 away, "
        "leave the whole sum of a unit in two lanes that are 4 apart.",
    )  # fmt: skip
    _rows(picture)
    _columns(picture)
    return picture


def _rows(picture: Drawing) -> None:
    picture.text(20, 28, "Forward, Rows: W [4H,H] times h", bold=True, size=14)
    picture.text(
        20,
        50,
        f"A lane of warp 0 has the 4 gates of one unit, and half of K: 4 × {SLICE} weights. A cell shows the lane.",
    )
    left, top, width, height, gap = 76, 126, 76, 18, 14
    other = SLICE_LANE + 16
    for gate, name in enumerate(GATES):
        x0 = left + gate * (2 * width + gap + 8)
        picture.text(x0 + width, top - 38, f"gate {name}", anchor="middle", bold=True)
        for half in range(2):
            x = x0 + half * (width + 4)
            picture.text(
                x + width / 2, top - 14, f"k {half * SLICE}–{half * SLICE + SLICE - 1}", anchor="middle", size=12
            )
            for unit in range(16):
                y, lane = top + unit * height, rows_lane(unit, half)
                picture.rectangle(
                    x, y, width, height - 2, name, radius=2, stroke=0.8, product="rows", gate=gate, half=half,
                    unit=unit, lane=lane,
                )  # fmt: skip
                chosen = lane in (SLICE_LANE, other)
                if chosen:
                    picture.outline(x, y, width, height - 2)
                picture.text(x + width / 2, y + 12.5, str(lane), anchor="middle", size=12, bold=chosen)
    picture.text(20, top - 14, "unit", size=12, faint=True)
    for unit in range(16):
        picture.text(44, top + unit * height + 12.5, str(unit), anchor="end", size=12, faint=True)
    y = top + 16 * height + 14
    picture.box(left, y + 8, 250, 48, f"lane {SLICE_LANE}", ["sums of i and g over all of k"])
    picture.box(left + 410, y + 8, 270, 48, f"lane {other}", ["sums of f and o;  c and h of the unit"])
    picture.arrow((left + 250, y + 22), (left + 410, y + 22))
    picture.arrow((left + 410, y + 42), (left + 250, y + 42))
    picture.text(left + 330, y + 16, "halves of f and o", anchor="middle", size=12)
    picture.text(left + 330, y + 58, "halves of i and g", anchor="middle", size=12)
    picture.text(
        20, y + 84, f"In shared memory the slices of h begin {STRIDE} numbers apart: both halves of a warp read at once, from different banks.", size=12,
    )  # fmt: skip


def _columns(picture: Drawing) -> None:
    top, left, width, height = 636, 250, 118, 21
    picture.text(20, 558, "Backward, Columns: W transposed, [H,4H], times da", bold=True, size=14)
    picture.text(
        20,
        580,
        f"A lane of warp 0 has 4 outputs, and half of one gate's units: 4 × {SLICE} weights. A cell shows the lane.",
    )
    picture.text(238, top - 12, "slice of da", anchor="end", size=12)
    for four in range(4):
        picture.text(
            left + four * (width + 4) + width / 2,
            top - 12,
            f"outputs {4 * four}–{4 * four + 3}",
            anchor="middle",
            size=12,
        )
    for gate, name in enumerate(GATES):
        for half in range(2):
            y = top + (2 * gate + half) * height
            units = f"units {half * SLICE}–{half * SLICE + SLICE - 1}"
            picture.text(120, y + 14, name, bold=True)
            picture.text(238, y + 14, units, anchor="end", size=12)
            for four in range(4):
                x, lane = left + four * (width + 4), columns_lane(gate, half, four)
                picture.rectangle(
                    x, y, width, height - 2, name, radius=2, stroke=0.8, product="columns", gate=gate, half=half,
                    four=four, lane=lane,
                )  # fmt: skip
                if lane == SLICE_LANE:
                    picture.outline(x, y, width, height - 2)
                picture.text(x + width / 2, y + 14, str(lane), anchor="middle", size=12, bold=lane == SLICE_LANE)
    _exchanged(picture, top + 8 * height + 8)


def _exchanged(picture: Drawing, y: float) -> None:
    """Draw which lanes have each unit's whole sum in the end."""
    each = 43
    picture.text(20, y + 16, "Three exchanges, with the lanes 16, 8 and 4 away, leave a unit's whole sum in two lanes that are 4 apart.", size=12)  # fmt: skip
    y += 28
    picture.text(20, y + 16, "unit", size=12, faint=True)
    picture.text(20, y + 40, "lanes", size=12, faint=True)
    for unit in range(16):
        lanes = [lane for lane in range(32) if unit_of(lane) == unit]
        x = 72 + each * unit
        picture.text(x + each / 2, y + 16, str(unit), anchor="middle", size=12, faint=True)
        picture.rectangle(
            x, y + 24, each - 3, 22, radius=2, stroke=0.8, product="sums", unit=unit, lanes=" ".join(map(str, lanes))
        )
        if SLICE_LANE in lanes:
            picture.outline(x, y + 24, each - 3, 22)
        picture.text(
            x + each / 2 - 1.5, y + 39, ",".join(map(str, lanes)), anchor="middle", size=12, bold=SLICE_LANE in lanes
        )
