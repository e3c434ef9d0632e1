"""What is left of a cell when it has ended: HTML and text that need no kernel, no script and no network.

Reads the same in an untrusted notebook. Where scripts may run a player stands before the pictures. A bundle stays
under `LIMIT`; what was cut says so, and a run that is too long for a player says what plays it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from ..contracts.legible import clipped, legible
from .draw import html, svg, text
from .draw.escape import Markup, tag
from .replay import Replay
from .views.lanes import LanesPicture
from .views.metrics import MetricsPicture
from .views.tokens import TokensPicture
from .views.tree import TreePicture

LIMIT = 256 * 1024
"""bytes of one bundle"""
PAGE_LIMIT = 20 * 1024 * 1024
"""bytes of the recording in a page of its own"""
FOR_REPLAY = 112 * 1024
"""of these, what the pictures leave to the player and its recording"""
Picture = TypeVar("Picture", covariant=True)
FIRST_BUDGET = 6_000
"""tokens shown, unless that is too much"""
TOO_LONG = (
    "This run is too long for a saved cell to play it again: %sgl export run.html writes a page that plays all of it, "
    "and %sgl save run.jsonl keeps it for a later session, where %sgl replay run.jsonl takes it up."
)
BARS_SHARE = 4
"""tokens shown for each bar of the timeline, so that both get fewer together"""


class Whole(Protocol[Picture]):
    """A view, as far as it is drawn here."""

    def full(self) -> Picture: ...


def freeze(
    *,
    tokens: Whole[TokensPicture] | None = None,
    tree: Whole[TreePicture] | None = None,
    lanes: Whole[LanesPicture] | None = None,
    metrics: Whole[MetricsPicture] | None = None,
    replay: Replay | None = None,
    title: str = "",
    status: str = "ok",
    message: str = "",
    notes: Sequence[tuple[str, str]] = (),
) -> dict[str, str]:
    """A mimebundle of `text/html` and `text/plain`. status: ok, stopped or error; views that are None are left out.

    `notes` are headings and texts that stand below the views.
    """

    def fitted(room: int, remarks: Sequence[Markup] = ()) -> tuple[list[Markup], str, dict[str, str]]:
        """Parts, words and what they make together, in `room` bytes."""
        n_tokens = FIRST_BUDGET
        while True:
            parts, words = _parts(tokens, tree, lanes, metrics, status, message, n_tokens)
            parts = [*remarks, *parts, *(html.details(heading, html.plain(note), is_open=True) for heading, note in notes)]
            words = "\n\n".join([words, *(f"{heading}:\n{legible(note)}" for heading, note in notes)])
            bundle = _bundle(parts, words, title, status, message)
            if (size := _size(bundle)) <= room or n_tokens < 2:
                return parts, words, bundle
            n_tokens = int(n_tokens * min(0.5, room / size))

    if replay is None or replay.is_empty:
        return fitted(LIMIT)[2]
    parts, words, bundle = fitted(LIMIT - FOR_REPLAY)
    if script := replay.script(LIMIT - _size(bundle) - 100):
        return _bundle([tag("div", {}, *parts, script)], words, title, status, message)
    return fitted(LIMIT, [html.note(TOO_LONG)])[2]


def _size(bundle: dict[str, str]) -> int:
    return sum(len(part.encode()) for part in bundle.values())


def _bundle(parts: list[Markup], words: str, title: str, status: str, message: str) -> dict[str, str]:
    return {"text/html": html.panel(title, status, message, parts).source, "text/plain": words}


def drawn(
    tokens: Whole[TokensPicture] | None,
    tree: Whole[TreePicture] | None,
    lanes: Whole[LanesPicture] | None,
    metrics: Whole[MetricsPicture] | None,
    title: str,
    status: str,
    message: str,
    n_tokens: int,
    replay: Replay | None = None,
) -> tuple[Markup, str]:
    """The same for a page of its own: with about `n_tokens` tokens at most, and a recording for its player."""
    parts, words = _parts(tokens, tree, lanes, metrics, status, message, n_tokens)
    if replay and (recording := replay.data(PAGE_LIMIT)):
        parts = [tag("div", {}, *parts, recording)]
    return html.panel(title, status, message, parts), words


def _parts(
    tokens: Whole[TokensPicture] | None,
    tree: Whole[TreePicture] | None,
    lanes: Whole[LanesPicture] | None,
    metrics: Whole[MetricsPicture] | None,
    status: str,
    message: str,
    n_tokens: int,
) -> tuple[list[Markup], str]:
    parts: list[Markup] = []
    plain: list[str] = []
    if status != "ok":
        plain.append(clipped(f"{status}: {message}" if message else status, 300))
    if metrics is not None:
        strip = metrics.full()
        parts.append(html.metrics_strip(strip))
        plain.append(text.metrics(strip))
    if tokens is not None:
        streams = tokens.full()
        parts += [html.transcript(streams, n_tokens), html.legend(streams)]
        plain.insert(0, text.transcript(streams, n_tokens=n_tokens))
    if tree is not None:
        nodes = tree.full()
        twin = text.tree(nodes)
        parts.append(html.details("Radix tree", html.picture(svg.tree(nodes), twin.split("\n", 1)[0]), is_open=True))
        plain.append(twin)
    if lanes is not None:
        bars = lanes.full()
        twin = text.lanes(bars)
        drawing = svg.lanes(bars, max(50, min(svg.MAX_BARS, n_tokens // BARS_SHARE)))
        parts.append(html.details("Timeline", html.picture(drawing, twin.split("\n", 1)[0]), is_open=True))
        plain.append(twin)
    words = "\n\n".join(part for part in plain if part)
    if tree is not None or lanes is not None:
        parts.append(html.details("Plain text", html.plain(words)))
    return parts, words
