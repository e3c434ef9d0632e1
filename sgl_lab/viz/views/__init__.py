"""Folds of the event stream: each view keeps only what its picture needs.

`fold(entry)` takes one entry. `delta()` returns the changes since the last delta as plain JSON
values. `full()` returns everything in the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ...contracts.ids import RunId
from .graphs import GraphsView
from .lanes import LanesView
from .metrics import MetricsView
from .reuse import Reuse
from .tokens import TokensView
from .tree import TreeView

__all__ = ["GraphsView", "LanesView", "MetricsView", "Reuse", "RunViews", "TokensView", "TreeView", "views_of"]


class RunViews(NamedTuple):
    """The views of one run."""

    tokens: TokensView
    tree: TreeView
    lanes: LanesView
    metrics: MetricsView
    graph: GraphsView


def views_of(run: RunId | None, spell: Callable[[int], str]) -> RunViews:
    """The views of one run, or of all runs with `run=None`."""
    reuse = Reuse(run)
    return RunViews(TokensView(spell, run, reuse), TreeView(spell, run), LanesView(run, reuse), MetricsView(run, reuse), GraphsView(run))
