"""Decides what is sent to the page, and when: folded views in, numbered JSON messages out.

A page never receives more than it can paint: tokens at most 30 times a second, everything else at
most 10 times, 64 KiB per message. Between two messages, changes are merged in the views, whose
deltas hold the last state of each item. Time is an argument.

Knows no thread and no widget.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from ..contracts.events import Entry, ForkOpened
from ..contracts.tree import TreeSnapshot

MAX_BYTES = 64 * 1024
TOKENS_EVERY_NS = 33_000_000
REST_EVERY_NS = 100_000_000
SNAPSHOT_EVERY_NS = 1_000_000_000
TEXTS = 100
"""texts of nodes per turn: a large tree appears at once, and its nodes' texts follow"""
RUN = 16
"""tokens of an op that stay together when a message is split"""

Message = dict[str, Any]


class View(Protocol):
    """A fold with JSON output. A TypedDict is a mapping to `object`, hence the wide return types."""

    def fold(self, entry: Entry) -> None: ...

    def delta(self) -> Mapping[str, Any] | None: ...

    def full(self) -> Mapping[str, Any]: ...


class Loadable(View, Protocol):
    """A view of something that outlasts a run. A snapshot corrects it after events were lost."""

    def load(self, snapshot: TreeSnapshot) -> None: ...


class Leisurely(Loadable, Protocol):
    """A view whose texts may be sent after everything else."""

    def delta(self, n_texts: int | None = None) -> Mapping[str, Any] | None: ...

    def outline(self) -> Mapping[str, Any]: ...

    @property
    def is_behind(self) -> bool: ...


class Views:
    """The four folds of one live run."""

    def __init__(self, tokens: View, tree: Leisurely, lanes: View, metrics: Loadable) -> None:
        self.tokens, self.tree, self.lanes, self.metrics = tokens, tree, lanes, metrics
        self._tree_from = 0

    def fold(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.tokens.fold(entry)
            self.lanes.fold(entry)
            self.metrics.fold(entry)
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
        return {"tokens": self.tokens, "tree": self.tree, "lanes": self.lanes, "metrics": self.metrics}


class Sender:
    """Turns changes into messages `{"seq", "kind": "delta" | "full", ...}`. `static/store.js`
    documents how a page applies them.
    """

    def __init__(self, views: Views, *, pace: float = 1.0, limit: int = MAX_BYTES, n_texts: int | None = TEXTS) -> None:
        """pace     2 sends half as often
        limit    maximum size of a message in bytes
        n_texts  texts of nodes per turn; None for all
        """
        self._views = views
        self.pace = pace
        self._limit = limit
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

    def poll(self, now_ns: int, *, flush: bool = False) -> list[Message]:
        """The messages that are due. With `flush`, all pending messages."""
        views = self._views.named()
        tree = self._views.tree
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
                    parts[name] = view.full()
            self._full_wanted = self._tokens_stale = self._rest_stale = False
            self._status_stale = self._status is not None
            self._tokens_due = now_ns + int(self.pace * TOKENS_EVERY_NS)
        tokens = views.pop("tokens")
        if self._tokens_stale and (flush or now_ns >= self._tokens_due):
            parts["tokens"] = tokens.delta()
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
        messages = []
        for body in split({name: part for name, part in parts.items() if part}, self._limit):
            messages.append({"seq": self._seq, "kind": kind} | body)
            kind = "delta"
            self._seq += 1
        # A message that had to be split uses up the turns after it.
        self._tokens_due += TOKENS_EVERY_NS * max(0, sum("tokens" in message for message in messages) - 1)
        self._rest_due += REST_EVERY_NS * max(0, sum("tree" in message for message in messages) - 1)
        return messages

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

    def snapshot(self, now_ns: int) -> Message | None:
        """The state for pages that load later, at most once a second and only after a change. It
        contains as much as fits in one message.

        `seq` is the number of the first message that it does not include. `partial` means that
        something is left out. A view that was once too large is left out from then on, because
        measuring it again every second would take longer than everything else.
        """
        if not self._snapshot_stale or now_ns < self._snapshot_due:
            return None
        self._snapshot_due = now_ns + SNAPSHOT_EVERY_NS
        self._snapshot_stale = False
        room = MAX_BYTES - _size(self._status)
        found: Message = {"seq": self._seq, "status": self._status}
        views = self._views.named()
        for name in ("metrics", "tokens", "lanes", "tree"):
            if name in self._too_large:
                continue
            part = views[name].full()
            size = _size_within(part, room)
            if size is None:
                self._too_large.add(name)
            else:
                found[name] = part
                room -= size
        return found | {"partial": bool(self._too_large)}


# ---------------------------------------------------------------- size


CUT = {"tokens": ("forks", "ops"), "tree": ("nodes", "texts", "ends", "gone"), "lanes": ("lanes", "bars")}
"""lists of a channel that may arrive in pieces; everything else arrives whole"""


def split(parts: Message, limit: int = MAX_BYTES) -> Iterator[Message]:
    """`parts` as messages of at most `limit` bytes, in order. Long lists are split, a token op
    between two tokens.
    """
    if not parts:
        return
    limit -= 128  # for the envelope
    if _fits(parts.values(), limit - sum(len(channel) + 6 for channel in parts)):
        yield parts
        return
    body: Message = {}
    used = 0
    for channel, key, item in _pieces(parts):
        size = _size(item) + len(channel) + len(key) + 16
        if body and used + size > limit:
            yield body
            body, used = {}, 0
        if not key:
            body[channel] = item
        elif key in CUT[channel]:
            body.setdefault(channel, {}).setdefault(key, []).append(item)
        else:
            body.setdefault(channel, {})[key] = item
        used += size
    yield body


def _pieces(parts: Message) -> Iterator[tuple[str, str, Any]]:
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
                continue
            for item in value:
                if key != "ops":
                    yield channel, key, item
                    continue
                for start in range(0, max(1, len(item["toks"])), RUN):
                    yield channel, key, {**item, "start": item["start"] + start, "toks": item["toks"][start : start + RUN]}


_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def _size(value: object) -> int:
    """Upper estimate of the bytes as JSON: non-ASCII characters count as escaped."""
    return len(_encode(value))


def _fits(parts: Iterable[object], room: int) -> bool:
    for part in parts:
        if (size := _size_within(part, room)) is None:
            return False
        room -= size
    return True


def _size_within(part: object, room: int) -> int | None:
    """Size in bytes, or None if it exceeds `room`.

    It is measured piece by piece, because encoding megabytes of JSON at once would block all
    threads.
    """
    if not isinstance(part, Mapping):
        return size if (size := _size(part)) <= room else None
    total = 2
    for key, value in part.items():
        total += len(key) + 6
        for item in value if isinstance(value, list) else (value,):
            total += _size(item) + 1
            if total > room:
                return None
    return total
