"""Decides what is sent to the page, and when: folded views in, numbered JSON messages out.

A page never receives more than it can paint: tokens at most 30 times a second, everything else at
most 10 times, 64 KiB per message. Between two messages, changes are merged in the views, whose
deltas hold the last state of each item. Time is an argument.

Every item is encoded once, and its text is measured: a message is joined from such texts until it
is full. Encoding a whole picture at once would block all threads of the kernel.

Knows no thread and no widget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, Protocol

from ..contracts.events import Entry, ForkOpened
from ..contracts.tree import TreeSnapshot
from .views.tok import encode

MAX_BYTES = 64 * 1024
TOKENS_EVERY_NS = 33_000_000
REST_EVERY_NS = 100_000_000
SNAPSHOT_EVERY_NS = 1_000_000_000
TEXTS = 100
"""texts of nodes per turn: a large tree appears at once, and its nodes' texts follow"""

Message = dict[str, Any]
"""what a page learns at once: a part for each channel that changed"""
Part = Mapping[str, Any]
"""what a view adds to a message; the TypedDict of each view says its items"""


class Packet(NamedTuple):
    """A numbered message. Pages apply `body` as `static/store.js` documents."""

    seq: int
    kind: str
    """full or delta"""
    body: str
    """a `Message` as JSON in ASCII"""


class View(Protocol):
    """A fold with JSON output. A TypedDict is a mapping to `object`, hence the wide return types."""

    def fold(self, entry: Entry) -> None: ...

    def delta(self) -> Mapping[str, object] | None: ...

    def full(self) -> Mapping[str, object]: ...

    def least_bytes(self) -> int:
        """A lower bound of the size of `full` as JSON, found without building it."""
        ...


class Written(View, Protocol):
    """A view that writes its items itself, as JSON text."""

    def written(self, *, whole: bool) -> Mapping[str, Any] | None: ...


class Loadable(View, Protocol):
    """A view of something that outlasts a run. A snapshot corrects it after events were lost."""

    def load(self, snapshot: TreeSnapshot) -> None: ...


class Leisurely(Loadable, Protocol):
    """A view whose texts may be sent after everything else."""

    def delta(self, n_texts: int | None = None) -> Mapping[str, object] | None: ...

    def outline(self) -> Mapping[str, object]: ...

    @property
    def is_behind(self) -> bool: ...


