# ruff: noqa: RUF001
"""The persistent regime: which block has which rows, stage and units, as the planner divides them, and what travels."""

from architectures import ARCHITECTURES
from figures.drawing import Drawing
from figures.wavefront import SUBSCRIPTS
from listing import Listing

from cuchar.config import ModelConfig
from cuchar.engines.cuda.persistent import Division, plan_window
from cuchar.engines.cuda.target import Window

MODEL, TIME_STEPS, BATCH = ModelConfig(68, 512, 2), 50, 50  # the sizes of a char-rnn run, but with 512 units
H100 = Listing("H100", ARCHITECTURES[90].limits)
BLOCK = (0, 2, 7)  # the block that is enlarged: group, stage, number
LEFT = 20


def division() -> Division:
    """The division of the backward launch, in which a group's rows are divided into parts."""
    plan = plan_window(H100.target(MODEL), Window(TIME_STEPS, BATCH))
    if plan is None:
        raise ValueError("expected a model of the persistent regime")
    return plan.backward


def rows_of(part: int, parts: int) -> range:
    """The batch rows of a part, as persistent.cuh divides them; parts are counted over all groups."""
    return range(BATCH * part // parts, BATCH * (part + 1) // parts)


def stage_of(stage: int) -> tuple[str, str, str]:
    """The name, matrix and colour of a stage, which is counted in the order of backward."""
    layer, recurrent = MODEL.layers - 1 - stage // 2, stage % 2 == 0
    name, matrix, kind = ("R", "W_hh", "recurrent") if recurrent else ("P", "W_ih", "projection")
    return f"{name}{SUBSCRIPTS[layer]}", f"{matrix}ᵀ of layer {layer}", kind


def persistent_grid() -> Drawing:
    divided, H = division(), MODEL.hidden
    stages, blocks = 2 * MODEL.layers - 1, -(-H // divided.units)
    names = ", ".join(stage_of(stage)[0] for stage in range(stages))
    picture = Drawing(
        800, 800, f"The persistent grid: {divided.blocks} blocks for {MODEL.layers} layers of {H} units",
        f"The backward launch for a batch of {BATCH}, {MODEL.layers} layers of {H} units in fp32, as the planner "
        f"divides it on an H100. The batch rows are {divided.groups} groups that never meet. In each group every one "
        f"of the {stages} stages, {names}, is {blocks} blocks of {divided.units} units: together {divided.blocks} "
        "blocks, one a multiprocessor. A block keeps its units' columns of the stage's matrix in registers for the "
        f"whole window. A group's rows are {divided.parts} parts of at most {divided.rows} rows, which take turns. "
        "Below: in a block, da of a part's rows is copied from the tape into shared memory and multiplied by the "
        "weights; the cell's results go to the tape. Then the block adds one to the flag of its stage and part. A "
        f"block may begin a time step of a part once that flag of its own stage counts {blocks} blocks for the time "
        "step before, and the flag of the stage before it counts them for this one.",
    )  # fmt: skip
    _batch(picture, divided)
    _grid(picture, divided, stages, blocks)
    _block(picture, divided, stages, blocks)
    _turns(picture, divided, stages, blocks)
    return picture


def _batch(picture: Drawing, divided: Division) -> None:
    """Draw the batch rows, divided into groups and parts."""
    picture.text(
        LEFT,
        26,
        f"{BATCH} batch rows: {divided.groups} groups, each of {divided.parts} parts that take turns",
        bold=True,
    )
    parts, gap = divided.groups * divided.parts, 10
    each = (760 - gap * (divided.groups - 1)) / BATCH
    for part in range(parts):
        rows, group = rows_of(part, parts), part // divided.parts
        x, width = LEFT + each * rows.start + gap * group, each * len(rows)
        label = f"part {part % divided.parts}: rows {rows.start} to {rows[-1]}"
        picture.rectangle(x + 1, 40, width - 2, 28, part=part, rows=len(rows))
        picture.text(x + width / 2, 59, label, anchor="middle", size=12)
    for group in range(divided.groups):
        first, last = rows_of(group * divided.parts, parts).start, rows_of((group + 1) * divided.parts - 1, parts).stop
        x0, x1 = LEFT + each * first + gap * group, LEFT + each * last + gap * group
        picture.bracket(x0 + 1, x1 - 1, 80, -6)
        picture.text((x0 + x1) / 2, 98, f"group {group}", anchor="middle", bold=True)


def _grid(picture: Drawing, divided: Division, stages: int, blocks: int) -> None:
    """Draw every block of the launch."""
    H = MODEL.hidden
    picture.text(
        LEFT,
        138,
        f"{divided.blocks} blocks on {H100.limits.multiprocessors} multiprocessors: {divided.groups} groups × {stages} stages × "
        f"{blocks} blocks of {divided.units} units",
        bold=True,
    )
    left, gap, top, down = 158, 18, 156, 46
    across = (780 - left - gap * (divided.groups - 1)) / divided.groups
    each = across / blocks
    for stage in range(stages):
        name, matrix, kind = stage_of(stage)
        y = top + down * stage
        picture.text(LEFT, y + 21, name, bold=True, size=14)
        picture.text(LEFT + 28, y + 21, matrix, size=12)
        for group in range(divided.groups):
            for block in range(blocks):
                chosen = (group, stage, block) == BLOCK
                x = left + (across + gap) * group + each * block
                picture.rectangle(
                    x + 1, y, each - 2, 32, kind, radius=2, stroke=1, group=group, stage=stage, block=block
                )
                if chosen:
                    picture.outline(x + 1, y, each - 2, 32)
    for group in range(divided.groups):
        x = left + (across + gap) * group + 1
        picture.text(x, top + down * stages + 6, f"group {group}", size=12, faint=True)
    last = H % divided.units or divided.units
    picture.text(
        780, top + down * stages + 6, f"the last block of a stage has {last} units", anchor="end", size=12, faint=True
    )
    x = left + (across + gap) * BLOCK[0] + each * (BLOCK[2] + 0.5)
    y = top + down * BLOCK[1] + 33
    picture.line((x, y), (x, top + down * stages + 28), kind="ink")


def _block(picture: Drawing, divided: Division, stages: int, blocks: int) -> None:
    """Draw one block and the tape."""
    name, matrix, kind = stage_of(BLOCK[1])
    first, top = divided.units * BLOCK[2], 322
    picture.rectangle(LEFT, top, 520, 184, "ink-line", stroke=2, radius=6)
    picture.text(
        LEFT + 14,
        top + 24,
        f"Block {BLOCK[2]} of {name}, group {BLOCK[0]}: units {first} to {first + divided.units - 1}",
        bold=True,
    )
    inputs = 4 * MODEL.hidden
    each = inputs * divided.units // divided.threads
    picture.box(
        LEFT + 14,
        top + 40,
        220,
        74,
        "shared memory",
        [f"a part's da: {divided.rows} rows", f"of 4H = {inputs} numbers"],
    )
    picture.box(
        LEFT + 276, top + 40, 230, 74, "registers, for the window",
        [f"{matrix}: {inputs} × {divided.units}", f"{divided.threads} threads, {each} weights each"], kind=kind,
    )  # fmt: skip
    picture.arrow((LEFT + 234, top + 77), (LEFT + 276, top + 77))
    picture.lines(
        LEFT + 14, top + 142, [
            "For each time step and part: wait, copy, multiply, store, signal.",
            "All blocks run at once: the launch is cooperative.",
        ],
    )  # fmt: skip
    picture.rectangle(608, top, 172, 184, "plain", radius=6)
    picture.text(694, top + 24, "global memory (L2)", anchor="middle", bold=True)
    picture.box(622, top + 40, 144, 56, "tape", ["each t has its place"], size=12, kind="page")
    picture.box(622, top + 112, 144, 56, "flags", ["one a stage and part"], size=12, kind="page")
    picture.arrow((622, top + 60), (540, top + 60))
    picture.text(574, top + 54, "da, dh", anchor="middle", size=12)
    picture.arrow((540, top + 84), (622, top + 84))
    picture.text(574, top + 100, "da", anchor="middle", size=12)
    picture.arrow((622, top + 132), (540, top + 132))
    picture.text(574, top + 126, "wait", anchor="middle", size=12)
    picture.arrow((540, top + 156), (622, top + 156))
    picture.text(574, top + 172, "signal", anchor="middle", size=12)


def _turns(picture: Drawing, divided: Division, stages: int, blocks: int) -> None:
    """Draw which part each stage of a group works on, and what it waits for."""
    top, left, across, down, width = 576, 76, 92, 62, 76
    shown = 7
    picture.text(
        LEFT,
        top - 24,
        f"Group 0: its {divided.parts} parts take turns in every stage (a scheme, not to scale)",
        bold=True,
    )
    for stage in range(stages):
        name, _, kind = stage_of(stage)
        y = top + down * stage
        picture.text(LEFT, y + 24, name, bold=True, size=14)
        for i in range(shown - stage):
            x = left + across * (i + stage)
            step, part = divmod(i, divided.parts)
            picture.rectangle(x, y, width, 38, kind, item=i, turn=stage, part=part, done=step)
            picture.text(x + width / 2, y + 16, f"t=T−{step + 1}", anchor="middle", size=12, bold=True)
            picture.text(x + width / 2, y + 32, f"part {part}", anchor="middle", size=12)
            if stage + 1 < stages and i + stage + 1 < shown:
                picture.arrow((x + width - 4, y + 38), (x + across + 4, y + down), stroke=1.2, head=6)
    x0, x1 = left + width / 2, left + across * divided.parts + width / 2
    picture.arrow((x0, top), (x0, top - 12), (x1, top - 12), (x1, top), stroke=1.2, head=6)
    y = top + down * stages + 6
    picture.lines(
        LEFT, y, [
            f"Down: this time step of the stage before, all {blocks} blocks of it. Above: the time step before of the same stage and part.",
            f"What is handed over lies on the tape, {divided.flags // 32} flags count who is done, and no time step waits for readers of another.",
        ], size=12,
    )  # fmt: skip
