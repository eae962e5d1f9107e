"""docs/figures are what tools/draw_figures.py draws; they can be read, and they show what the kernels do."""

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import record_run
from draw_figures import FIGURES, draw
from figures import gradient_tile, lanes, learning, persistent_grid, wavefront
from figures.drawing import COLOURS, FAINT, INK, PAGES, SMALLEST

from cuchar.devices.device import Kernel
from cuchar.devices.emulator import EmulatedDevice
from cuchar.devices.emulator.compiler import HERE
from cuchar.devices.kernel_sources import join, kernel_folder

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "figures"
SVG = "{http://www.w3.org/2000/svg}"
WIDEST = 860  # pixels of a page's column


def committed(name: str) -> ElementTree.Element:
    return ElementTree.parse(COMMITTED / f"{name}.svg").getroot()


def facts(name: str, **wanted: object) -> list[dict[str, int]]:
    """The whole numbers among the data attributes of a committed figure's elements, of those that have all `wanted`."""
    found = []
    for element in committed(name).iter():
        data = {key[5:]: value for key, value in element.attrib.items() if key.startswith("data-")}
        if all(data.get(key) == str(value) if value is not None else key in data for key, value in wanted.items()):
            found.append({key: int(value) for key, value in data.items() if re.fullmatch(r"-?\d+", value)})
    return found


# ---- The files ----


@pytest.mark.parametrize("name", FIGURES)
def test_a_committed_figure_is_what_the_script_draws(name, tmp_path):
    drawn = draw(name).svg(name)
    assert (COMMITTED / f"{name}.svg").read_bytes() == drawn.encode(), "python tools/draw_figures.py draws it anew"


def test_no_figure_is_left_over():
    assert sorted(path.stem for path in COMMITTED.glob("*.svg")) == sorted(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_in_words_what_it_shows(name):
    root = committed(name)
    title, description = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
    assert len(title.text) > 20 and len(description.text) > 100


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_needs_no_other_file(name):
    text = (COMMITTED / f"{name}.svg").read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"://|href|url\(|@import|@font-face", text)
    allowed = {"svg", "title", "desc", "style", "g", "rect", "text", "polyline", "polygon"}
    assert {element.tag.removeprefix(SVG) for element in committed(name).iter()} <= allowed


@pytest.mark.parametrize("name", FIGURES)
def test_files_that_a_figure_names_exist(name):
    words = " ".join(element.text or "" for element in committed(name).iter())
    for file in re.findall(r"[\w/]+\.cuh?\b", words):
        assert list(kernel_folder().rglob(file)), file


# ---- Legibility ----


@pytest.mark.parametrize("name", FIGURES)
def test_text_is_large_enough_and_stays_apart(name):
    picture = draw(name)
    assert picture.width <= WIDEST
    sizes = [float(element.get("font-size")) for element in committed(name).iter(f"{SVG}text")]
    assert min(sizes) >= SMALLEST * picture.width / 800
    for text in picture.texts:
        assert text.left >= 0 and text.right <= picture.width and text.bottom <= picture.height, text
    for one, other in itertools.combinations(picture.texts, 2):
        apart = one.right <= other.left or other.right <= one.left or one.bottom <= other.top or other.bottom <= one.top
        assert apart, (one, other)


