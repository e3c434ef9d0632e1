"""A program's graph before and after its passes: a row a node, a lane a strand, lines for what is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...contracts.legible import clipped, legible
from . import canvas
from .canvas import ROW, WIDTH
from .escape import Markup, joined, tag
from .html import details, grid, note, panel
from .html import picture as image

MARKS = {
    "text": ("square", "computed", "text"),
    "argument": ("diamond", "forced", "argument"),
    "read": ("circle", "reused", "text of the model"),
    "gen": ("triangle", "generated", "gen"),
    "select": ("diamond", "choice", "select"),
    "warm": ("circle", "cached", "computed ahead"),
    "opens": ("square", "locked", "call, fork"),
    "other": ("cross", "evicted", "other"),
}
"""kind of a row -> shape, ink and word"""
MOST = 160
"""rows that are drawn"""
_LANES = 10
_STEP = 13


class Row(NamedTuple):
    number: int
    strand: int
    kind: str
    words: str
    reads: tuple[int, ...]
    opened: tuple[int, ...] = ()


class Side(NamedTuple):
    title: str
    rows: Sequence[Row]


def picture(title: str, sides: Sequence[Side]) -> Markup:
    """The sides beside each other."""
    n_rows = max(min(len(side.rows), MOST) for side in sides)
    width = (WIDTH - 30) / len(sides)
    parts = [joined([canvas.text(18, 27, title, "strong")])]
    for index, side in enumerate(sides):
        parts.append(tag("g", {"transform": f"translate({15 + index * width:g},0)"}, _side(side, width)))
    marks = [(canvas.shape(shape, 0, 0, ink), word) for shape, ink, word in MARKS.values()]
    height = 74 + ROW * n_rows + 44
    return canvas.picture(height, title, [*parts, canvas.legend(height - 16, marks)])


def _side(side: Side, width: float) -> Markup:
    shown = side.rows[:MOST]
    lanes = {strand: lane for lane, strand in enumerate(dict.fromkeys(row.strand for row in side.rows))}
    n_lanes = min(len(lanes), _LANES)
    x = [10 + _STEP * min(lanes[row.strand], _LANES - 1) for row in shown]
    y = [70 + ROW * place for place in range(len(shown))]
    parts = [canvas.text(6, 50, side.title, "muted small")]
    last: dict[int, int] = {}
    for place, row in enumerate(shown):
        if row.strand in last:
            parts.append(canvas.line(x[last[row.strand]], y[last[row.strand]], x[place], y[place], "rail"))
        last[row.strand] = place
        for opened in row.opened:
            first = next((n for n in range(place + 1, len(shown)) if shown[n].strand == opened and opened != row.strand), None)
            if first is not None:
                parts.append(canvas.line(x[place], y[place], x[first], y[first], "rail"))
        parts += [canvas.line(x[read], y[read], x[place], y[place], "rail", dashed=True) for read in row.reads if x[read] != x[place]]
    begin = 16 + _STEP * n_lanes
    n_letters = max(8, int((width - begin) / 6.4))
    for place, row in enumerate(shown):
        shape, ink, _ = MARKS[row.kind]
        parts.append(canvas.shape(shape, x[place], y[place], ink, 4.5))
        parts.append(canvas.text(begin, y[place] + 4, clipped(row.words, n_letters), "small"))
    if len(side.rows) > len(shown):
        parts.append(canvas.text(begin, y[-1] + ROW, f"and {len(side.rows) - len(shown):,} more", "muted small"))
    return joined(parts)


def html(title: str, sides: Sequence[Side], reports: Sequence[Sequence[str]]) -> Markup:
    """The picture, and what each pass says. The first row of `reports` has the headings."""
    drawn = image(picture(title, sides), title)
    passes = details("What each pass did", grid(reports, unbroken=(0, 1)), is_open=True) if len(reports) > 1 else note("no pass ran")
    return panel("", "ok", "", [drawn, passes])


def text(title: str, sides: Sequence[Side], reports: Sequence[Sequence[str]]) -> str:
    lines = [legible(title)]
    for side in sides:
        lines.append(f"{legible(side.title)}:")
        for row in side.rows[:MOST]:
            lines.append(f"  {row.number:>4}  {'| ' * min(row.strand, _LANES)}{MARKS[row.kind][2]}: {clipped(row.words, 70)}")
    lines += ["  ".join(clipped(cell, 110) for cell in report) for report in reports[1:]]
    return "\n".join(lines)
