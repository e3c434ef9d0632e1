"""Instruction selection: a gen whose pattern has few texts could be a select.

A gen takes the likeliest token at each step among those that its pattern allows; a select scores
whole texts. They may choose differently, so it is suggested, and applied on request only. A gen with
one possible text needs no suggestion: the engine forces its tokens without a model step.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ...choices import greedy_token_selection
from ...expressions import Gen, Select
from ..dataflow import Graph
from ..edit import placed, rebuilt
from .report import Context, Report, nothing

MOST = 16
"""texts of a gen that becomes a select"""


def apply(graph: Graph, context: Context) -> tuple[Graph, Report]:
    order, steps, found = [], 0, 0
    for number, node in placed(graph):
        choices = _texts(node.value) if isinstance(node.value, Gen) else ()
        if isinstance(node.value, Gen) and 1 < len(choices) <= MOST:
            value = node.value
            select = Select(value.name, choices, greedy_token_selection, heal=value.heal, location=value.location)
            node, found = replace(node, value=select), found + 1
            steps += max(map(context.count, choices)) - 1
        order.append((number, node))
    if not found:
        return nothing(graph, "selection", "no gen has only a few texts")
    words = "gens whose pattern has few texts could be selects, scored in one step; they may choose differently"
    return rebuilt(graph, order), Report("selection", words, {"gens": found, "decode steps": steps})


def _texts(gen: Gen) -> tuple[str, ...]:
    """The texts of a pattern that is an alternation of literals."""
    if gen.form is None or gen.reasoning or gen.execute or gen.form.stated is None or gen.form.stated[0] != "regex":
        return ()
    pattern = gen.form.stated[1]
    inner = pattern[1:-1] if pattern.startswith("(") and pattern.endswith(")") else pattern
    options = tuple(inner.removeprefix("?:").split("|"))
    return options if all(option and re.escape(option).replace("\\ ", " ") == option for option in options) else ()