def luminance(colour: str) -> float:
    """Relative luminance. Source: WCAG 2.1."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out(page):
    """Level AA of WCAG 2.1 asks for a contrast of 4.5 for text and of 3 for what is drawn."""
    surfaces = [PAGES[page], *(colours[2 * page + 1] for colours in COLOURS.values())]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert min(contrast(INK[page], surface) for surface in surfaces) >= 4.5
    assert contrast(FAINT[page], PAGES[page]) >= 4.5 and contrast(FAINT[page], COLOURS["plain"][2 * page + 1]) >= 4.5
    for line, surface in (colours[2 * page : 2 * page + 2] for colours in COLOURS.values()):
        assert contrast(line, surface) >= 3 and contrast(line, PAGES[page]) >= 3


# ---- What they show ----


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_wavefront_has_every_product_once_and_what_it_needs_before_it(direction):
    cells = facts("wavefront", direction=direction)
    ticks = {(cell["stage"], cell["t"]): cell["tick"] for cell in cells}
    stages, T = 2 * wavefront.LAYERS - 1, wavefront.TIME_STEPS
    assert sorted(ticks) == list(itertools.product(range(stages), range(T))) and len(cells) == stages * T
    for (stage, t), tick in ticks.items():
        done = t if direction == "forward" else T - 1 - t
        assert done == tick - stage  # stage s is at time step t - s while stage 0 is at time step t
        if stage:
            assert ticks[stage - 1, t] < tick
        if done and stage % 2 == 0:
            assert ticks[stage, t - (1 if direction == "forward" else -1)] < tick
    busy = Counter(ticks.values())
    assert busy[wavefront.HIGHLIGHTED] == stages and max(ticks.values()) + 1 == T + stages - 1


def test_the_grid_is_what_the_planner_divides():
    division, model = persistent_grid.division(), persistent_grid.MODEL
    blocks = -(-model.hidden // division.units)
    drawn = [(cell["group"], cell["stage"], cell["block"]) for cell in facts("persistent-grid", block=None)]
    assert sorted(drawn) == list(itertools.product(range(division.groups), range(2 * model.layers - 1), range(blocks)))
    assert len(drawn) == division.blocks <= persistent_grid.H100.limits.multiprocessors
    rows = [cell["rows"] for cell in facts("persistent-grid", rows=None)]
    assert len(rows) == division.groups * division.parts and sum(rows) == persistent_grid.BATCH
    assert max(rows) == division.rows
    for cell in facts("persistent-grid", item=None):
        assert (cell["done"], cell["part"]) == divmod(cell["item"], division.parts)  # persistent.cuh


def placed(name: str, of: tuple[str, ...], **wanted: object) -> dict[tuple[int, ...], dict[str, int]]:
    return {tuple(cell[key] for key in of): cell for cell in facts(name, **wanted)}


def compiled(header: str, source: str, **macros: int) -> Mapping[str, Kernel]:
    """Kernels that use a header of kernels/, on the emulator."""
    return EmulatedDevice("shuffled").compile(join(header, macros, overlay=HERE) + source)


def test_lanes_of_a_fragment_make_the_product():
    """Fragments are filled, and the result read, as the figure says; only then is D the product of A and B."""
    a, b, d = (placed("fragment-lanes", ("row", "column"), operand=operand) for operand in "abd")
    rng = np.random.default_rng(0)
    A, B = (rng.integers(-9, 10, size=shape).astype(np.float32) for shape in ((16, 8), (8, 8)))
    words = np.full((32, 6), np.nan, np.float32)
    for matrix, places, first in ((A, a, 0), (B, b, 4)):
        for place, cell in places.items():
            words[cell["lane"], first + cell["register"]] = matrix[place]
    assert len(a) == A.size and len(b) == B.size and not np.isnan(words).any()
    source = """
        extern "C" __global__ void product(const float* words, float* out) {
            unsigned a[4], b[2];
            float d[4] = {};
            for (int i = 0; i < 4; ++i) a[i] = Tf32::word(words + 6 * threadIdx.x + i);
            for (int i = 0; i < 2; ++i) b[i] = Tf32::word(words + 6 * threadIdx.x + 4 + i);
            Tf32::mma(d, a, b);
            for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = d[i];
        }"""
    out = np.empty((32, 4), np.float32)
    compiled("common/hardware.cuh", source)["product"](1, 32, words=words, out=out)
    D = np.full((16, 8), np.nan, np.float32)
    for place, cell in d.items():
        D[place] = out[cell["lane"], cell["register"]]
    assert np.array_equal(D, A @ B)


def test_lanes_of_a_slice_hold_what_the_resident_product_loads():
    H = lanes.HIDDEN
    source = """
        extern "C" __global__ void loads(const float* matrix, float* rows, float* columns, int* units, int* sizes) {
            const int lane = threadIdx.x;
            const bool high = lane & 16;
            Rows by_rows;
            by_rows.load(matrix, lane % 16, high);
            for (int gate = 0; gate < 4; ++gate) {
                rows[8 * lane + 2 * gate] = by_rows.weights[gate][0].x;
                rows[8 * lane + 2 * gate + 1] = by_rows.weights[gate][SLICE / 4 - 1].w;
            }
            Columns by_columns;
            by_columns.load(matrix, 0, lane);
            columns[2 * lane] = by_columns.weights[0].x;
            columns[2 * lane + 1] = by_columns.weights[SLICE - 1].w;
            units[lane] = Columns::unit_of(0, lane);
            if (lane == 0) sizes[0] = SLICE, sizes[1] = STRIDE;
        }"""
    matrix = np.arange(4 * H * H, dtype=np.float32)
    rows, columns = np.empty((32, 4, 2), np.float32), np.empty((32, 2), np.float32)
    units, sizes = np.empty(32, np.int32), np.empty(2, np.int32)
    loads = compiled("resident/matvec.cuh", source, HIDDEN=H)["loads"]
    loads(1, 32, matrix=matrix, rows=rows, columns=columns, units=units, sizes=sizes)
    SLICE = lanes.SLICE
    assert sizes.tolist() == [SLICE, lanes.STRIDE]
    drawn = facts("slices", product="rows")
    assert len(drawn) == 4 * 16 * 2
    for cell in drawn:
        first = (cell["gate"] * H + cell["unit"]) * H + cell["half"] * SLICE
        assert rows[cell["lane"], cell["gate"]].tolist() == [first, first + SLICE - 1]
    drawn = facts("slices", product="columns")
    assert sorted(cell["lane"] for cell in drawn) == list(range(32))
    for cell in drawn:
        first = cell["gate"] * H + cell["half"] * SLICE
        assert columns[cell["lane"]].tolist() == [
            first * H + 4 * cell["four"],
            (first + SLICE - 1) * H + 4 * cell["four"] + 3,
        ]
    for element in committed("slices").iter():
        if element.get("data-product") == "sums":
            holders = [int(lane) for lane in element.get("data-lanes").split()]
            assert holders == np.flatnonzero(units == int(element.get("data-unit"))).tolist()
            assert holders[1] - holders[0] == 4


def test_the_tile_of_a_gradient_has_the_kernel_s_sizes():
    source = (kernel_folder() / "resident" / "weight_gradients.cu").read_text()

    def size(name: str) -> int:
        return int(re.search(rf"\b{name} = (\d+)", source)[1])

    assert size("TILE") == gradient_tile.TILE and size("HALF(?:_THREADS)?") == gradient_tile.HALF
    assert size("DEPTH") == 4 * gradient_tile.DEPTH  # of float
    threads = facts("gradient-tile", thread=None)
    assert [cell["thread"] for cell in threads] == list(range(gradient_tile.HALF))
    for cell in threads:  # m0 + 8 * y, k0 + 4 * x
        x, y = cell["thread"] % (gradient_tile.TILE // 4), cell["thread"] // (gradient_tile.TILE // 4)
        assert (cell["m"], cell["k"]) == (8 * y, 4 * x)
    N, split = gradient_tile.TIME_STEPS * gradient_tile.BATCH, facts("gradient-tile", split=None)
    shares = [range(cell["first"], cell["last"] + 1) for cell in split]
    assert [n for share in shares for n in share] == list(range(N)) and len(shares) == gradient_tile.splits()
    halves = [range(cell["first"], cell["last"] + 1) for cell in facts("gradient-tile", half=None)]
    assert [n for half in halves for n in half] == list(shares[gradient_tile.CHOSEN_SPLIT])


def test_the_curve_is_the_recorded_run():
    run = learning.record()
    assert len(run["steps"]) == len(run["losses"]) <= 200
    curve = max(committed("learning-curve").iter(f"{SVG}polyline"), key=lambda line: len(line.get("points")))
    assert len(curve.get("points").split()) == len(run["steps"])
    marks = [mark for mark in committed("learning-curve").iter(f"{SVG}polygon") if mark.get("data-step")]
    found = [(int(mark.get("data-step")), float(mark.get("data-loss"))) for mark in marks]
    assert found == list(zip(run["notebook"]["steps"], run["notebook"]["losses"], strict=True))


def test_lines_of_a_terminal_are_recorded(tmp_path):
    assert re.fullmatch(r"cuchar \d+\.\d+.*", record_run.on_terminal("cuchar --version", str(tmp_path))[0])
    bars = [f"step {step}/80  {'━' * 3}╸  loss 2.0" for step in (10, 49, 80)]
    ends = ["epoch 0: mean loss 2.0", "80 steps in 1 s: mean loss 2.0", "to write with it: cuchar sample run"]
    shown = record_run.training_lines(["compiling the kernels", "engine: C++", "run folder: run", *bars, *ends])
    texts = [line["text"] for line in shown]
    bar = "step 49/80  ━━━━  loss 2.0"
    assert texts == [f"$ {record_run.TRAIN}", "engine: C++", "run folder: run", bar, "...", *ends]
    assert (shown[3]["bar"], shown[3]["done"]) == (4, 0.6125)
