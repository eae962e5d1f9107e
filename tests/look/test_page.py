"""The page in a real Chromium: what is shown, what clicks, keys and brushes change, and whether everyone can read it."""

import base64
import json
import re
import zlib

import numpy as np
import pytest
from playwright.sync_api import expect
from support.planted import HOSTILE, lively_model, prose

from cuchar.look.activations import CELL_STEPS, SURPRISE_STEPS
from cuchar.look.page import make_page
from cuchar.reading import AS_UTF8

TEXT = prose(3000)
# Every element with a text of its own: its contrast with what is behind it, by WCAG 2.2, 1.4.3.
CONTRASTS = """() => {
  const channels = (color) => {
    const numbers = color.match(/[\\d.]+/g).map(Number), scale = color.startsWith("color(") ? 255 : 1;
    return [...numbers.slice(0, 3).map((value) => value * scale), numbers[3] ?? 1];
  };
  const over = (front, back) => back.map((value, k) => front[k] * front[3] + value * (1 - front[3]));
  const behind = (element) => {
    if (!element) return [255, 255, 255];
    const color = channels(getComputedStyle(element).backgroundColor);
    return color[3] === 1 ? color.slice(0, 3) : over(color, behind(element.parentElement));
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => element.checkVisibility() && !element.disabled && element.tagName !== "SCRIPT")
    .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((element) => {
      const back = behind(element), front = over(channels(getComputedStyle(element).color), back);
      const [low, high] = [luminance(front), luminance(back)].sort((a, b) => a - b);
      return [(high + 0.05) / (low + 0.05), element.tagName + " " + element.textContent.slice(0, 20)];
    });
}"""


def data_of(file):
    return json.loads(re.search(r'id="data">(.*?)</script>', file.read_text(), re.DOTALL)[1])


def unpacked(value, dtype):
    return np.frombuffer(zlib.decompress(base64.b64decode(value)), dtype)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function that writes the page of a small model that reads a text."""

    def write(text, name, hidden=8, **options):
        file = tmp_path_factory.mktemp("page") / name
        parameters, vocabulary = lively_model(text, hidden)
        file.write_bytes(make_page(parameters, vocabulary, vocabulary.encode(AS_UTF8.codes_of(text)), name, **options))
        return file

    return write


@pytest.fixture(scope="module")
def prose_page(written):
    return written(TEXT, "prose.html", chars=2500)


@pytest.fixture
def opened(browser_page):
    """Open a page, and wait until all of it is drawn."""

    def opened_(file, *size, **options):
        page = browser_page(file, *size, **options)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    return opened_


def colours(page):
    """The background of each character that is drawn, by its place."""
    return page.evaluate(
        "() => Object.fromEntries([...document.querySelectorAll('#sheet span')].map((s) => [s.dataset.at, s.style.backgroundColor]))"
    )


def pressed(page):
    return page.locator("#cells [aria-pressed=true] b").text_content()


def character(page, at):
    return page.locator(f'#sheet span[data-at="{at}"]')


def value_shown(page):
    """The chosen cell's tanh(c) that the panel shows."""
    return float(page.locator("#values span").first.text_content().removeprefix("tanh c ").replace("\u2212", "-"))


def brush(page, start, end):
    boxes = [character(page, at).bounding_box() for at in (start, end)]
    first, last = ((box["x"] + box["width"] / 2, box["y"] + 8) for box in boxes)
    page.mouse.move(*first)
    page.mouse.down()
    page.mouse.move(*last, steps=4)
    page.mouse.up()
    page.wait_for_selector("#brushed:not([hidden])")


def test_the_text_is_there_and_hovering_gives_its_numbers(opened, prose_page):
    page, data = opened(prose_page), data_of(prose_page)
    assert page.title() == "cuchar look: prose.html"
    assert "2 layers of 8 units" in page.text_content("#about") and "2,500 of 3,000" in page.text_content("#about")
    row = page.locator(".row").first.locator("span").all_text_contents()
    assert "".join(row).replace("↵", "\n") == TEXT[: len(row)]
    values, surprise = unpacked(data["cells"][0]["values"], "i1"), unpacked(data["surprise"], "u1")
    guesses, chances = (
        unpacked(data[name], kind).reshape(5, -1) for name, kind in (("guesses", "<u2"), ("chances", "u1"))
    )
    for at in (70, 131):
        character(page, at).hover()
        expect(page.locator("#place")).to_contain_text(f"line {1 + at // 61}, column {1 + at % 61}: ")
        bits = re.search(r": ([\d.]+) bits", page.text_content("#place"))[1]
        assert float(bits) == pytest.approx(surprise[at] / SURPRISE_STEPS, abs=0.051)
        assert value_shown(page) == pytest.approx(values[at] / CELL_STEPS, abs=0.005)
        rows = page.locator("#guesses li").all_text_contents()
        expected = [chr(data["characters"][guess]).replace(" ", "␣").replace("\n", "↵") for guess in guesses[:, at]]
        assert [row[0] for row in rows] == expected
        assert [float(row[1:].removesuffix(" %")) for row in rows] == pytest.approx(chances[:, at] / 2.55, abs=0.51)


