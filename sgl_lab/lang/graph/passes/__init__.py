"""The optimiser: one file a pass. A pass takes a graph and returns another with a report.

A safe pass changes no text that a program generates greedily. What a pass only suggests changes what
the model reads, and is applied on request, by the pass's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from ....contracts.errors import BadArgument
from ....contracts.near import did_you_mean
from ..dataflow import Graph
from . import common, dead, fields, foresight, move, prefetch, selection, together, warm
from .report import Context, Pass, Report

PASSES: dict[str, Pass] = {
    "fields": Pass(fields.apply, is_safe=True),
    "common": Pass(common.apply, is_safe=True),
    "warm": Pass(warm.apply, is_safe=True),
    "prefetch": Pass(prefetch.apply, is_safe=True),
    "move": Pass(move.apply, is_safe=False),
    "selection": Pass(selection.apply, is_safe=False),
    "dead": Pass(dead.apply, is_safe=False),
    "together": Pass(together.apply, is_safe=True),
    "foresight": Pass(foresight.apply, is_safe=True),
}
LEVELS = ("none", "safe", "suggest")


def checked(optimise: object, apply: Sequence[str], without: Sequence[str]) -> None:
    """BadArgument for a level or a pass that does not exist."""
    if optimise not in LEVELS:
        raise BadArgument(f"optimise must be one of {', '.join(LEVELS)}, not {optimise!r:.40}", hint=did_you_mean(str(optimise), LEVELS))
    for names in (apply, without):
        if isinstance(names, str):
            raise BadArgument(f"passes are a list of names, not the text {names!r:.40}", hint=f"write [{names!r:.40}]")
        for name in names:
            if name not in PASSES:
                raise BadArgument(f"there is no pass {name!r:.40}", hint=did_you_mean(str(name), PASSES))


def optimised(
    graph: Graph, optimise: str, context: Context, apply: Sequence[str] = (), without: Sequence[str] = ()
) -> tuple[Graph, list[Report]]:
    """The graph after the passes of the level, and a report of each."""
    reports = []
    for name, each in PASSES.items():
        if name in without or (optimise == "none" and name not in apply):
            continue
        changed, report = each.apply(graph, context)
        if each.is_safe or name in apply:
            graph = changed
            reports.append(Report(name, report.words, report.numbers, "applied" if report.numbers else "nothing to do"))
        elif optimise == "suggest":
            reports.append(Report(name, report.words, report.numbers, "suggested" if report.numbers else "nothing to do"))
    return graph, reports
