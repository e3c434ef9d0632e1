"""The dataflow graph of a compiled program that ran: boxes, and what each waits for. As on the live page
(`static/graph.js`), at the same places.
"""

from __future__ import annotations

from typing import NamedTuple

from ..views.graphs import ASKING, GraphRow, GraphsPicture, StepRow
from ..views.layers import HEAD, HEIGHT
from . import palette
from .escape import Child, Markup, css, tag
from .numbers import counted
from .still import ALARM, LINE, MONO, SOFT, key, scroll_box, section, stroke

HIGH, LOW = 232, 70
_MOST_LINES = 60


class Look(NamedTuple):
    glyph: str
    word: str
    ink: palette.Ink
    line: str


LOOKS = {
    "idle": Look("·", "not reached", palette.EVICTED, "1px dashed"),
    "queued": Look("◌", "queued", palette.COMPUTED, "1px dashed"),
    "running": Look("▸", "running", palette.GENERATED, "2px solid"),
    "done": Look("✓", "done", palette.LOCKED, "1px solid"),
    "failed": Look("✕", "failed", ALARM, "2px solid"),
}
"""how a node in each state looks; the same on the live page"""


def still(picture: GraphsPicture, max_nodes: int) -> Markup:
    """The first nodes of all graphs, as many as are allowed."""
    shown = picture["steps"][:max_nodes]
    seen = {step["state"] for step in picture["steps"]}
    keys = [key(tag("span", {"style": css(color=look.ink.both)}, look.glyph), look.word) for name, look in LOOKS.items() if name in seen]
    width = max([step["x"] + step["w"] for step in shown] + [200])
    height = max([step["y"] + HEIGHT for step in shown] + [row["y"] + HEAD for row in picture["graphs"]])
    high = min(HIGH, max(LOW, picture["height"] + 28))  # as the live page's
    world = css(position="relative", width=f"{width + 28}px", height=f"{height + 16}px", flex="none")
    parts = [_heading(row) for row in picture["graphs"]]
    parts += [edge for step in shown for edge in _edges(step, shown)]
    parts += [_box(step) for step in shown]
    n_nodes = sum(row["n"] for row in picture["graphs"])
    note = counted(n_nodes, "node") if len(shown) == n_nodes else f"the first {len(shown):,} of {counted(n_nodes, 'node')}"
    return section(
        "Graph", keys, scroll_box(HIGH, tag("div", {"style": world}, *parts), label="Graph", low=high, style=css(margin_bottom="6px")), note
    )


def _heading(row: GraphRow) -> Markup:
    style = css(position="absolute", left="14px", top=f"{row['y']}px", font_size="11px", line_height=f"{HEAD}px", white_space="nowrap")
    return tag("div", {"style": f"{style};{SOFT}"}, _name(row))


def _name(row: GraphRow) -> str:
    runs = f" · {counted(row['runs'], 'run')}" if row["runs"] != 1 else ""
    return f"{row['name']} · {counted(row['n'], 'node')}{'' if row['is_kept'] else ', too many to be drawn'}{runs}"


def _box(step: StepRow) -> Markup:
    look, asks = LOOKS.get(step["state"], LOOKS["idle"]), step["kind"] in ASKING
    style = css(
        position="absolute",
        left=f"{step['x'] + 14}px",
        top=f"{step['y']}px",
        width=f"{step['w']}px",
        height=f"{HEIGHT}px",
        box_sizing="border-box",
        padding="0 6px",
        border=f"{look.line} {look.ink.both}",
        border_radius="12px" if asks else "4px",
        background_color=palette.tint(look.ink.both, 0.12 if asks else 0.05),
        font_size="11px",
        line_height=f"{HEIGHT - 2}px",
        white_space="pre",
        overflow="hidden",
    )
    words: list[Child] = [tag("span", {"style": css(color=look.ink.both)}, f"{look.glyph} "), step["label"]]
    title = f"{step['words']} · {count(step)}" if step["words"] else count(step)
    return tag("div", {"style": f"{style};{MONO}" + (";font-weight:600" if asks else ""), "title": title}, *words)


def count(step: StepRow) -> str:
    """The state in words: `done`, or how often each, of several executions."""
    if sum(step["n"]) <= 1:
        return LOOKS.get(step["state"], LOOKS["idle"]).word
    return ", ".join(f"{n:,} {word}" for n, word in zip(step["n"], ("queued", "running", "done", "failed"), strict=True) if n)


def _edges(step: StepRow, shown: list[StepRow]) -> list[Markup]:
    found: list[Markup] = []
    for others, dashed in ((step["after"], False), (step["reads"], True)):
        for other in others:
            if other < len(shown):  # a node's id is its place
                found += _edge(shown[other], step, dashed=dashed)
    return found


def _edge(before: StepRow, step: StepRow, *, dashed: bool) -> list[Markup]:
    """Along the row; to a lower row first down, to a higher one first along. What is read of the same
    row passes above it.
    """
    line = f"1.5px {'dashed' if dashed else 'solid'} {palette.GENERATED.both if dashed else LINE}"
    left, right = before["x"] + before["w"] + 14, step["x"] + 14
    above, here = before["y"] + HEIGHT // 2, step["y"] + HEIGHT // 2
    if above == here and not dashed:
        return [stroke(left, here, max(0, right - left), 0, border_top=line)]
    if above == here:
        first, last, top = before["x"] + before["w"] // 2 + 14, step["x"] + step["w"] // 2 + 14, step["y"] - 4
        return [stroke(first, top, max(0, last - first), 4, border_top=line, border_left=line, border_right=line)]
    if here > above:
        down = {"border_left": line, "border_bottom": line, "border_radius": "0 0 0 5px"}
        return [stroke(left, above, 8, 0, border_top=line), stroke(left + 8, above, max(0, right - left - 8), here - above, **down)]
    up = {"border_left": line, "border_top": line, "border_radius": "5px 0 0 0"}
    return [stroke(left, above, max(0, right - 10 - left), 0, border_top=line), stroke(right - 10, here, 10, above - here, **up)]


def text(picture: GraphsPicture) -> str:
    """A line for each graph, and one for each gen and select."""
    lines: list[str] = []
    for row in picture["graphs"]:
        lines.append(f"graph: {_name(row)}")
        asked = [step for step in picture["steps"] if step["graph"] == row["graph"] and step["kind"] in ASKING]
        for step in asked[:_MOST_LINES]:
            look = LOOKS.get(step["state"], LOOKS["idle"])
            lines.append(f"  {look.glyph} {step['label']}: {count(step)}")
        if len(asked) > _MOST_LINES:
            lines.append(f"  … {len(asked) - _MOST_LINES:,} more")
    return "\n".join(lines)
