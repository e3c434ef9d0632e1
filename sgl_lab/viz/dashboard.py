"""What a dashboard folds: the engine's counters, its tree, and the requests of whoever sends any.

Its memory does not grow with time: the tree is as large as the cache, of requests the last are kept, and numbers are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..contracts.events import Entry
from .sender import Views
from .views import TreeView
from .views.counts import Counts, CountsView
from .views.recent import RecentView


def dashboard_views(spell: Callable[[int], str], counts: Counts) -> Views:
    recent = RecentView()
    return Views(NoTokens(), TreeView(spell, forks=False), recent, CountsView(counts, recent))


class NoTokens:
    """A dashboard has no place for texts."""

    def fold(self, entry: Entry) -> None:
        pass

    def delta(self) -> None:
        return None

    def full(self) -> Mapping[str, Any]:
        return {"forks": [], "ops": []}
