"""How long a training step should take on an H100: an estimate from machine code. No GPU was used.

    python tools/predict.py [--out benchmarks/results/prediction-h100.json]

The script estimates configuration (a), V84 H64 L2 B32 T32 in float32, by the resident kernels: with a cluster of two
blocks for each row, which the planner takes, and with one block for each row. Then it estimates (b), (c) and (d), as
predict_large.py says. This is a prediction that has to be compared with a measurement.

The kernels are compiled for sm_90 with source lines and disassembled (nvidia-cuda-nvdisasm). A phase of a kernel is
the instructions of some of its source lines in their order, with loops repeated as often as the algorithm says.
`Multiprocessor` runs the warps of a multiprocessor (SM) through them in order, clock by clock: a warp waits for its
stall counts and scoreboards (both from the code's control bits), a scheduler issues one instruction a clock, units are
busy as CLOCKS says, and barriers wait for the slowest warp. The following is assumed, from published figures
(arXiv 2402.13499, 2501.12084) except where (e) marks an estimate:

- 1.755 GHz; shared memory 29 clocks, SHFL 23, L2 263, DSMEM 180, block barrier 20, MUFU 8 clocks a warp;
  dependent FFMA 4 clocks (a stall count). A cluster barrier costs an L2 round trip. MUFU's result after 18 clocks (e),
  special registers and constants through LDC 30 (e).
- Everything that a step reads is in L2; no DRAM, no far partition. L1 never hits (e): a global load is 263 clocks.
- FFMA, FADD, FMUL issue each clock; integer and logic every second; double precision every second.
- Shared memory does a pass a clock for the whole SM: 1 for 32 bits a lane, 2 for 64, 2 for 128 (lanes n and n^1 share
  an address). Global accesses: 1, 2, 4; in the loading of `Rows`, whose 32 lanes touch 32 lines, 8 (e, four lines
  a clock; if it is one line a clock, loading costs four times as much).
- Copies ahead into shared memory (cp.async) have arrived when they are waited for, and so has what one block sends
  another.
- Both sides of every branch inside a phase are run, but slow paths of division and of shuffles never, and every `if` of
  a stage as that stage takes it. Phases do not overlap, and a kernel starts when the one before has ended.
- In weight_gradients the busiest SM has a tile of a product and two blocks of the embedding, whose busiest warp adds
  HITS rows of one character (e, 18 % of a split).
- A launch in a graph costs 1.3 us.
- Left out are: the cutting of windows and the reading of results (a training step has a 128th of each), instruction
  cache misses, clocks below 1.755 GHz, bank conflicts beyond the passes above, dropout.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import predict_large
from architectures import ARCHITECTURES
from listing import Listing
from machine_code import nvrtc_version
from multiprocessor import Multiprocessor, per_pass
from sass import Code, Instruction, disassemble, repeated, select, source_lines, within

from cuchar.config import ModelConfig
from cuchar.devices.kernel_sources import kernel_folder
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.resident import Resident
from cuchar.engines.cuda.tape import norm_blocks
from cuchar.engines.cuda.target import Window
from cuchar.parameters import parameter_count
from cuchar.sizes import ceil_div

HERTZ, LAUNCH_SECONDS = 1.755e9, 1.3e-6
MODEL, T, B, CAPABILITY = ModelConfig(84, 64, 2), 32, 32, 90
FLOOR = 18  # microseconds of a training step that latencies alone take, by an estimate
GOAL = 40  # microseconds of a training step that the design aims at
HITS = 23  # rows of the most common character in a split
CLUSTER_BARRIER = 263  # clocks of a barrier between the blocks of a cluster
DSMEM = 180  # clocks from one block of a cluster to the shared memory of another


@dataclass(frozen=True)
class Phase:
    """A phase of a kernel: a row of the result."""

    kernel: str
    phase: str
    instructions: int  # instructions of the busiest warp, each time that the phase is done
    clocks: int  # clocks of the phase, each time
    times: int = 1  # how often it is done

    @property
    def microseconds(self) -> float:
        return self.clocks * self.times / HERTZ * 1e6


def recurrence(code: Code, file: str, cluster: int) -> tuple[int, int]:
    """The recurrence's time step: the busiest warp's instructions and the clocks.

    The loop of `run`, which is looked for in the machine code, may do several time steps in one pass.
    """
    body = source_lines(file, r"^\s+run\(")
    project = source_lines(file, r"if \(!stage\.recurrent\) \{", body.start)
    fed = source_lines(file, r"if \(layer(?: < L - 1)?\) (?:\{|received|dh)", body.start)
    last_of_fed = (kernel_folder() / file).read_text("utf-8").splitlines()[fed.stop - 2]
    first_only = source_lines(file, r"\} else \{", fed.stop - 2) if last_of_fed.strip() == "} else {" else range(0)
    inside = [i for i in code.instructions if within(i, file, body)]
    loop = next(
        (first, last)
        for first, last in code.loops
        if sum(i.opcode.startswith("FFMA") and first <= i.address <= last for i in inside) >= 2 * 2 * MODEL.hidden
    )
    wait = source_lines("common/hardware.cuh", r"void mbarrier_wait\(")  # assumed to find the data at its first look
    too_early = range(source_lines("common/hardware.cuh", r"return;", wait.start).stop, wait.stop)
    everything = [
        i
        for i in code.instructions
        if loop[0] <= i.address <= loop[1] and not within(i, "common/hardware.cuh", too_early)
    ]
    calls = range(body.start, body.start + 1)

    def trace(*without: range, only: range | None = None) -> list[Instruction]:
        kept = []
        for i in everything:
            in_body = within(i, file, range(calls.stop, body.stop))
            if in_body and (any(within(i, file, other) for other in without) or (only and not within(i, file, only))):
                continue
            kept.append(i)
        return kept

    start, middle, end = trace(project, fed), trace(only=project), trace(project, first_only)
    idle = trace(body)
    for stage in (start, middle, end):
        if sum(i.opcode.startswith("FFMA") for i in stage) < 2 * MODEL.hidden:
            raise RuntimeError(f"expected the product of every stage of {file}, found it merged with another's")
    warps = ceil_div(MODEL.hidden, 16)
    if cluster == 1:
        blocks = [[start] * warps + [middle] * warps + [end] * warps]
    else:
        blocks = [[start] * warps + [middle] * warps, [end] * warps + [idle] * warps]
    steps = sum(i.opcode.startswith("BAR.SYNC") for i in idle)  # time steps in one pass of the unrolled loop
    return max(map(len, (start, middle, end))) // steps, round(max(per_pass([block]) for block in blocks) / steps)


def lstm_step(plan: Resident) -> list[Phase]:
    sizes = {"REAL": "float", "HIDDEN": MODEL.hidden, "LAYERS": MODEL.layers, "VOCABULARY": MODEL.vocabulary_size}
    own = {"CLUSTER": plan.cluster, "DROPOUT": 0, "SHARED_BYTES": plan.shared_bytes}
    code, name = disassemble("resident/lstm_resident.cu", sizes | own, CAPABILITY)["lstm_step"], "lstm_step"
    warps, delay = plan.threads // 32, 2 if plan.cluster == 1 else 1
    hand_over = 0 if plan.cluster == 1 else DSMEM
    phases = []
    for direction in ("forward", "backward"):
        file = f"resident/lstm_{direction}.cuh"
        body = source_lines(file, r"^\s+run\(")
        load = select(code, file, range(1, body.start))
        global_passes = 8 if direction == "forward" else 0
        clocks = Multiprocessor([[load] * warps], global_passes).run()
        phases.append(Phase(name, f"{direction}: weights into registers", len(load), clocks))
        instructions, clocks = recurrence(code, file, plan.cluster)
        phases.append(Phase(name, f"{direction}: a step", instructions, clocks, T + delay))
        if hand_over:
            phases.append(
                Phase(
                    name, f"{direction}: last step and hand-over of the second block", instructions, clocks + hand_over
                )
            )
    phases[len(phases) // 2 : len(phases) // 2] = head_phases(code, plan)
    if plan.cluster > 1:
        phases.append(Phase(name, "cluster barriers", 2, CLUSTER_BARRIER, 5))
    return phases


def head_phases(code: Code, plan: Resident) -> list[Phase]:
    """The phases of the head, on a tile of a row's T time steps. A warp without time steps is run like the others."""
    file, V, H = "resident/lstm_resident.cu", MODEL.vocabulary_size, MODEL.hidden
    each, warps, characters = (2 if plan.cluster > 1 else 3), plan.threads // 32, 32 * ceil_div(V, 32)

    def call(pattern: str) -> range:
        return source_lines(file, pattern)

    parts = (
        ("weights into shared memory", r"head_weights\.fetch", {}),
        ("h into shared memory", r"hidden\.fetch", {}),
        ("logits", r"^\s+add_logits\(", {"FFMA": each * characters // 32 * H}),
        ("softmax", r"^\s+finish_rows\(", {}),
        ("dh", r"for \(int v = 0; v < V; v \+= 4\)", {"FFMA": each * ceil_div(H, 32) * V}),
    )
    found = []
    for phase, pattern, counts in parts:
        trace = repeated(code, select(code, file, call(pattern)), counts)
        found.append(Phase("lstm_step", f"head: {phase}", len(trace), Multiprocessor([[trace] * warps]).run()))
    return found


def weight_gradients(plan: Resident) -> list[Phase]:
    sizes = {"REAL": "float", "HIDDEN": MODEL.hidden, "LAYERS": MODEL.layers, "VOCABULARY": MODEL.vocabulary_size}
    file, name = "resident/weight_gradients.cu", "weight_gradients"
    code = disassemble(file, sizes, CAPABILITY)[name]
    rows = ceil_div(T * B, plan.splits)
    tile = select(code, file, source_lines(file, r"return tile_product<4 \* H>\("))
    loop = next(
        (first, last)
        for first, last in code.loops
        if sum(i.opcode.startswith("FFMA") and first <= i.address <= last for i in tile) >= 16 * 16
    )
    before = [i for i in tile if i.address < loop[0]]
    inside = [i for i in tile if loop[0] <= i.address <= loop[1]]
    after = [i for i in tile if i.address > loop[1]]
    tile = before + inside * ceil_div(ceil_div(rows, 2), 16) + after
    embedding = source_lines(file, r"^\s+sum_rows_of_id\(")
    some = select(code, file, range(embedding.start, embedding.stop + 1))
    sums = [repeated(code, some, {"FADD": 8 * hits}) for hits in (HITS, 2, 2, 2, 2, 2, 2, 2)]
    clocks = Multiprocessor([[tile] * 8, sums]).run()
    return [Phase(name, "the busiest SM: a tile, eight characters", len(tile), clocks)]


def small(file: str, name: str, counts: dict[str, int], blocks: int, *without: str) -> Phase:
    """The only phase of a small kernel.

    Args:
        counts: as for `sass.repeated`.
        blocks: how many blocks are launched.
        without: patterns of statements that only another block, or another regime's training step, runs.
    """
    code = disassemble(file, {"REAL": "float"}, CAPABILITY)[name]
    others = [source_lines(file, other) for other in without]
    some = [i for i in code.instructions if not any(within(i, file, other) for other in others)]
    trace = repeated(code, some, counts)
    on_one = ceil_div(blocks, ARCHITECTURES[CAPABILITY].multiprocessors)
    return Phase(name, f"{on_one} blocks an SM", len(trace), Multiprocessor([[trace] * 8] * on_one).run())


def predict(plan: Resident) -> list[Phase]:
    """All phases of a training step, without the launches."""
    P = parameter_count(MODEL)
    squares, not_taken = norm_blocks(P), (r"if \(blockIdx\.x == blocks\)", r"if \(splits == 1\) \{")
    return [
        *lstm_step(plan),
        *weight_gradients(plan),
        small("training/gradient_norm.cu", "gradient_norm", {"LDG": plan.splits}, squares + 1, *not_taken),
        small("training/adam.cu", "adam", {"LDG": ceil_div(squares, 256)}, ceil_div(P, 256)),
    ]


def plans() -> dict[str, Resident]:
    """The plan that the planner makes, and the one that it would make without clusters."""
    target = Listing(ARCHITECTURES[CAPABILITY].example, ARCHITECTURES[CAPABILITY].limits).target(MODEL)
    own, other = plan_window(target, Window(T, B)), plan_window(target, Window(T, 4 * B))
    if not (isinstance(own, Resident) and isinstance(other, Resident) and (own.cluster, other.cluster) == (2, 1)):
        raise RuntimeError(f"expected plans with a cluster of 2 and with 1 block, found {own} and {other}")
    single = replace(other, splits=own.splits)
    return {"cluster of 2": own, "one block": single}


def result() -> dict:
    """The content of the result file."""
    forms = {}
    for form, plan in plans().items():
        phases = predict(plan)
        launches = len({phase.kernel for phase in phases})
        rows = [
            {
                "kernel": phase.kernel, "phase": phase.phase, "instructions_a_warp": phase.instructions,
                "clocks": phase.clocks, "times": phase.times, "us": round(phase.microseconds, 2),
            }
            for phase in phases
        ]  # fmt: skip
        rows.append(
            {"kernel": "launches", "phase": f"{launches} in a graph", "us": round(launches * LAUNCH_SECONDS * 1e6, 2)}
        )
        forms[form] = {"phases": rows, "us_a_step": round(sum(row["us"] for row in rows), 1)}
    return {
        "what": "a prediction to be confronted with a measurement; no GPU was used",
        "configuration": "V84 H64 L2 B32 T32 float32, a training step on an H100",
        "compiler": f"NVRTC {nvrtc_version()}",
        "floor_us": FLOOR,
        "goal_us": GOAL,
        "forms": forms,
        "larger": predict_large.results(),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    found = result()
    print(f"{found['what']}\n{found['configuration']}; {found['compiler']}")
    for form, content in found["forms"].items():
        print(f"\n{form:58}{'instructions':>13}{'clocks':>8}{'times':>6}{'us':>7}")
        for row in content["phases"]:
            numbers = [row.get(name, "") for name in ("instructions_a_warp", "clocks", "times")]
            print(
                f"{row['kernel'] + ', ' + row['phase']:58}{numbers[0]:>13}{numbers[1]:>8}{numbers[2]:>6}{row['us']:>7}"
            )
        print(f"{'a step, estimate':58}{content['us_a_step']:>34}   floor {FLOOR}, goal {GOAL}")
    for content in found["larger"]:
        print(f"\n{content['configuration']}, {content['regime']}")
        for part in content["parts"]:
            detail = ", ".join(f"{name} {part[name]}" for name in part if name not in ("kernel", "us"))
            print(f"  {part['kernel'] + (': ' if detail else '') + detail:100}{part['us']:>9}")
        print(
            f"  {'a step, estimate':100}{content['us_a_step']:>9}   floor {content['floor_us']}, goal {content['goal_us']}"
        )
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
