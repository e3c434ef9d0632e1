"""Plain-text versions of every picture, for terminals, screen readers and files.

With `ascii=True` the drawing is ASCII only; the texts are not changed.
"""

from __future__ import annotations

from ...contracts.legible import clipped, legible
from ..views.lanes import BarRow, LanesPicture
from ..views.metrics import MetricsPicture
from ..views.tokens import TokensPicture
from ..views.tree import TreePicture
from . import palette
from .numbers import UNCOUNTED, counted, duration, is_uncounted, metric_items
from .outline import Line, lane_order, outline
from .streams import Run, Stream, blocks, fair_share, streams

MAX_NODES = 200
MAX_LANES = 100
CHART = 32

_RAILS = {False: ("│ ", "├ ", "└ "), True: ("| ", "|-", "`-")}
_QUOTES = {
    False: {"generated": "⟦⟧", "forced": "⟨⟩", "choice": "⟪⟫"},
    True: {"generated": "[]", "forced": "<>", "choice": "{}"},
}
_BARS = {
    "wait": ".",
    "sent": ".",
    "host": ":",
    "forks": ",",
    "found": "o",
    "reused": "r",
    "prefill": "=",
    "decode": "#",
    "score": "?",
    "preempted": "x",
    "forced": "f",
}
_LAST = ("found", "reused", "forced")
"""bars that are drawn over the others"""


def metrics(picture: MetricsPicture) -> str:
    """The counts, in one line."""
    found = [f"{picture['found']:,} {palette.words_of(elsewhere=picture['elsewhere']).strip}", f"{picture['reused']:,} reused"]
    computed = f"{picture['computed']:,} computed"
    if is_uncounted(picture):
        found, computed = [UNCOUNTED], f"{picture['computed']:,} prompt tokens"
    elif picture["elsewhere"] and not picture["reused"]:
        del found[1]
    counts = [*found, computed, f"{picture['generated']:,} generated"]
    return " · ".join(counts + [f"{value} {name}" for value, name in metric_items(picture)])


def tree(picture: TreePicture, *, ascii: bool = False, max_nodes: int = MAX_NODES, elsewhere: bool = False) -> str:
    """One line per node of the run: label, tokens, hits, state. The nodes of other cells are one
    line.
    """
    n_tokens = sum(row["n"] for row in picture["nodes"])
    lines = [f"radix tree: {counted(len(picture['nodes']), 'node')}, {counted(n_tokens, 'token')}"]
    mine: TreePicture = {**picture, "nodes": [row for row in picture["nodes"] if row["mine"]]}
    words = palette.words_of(elsewhere=elsewhere)
    lines += [_tree_line(line, ascii, words) for line in outline(mine, max_nodes, straight_chains=False)]
    if others := [row for row in picture["nodes"] if not row["mine"] and row["parent"] is not None]:
        lines.append(f"+ {counted(len(others), 'other node')} ({counted(sum(row['n'] for row in others), 'token')}, left by other cells)")
    return "\n".join(lines)


def lanes(picture: LanesPicture) -> str:
    """One line per lane: its name, a small chart, and its phases in words."""
    shown = lane_order(picture["lanes"])[:MAX_LANES]
    bars: dict[str, list[BarRow]] = {lane["lane"]: [] for lane, _ in shown}
    for bar in picture["bars"]:
        if bar["lane"] in bars:
            bars[bar["lane"]].append(bar)
    start = min((bar["t0"] for bar in picture["bars"]), default=0.0)
    span = max([(picture["now"] if bar["t1"] is None else bar["t1"]) - start for bar in picture["bars"]] + [1e-3])
    lines = [f"timeline: {counted(len(picture['lanes']), 'lane')}, {duration(span)}"]
    for lane, depth in shown:
        name = clipped("  " * depth + lane["label"], 20)
        lines.append(f"{name:<20} |{_chart(bars[lane['lane']], start, span, picture['now'])}| {_story(bars[lane['lane']])}".rstrip())
    if len(picture["lanes"]) > len(shown):
        lines.append(f"… {counted(len(picture['lanes']) - len(shown), 'more lane')}")
    kinds = {bar["kind"] for of_lane in bars.values() for bar in of_lane}
    if key := ", ".join(f"{sign} {kind}" for kind, sign in _BARS.items() if kind in kinds):
        lines.append(f"{'':<20}  {key}")
    return "\n".join(lines)


