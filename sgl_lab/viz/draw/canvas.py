"""Shared parts of the static pictures: panel, style sheet, text, marks and legend.

An SVG that is shown as an image cannot read the page's theme. Each picture therefore has a panel of
its own, and its colours follow the reader's system setting (light or dark).
"""

from __future__ import annotations

from collections.abc import Iterable

from . import palette
from .escape import Attributes, Markup, joined, style_sheet, tag

WIDTH = 920
ROW = 26


def picture(height: float, title: str, parts: Iterable[Markup]) -> Markup:
    """The complete SVG. Screen readers announce `title`."""
    panel = tag("rect", {"class": "panel", "x": 0.5, "y": 0.5, "width": WIDTH - 1, "height": height - 1, "rx": 8})
    attributes: Attributes = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {WIDTH} {height:g}",
        "width": WIDTH,
        "height": height,
        "role": "img",
    }
    return tag("svg", attributes, tag("title", {}, title), _sheet(), panel, *parts)


def heading(title: str, note: str) -> Markup:
    return joined([text(18, 27, title, "strong"), text(24 + 8 * len(title), 27, note, "muted small")])


def text(x: float, y: float, words: str, cls: str = "", anchor: str = "start") -> Markup:
    attributes: Attributes = {"x": round(x, 1), "y": round(y, 1), "class": cls or False, "text-anchor": anchor != "start" and anchor}
    return tag("text", attributes, words)


def line(x1: float, y1: float, x2: float, y2: float, cls: str, dashed: bool = False) -> Markup:
    ends = {"x1": round(x1, 1), "y1": round(y1, 1), "x2": round(x2, 1), "y2": round(y2, 1)}
    return tag("line", {**ends, "class": cls, "stroke-dasharray": "3 3" if dashed else False})


def box(x: float, y: float, width: float, height: float, cls: str, rx: float = 0, dashed: bool = False) -> Markup:
    """A rectangle whose vertical centre is `y`."""
    place = {"x": round(x, 1), "y": round(y - height / 2, 1), "width": round(width, 1), "height": round(height, 1), "rx": rx}
    return tag("rect", {**place, "class": cls, "stroke-dasharray": "3 2" if dashed else False})


def shape(name: str, x: float, y: float, cls: str, r: float = 5) -> Markup:
    """A circle, square, diamond, triangle or cross centred on (x, y)."""
    if name == "circle":
        return tag("circle", {"class": cls, "cx": round(x, 1), "cy": round(y, 1), "r": r - 0.5, "stroke-width": 2})
    if name == "square":
        return box(x - r + 0.5, y, 2 * r - 1, 2 * r - 1, cls, rx=1)
    path = {
        "diamond": f"M{x:.1f},{y - r:.1f}l{r},{r}l{-r},{r}l{-r},{-r}z",
        "triangle": f"M{x - r + 1:.1f},{y - r:.1f}l{2 * r - 1},{r}l{1 - 2 * r},{r}z",
        "cross": f"M{x - r:.1f},{y - r:.1f}l{2 * r},{2 * r}m0,{-2 * r}l{-2 * r},{2 * r}",
    }[name]
    return tag("path", {"class": cls, "d": path, "stroke-width": 2 if name == "cross" else 1})


def legend(y: float, entries: Iterable[tuple[Markup, str]]) -> Markup:
    """One row of entries: each a mark, drawn around (0, 0), and its label."""
    parts = []
    x = 24.0
    for mark, word in entries:
        parts += [tag("g", {"transform": f"translate({x:g},{y - 4:g})"}, mark), text(x + 14, y, word, "muted small")]
        x += 36 + 6.2 * len(word)
    return joined(parts)


def _sheet() -> Markup:
    font = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif"
    base = f"text{{{font};font-size:12.5px}}text.small{{font-size:11px}}text.strong{{font-weight:600}}"
    light = _scheme("light", panel="#fafbfc", edge="#e1e5ea", words="#1f2430", muted="#5b6472", rail="#b4bcc8", inside="#ffffff")
    dark = _scheme("dark", panel="#1a1e25", edge="#333a45", words="#e8ebf1", muted="#a5aebc", rail="#5a6474", inside="#12151a")
    return style_sheet(f"{base}{light}@media (prefers-color-scheme:dark){{{dark}}}")


def _scheme(theme: str, *, panel: str, edge: str, words: str, muted: str, rail: str, inside: str) -> str:
    rules = [
        f".panel{{fill:{panel};stroke:{edge}}}.grid{{stroke:{edge}}}.rail{{stroke:{rail};fill:none;stroke-width:1.5}}",
        f"text{{fill:{words}}}text.muted{{fill:{muted}}}text.inside{{fill:{inside}}}.dot{{fill:{muted};stroke:none}}",
    ]
    for name, ink in palette.INKS.items():
        color: str = getattr(ink, theme)
        rules.append(f".{name}{{fill:{color};stroke:{color}}}.{name}-open{{fill:{panel};stroke:{color}}}")
        rules.append(f".{name}-edge{{fill:{palette.tint(color, 0.2)};stroke:{color}}}")
    return "".join(rules)
