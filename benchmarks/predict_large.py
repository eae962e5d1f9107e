"""Configurations (b), (c) and (d) on an H100: an estimate. predict.py prints it; no GPU was used.

The recurrence of the persistent regime is run clock by clock from its machine code, as predict.py says: an item (a part of
the rows, a step) is the kernel's outer loop, its product and its copies repeated as often as the sizes say. Everything
around it, and the stepwise regime, is arithmetic over operations, bytes and launches. Assumed, from published figures
(arXiv 2402.13499, 2501.12084) unless marked (e), an estimate:

- L2 gives 3942 B a clock to all SMs together. Rows of h (forward) and of da (backward) are read by every block of
  their stage: `traffic`. With three or more parts that is hidden behind the products, as far as those take longer.
- Results need TRAVEL clocks (e) from one block's stores to another's copies: release, acquire, two L2 round trips.
  Parts that take turns hide it. A stage is one item and that time behind the one before.
- GEMMs of fp32 run at 80 % (e) of 67 TFLOP/s. tensor_gemm.cu reaches at most 63 % of the tensor cores' peak, as mma.sync
  does, and takes TRIP clocks (e) for every DEPTH of k, as it fetches one ahead only.
- Sums, the head's softmax, norm and Adam take their bytes at 3 TB/s. A launch takes 1.3 us on the GPU, and 5 us (e) of
  Python where it is not in a graph; a step takes the longer of both.
"""

from dataclasses import dataclass

import registers
from multiprocessor import per_pass
from sass import Code, Instruction, disassemble

from cuchar.config import ModelConfig
from cuchar.engines.fitting import ceil_div
from cuchar.engines.persistent_plan import Persistent
from cuchar.engines.plan import make_plan
from cuchar.parameters import parameter_count

HERTZ, CAPABILITY = 1.755e9, 90
L2_BYTES, TRAVEL, TRIP = 3942, 1500, 600  # a clock; clocks; clocks
FLOPS = {"fp32": 67e12 * 0.8, "tf32": 495e12 * 0.63, "bf16": 989e12 * 0.63}
DEPTH = {"tf32": 16, "bf16": 32}  # of k in a trip of tensor_gemm.cu
MEMORY_BYTES, LAUNCH, PYTHON = 3e12, 1.3e-6, 5e-6  # a second; seconds


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