def test_a_cell_is_chosen_by_click_and_by_keys(opened, prose_page):
    page, data = opened(prose_page), data_of(prose_page)
    names = page.locator("#cells b").all_text_contents()
    before = colours(page)
    page.locator("#cells button").nth(2).click()
    expect(page.locator("#chosen b")).to_have_text(names[2])
    assert pressed(page) == names[2] and colours(page) != before
    page.keyboard.press("k")
    assert pressed(page) == names[1]
    page.keyboard.press("j")
    assert pressed(page) == names[2]
    page.locator("#cells button").nth(2).press("ArrowUp")
    assert pressed(page) == names[1] == page.evaluate("document.activeElement.querySelector('b').textContent")
    layer, unit = map(int, re.findall(r"\d+", names[1]))
    values = unpacked(next(c for c in data["cells"] if c["cell"] == 8 * (layer - 1) + unit - 1)["values"], "i1")
    character(page, 100).hover()
    expect(page.locator("#place")).to_contain_text("line 2, column 40")
    assert value_shown(page) == pytest.approx(values[100] / CELL_STEPS, abs=0.005)
    seen = []
    for _ in range(7):
        seen.append(page.locator("#quantities [aria-checked=true]").text_content())
        before = colours(page)
        page.keyboard.press("g")
        expect(page.locator("#quantities [aria-checked=true]")).not_to_have_text(seen[-1])
        assert colours(page) != before
    assert seen == ["c", "h", "i", "f", "g", "o", "surprise"]
    page.get_by_role("radio", name="forget gate f").click()
    assert page.locator("#quantities [aria-checked=true]").text_content() == "f"


def test_predictions_stand_under_each_character(opened, prose_page):
    page, data = opened(prose_page), data_of(prose_page)
    page.keyboard.press("p")
    guesses = unpacked(data["guesses"], "<u2").reshape(5, -1)[:, 1:5].T.reshape(-1)
    shown = page.locator(".row").first.locator("i").all_text_contents()[:20]
    assert shown == [chr(data["characters"][guess]).replace(" ", "␣").replace("\n", "↵") for guess in guesses]
    above, below = (page.locator(".row").first.locator(tag).nth(1).bounding_box() for tag in ("span", "i"))
    assert abs(page.locator(".row i").first.bounding_box()["x"] - above["x"]) < 1 and below["y"] > above["y"]
    page.get_by_role("button", name="Predictions").click()
    assert page.locator(".row i").count() == 0


@pytest.mark.parametrize("threshold", [0.6, 0.3])
def test_a_brush_finds_the_cells_that_fire_there(opened, prose_page, threshold):
    page, data = opened(prose_page), data_of(prose_page)
    page.evaluate(
        "(value) => { const slider = document.querySelector('#threshold'); slider.value = value; slider.dispatchEvent(new Event('input')); }",
        threshold,
    )
    brush(page, 64, 67)
    values = np.array([unpacked(cell["values"], "i1") for cell in data["cells"]]) / CELL_STEPS
    expected = {}
    for cell, row in zip(data["cells"], values, strict=True):
        for sign, word in ((1, "high"), (-1, "low")):
            fires = sign * row >= threshold - 1e-9
            within, elsewhere = fires[64:68].mean(), np.delete(fires, range(64, 68)).mean()
            if within >= 0.9 and elsewhere <= 0.5:
                name = f"layer {cell['cell'] // 8 + 1}, unit {cell['cell'] % 8 + 1}"
                expected[name] = f"{word} in {round(100 * within)} %, elsewhere in {int(100 * elsewhere + 0.5)} %"
    items = page.locator("#firing button").all()
    found = {i.locator("b").text_content().strip(): i.locator("small").text_content().split(" · ")[0] for i in items}
    assert found == expected and page.text_content("#range").startswith("4 characters: ")
    assert page.locator(".picked").count() == 4
    if threshold == 0.3:
        assert len(found) > 1
        page.locator("#passages button").first.click()
        cursor = int(page.locator(".cursor").get_attribute("data-at"))
        assert not 64 <= cursor < 68
        firing = [
            row
            for cell, row in zip(data["cells"], values, strict=True)
            if f"layer {cell['cell'] // 8 + 1}, unit {cell['cell'] % 8 + 1}" in found
        ]
        assert sum(abs(row[cursor]) >= threshold - 1e-9 for row in firing) >= 0.75 * len(found)
        page.locator("#firing button").first.click()
        expect(page.locator("#chosen b")).to_have_text(next(iter(found)))
    page.keyboard.press("Escape")
    assert page.locator(".picked").count() == 0 and page.locator("#brushed").is_hidden()


def test_a_selection_by_keys(opened, prose_page):
    page = opened(prose_page)
    page.focus("#text")
    for key in ("Home", "ArrowDown", "ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowLeft"):
        page.keyboard.press(key)
    picked = page.locator(".picked")
    assert [picked.nth(k).get_attribute("data-at") for k in range(picked.count())] == ["62", "63"]
    assert "line 2, column 3" in page.text_content("#spoken")
    page.keyboard.press("Shift+ArrowDown")
    assert page.locator(".picked").count() == 63
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#keys").is_hidden() and page.locator(".picked").count() == 63


