"""The tree as Graphviz source, and as SVG where Graphviz is installed."""

from __future__ import annotations

from ...contracts.legible import clipped
from ..views.tree import TreePicture
from . import palette
from .numbers import counted

MAX_NODES = 2_000
NAME = "radix_tree"
"""first line of the source and of the output of `dot`; marks a file as written by sgl_lab"""


def source(picture: TreePicture, max_nodes: int = MAX_NODES) -> str:
    """A digraph, left to right. Labels are quoted strings: Graphviz interprets escapes and entities
    in them, and no other markup.
    """
    lines = [
        f"digraph {NAME} {{",
        '  rankdir="LR"; bgcolor="transparent";',
        '  node [shape="box", style="rounded", fontname="Helvetica", fontsize="11"];',
        f'  node [color="{palette.CACHED.both}", fontcolor="{palette.LOCKED.both}"];',
        f'  edge [arrowhead="none", color="{palette.EVICTED.both}"];',
    ]
    shown = picture["nodes"][:max_nodes]
    ids = {row["id"] for row in shown}
    for row in shown:
        label = clipped(row["label"], 48)
        if row["state"] != "root":
            label += f"\n{counted(row['n'], 'token')}, {counted(row['hits'], 'hit')}"
        extra = {"locked": f', color="{palette.LOCKED.both}", penwidth="2"', "running": f', color="{palette.GENERATED.both}", penwidth="2"'}
        lines.append(f"  n{row['id']} [label={_quoted(label)}{extra.get(row['state'], '')}];")
    lines += [f"  n{row['parent']} -> n{row['id']};" for row in shown if row["parent"] in ids]
    if len(picture["nodes"]) > len(shown):
        lines.append(f'  more [shape="plaintext", label="+ {counted(len(picture["nodes"]) - len(shown), "more node")}"];')
    return "\n".join([*lines, "}"])


def svg(picture: TreePicture) -> str | None:
    """The output of `dot`, or None if it is not installed."""
    import graphviz

    try:
        drawn = graphviz.Source(source(picture)).pipe(format="svg", encoding="utf-8")
    except graphviz.ExecutableNotFound:
        return None
    return str(drawn)


def _quoted(text: str) -> str:
    return '"' + text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
