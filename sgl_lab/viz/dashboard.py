"""The views of a dashboard: the engine's counters, its tree and its requests, from every program.

Memory does not grow with time. The tree is as large as the cache, only the last requests are kept,
and the numbers are read when they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..contracts.events import Entry
from .sender import Views
from .views import TreeView
from .views.counts import Counts, CountsView
from .views.recent import RecentView


def dashboard_views(spell: Callable[[int], str], counts: Counts) -> Views:
    recent = RecentView()
    return Views(NoTokens(), TreeView(spell, forks=False), recent, CountsView(counts, recent))


class NoTokens:
    """The token view of a dashboard, which shows no text."""

    def fold(self, entry: Entry) -> None:
        pass

    def delta(self) -> None:
        return None

    def full(self) -> Mapping[str, object]:
        return {"forks": [], "ops": []}

    def written(self, *, whole: bool) -> None:
        return None

    def least_bytes(self) -> int:
        return 0
