"""The frozen view of a cell that has ended: HTML and text that need no kernel, no script and no
network.

It is the live view's drawing and renders the same in an untrusted notebook. Where scripts may run,
the live view replaces it, with a slider over the recorded moments. A bundle stays under `LIMIT`:
details are dropped first, and the text of prompts and answers is never dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from ..contracts.legible import clipped, legible
from .draw import explore as draw_explore
from .draw import graph as draw_graph
from .draw import html, still, text
from .draw.escape import Markup, joined, tag
from .draw.streams import cut, without_pictures
from .replay import Replay
from .views.explore import ExplorePicture
from .views.graphs import GraphsPicture
from .views.lanes import LanesPicture
from .views.metrics import MetricsPicture
from .views.tokens import TokensPicture
from .views.tree import TreePicture

LIMIT = 256 * 1024
"""bytes of one bundle"""
PAGE_LIMIT = 20 * 1024 * 1024
"""bytes of the recording in a standalone page"""
Picture = TypeVar("Picture", covariant=True)
Made = TypeVar("Made", Markup, str)
Kept = dict[tuple[str, int | None], Made]
"""parts by name and size"""
TRUST = (
    "This is a picture of the run. To replay it and to explore its tokens, trust the notebook: "
    "Command palette (Ctrl + Shift + C), Trust Notebook."
)
IN_PAGE = "This is a picture of the run. Where scripts may run, this page replays it."
TOO_LONG = (
    "This run is too long for a saved cell to replay it: %sgl export run.html writes a page that does, and %sgl save run.jsonl keeps it."
)


class Whole(Protocol[Picture]):
    """A view, as far as it is drawn here."""

    def full(self) -> Picture: ...


class Room(NamedTuple):
    """Limits for the optional parts of a picture."""

    n_nodes: int
    n_bars: int
    n_plain: int
    """tokens in the plain text, which repeats those of the picture"""
    n_tokens: int | None = None
    """tokens in the picture; None for all"""
    is_bare: bool = False
    """whether its text has brackets in place of colours, so that all of it fits"""
    has_pictures: bool = False
    """whether images are seen, and not only named"""


ROOMS = (
    Room(still.MAX_NODES, still.MAX_BARS, 1_000_000, has_pictures=True),
    Room(still.MAX_NODES, still.MAX_BARS, 4_000, has_pictures=True),
    Room(still.MAX_NODES, still.MAX_BARS, 4_000),
    Room(40, 150, 1_000),
    Room(24, 60, 300),
    Room(24, 60, 300, is_bare=True),
    *(Room(24, 60, 300, n) for n in (20_000, 12_000, 8_000, 5_000, 3_000, 1_500, 700, 300, 100, 30, 8)),
)
PAGE_ROOM = Room(400, 4_000, 1_000_000, has_pictures=True)


@dataclass(frozen=True)
class Pictures:
    """The views of a run. A view that is None is left out."""

    tokens: TokensPicture | None
    tree: TreePicture | None
    lanes: LanesPicture | None
    metrics: MetricsPicture | None
    graph: GraphsPicture | None
    explore: ExplorePicture | None
    title: str
    status: str
    message: str
    ms: float | None
    is_engine: bool = False
    has_lanes: bool = True
    """whether the timeline is shown; the token view reads the lanes in any case"""
    _drawn: Kept[Markup] = field(default_factory=dict, repr=False, compare=False)
    _plain: Kept[str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_elsewhere(self) -> bool:
        """Whether an engine behind an API served the run."""
        return self.metrics is not None and self.metrics["elsewhere"]

    def drawn(self, room: Room, moment: str) -> Markup:
        is_failure = self.status == "error" and self.message
        elsewhere = self.is_elsewhere
        parts = (
            [still.head(self.title, self.status, self.ms, "" if is_failure else self.message)] if self.title or self.status != "ok" else []
        )
        parts += [still.moment(moment)] if moment else []
        parts += [still.alarm(clipped(self.message, 4_000))] if is_failure else []
        if self.metrics is not None:
            parts.append(still.counts(self.metrics, self.is_engine))
        if (explore := self.explore) is not None:
            parts.append(_once(self._drawn, "explore", None, lambda: draw_explore.body(explore)))
        if self.tokens is not None:
            tokens, n, seen = self.tokens, room.n_tokens, " with pictures" * room.has_pictures
            tokens = tokens if seen else without_pictures(tokens)
            if room.is_bare:
                parts.append(_once(self._drawn, "bare", None, lambda: still.bare_tokens(tokens)))
            else:
                shown = lambda: still.tokens(tokens if n is None else cut(tokens, n), self.lanes, elsewhere=elsewhere)  # noqa: E731
                parts.append(_once(self._drawn, f"tokens{seen}", n, shown))
        if (graph := self.graph) is not None and graph["graphs"]:
            parts.append(_once(self._drawn, "graph", room.n_nodes, lambda: draw_graph.still(graph, 2 * room.n_nodes)))
        if (tree := self.tree) is not None:
            tree = tree if room.has_pictures else {**tree, "texts": []}
            name = "tree" + " with pictures" * room.has_pictures
            parts.append(_once(self._drawn, name, room.n_nodes, lambda: still.tree(tree, room.n_nodes, elsewhere=elsewhere)))
        if (lanes := self.lanes) is not None and self.has_lanes:
            parts.append(_once(self._drawn, "lanes", room.n_bars, lambda: still.lanes(lanes, room.n_bars, elsewhere=elsewhere)))
        return still.frame(parts)

    def words(self, room: Room) -> str:
        plain = [clipped(f"{self.status}: {self.message}" if self.message else self.status, 300)] if self.status != "ok" else []
        if self.metrics is not None:
            plain.append(text.metrics(self.metrics))
        if (tokens := self.tokens) is not None:
            plain.insert(0, _once(self._plain, "tokens", room.n_plain, lambda: text.transcript(tokens, n_tokens=room.n_plain)))
        if (explore := self.explore) is not None:
            plain.insert(0, _once(self._plain, "explore", None, lambda: draw_explore.text(explore)))
        if (graph := self.graph) is not None and graph["graphs"]:
            plain.append(_once(self._plain, "graph", None, lambda: draw_graph.text(graph)))
        if (tree := self.tree) is not None:
            plain.append(_once(self._plain, "tree", None, lambda: text.tree(tree, elsewhere=self.is_elsewhere)))
        if (lanes := self.lanes) is not None and self.has_lanes:
            plain.append(_once(self._plain, "lanes", None, lambda: text.lanes(lanes)))
        return "\n\n".join(part for part in plain if part)


def _once(kept: Kept[Made], name: str, size: int | None, make: Callable[[], Made]) -> Made:
    """Draws each part once per size, however many rooms are tried."""
    if (name, size) not in kept:
        kept[name, size] = make()
    return kept[name, size]


def freeze(
    *,
    tokens: Whole[TokensPicture] | None = None,
    tree: Whole[TreePicture] | None = None,
    lanes: Whole[LanesPicture] | None = None,
    metrics: Whole[MetricsPicture] | None = None,
    graph: Whole[GraphsPicture] | None = None,
    explore: Whole[ExplorePicture] | None = None,
    replay: Replay | None = None,
    title: str = "",
    status: str = "ok",
    message: str = "",
    ms: float | None = None,
    is_engine: bool = False,
    has_lanes: bool = True,
    notes: Sequence[tuple[str, str]] = (),
) -> dict[str, str]:
    """A MIME bundle of `text/html` and `text/plain`.

    status     ok, stopped, error, or running if the run continues without its picture
    ms         how long the run took, in milliseconds
    is_engine  True for a whole engine instead of a run
    has_lanes  False if the lanes are not a view of their own and only show what each fork reused
    notes      headings and texts below the views
    """
    pictures = _pictures(tokens, tree, lanes, metrics, graph, explore, title, status, message, ms, is_engine, has_lanes)
    below = [html.details(heading, html.plain(note), is_open=True) for heading, note in notes]
    also = "".join(f"\n\n{heading}:\n{legible(note)}" for heading, note in notes)

    def bundle(room: Room, moment: str, script: Markup | None = None) -> dict[str, str]:
        drawn = pictures.drawn(room, moment)
        shown = tag("div", {}, drawn, script) if script else drawn
        return {"text/html": joined([shown, *below]).source, "text/plain": pictures.words(room) + also}

    best: dict[str, str] | None = None
    has_colours = False
    for room in ROOMS:
        if room.is_bare and has_colours:
            break  # text in colours is worth more than a replay
        found = bundle(room, "" if replay is None or replay.is_empty else TRUST)
        if (size := _size(found)) > LIMIT:
            continue
        has_colours = True
        if replay is None or replay.is_empty:
            return found
        if recorded := replay.script(LIMIT - size - 100):
            best = bundle(room, TRUST, recorded.markup)
            if recorded.is_whole or room.n_plain <= ROOMS[1].n_plain:
                return best
        elif room.n_tokens is not None:
            break
    if best is not None:
        return best
    moment = TOO_LONG if replay is not None and not replay.is_empty else ""
    return next(found for room in ROOMS if _size(found := bundle(room, moment)) <= LIMIT)


def _size(bundle: dict[str, str]) -> int:
    return sum(len(part.encode()) for part in bundle.values())


def drawn(
    tokens: Whole[TokensPicture],
    tree: Whole[TreePicture],
    lanes: Whole[LanesPicture],
    metrics: Whole[MetricsPicture],
    graph: Whole[GraphsPicture],
    explore: Whole[ExplorePicture] | None,
    title: str,
    status: str,
    message: str,
    ms: float | None,
    replay: Replay,
) -> Markup:
    """The same picture for a standalone page, without a size limit, with a recording for its
    player.
    """
    pictures = _pictures(tokens, tree, lanes, metrics, graph, explore, title, status, message, ms, False, True)
    recording = replay.data(PAGE_LIMIT)
    shown = pictures.drawn(PAGE_ROOM, IN_PAGE if recording else "")
    return tag("div", {}, shown, recording) if recording else shown


def _pictures(
    tokens: Whole[TokensPicture] | None,
    tree: Whole[TreePicture] | None,
    lanes: Whole[LanesPicture] | None,
    metrics: Whole[MetricsPicture] | None,
    graph: Whole[GraphsPicture] | None,
    explore: Whole[ExplorePicture] | None,
    title: str,
    status: str,
    message: str,
    ms: float | None,
    is_engine: bool,
    has_lanes: bool,
) -> Pictures:
    return Pictures(
        None if tokens is None else tokens.full(),
        None if tree is None else tree.full(),
        None if lanes is None else lanes.full(),
        None if metrics is None else metrics.full(),
        None if graph is None else graph.full(),
        None if explore is None else explore.full(),
        title,
        status,
        message,
        ms,
        is_engine,
        has_lanes,
    )
