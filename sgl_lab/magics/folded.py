"""What a run was, folded from its record: for the frozen cell, an exported page and the counts.

The record is complete, so what is drawn here does not depend on the events that a live view received.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..contracts.events import RequestQueued
from ..contracts.legible import clipped
from ..contracts.tree import TreeSnapshot
from ..viz.draw.escape import Markup
from ..viz.freeze import drawn, freeze
from ..viz.replay import Replay
from ..viz.views import TreeView, views_of
from ..viz.views.explore import ExploreView
from ..viz.views.tree import TreePicture
from .options import VIEWS
from .output import Bundle

if TYPE_CHECKING:
    from ..recorded import RecordedLab
    from ..trace import Record


class Folded:
    """The views of one run, folded from its record. `about` is data on the lab for the player."""

    def __init__(self, record: Record, spell: Callable[[int], str] | None = None, about: Mapping[str, object] | None = None) -> None:
        say = spell or record.spell
        self._record, self._say, self._about = record, say, about or {}
        self.tokens, self.tree, self.lanes, self.metrics, self.graph = views_of(record.scope, say)
        self.tree.load(record.snapshot)
        self.metrics.load(record.snapshot)
        self._explore = ExploreView(say, record.scope)
        for entry in record.entries:
            for view in (self.tokens, self.tree, self.lanes, self.metrics, self.graph, self._explore):
                view.fold(entry)

    @classmethod
    def of(cls, lab: RecordedLab, record: Record) -> Folded:
        return cls(record, lab.spell, about(lab))

    def bundle(
        self, views: Sequence[str], title: str, status: str = "ok", message: str = "", notes: Sequence[tuple[str, str]] = ()
    ) -> Bundle:
        return freeze(
            tokens=self.tokens if "tokens" in views else None,
            tree=self.tree if "tree" in views and self.has_tree else None,
            lanes=self.lanes,
            has_lanes="timeline" in views,
            metrics=self.metrics,
            explore=self.explore,
            graph=self.graph if "graph" in views else None,
            replay=self._replay(title, views, status, message),
            title=title,
            status=status,
            message=message,
            ms=self._ms,
            notes=notes,
        )

    def page(self, title: str, status: str, message: str) -> Markup:
        """All views without a size limit, and the recording for a page with players."""
        replay = self._replay(title, VIEWS, status, message)
        return drawn(self.tokens, self.tree, self.lanes, self.metrics, self.graph, self.explore, title, status, message, self._ms, replay)

    @property
    def explore(self) -> ExploreView | None:
        """The exploration, if the run is one."""
        return None if self._explore.is_empty else self._explore

    @property
    def has_tree(self) -> bool:
        """Whether a tree was seen; not of an engine behind an API, unless one was inferred."""
        return not self.metrics.full()["answered"] or bool(self.tree.full()["nodes"])

    @property
    def has_run(self) -> bool:
        """Whether the engine received a request."""
        return any(isinstance(entry.event, RequestQueued) for entry in self._record.entries)

    @property
    def _ms(self) -> float:
        return self.lanes.full()["now"]

    def _replay(self, title: str, views: Sequence[str], status: str, message: str) -> Replay:
        ended = {"phase": "done" if status == "ok" else status, "message": clipped(message, 4_000)}
        return Replay(self._record, self._say, {"title": clipped(title, 120), "views": list(views), **ended, **self._about})

    def counts(self) -> dict[str, int]:
        """The counts, for programs that read the notebook."""
        strip = self.metrics.full()
        return {
            "cached": strip["cached"],
            "found": strip["found"],
            "reused": strip["reused"],
            "computed": strip["computed"],
            "generated": strip["generated"],
            "evicted": strip["evicted"],
            "forks": strip["forks"],
        } | tree_counts(self.tree.full())


def tree_counts(picture: TreePicture) -> dict[str, int]:
    return {"nodes": len(picture["nodes"]), "tree_tokens": sum(row["n"] for row in picture["nodes"])}


def tree_of(snapshot: TreeSnapshot, spell: Callable[[int], str]) -> TreeView:
    view = TreeView(spell)
    view.load(snapshot)
    return view


def about(lab: RecordedLab) -> dict[str, object]:
    """Data on a lab for a player."""
    return {"vocab": lab.card.vocab, "evict": lab.evict}
