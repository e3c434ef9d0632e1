"""Static pictures: the radix tree as an outline, the lanes as a Gantt chart."""

from __future__ import annotations

from collections.abc import Callable

from ...contracts.legible import clipped
from ..views.lanes import BarRow, LanesPicture
from ..views.tree import NodeRow, TreePicture
from .canvas import ROW, WIDTH, box, heading, legend, line, picture, shape, text
from .escape import Markup, tag
from .numbers import counted, duration
from .outline import Line, lane_order, outline

STEP = 22
"""width of one column of the outline"""
TOP = 56
MAX_NODES = 40
MAX_LANES = 48
MAX_BARS = 1_500
MAX_INDENT = 14

_STATES = {
    "root": ("diamond", "dot"),
    "fresh": ("circle", "computed"),
    "cached": ("circle", "cached-open"),
    "locked": ("square", "locked"),
    "running": ("triangle", "generated"),
}


def tree(shown: TreePicture, max_nodes: int = MAX_NODES) -> Markup:
    """The radix tree, a line a node: shape and colour say its state, the bar at the right its tokens."""
    lines = outline(shown, max_nodes, straight_chains=True)
    height = TOP + ROW * len(lines) + 38
    longest = max((row["n"] for row in shown["nodes"]), default=0) or 1
    note = f"{counted(len(shown['nodes']), 'node')} · {counted(sum(row['n'] for row in shown['nodes']), 'token')}"
    parts = [
        heading("Radix tree", note),
        text(WIDTH - 70, 27, "tokens", "muted small", "end"),
        text(WIDTH - 20, 27, "hits", "muted small", "end"),
    ]
    marks = []
    above: dict[int, float] = {}
    for number, row in enumerate(lines):
        depth = min(row.depth, MAX_INDENT)
        x, y = 26 + STEP * depth, TOP + ROW * number
        if row.is_branch and depth:
            parts.append(tag("path", {"class": "rail", "d": f"M{x - STEP},{above[depth - 1]}V{y - 7}q0,7 7,7H{x}"}))
        elif row.node is None or row.node["state"] != "root":
            parts.append(line(x, above.get(depth, y), x, y, "rail"))
        above[depth] = y
        marks += _entry(row, x, y, longest)
    key = [("fresh", "new in this run"), ("cached", "was there before"), ("locked", "in use"), ("running", "being extended")]
    parts.append(legend(height - 16, [(shape(_STATES[state][0], 0, 0, _STATES[state][1]), word) for state, word in key]))
    return picture(height, f"Radix tree: {note}", parts + marks)


def lanes(shown: LanesPicture, max_bars: int = MAX_BARS) -> Markup:
    """A lane a fork and on it what its requests did, over time; of too many bars the newest."""
    ordered = lane_order(shown["lanes"])[:MAX_LANES]
    rows = {lane["lane"]: number for number, (lane, _) in enumerate(ordered)}
    every = [bar for bar in shown["bars"] if bar["lane"] in rows]
    bars = every[-max_bars:]
    start = min((bar["t0"] for bar in bars), default=0.0)
    span = max([(bar["t1"] if bar["t1"] is not None else shown["now"]) - start for bar in bars] + [1e-3])
    left, right = 160, WIDTH - 30
    bottom = TOP + ROW * len(rows)
    n_more = len(shown["lanes"]) - len(rows)
    height = bottom + (18 if n_more else 0) + 40

    def x_of(t: float | None) -> float:
        return left + (right - left) * ((shown["now"] if t is None else t) - start) / span

    note = f"{counted(len(shown['lanes']), 'lane')} · {duration(span)}"
    note += f" · the newest {len(bars):,} of {counted(len(every), 'bar')}" if len(bars) < len(every) else ""
    parts = [heading("Timeline", note)]
    for tick in _ticks(span):
        parts += [
            line(x_of(start + tick), 48, x_of(start + tick), bottom, "grid"),
            text(x_of(start + tick), 42, duration(tick), "muted small", "middle"),
        ]
    for number, (lane, depth) in enumerate(ordered):
        indent = min(depth, 4)
        parts.append(text(18 + 14 * indent, TOP + ROW * number + 18, clipped(lane["label"], 20 - 2 * indent), "" if indent else "strong"))
    for bar in bars:
        parts += _bar(bar, TOP + ROW * rows[bar["lane"]] + 14, x_of)
    if n_more:
        parts.append(text(18, bottom + 14, f"+ {counted(n_more, 'more lane')}", "muted small"))
    kinds = {bar["kind"] for bar in bars}
    rare = [kind for kind in ("forced", "drafted") if kind in kinds]
    key = [
        (_mark(kind, 0, 0, 8), "guessed" if kind == "drafted" else kind)
        for kind in ("wait", "cached", "prefill", "decode", "score", "preempted", *rare)
    ]
    parts.append(legend(height - 16, key))
    return picture(height, f"Timeline: {note}", parts)