class Views:
    """The folds of one live run."""

    def __init__(
        self, tokens: Written, tree: Leisurely, lanes: View, metrics: Loadable, graph: View | None = None, explore: View | None = None
    ) -> None:
        self.tokens, self.tree, self.lanes, self.metrics, self.graph = tokens, tree, lanes, metrics, graph
        self.explore = explore
        """that of an exploration; it sends nothing of another run"""
        self._tree_from = 0

    def fold(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.tokens.fold(entry)
            self.lanes.fold(entry)
            self.metrics.fold(entry)
            if self.explore is not None:
                self.explore.fold(entry)
            if self.graph is not None:
                self.graph.fold(entry)
            if entry.seq >= self._tree_from or isinstance(entry.event, ForkOpened):
                self.tree.fold(entry)

    def load(self, snapshot: TreeSnapshot) -> None:
        """Take over the cache from the snapshot. Events that it already includes are not folded
        into the tree again.
        """
        self.tree.load(snapshot)
        self.metrics.load(snapshot)
        self._tree_from = snapshot.seq

    def named(self) -> dict[str, View]:
        named: dict[str, View] = {"tokens": self.tokens, "tree": self.tree, "lanes": self.lanes, "metrics": self.metrics}
        others = {"graph": self.graph, "explore": self.explore}
        return named | {name: view for name, view in others.items() if view is not None}


class Sender:
    """Turns changes into numbered messages."""

    def __init__(self, views: Views, *, pace: float = 1.0, n_texts: int | None = TEXTS) -> None:
        """pace     2 sends half as often
        n_texts  texts of nodes per turn; None for all
        """
        self._views = views
        self.pace = pace
        self._n_texts = n_texts
        self._seq = 0
        self._status: Message | None = None
        self._full_wanted = False
        self._tokens_stale = self._rest_stale = self._status_stale = False
        self._snapshot_stale = True
        self._tokens_due = self._rest_due = self._snapshot_due = 0
        self._too_large: set[str] = set()
        """views that are no longer part of snapshots"""

    # ------------------------------------------------------------ in

    def fold(self, entries: Iterable[Entry]) -> None:
        self._views.fold(entries)
        self._tokens_stale = self._rest_stale = self._snapshot_stale = True

    def load(self, snapshot: TreeSnapshot) -> None:
        """After a loss of events: the page receives everything again."""
        self._views.load(snapshot)
        self._full_wanted = self._snapshot_stale = True

    def hello(self) -> None:
        """A new page, or a page that missed a message, requests the complete picture."""
        self._full_wanted = True

    def status(self, phase: str, text: str, progress: float | None) -> None:
        self._status = {"phase": phase, "text": text, "progress": progress}
        self._status_stale = self._snapshot_stale = True

    # ------------------------------------------------------------ out

    def poll(self, now_ns: int, *, flush: bool = False) -> list[Packet]:
        """The messages that are due. With `flush`, all pending messages."""
        kind, parts = self._due(now_ns, flush=flush, written=True)
        packets, n_tokens, n_trees = [], 0, 0
        for channels, body in split(parts):
            packets.append(Packet(self._seq, kind, body))
            kind = "delta"
            self._seq += 1
            n_tokens += "tokens" in channels
            n_trees += "tree" in channels
        # A message that had to be split uses up the turns after it.
        self._tokens_due += TOKENS_EVERY_NS * max(0, n_tokens - 1)
        self._rest_due += REST_EVERY_NS * max(0, n_trees - 1)
        return packets

    def due(self, now_ns: int, *, flush: bool = False) -> Message:
        """What `poll` would send, as values, unencoded and in one piece. Empty if nothing is due."""
        return self._due(now_ns, flush=flush, written=False)[1]

    def _due(self, now_ns: int, *, flush: bool, written: bool) -> tuple[str, Message]:
        views = self._views.named()
        tokens, tree = self._views.tokens, self._views.tree
        n_texts = None if flush else self._n_texts
        parts: Message = {}
        kind = "delta"
        rest_due = flush or now_ns >= self._rest_due
        if rest_due and self._full_wanted:
            kind = "full"
            for name, view in views.items():
                if view is tree and n_texts is not None:
                    tree.delta(0)
                    parts[name] = tree.outline()
                else:
                    view.delta()  # the full picture includes these changes
                    parts[name] = tokens.written(whole=True) if written and view is tokens else view.full()
            self._full_wanted = self._tokens_stale = self._rest_stale = False
            self._status_stale = self._status is not None
            self._tokens_due = now_ns + int(self.pace * TOKENS_EVERY_NS)
        del views["tokens"]
        if self._tokens_stale and (flush or now_ns >= self._tokens_due):
            parts["tokens"] = tokens.written(whole=False) if written else tokens.delta()
            self._tokens_stale = False
            self._tokens_due = now_ns + int(self.pace * TOKENS_EVERY_NS)
        if rest_due:
            if self._rest_stale:
                parts |= {name: view.delta() if view is not tree else tree.delta(n_texts) for name, view in views.items()}
            if self._status_stale:
                parts["status"] = self._status
            if kind == "full" or self._rest_stale or self._status_stale:
                self._rest_due = now_ns + int(self.pace * REST_EVERY_NS)
            self._rest_stale, self._status_stale = tree.is_behind, False
        return kind, {name: part for name, part in parts.items() if part}

    def pause_ns(self, now_ns: int) -> int | None:
        """Nanoseconds until `poll` or `snapshot` returns something; None while nothing is pending."""
        due = []
        if self._tokens_stale:
            due.append(self._tokens_due)
        if self._full_wanted or self._rest_stale or self._status_stale:
            due.append(self._rest_due)
        if self._snapshot_stale:
            due.append(self._snapshot_due)
        return max(0, min(due) - now_ns) if due else None

    def snapshot(self, now_ns: int) -> str | None:
        """The state for pages that load later, as JSON in ASCII, at most once a second and only
        after a change. It contains as much as fits in one message.

        `seq` is the number of the first message that it does not include. `partial` means that
        something is left out. A view that was once too large is left out from then on, because
        laying it out again every second would take longer than everything else.
        """
        if not self._snapshot_stale or now_ns < self._snapshot_due:
            return None
        self._snapshot_due = now_ns + SNAPSHOT_EVERY_NS
        self._snapshot_stale = False
        found = encode({"seq": self._seq, "status": self._status})[:-1]
        views = self._views.named()
        for name in ("metrics", "explore", "tokens", "lanes", "graph", "tree"):
            if name in views and name not in self._too_large and (part := self._small(name, views[name], MAX_BYTES - len(found))):
                found += f',"{name}":{part}'
        return found + f',"partial":{encode(bool(self._too_large))}}}'

    def _small(self, name: str, view: View, room: int) -> str:
        """The whole view as JSON, or nothing if that is more than `room` bytes."""
        if view.least_bytes() <= room:
            whole = self._views.tokens.written(whole=True) if view is self._views.tokens else view.full()
            bodies = [body for _, body in islice(split({name: whole} if whole else {}, room), 2)]
            if not bodies:
                return ""
            if len(bodies) == 1 and len(bodies[0]) <= room:
                return bodies[0][len(name) + 4 : -1]
        self._too_large.add(name)
        return ""


# ---------------------------------------------------------------- messages


CUT = {
    "tokens": ("forks", "ops"),
    "tree": ("nodes", "texts", "ends", "gone"),
    "lanes": ("lanes", "bars"),
    "graph": ("graphs", "steps"),
    "explore": ("branches",),
}
"""lists of a channel that may arrive in pieces; everything else arrives whole"""
ENVELOPE = 128
"""bytes of a message around its body"""
AROUND = 32
"""bytes of names and punctuation around an item, at most"""


def split(parts: Message, limit: int = MAX_BYTES) -> Iterator[tuple[Iterable[str], str]]:
    """`parts` as JSON texts of at most `limit` bytes with their envelopes, in order, each with the
    names of its channels. Long lists are split, a token op between two tokens. A single item that
    is larger is sent as it is.
    """
    body = _Body(limit - ENVELOPE)
    for channel, key, value in _items(parts):
        for item in body.cut(value) if key == "ops" else (encode(value),):
            if not body.has_room_for(item):
                yield body.parts, body.joined()
                body = _Body(limit - ENVELOPE)
            body.add(channel, key, item)
    if body.parts:
        yield body.parts, body.joined()


def _items(parts: Message) -> Iterator[tuple[str, str, Any]]:
    """(channel, key, one item of the list or the whole value). Without a key, the channel is sent
    whole.
    """
    for channel, part in parts.items():
        if channel not in CUT:
            yield channel, "", part
            continue
        for key, value in part.items():
            if key not in CUT[channel]:
                yield channel, key, value
            else:
                yield from ((channel, key, item) for item in value)


class _Body:
    """The texts of one message."""

    def __init__(self, limit: int) -> None:
        self.parts: dict[str, dict[str, list[str]]] = {}
        self._limit = self._room = limit

    def has_room_for(self, item: str) -> bool:
        return not self.parts or len(item) + AROUND <= self._room

    def add(self, channel: str, key: str, item: str) -> None:
        self.parts.setdefault(channel, {}).setdefault(key, []).append(item)
        self._room -= len(item) + AROUND

    def cut(self, op: Mapping[str, Any]) -> Iterator[str]:
        """A written op in pieces: as many tokens as this message has room for, then as many as fit
        into an empty one.
        """
        toks: list[str] = op["toks"]
        room = self._room
        first = 0
        while first < max(1, len(toks)):
            left = room - 2 * AROUND - 32
            end = first
            while end < len(toks) and (left := left - len(toks[end]) - 1) >= 0:
                end += 1
            if end > first or room == self._limit:
                end = max(end, first + 1)
                yield f'{{"fork":{op["fork"]},"start":{op["start"] + first},"toks":[{",".join(toks[first:end])}]}}'
                first = end
            room = self._limit

    def joined(self) -> str:
        return "{" + ",".join([f'"{channel}":{_channel(channel, keys)}' for channel, keys in self.parts.items()]) + "}"


def _channel(channel: str, keys: dict[str, list[str]]) -> str:
    if channel not in CUT:
        return keys[""][0]
    parts = [f'"{key}":[{",".join(items)}]' if key in CUT[channel] else f'"{key}":{items[0]}' for key, items in keys.items()]
    return "{" + ",".join(parts) + "}"