def item_trace(code: Code, products: int, copies: int) -> list[Instruction]:
    """The outer loop once, the product's loop in it `products` times, the copying of rows until there were so many."""

    def count(loop: tuple[int, int], *opcodes: str) -> int:
        return sum(i.opcode.startswith(opcodes) for i in inside(code, loop))

    outer = max(code.loops, key=lambda loop: count(loop, "BAR"))
    inner = [loop for loop in code.loops if outer[0] < loop[0] and loop[1] < outer[1]]
    product = max(inner, key=lambda loop: count(loop, "HMMA") or count(loop, "FFMA"))
    copying = {
        loop: count(loop, "LDGSTS") for loop in inner if count(loop, "LDGSTS") in (1, 4)
    }  # the others copy what a unit needs
    most = max(copying.values())
    times = {loop: ceil_div(copies, most) if many == most else 0 for loop, many in copying.items()} | {
        product: products
    }
    times |= dict.fromkeys(
        (loop for loop in inner if count(loop, "CS2R") and count(loop, "CCTL")), 0
    )  # nobody has to wait longer than for the first look at a flag
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
    """Forward and backward: clocks of an item, bytes of rows that it fetches, microseconds of the window."""
    model, T, H, stages = sizes.model, sizes.T, sizes.model.hidden, 2 * sizes.model.layers - 1
    macros = {"REAL": "float", "HIDDEN": H, "LAYERS": model.layers, "VOCABULARY": model.vocabulary_size, "DROPOUT": 0}
    if sizes.precision != "fp32":
        macros["PRECISION"] = sizes.precision.capitalize()
    kernels = disassemble("lstm_persistent.cu", macros | plan.macros, CAPABILITY)
    found = []
    for direction, launch, inputs in (("forward", plan.forward, H), ("backward", plan.backward, 4 * H)):
        products = ceil_div(plan.rows, 2 if sizes.precision == "fp32" else 8)
        copies = ceil_div(plan.rows * inputs // 4, launch.threads)
        trace = item_trace(kernels[f"persistent_{direction}"], products, copies)
        clocks = per_pass([[trace] * (launch.threads // 32)], 2, 4)
        rows = plan.rows * inputs * 4  # bytes of a block and item
        fetch = rows * plan.blocks / L2_BYTES
        ahead = plan.parts > 2
        item = max(clocks, fetch) if ahead else clocks + fetch
        exposed = max(0, TRAVEL - (plan.parts - 1 - ahead) * item)  # of a step
        weights = plan.units * 4 * H * 4 * plan.blocks / L2_BYTES
        total = weights + T * (plan.parts * item + exposed) + (stages - 1) * (item + TRAVEL)
        found.append(
            {
                "kernel": f"persistent_{direction}", "instructions_a_warp": len(trace), "clocks_an_item": round(clocks),
                "items": T * plan.parts, "traffic_mb_a_step": round(rows * plan.parts * plan.blocks / 1e6, 1),
                "us": round(total / HERTZ * 1e6, 1),
            }
        )  # fmt: skip
    return found


def gemm_us(precision: str, M: int, N: int, K: int) -> float:
    seconds = 2 * M * N * K / FLOPS[precision]
    if precision != "fp32":
        waves = ceil_div(ceil_div(M, 64) * ceil_div(N, 64), 2 * registers.ARCHITECTURES[CAPABILITY].multiprocessors)
        seconds = max(seconds, waves * ceil_div(K, DEPTH[precision]) * TRIP / HERTZ)
    return seconds * 1e6


def predict(sizes: Configuration) -> dict:
    """A training step: its parts in microseconds, and their sum or what Python takes to launch them."""
    model, T, precision = sizes.model, sizes.T, sizes.precision
    H, L, V, N = model.hidden, model.layers, model.vocabulary_size, sizes.T * sizes.B
    plan = make_plan(model, T, sizes.B, "f4", registers.ARCHITECTURES[CAPABILITY].limits, precision)
    P, layers = parameter_count(model), 2 * L - 1
    parts = recurrence(sizes, plan) if isinstance(plan, Persistent) else []
    launches = 12 + 4 * L + (2 if parts else 4 * T * L)
    if not parts:
        step = gemm_us(precision, sizes.B, 4 * H, H) + gemm_us(precision, sizes.B, H, 4 * H)
        inputs = (L - 1) * (gemm_us(precision, N, 4 * H, H) + gemm_us(precision, N, H, 4 * H))
        parts.append({"kernel": "GEMMs a step and layer, both ways", "us": round(T * L * step + inputs, 1)})
    products = layers * gemm_us(precision, 4 * H, H, N) + 3 * gemm_us(precision, N, V, H)
    bytes_ = 4 * (N * 4 * H * (L + 1) + 4 * N * V + 9 * P + (0 if isinstance(plan, Persistent) else 10 * L * N * H))
    parts += [
        {"kernel": "GEMMs of weight gradients and head", "us": round(products, 1)},
        {"kernel": "sums, softmax, cells, norm, Adam: bytes", "us": round(bytes_ / MEMORY_BYTES * 1e6, 1)},
        {"kernel": f"{launches} launches", "us": round(launches * LAUNCH * 1e6, 1)},
    ]
    gpu = sum(part["us"] for part in parts)
    captured = precision != "fp32" and not isinstance(plan, Persistent)
    return {
        "configuration": f"({sizes.name}) V{V} H{H} L{L} B{sizes.B} T{T} {precision}",
        "regime": type(plan).__name__.lower(), "floor_us": sizes.floor_us, "goal_us": sizes.goal_us, "parts": parts,
        "us_a_step": round(gpu if captured else max(gpu, launches * PYTHON * 1e6)),
    }  # fmt: skip


def results() -> list[dict]:
    return [predict(sizes) for sizes in CONFIGURATIONS]