def test_the_filter_lists_those_that_track_a_property(opened, written):
    """A cell that is not there for it is not listed, and where there is none, that is said."""
    file = written(TEXT * 3, "longer.html", chars=500)
    page, data = opened(file), data_of(file)
    for value, property_ in enumerate(data["properties"]):
        if "name" in property_:
            page.select_option("#filter", str(value))
            scores = sorted(
                (abs(t[1]) for cell in data["cells"] for t in cell["tracks"] if t[0] == value), reverse=True
            )
            shown = page.locator("#cells .score > :last-child").all_text_contents()
            assert [float(score.replace("\u2212", "")) for score in shown] == pytest.approx(scores, abs=0.0051)
            assert ("nothing found" in page.text_content("#found")) == (not scores)
    page.select_option("#filter", "nothing")
    assert page.locator("#cells button").count() == sum(not cell["tracks"] for cell in data["cells"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_dark(opened, prose_page, scheme):
    page = opened(prose_page, 1280, 600, color_scheme=scheme)
    background = "getComputedStyle(document.documentElement).backgroundColor"
    assert (sum(map(int, re.findall(r"\d+", page.evaluate(background)))) > 384) == (scheme == "light")
    brush(page, 64, 67)
    page.locator("summary").click()
    for keys in ("", "ggg", "ggg", "p", "?"):  # a cell, a gate, surprise, predictions, the dialog
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(50)
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 500 and min(contrasts)[0] >= 4.5, (keys, min(contrasts))
    page.keyboard.press("Escape")
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert sum(map(int, re.findall(r"\d+", page.evaluate(background)))) < 150  # dark, whatever the system says
    assert min(page.evaluate(CONTRASTS))[0] >= 4.5


def test_a_phone_of_360_pixels(opened, prose_page):
    page = opened(prose_page, 360, 740, has_touch=True, is_mobile=True, device_scale_factor=2)
    page.keyboard.press("p")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("window.scrollY") == 0  # the list of cells shows the chosen one without moving the page
    right = max(box["x"] + box["width"] for box in (span.bounding_box() for span in page.locator(".row span").all()))
    assert right <= page.locator("#text").bounding_box()["x"] + page.locator("#text").bounding_box()["width"]
    character(page, 30).tap()
    assert page.locator(".cursor").get_attribute("data-at") == "30" and page.locator(".picked").count() == 0
    assert page.get_by_role("button", name="Select by touch").is_visible()
    page.locator("#cells button").nth(1).tap()
    expect(page.locator("#chosen b")).to_have_text(pressed(page))


def test_whatever_takes_the_focus_has_a_name_and_shows_the_focus(opened, prose_page):
    page = opened(prose_page)
    brush(page, 64, 67)
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    focusable = [
        node for node in tree
        if not node["ignored"] and node["role"]["value"] != "RootWebArea"
        and any(p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", []))
    ]  # fmt: skip
    assert len(focusable) > 15
    assert [node["role"] for node in focusable if not node.get("name", {}).get("value", "").strip()] == []
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_a_hostile_text_is_only_text(opened, written):
    page = opened(written(HOSTILE * 30, "<img src=x onerror=alert(3)>.html"))
    assert page.locator("img").count() == 0 and page.locator("script").count() == 2
    assert page.text_content("h1") == "<img src=x onerror=alert(3)>.html"
    shown = "".join(page.locator(".row span").all_text_contents()[: len(HOSTILE)])
    assert shown == "</script><script>alert(1)</script><img src=x onerror=alert(2)><!--&lt;␀␛␍���◌\u0301{data}é😀漢↵"
    order = [span.bounding_box()["x"] for span in page.locator(".row").first.locator("span").all()[:70]]
    assert order == sorted(order)  # nothing turns the direction


def test_a_script_that_gets_in_does_not_run(browser, prose_page):
    """The second wall: this page's own script is the only one that its policy lets run."""
    page = browser.new_page()
    page.goto(prose_page.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hit = 1'}))"
    )
    page.evaluate("document.body.setAttribute('onclick', 'window.hit = 2')")
    page.locator("h1").click()
    assert page.evaluate("window.hit") is None
    page.close()


def test_only_what_is_in_sight_is_drawn(opened, written):
    """Twenty thousand characters, in one line."""
    page = opened(written(prose(20_000).replace("\n", " "), "long.html", hidden=2))
    assert 500 < page.locator("#sheet span").count() < 5000
    for top in (600, 1200, 1800, 2400, 1e9):
        page.evaluate("(top) => { document.querySelector('#text').scrollTop = top; }", top)
        page.wait_for_timeout(50)
    page.wait_for_selector('#sheet span[data-at="19999"]')
    assert page.locator("#sheet span").count() < 5000
    box = page.locator("#overview").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 10)
    assert abs(int(page.locator(".cursor").get_attribute("data-at")) - 10_000) < 30
    assert page.locator(".cursor").is_visible()