def transcript(picture: TokensPicture, *, ascii: bool = False, n_tokens: int = 4000) -> str:
    """The text of every stream. Generated text and chosen options are in brackets; chat markup is
    replaced by the roles' names.
    """
    share = fair_share([len(op["toks"]) for op in picture["ops"]], n_tokens)
    lines: list[str] = []
    for root in streams(picture):
        lines += _stream(root, "", share, ascii)
    return "\n".join(lines)


# ---------------------------------------------------------------- parts


def _tree_line(line: Line, ascii: bool, words: palette.Words) -> str:
    rail, branch, last = _RAILS[ascii]
    prefix = "".join(rail if passes else "  " for passes in line.rails)
    prefix += (last if line.is_last else branch) if line.is_branch else ""
    if line.tail is not None:
        return f"{prefix}{line.tail['label']}  ({counted(line.tail['n'], 'token')}, request {line.tail['request']} is running)"
    if line.node is None:
        return f"{prefix}+ {counted(line.n_nodes, 'more node')} ({counted(line.n_tokens, 'token')})"
    node = line.node
    facts = [counted(node["n"], "token"), counted(node["hits"], "hit")]
    origin = words.new if node["fresh"] else words.before
    facts += {"running": ["growing"], "locked": ["in use"]}.get(node["state"], [origin])
    return f"{prefix}{node['label']}" + (f"  ({', '.join(facts)})" if node["state"] != "root" else "")


def _chart(bars: list[BarRow], start: float, span: float, now: float) -> str:
    cells = [" "] * CHART
    for bar in sorted(bars, key=lambda bar: bar["kind"] in _LAST):
        first = min(int(CHART * (bar["t0"] - start) / span), CHART - 1)
        end = int(CHART * ((now if bar["t1"] is None else bar["t1"]) - start) / span + 0.5)
        if bar["kind"] in _BARS:
            cells[first : max(end, first + 1)] = _BARS[bar["kind"]] * (max(end, first + 1) - first)
    return "".join(cells)


def _story(bars: list[BarRow]) -> str:
    """Tokens and time by kind, in the order in which the kinds first occur."""
    tokens: dict[str, int] = {}
    times: dict[str, float] = {}
    for bar in bars:
        if bar["kind"] not in ("text", "wait", "sent", "host", "forks"):
            tokens[bar["kind"]] = tokens.get(bar["kind"], 0) + bar["n"]
            times[bar["kind"]] = times.get(bar["kind"], 0.0) + ((bar["t1"] or bar["t0"]) - bar["t0"])
    # counted beside the decoded tokens, not among them
    over = {"drafted": "drafted and accepted", "forced": "forced"}
    story = [f"{kind} {tokens[kind]:,}" + (f" in {duration(times[kind])}" if times[kind] else "") for kind in tokens if kind not in over]
    return ", ".join(story + [f"{over[kind]} {tokens[kind]:,}" for kind in over if tokens.get(kind)])


def _stream(stream: Stream, margin: str, n_shown: int, ascii: bool) -> list[str]:
    rail, branch, last = _RAILS[ascii]
    lines: list[str] = []
    for toks, forked in stream.sections():
        for block in blocks(toks, n_shown):
            if not block.is_markup:
                lines += _spoken(block.role, "".join(_quoted(run, ascii) for run in block.runs), margin)
        for n, child in enumerate(forked):
            is_last = n == len(forked) - 1
            lines.append(margin + (last if is_last else branch) + clipped(child.name, 60))
            lines += _stream(child, margin + ("  " if is_last else rail), n_shown, ascii)
    return lines


def _spoken(role: str, text: str, margin: str) -> list[str]:
    if not text.strip():
        return []
    label = f"[{clipped(role, 40)}] " if role else ""
    return [margin + line for line in f"{label}{text.strip()}".split("\n")]


def _quoted(run: Run, ascii: bool) -> str:
    if run.n_left_out:
        return f" … {counted(run.n_left_out, 'more token')} … "
    text = legible("".join(tok[0] for tok in run.toks))
    quotes = _QUOTES[ascii].get(run.cls)
    return f"{quotes[0]}{text}{quotes[1]}" if quotes else text
