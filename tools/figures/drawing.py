# ruff: noqa: RUF001
"""Draws lines, boxes and text into an SVG file, in colours that follow the reader's light or dark page.

A figure names colours by what they stand for ("recurrent", "i"), never by their value. Every colour stands
beside a word or a letter that says the same. Coordinates are pixels; a figure is 800 of them wide at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

SANS = "system-ui,-apple-system,'Segoe UI','DejaVu Sans',Helvetica,Arial,sans-serif"
MONOSPACE = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
SMALLEST = 12  # size of the smallest text that is allowed, in pixels

# By what a colour stands for: line and surface on a light page, line and surface on a dark page.
COLOURS = {
    "plain": ("#656d76", "#f1f3f5", "#8b949e", "#1b222b"),
    "i": ("#1f6fb8", "#d9e8f8", "#6cb2f5", "#17385d"),
    "f": ("#b8490f", "#fbe1d2", "#f28b53", "#582d18"),
    "g": ("#1a7f4e", "#d4efe0", "#4ccf8c", "#12432d"),
    "o": ("#8a3fa8", "#eddff4", "#cf94ea", "#442859"),
    "recurrent": ("#0b7285", "#cfecf0", "#4cc5cf", "#0e434a"),
    "projection": ("#8d6100", "#faeabf", "#e0b040", "#4c3909"),
}
GRID = ("#d1d9e0", "#30363d")
INK, FAINT = ("#1f2328", "#e6edf3"), ("#59636e", "#9da7b3")  # colours of text, each on a light and on a dark page
PAGES = ("#ffffff", "#0d1117")

Point = tuple[float, float]


def _variables(page: int) -> str:
    values = {"ink": INK[page], "faint": FAINT[page], "grid": GRID[page], "page": PAGES[page]}
    for name, colours in COLOURS.items():
        values[f"{name}-line"], values[f"{name}-surface"] = colours[2 * page : 2 * page + 2]
    return ";".join(f"--{name}:{value}" for name, value in values.items())


def _style() -> str:
    surfaces = "".join(
        f".{name}{{fill:var(--{name}-surface);stroke:var(--{name}-line)}}"
        f".{name}-line{{fill:none;stroke:var(--{name}-line)}}"
        for name in COLOURS
    )
    return (
        f".cuchar{{{_variables(0)}}}"
        f"@media (prefers-color-scheme:dark){{.cuchar{{{_variables(1)}}}}}"
        f"text{{font-family:{SANS};fill:var(--ink)}}.code{{font-family:{MONOSPACE}}}.bold{{font-weight:600}}"
        ".faint{fill:var(--faint)}.grid-line{fill:none;stroke:var(--grid)}"
        ".ink-line{fill:none;stroke:var(--ink)}.faint-line{fill:none;stroke:var(--faint)}"
        ".ink-head{fill:var(--ink);stroke:none}.faint-head{fill:var(--faint);stroke:none}"
        f".page{{fill:var(--page);stroke:var(--plain-line)}}{surfaces}"
    )


def number(value: float) -> str:
    """A coordinate rounded to a hundredth, without trailing zeros, so that a figure has the same bytes everywhere."""
    return f"{round(value, 2):g}" if abs(value) < 1e4 else f"{value:.0f}"


NARROW, WIDE = set("iljtfrI.,:;'|!()[]/ ·-"), set("mwMW@%—→←…≥×")


def width_of(string: str, size: float, code: bool = False, bold: bool = False) -> float:
    """An estimate of a text's width in pixels, which is rather too large than too small for common system fonts."""
    if code:
        return 0.605 * size * len(string)
    ems = sum(0.38 if letter in NARROW else 0.9 if letter in WIDE else 0.61 for letter in string)
    return size * ems * (1.07 if bold else 1)


@dataclass
class Placed:
    """A text and the edges of the rectangle that it fills."""

    string: str
    left: float
    top: float
    right: float
    bottom: float


