"""Configurations (b), (c) and (d) on an H100: an estimate. predict.py prints it; no GPU was used.

The recurrence of the persistent regime is simulated clock by clock from its machine code, as predict.py says. An item
(one part at one time step) is the kernel's outer loop, with the loops in it repeated as often as the sizes say, as a
recurrent stage runs them. Everything around the recurrence, and the stepwise regime, is arithmetic over operations,
bytes and launches. The following is assumed, from published figures (arXiv 2402.13499, 2501.12084) except where (e)
marks an estimate:

- L2 gives 3942 B a clock to all multiprocessors together. Every block of a stage reads the stage's rows of h (forward)
  or of da (backward), which is called `traffic`. Nothing hides that.
- Results need TRAVEL clocks (e) from one block's stores to another's copies: a release, an acquire and two round trips
  to L2. Parts that take turns hide this. A stage is behind the stage before it by one item and this time.
- cuBLAS reaches 80 % (e) of 67 TFLOP/s in fp32 and 70 % (e) of the tensor cores' peak, and reads its operands from L2.
  Operands in bf16 are rounded before, which moves 6 bytes for each number.
- Sums, the head's softmax, rounding, norm and Adam move their bytes at 3 TB/s. A launch takes 1.3 us on the GPU, and
  5 us (e) in Python, since no graph contains a library's products; a training step takes the longer of both.
"""

from dataclasses import dataclass

from architectures import ARCHITECTURES
from listing import Listing
from multiprocessor import per_pass
from sass import Code, Instruction, disassemble, source_lines, within

from cuchar.config import ModelConfig
from cuchar.engines.cuda.head import one_pass_head
from cuchar.engines.cuda.persistent import Division, Persistent
from cuchar.engines.cuda.regimes import plan_window
from cuchar.engines.cuda.target import Window
from cuchar.parameters import parameter_count
from cuchar.sizes import ceil_div

HERTZ, CAPABILITY = 1.755e9, 90
L2_BYTES = 3942  # bytes that L2 gives in a clock
TRAVEL = 1500  # clocks from one block's stores to another's copies
FLOPS = {"fp32": 67e12 * 0.8, "tf32": 495e12 * 0.7, "bf16": 989e12 * 0.7}  # in a second
OPERAND_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}
MEMORY_BYTES = 3e12  # bytes that memory moves in a second
LAUNCH, PYTHON = 1.3e-6, 5e-6  # seconds of a launch: on the GPU, in Python


@dataclass(frozen=True)
class Configuration:
    name: str
    model: ModelConfig
    T: int
    B: int
    precision: str
    floor_us: int
    goal_us: int


CONFIGURATIONS = [
    Configuration("b", ModelConfig(68, 512, 2), 50, 50, "fp32", 710, 950),
    Configuration("b", ModelConfig(68, 512, 2), 50, 50, "tf32", 180, 400),
    Configuration("b", ModelConfig(68, 512, 2), 50, 50, "bf16", 180, 250),
    Configuration("c", ModelConfig(68, 1024, 2), 128, 128, "bf16", 1900, 2700),
    Configuration("d", ModelConfig(68, 2048, 1), 256, 128, "bf16", 4900, 6000),
]


