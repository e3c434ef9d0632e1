"""What is left of a cell when it has ended: HTML and text that need no kernel, no script and no network.

Reads the same in an untrusted notebook. Where scripts may run a player stands before the pictures. A bundle stays
under `LIMIT`; what was cut says so.
"""

from __future__ import annotations

from .draw import html, svg, text
from .draw.escape import Markup, tag
from .legible import clipped
from .replay import Replay
from .views import LanesView, MetricsView, TokensView, TreeView

LIMIT = 256 * 1024
"""bytes of one bundle"""
FOR_REPLAY = 112 * 1024
"""of these, what the pictures leave to the player and its recording"""
FIRST_BUDGET = 6_000
"""tokens shown, unless that is too much"""


def freeze(
    *,
    tokens: TokensView | None = None,
    tree: TreeView | None = None,
    lanes: LanesView | None = None,
    metrics: MetricsView | None = None,
    replay: Replay | None = None,
    title: str = "",
    status: str = "ok",
    message: str = "",
) -> dict[str, str]:
    """A mimebundle of `text/html` and `text/plain`. status: ok, stopped or error; views that are None are left out."""
    n_tokens = FIRST_BUDGET
    room = LIMIT - (FOR_REPLAY if replay else 0)
    while True:
        parts, words = _parts(tokens, tree, lanes, metrics, status, message, n_tokens)
        bundle = _bundle(parts, words, title, status, message)
        if _size(bundle) <= room or n_tokens < 2:
            break
        n_tokens //= 2
    if replay and (script := replay.script(LIMIT - _size(bundle) - 100)):
        return _bundle([tag("div", {}, *parts, script)], words, title, status, message)
    return bundle


def _size(bundle: dict[str, str]) -> int:
    return sum(len(part.encode()) for part in bundle.values())


def _bundle(parts: list[Markup], words: str, title: str, status: str, message: str) -> dict[str, str]:
    return {"text/html": html.panel(title, status, message, parts).source, "text/plain": words}


def drawn(
    tokens: TokensView | None,
    tree: TreeView | None,
    lanes: LanesView | None,
    metrics: MetricsView | None,
    title: str,
    status: str,
    message: str,
    n_tokens: int,
) -> tuple[Markup, str]:
    """The same, however large it is: the page and its text, with about `n_tokens` tokens at most."""
    parts, words = _parts(tokens, tree, lanes, metrics, status, message, n_tokens)
    return html.panel(title, status, message, parts), words


def _parts(
    tokens: TokensView | None,
    tree: TreeView | None,
    lanes: LanesView | None,
    metrics: MetricsView | None,
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
        parts.append(html.details("Timeline", html.picture(svg.lanes(bars), twin.split("\n", 1)[0]), is_open=True))
        plain.append(twin)
    words = "\n\n".join(part for part in plain if part)
    if tree is not None or lanes is not None:
        parts.append(html.details("Plain text", html.plain(words)))
    return parts, words