@dataclass
class Drawing:
    """A figure. `title` names it, and `description` says in words all that it shows."""

    width: int
    height: int
    title: str
    description: str
    parts: list[str] = field(default_factory=list)
    texts: list[Placed] = field(default_factory=list)

    def rectangle(
        self, x: float, y: float, width: float, height: float, kind: str = "plain", *, stroke: float = 1.2,
        radius: float = 4, dashed: bool = False, **facts: object,
    ) -> None:  # fmt: skip
        """Draw a rectangle.

        Args:
            kind: a colour's name, with "-line" after it for an outline without a surface.
            facts: become data attributes.
        """
        self._add(
            "rect", kind, x=number(x), y=number(y), width=number(width), height=number(height), rx=number(radius),
            **_stroke(stroke, dashed), **_data(facts),
        )  # fmt: skip

    def text(
        self, x: float, y: float, string: str, *, anchor: str = "start", size: float = 13, code: bool = False,
        bold: bool = False, faint: bool = False, **facts: object,
    ) -> None:  # fmt: skip
        """Draw one line of text.

        Args:
            y: the baseline.
            anchor: what is at x: the text's start, middle or end.
            facts: become data attributes.
        Raises:
            ValueError: the text is too small to read.
        """
        if size < SMALLEST:
            raise ValueError(f"text {string!r}: expected at least {SMALLEST} pixels, found {size}")
        width = width_of(string, size, code, bold)
        left = x - {"start": 0, "middle": width / 2, "end": width}[anchor]
        self.texts.append(Placed(string, left, y - 0.75 * size, left + width, y + 0.22 * size))
        kinds = " ".join(name for name, on in (("code", code), ("bold", bold), ("faint", faint)) if on)
        placing = {} if anchor == "start" else {"text-anchor": anchor}
        attributes = {"x": number(x), "y": number(y), "font-size": number(size)} | placing | _data(facts)
        self.parts.append(f'<text{_attributes(kinds, attributes)} xml:space="preserve">{escape(string)}</text>')

    def lines(self, x: float, y: float, strings: Sequence[str], *, spacing: float = 18, **style: object) -> None:
        """Draw lines of text, one below the other."""
        for row, string in enumerate(strings):
            self.text(x, y + row * spacing, string, **style)  # type: ignore[arg-type]

    def box(
        self, x: float, y: float, width: float, height: float, heading: str, lines: Sequence[str] = (), *,
        code: str = "", kind: str = "plain", size: float = 13, stroke: float = 1.2, dashed: bool = False, **facts: object,
    ) -> None:  # fmt: skip
        """Draw a rectangle with centred text: a bold heading, lines, and last `code`, the name of a file.

        Raises:
            ValueError: a text is too long for the rectangle.
        """
        self.rectangle(x, y, width, height, kind, stroke=stroke, dashed=dashed, **facts)
        spacing = size + 5
        count = (heading != "") + len(lines) + (code != "")
        baseline = y + height / 2 - (count - 1) * spacing / 2 + 0.36 * size
        rows = [(heading, {"bold": True})] * (heading != "") + [(line, {}) for line in lines]
        rows += [(code, {"code": True, "size": SMALLEST, "faint": True})] * (code != "")
        for row, (string, style) in enumerate(rows):
            if width_of(string, style.get("size", size), "code" in style, "bold" in style) > width - 4:
                raise ValueError(f"{string!r} is too long for a box of {width} pixels")
            self.text(x + width / 2, baseline + row * spacing, string, anchor="middle", **{"size": size, **style})

    def line(self, *points: Point, kind: str = "ink", stroke: float = 1.4, dashed: bool = False) -> None:
        path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
        self._add("polyline", f"{kind}-line", points=path, **_stroke(stroke, dashed))

    def arrow(
        self, *points: Point, kind: str = "ink", stroke: float = 1.4, dashed: bool = False, head: float = 8
    ) -> None:
        """Draw a line through the points with an arrow's head, whose tip is exactly the last point."""
        (x0, y0), (x1, y1) = points[-2:]
        length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
        dx, dy = (x1 - x0) / length, (y1 - y0) / length
        base = (x1 - head * dx, y1 - head * dy)
        self.line(*points[:-1], base, kind=kind, stroke=stroke, dashed=dashed)
        aside, ahead = 0.45 * head * dy, 0.45 * head * dx
        corners = (x1, y1), (base[0] - aside, base[1] + ahead), (base[0] + aside, base[1] - ahead)
        head_kind = f"{kind}-head" if kind in ("ink", "faint") else kind
        self._add("polygon", head_kind, points=" ".join(f"{number(x)},{number(y)}" for x, y in corners))

    def diamond(self, x: float, y: float, radius: float, kind: str, **facts: object) -> None:
        """Draw a diamond whose centre is the point."""
        corners = (x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)
        points = " ".join(f"{number(a)},{number(b)}" for a, b in corners)
        self._add("polygon", kind, points=points, **_stroke(1.8, False), **_data(facts))

    def outline(self, x: float, y: float, width: float, height: float) -> None:
        """Draw a heavy line around a rectangle of these coordinates, to mark the one that the text speaks of."""
        self.rectangle(x - 1, y - 1, width + 2, height + 2, "ink-line", radius=3, stroke=2.4)

    def bracket(self, x0: float, x1: float, y: float, depth: float = 6, kind: str = "faint") -> None:
        """Draw a horizontal bracket whose ends point down by `depth` pixels, or up if that is negative."""
        self.line((x0, y + depth), (x0, y), (x1, y), (x1, y + depth), kind=kind)

    def _add(self, tag: str, kind: str, **attributes: str) -> None:
        self.parts.append(f"<{tag}{_attributes(kind, attributes)}/>")

    def svg(self, name: str) -> str:
        """The SVG file's text. Its identifiers begin with `name`, so that two figures on a page have different ones."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="cuchar" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}" role="img" aria-labelledby="{name}-title {name}-description">'
        )
        return "\n".join([
            head, f'<title id="{name}-title">{escape(self.title)}</title>',
            f'<desc id="{name}-description">{escape(self.description)}</desc>',
            f"<style>{_style()}</style>", *self.parts, "</svg>", "",
        ])  # fmt: skip


def _stroke(width: float, dashed: bool) -> dict[str, str]:
    return {"stroke-width": number(width)} | ({"stroke-dasharray": "5 4"} if dashed else {})


def _data(facts: dict[str, object]) -> dict[str, str]:
    return {f"data-{name.replace('_', '-')}": str(value) for name, value in facts.items()}


def _attributes(kind: str, attributes: dict[str, str]) -> str:
    named = ({"class": kind} if kind else {}) | attributes
    return "".join(f" {name}={quoteattr(value)}" for name, value in named.items())