# ---------------------------------------------------------------- tree


def _entry(row: Line, x: float, y: float, longest: int) -> list[Markup]:
    room = int((WIDTH - 260 - x) / 6.6)
    if row.tail is not None:
        words = clipped(row.tail["label"], room)
        return [
            shape("triangle", x, y, "generated", 4),
            text(x + 14, y + 4, words, "small"),
            *_tokens(row.tail["n"], y, longest, "generated-edge"),
        ]
    if row.node is None:
        note = f"+ {counted(row.n_nodes, 'more node')}, {counted(row.n_tokens, 'token')}"
        return [shape("circle", x, y, "dot", 2.5), text(x + 14, y + 4, note, "muted small")]
    node = row.node
    state = "fresh" if node["state"] == "cached" and node["fresh"] else node["state"]
    name, cls = _STATES[state]
    marks = [shape(name, x, y, cls), text(x + 14, y + 4, clipped(node["label"], room), "muted" if state == "root" else "")]
    if state != "root":
        marks += _tokens(node["n"], y, longest, _soft(node))
        marks.append(text(WIDTH - 20, y + 4, f"{node['hits']:,}", "small" if node["hits"] else "muted small", "end"))
    return marks


def _soft(node: NodeRow) -> str:
    inks = {"running": "generated", "locked": "locked"}
    return inks.get(node["state"], "computed" if node["fresh"] else "cached") + "-edge"


def _tokens(n_tokens: int, y: float, longest: int, cls: str) -> list[Markup]:
    width = max(2.0, 110 * n_tokens / longest)
    return [box(WIDTH - 230, y, width, 8, cls, 2), text(WIDTH - 70, y + 4, f"{n_tokens:,}", "small", "end")]


# ---------------------------------------------------------------- lanes


def _bar(bar: BarRow, y: float, x_of: Callable[[float | None], float]) -> list[Markup]:
    x = x_of(bar["t0"])
    width = max(x_of(bar["t1"]) - x, 1.5)
    is_over = bar["kind"] in ("forced", "drafted")
    marks = [_mark(bar["kind"], x, y + 10 * is_over, width)]
    label = f"{bar['n']:,}"
    if bar["kind"] in ("prefill", "decode") and width > 8 + 7 * len(label):
        marks.append(text(x + width / 2, y + 4, label, "inside small", "middle"))
    title = tag("title", {}, f"{bar['name']} · {bar['kind']} · {counted(bar['n'], 'token')}")
    return [tag("g", {}, title, *marks)]


def _mark(kind: str, x: float, y: float, width: float) -> Markup:
    """Every kind has a shape of its own as well as a colour."""
    if kind == "wait":
        return line(x, y, x + width, y, "rail", dashed=True)
    if kind == "cached":
        return shape("diamond", x, y, "cached", 6)
    if kind == "prefill":
        return box(x, y, width, 15, "computed")
    if kind == "decode":
        return box(x, y, width, 15, "generated", 4)
    if kind == "score":
        return box(x, y, width, 13, "choice-edge", 0, dashed=True)
    if kind in ("forced", "drafted"):
        return box(x, y, width, 4, "forced-edge" if kind == "forced" else "generated", 1, dashed=kind == "forced")
    if kind == "preempted":
        return tag("g", {}, line(x, y, x + width, y, "evicted", dashed=True), shape("cross", x, y, "evicted", 3))
    return line(x, y - 7, x, y + 7, "rail")


def _ticks(span: float) -> list[float]:
    """Four to eight round times from 0 on."""
    step = 10.0**-3
    factors = (2.0, 2.5, 2.0)
    n = 0
    while span / step > 8:
        step *= factors[n % 3]
        n += 1
    return [step * number for number in range(int(span / step) + 1)]