def item_trace(code: Code, launch: Division, inputs: int, precision: str, fetched: int) -> list[Instruction]:
    """The instructions of one item, as a recurrent stage above the first layer runs them.

    That is one pass of the kernel's outer loop, with the loops in it repeated.

    Args:
        inputs: columns of the stage's matrix.
        fetched: numbers that are copied for each unit and row in one loop, which the compiler may have unrolled.
    """

    def count(loop: tuple[int, int], *opcodes: str) -> int:
        return sum(i.opcode.startswith(opcodes) for i in inside(code, loop))

    outer = max(code.loops, key=lambda loop: count(loop, "BAR"))
    inner = [loop for loop in code.loops if outer[0] < loop[0] and loop[1] < outer[1]]
    product = max(inner, key=lambda loop: count(loop, "HMMA") or count(loop, "FFMA"))
    rows_of_block = source_lines("persistent/persistent.cuh", r"void fetch_rows\(")
    copying = {
        loop: count(loop, "LDGSTS")
        for loop in inner
        if all(
            within(i, "persistent/persistent.cuh", rows_of_block)
            for i in inside(code, loop)
            if i.opcode.startswith("LDGSTS")
        )
        and count(loop, "LDGSTS")
    }
    copies, most = ceil_div(launch.rows * inputs // 4, launch.threads), max(copying.values())
    trips = ceil_div(launch.rows, launch.threads // launch.units)  # rows of a thread
    times = {}
    for loop in inner:
        many = count(loop, "LDGSTS")
        if loop == product:
            times[loop] = ceil_div(launch.rows, 2 if precision == "fp32" else 8)
        elif loop in copying:  # the one with the most copies is the unrolled loop, the others do what it leaves over
            times[loop] = ceil_div(copies, most) if many == most else 0
        elif many:  # copies from the first layer's table, by ids, which this stage does not do, or from the tape
            times[loop] = 0 if count(loop, "LD.E", "LDG.") else trips // (many // fetched or many)
        else:  # with MUFU it is the cell's, which a recurrent stage runs; without, a projection's
            times[loop] = trips if count(loop, "MUFU") else 0
    trace, done = [], set()
    for i in inside(code, outer):
        loop = next((loop for loop in times if loop[0] <= i.address <= loop[1]), None)
        if loop is None:
            trace.append(i)
        elif loop not in done:
            done.add(loop)
            trace += inside(code, loop) * times[loop]
    return trace


def inside(code: Code, loop: tuple[int, int]) -> list[Instruction]:
    return [i for i in code.instructions if loop[0] <= i.address <= loop[1]]


def recurrence(sizes: Configuration, plan: Persistent) -> list[dict]:
    """For the forward and the backward launch: clocks of an item, bytes of rows that are fetched, microseconds."""
    model, T, H, stages = sizes.model, sizes.T, sizes.model.hidden, 2 * sizes.model.layers - 1
    macros = {"REAL": "float", "HIDDEN": H, "LAYERS": model.layers, "VOCABULARY": model.vocabulary_size, "DROPOUT": 0}
    if sizes.precision != "fp32":
        macros["PRECISION"] = sizes.precision.capitalize()
    found = []
    for kernel, launch, inputs, fetched in (
        ("persistent_forward", plan.forward, H, 5),
        ("persistent_backward", plan.backward, 4 * H, 6),
    ):
        code = disassemble(f"persistent/{kernel}.cu", macros | launch.macros, CAPABILITY)[kernel]
        trace = item_trace(code, launch, inputs, sizes.precision, fetched)
        clocks = per_pass([[trace] * (launch.threads // 32)], 2, 4)
        traffic = 4 * inputs * sizes.B * launch.blocks // launch.groups  # bytes of a time step
        item = clocks + traffic / launch.parts / L2_BYTES
        exposed = max(0, TRAVEL - (launch.parts - 1) * item)  # clocks of TRAVEL that no other part hides, a time step
        weights = launch.units * 4 * H * 4 * launch.blocks / L2_BYTES
        total = weights + T * (launch.parts * item + exposed) + (stages - 1) * (item + TRAVEL)
        found.append(
            {
                "kernel": kernel, "instructions_a_warp": len(trace), "clocks_an_item": round(clocks),
                "items": T * launch.parts, "traffic_mb_a_step": round(traffic / 1e6, 1),
                "us": round(total / HERTZ * 1e6, 1),
            }
        )  # fmt: skip
    return found


def gemm_us(precision: str, M: int, N: int, K: int) -> float:
    bytes_ = OPERAND_BYTES[precision] * (M * K + K * N) + 4 * M * N
    return max(2 * M * N * K / FLOPS[precision], bytes_ / L2_BYTES / HERTZ) * 1e6


def launches_and_rounded(model: ModelConfig, T: int, B: int, precision: str, persistent: bool) -> tuple[int, int]:
    """How many launches and products a training step has on a GPU, and how many numbers are rounded between them."""
    H, L, V, N = model.hidden, model.layers, model.vocabulary_size, T * B
    one_pass = precision == "fp32" and one_pass_head(model, 4)
    products = 2 * L + 1 + (not one_pass)
    rounds, rounded = 2 * 3 + 3 * L - 1, 2 * (N * H + V * H + N * V) + L * 5 * N * H + (L - 1) * N * H
    others = 6 + L + 2  # begin_window, head.cu or softmax.cu, sums, norm and Adam; and two launches of the recurrence
    if not persistent:
        others += L * 2 * T - 2
        products += L * (2 * T - 1) + 2 * (L - 1)
        rounds += L * (2 * T - 1 + 2) + 4 * (L - 1)
        rounded += L * (N * H + 4 * (N - B) * H + 2 * 4 * H * H) + (L - 1) * (N * H + 4 * N * H + 2 * 4 * H * H)
    return (products + others + rounds, rounded) if precision == "bf16" else (products + others, 0)


def predict(sizes: Configuration) -> dict:
    """A training step's parts in microseconds, and their sum, or what Python takes to launch them if that is more."""
    model, T, B, precision = sizes.model, sizes.T, sizes.B, sizes.precision
    H, L, V, N = model.hidden, model.layers, model.vocabulary_size, T * B
    plan = plan_window(Listing("", ARCHITECTURES[CAPABILITY].limits).target(model, precision), Window(T, B))
    P, layers = parameter_count(model), 2 * L - 1
    parts = recurrence(sizes, plan) if isinstance(plan, Persistent) else []
    launches, rounded = launches_and_rounded(model, T, B, precision, bool(parts))
    bytes_ = 6 * rounded + 4 * (N * 4 * H * (L + 1) + 4 * N * V + 9 * P + (0 if parts else 10 * L * N * H))
    if not parts:
        step = gemm_us(precision, B, 4 * H, H) + gemm_us(precision, B, H, 4 * H)
        inputs = (L - 1) * (gemm_us(precision, N, 4 * H, H) + gemm_us(precision, N, H, 4 * H))
        parts.append({"kernel": "GEMMs a step and layer, both ways", "us": round(T * L * step + inputs, 1)})
    products = layers * gemm_us(precision, 4 * H, H, N) + 3 * gemm_us(precision, N, V, H)
    parts += [
        {"kernel": "GEMMs of weight gradients and head", "us": round(products, 1)},
        {"kernel": "sums, softmax, rounding, cells, norm, Adam: bytes", "us": round(bytes_ / MEMORY_BYTES * 1e6, 1)},
        {"kernel": f"{launches} launches", "us": round(launches * LAUNCH * 1e6, 1)},
    ]
    gpu = sum(part["us"] for part in parts)
    return {
        "configuration": f"({sizes.name}) V{V} H{H} L{L} B{B} T{T} {precision}",
        "regime": type(plan).__name__.lower(), "floor_us": sizes.floor_us, "goal_us": sizes.goal_us, "parts": parts,
        "us_a_step": round(max(gpu, launches * PYTHON * 1e6)),
    }  # fmt: skip


def results() -> list[dict]:
    return [predict(sizes) for sizes in CONFIGURATIONS]
