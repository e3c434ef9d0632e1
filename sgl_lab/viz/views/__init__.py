"""Folds of the event stream: each view keeps only what its picture needs.

`fold(entry)` takes one entry, `delta()` tells in plain JSON values what changed since the last
delta, `full()` tells everything in the same shape.
"""

from .lanes import LanesView
from .metrics import MetricsView
from .tokens import TokensView
from .tree import TreeView

__all__ = ["LanesView", "MetricsView", "TokensView", "TreeView"]
