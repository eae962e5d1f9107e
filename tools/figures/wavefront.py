# ruff: noqa: RUF001
"""The wavefront of the resident regime: at which time step each stage is in each tick."""

from figures.drawing import Drawing

LAYERS, TIME_STEPS = 3, 6
STAGES = 2 * LAYERS - 1
TICKS = TIME_STEPS + STAGES - 1
HIGHLIGHTED = STAGES - 1  # the first tick at which every stage is busy
LEFT, CELL_WIDTH, CELL_HEIGHT, ACROSS, DOWN = 196, 44, 30, 58, 48
SUBSCRIPTS = "₀₁₂₃₄₅₆₇"


def time_step_at(stage: int, tick: int, backward: bool) -> int | None:
    """The time step at which a stage is in a tick, or None if it is idle.

    It has done `tick - stage` time steps before. Backward begins with the last time step.
    """
    done = tick - stage
    if not 0 <= done < TIME_STEPS:
        return None
    return TIME_STEPS - 1 - done if backward else done


def stage_name(stage: int, backward: bool) -> tuple[str, str]:
    """The short name and the matrix of a stage, which is counted in the order of its direction."""
    number = STAGES - 1 - stage if backward else stage
    recurrent, layer = number % 2 == 0, (number + 1) // 2
    matrix = ("W_hh" if recurrent else "W_ih") + ("ᵀ" if backward else "")
    return f"{'R' if recurrent else 'P'}{SUBSCRIPTS[layer]}", f"{matrix} of layer {layer}"


def wavefront() -> Drawing:
    busy = ", ".join(
        f"{stage_name(stage, False)[0]} at time step {time_step_at(stage, HIGHLIGHTED, False)}"
        for stage in range(STAGES)
    )
    picture = Drawing(
        800, 716, f"The wavefront over {LAYERS} layers and {TIME_STEPS} time steps",
        f"Two grids, forward and backward. Rows are the {STAGES} stages, the matrices in the order in which a "
        "character passes them; columns are ticks, each ended by a barrier of the block. Stage s is at time step t - "
        f"s while stage 0 is at time step t. At tick {HIGHLIGHTED} all stages are busy: {busy}. Forward takes {TICKS} "
        f"ticks where {STAGES} times {TIME_STEPS} products after each other would take {STAGES * TIME_STEPS}. "
        "Backward is the same with the stages and the time steps in the opposite order.",
    )  # fmt: skip
    _grid(picture, 36, backward=False)
    _grid(picture, 360, backward=True)
    _legend(picture, 676)
    return picture


def _grid(picture: Drawing, top: float, backward: bool) -> None:
    picture.text(20, top, "Backward: the last layer and the last time step first" if backward else "Forward", bold=True)
    picture.text(LEFT - 12, top + 28, "tick", anchor="end", size=12, faint=True)
    rows = top + 38
    left = LEFT + ACROSS * HIGHLIGHTED - 7
    picture.rectangle(left, top + 13, CELL_WIDTH + 14, DOWN * STAGES + 20, "ink-line", stroke=2, radius=6)
    for tick in range(TICKS):
        picture.text(
            LEFT + ACROSS * tick + CELL_WIDTH / 2,
            top + 28,
            str(tick),
            anchor="middle",
            size=12,
            bold=tick == HIGHLIGHTED,
        )
    for stage in range(STAGES):
        y, (name, matrix) = rows + DOWN * stage, stage_name(stage, backward)
        picture.text(20, y + 20, name, bold=True, size=14)
        picture.text(50, y + 20, matrix, size=12)
        for tick in range(TICKS):
            _cell(picture, stage, tick, y, backward)


def _cell(picture: Drawing, stage: int, tick: int, y: float, backward: bool) -> None:
    """Draw one tick of one stage, and the arrows to what needs its result."""
    x, t = LEFT + ACROSS * tick, time_step_at(stage, tick, backward)
    if t is None:
        picture.rectangle(x, y, CELL_WIDTH, CELL_HEIGHT, "faint-line", stroke=0.6, dashed=True)
        return
    recurrent = stage % 2 == 0
    direction = "backward" if backward else "forward"
    picture.rectangle(
        x, y, CELL_WIDTH, CELL_HEIGHT, "recurrent" if recurrent else "projection", direction=direction, stage=stage,
        tick=tick, t=t,
    )  # fmt: skip
    picture.text(x + CELL_WIDTH / 2, y + 20, f"t={t}", anchor="middle", bold=tick == HIGHLIGHTED)
    if recurrent and time_step_at(stage, tick + 1, backward) is not None:
        picture.arrow((x + CELL_WIDTH, y + 15), (x + ACROSS, y + 15), stroke=1.2, head=6)
    if stage + 1 < STAGES:
        picture.arrow((x + CELL_WIDTH - 2, y + CELL_HEIGHT), (x + ACROSS + 3, y + DOWN), stroke=1.2, head=6)


def _legend(picture: Drawing, y: float) -> None:
    picture.rectangle(20, y - 14, 26, 18, "recurrent")
    picture.text(54, y, "R: recurrent matrix, and the cell")
    picture.rectangle(300, y - 14, 26, 18, "projection")
    picture.text(334, y, "P: a layer's input projection")
    picture.arrow((560, y - 5), (586, y - 5), stroke=1.2, head=6)
    picture.text(594, y, "needs this one's result")
    picture.text(
        20,
        y + 26,
        f"One barrier of the block ends a tick. {TICKS} ticks instead of {STAGES} × {TIME_STEPS} = {STAGES * TIME_STEPS} products after each other.",
    )
