"""What is sent to the page, and when: folded views in, numbered JSON messages out.

A page is never told more than it can paint: tokens at most 30 times a second, everything else at
most 10 times, 64 KiB a message. Between two messages changes coalesce inside the views, whose
deltas hold the last state of each thing. Time is an argument.

Knows no thread, no widget and no event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from ..contracts.events import Entry
from ..contracts.tree import TreeSnapshot

MAX_BYTES = 64 * 1024
TOKENS_EVERY_NS = 33_000_000
REST_EVERY_NS = 100_000_000
SNAPSHOT_EVERY_NS = 1_000_000_000

Message = dict[str, Any]


class View(Protocol):
    """A fold with a JSON face. TypedDicts are mappings to `object`, hence the wide return types."""

    def fold(self, entry: Entry) -> None: ...

    def delta(self) -> Mapping[str, Any] | None: ...

    def full(self) -> Mapping[str, Any]: ...


class Loadable(View, Protocol):
    """A view of what outlives a run; a snapshot puts it right after events were lost."""

    def load(self, snapshot: TreeSnapshot) -> None: ...


class Views:
    """The four folds of one live run."""

    def __init__(self, tokens: View, tree: Loadable, lanes: View, metrics: Loadable) -> None:
        self.tokens, self.tree, self.lanes, self.metrics = tokens, tree, lanes, metrics
        self._tree_from = 0

    def fold(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.tokens.fold(entry)
            self.lanes.fold(entry)
            self.metrics.fold(entry)
            if entry.seq >= self._tree_from:
                self.tree.fold(entry)

    def load(self, snapshot: TreeSnapshot) -> None:
        """Take the cache as the snapshot says; events that it already holds will not be folded into the tree again."""
        self.tree.load(snapshot)
        self.metrics.load(snapshot)
        self._tree_from = snapshot.seq

    def named(self) -> dict[str, View]:
        return {"tokens": self.tokens, "tree": self.tree, "lanes": self.lanes, "metrics": self.metrics}


class Sender:
    """Turns changes into messages `{"seq", "kind": "delta" | "full", ...}`; see `static/live.js` for what a page does with them."""

    def __init__(self, views: Views) -> None:
        self._views = views
        self._seq = 0
        self._status: Message | None = None
        self._status_told = True
        self._full_wanted = False
        self._dirty = False
        self._tokens_due = self._rest_due = self._snapshot_due = 0
        self._snapshot_stale = True

    # ------------------------------------------------------------ in

    def fold(self, entries: Iterable[Entry]) -> None:
        self._views.fold(entries)
        self._dirty = self._snapshot_stale = True

    def load(self, snapshot: TreeSnapshot) -> None:
        """After a loss: the page gets everything anew."""
        self._views.load(snapshot)
        self._full_wanted = self._dirty = self._snapshot_stale = True

    def hello(self) -> None:
        """A page came that knows nothing, or one that missed a message."""
        self._full_wanted = True

    def status(self, phase: str, text: str, progress: float | None) -> None:
        self._status = {"phase": phase, "text": text, "progress": progress}
        self._status_told = False
        self._snapshot_stale = True

    # ------------------------------------------------------------ out

    def poll(self, now_ns: int, *, flush: bool = False) -> list[Message]:
        """The messages that may be sent now; `flush` sends whatever there is, due or not."""
        parts: Message = {}
        if self._full_wanted and (flush or now_ns >= self._rest_due):
            for view in self._views.named().values():
                view.delta()  # is contained in what follows
            parts = {name: view.full() for name, view in self._views.named().items()}
            parts["status"] = self._status
            kind = "full"
            self._full_wanted = self._dirty = False
            self._tokens_due, self._rest_due = now_ns + TOKENS_EVERY_NS, now_ns + REST_EVERY_NS
        else:
            kind = "delta"
            if (self._dirty or flush) and (flush or now_ns >= self._tokens_due):
                parts["tokens"] = self._views.tokens.delta()
                self._tokens_due = now_ns + TOKENS_EVERY_NS
            if flush or now_ns >= self._rest_due:
                if self._dirty or flush:
                    for name, view in self._views.named().items():
                        parts[name] = parts[name] if name in parts else view.delta()
                if not self._status_told:
                    parts["status"] = self._status
                if parts:
                    self._rest_due = now_ns + REST_EVERY_NS
                self._dirty = False
        if parts.get("status"):
            self._status_told = True
        messages = []
        for body in split({name: part for name, part in parts.items() if part}):
            messages.append({"seq": self._seq, "kind": kind} | body)
            kind = "delta"
            self._seq += 1
        return messages

    def pause_ns(self, now_ns: int) -> int | None:
        """How long until `poll` or `snapshot` has something to give; None while nothing is pending."""
        due = []
        if self._dirty:
            due += [self._tokens_due, self._rest_due]
        if self._full_wanted or not self._status_told:
            due.append(self._rest_due)
        if self._snapshot_stale:
            due.append(self._snapshot_due)
        return max(0, min(due) - now_ns) if due else None

    def snapshot(self, now_ns: int) -> Message | None:
        """Once a second, if anything changed: the state for pages that load later, as much of it as fits in one message.

        `seq` is the number of the first message not in it; `partial` says that something was left out.
        """
        if not self._snapshot_stale or now_ns < self._snapshot_due:
            return None
        self._snapshot_due = now_ns + SNAPSHOT_EVERY_NS
        self._snapshot_stale = False
        found: Message = {"seq": self._seq, "partial": False}
        room = MAX_BYTES
        parts: Message = {"status": self._status, "metrics": self._views.metrics.full()}
        parts |= {"tokens": self._views.tokens.full(), "lanes": self._views.lanes.full(), "tree": self._views.tree.full()}
        for name, part in parts.items():
            room -= (size := _size(part))
            if room >= 0:
                found[name] = part
            else:
                room += size
                found["partial"] = True
        return found


# ---------------------------------------------------------------- size


def split(parts: Message, limit: int = MAX_BYTES) -> Iterator[Message]:
    """`parts` in as few messages of at most `limit` bytes as order allows; their lists are cut, a token op between two tokens."""
    if not parts:
        return
    if _size(parts) <= limit - 128:  # room for the envelope
        yield parts
        return
    body: Message = {}
    used = 0
    for channel, key, item in _pieces(parts):
        size = _size(item) + len(key) + 8
        if body and used + size > limit - 512:
            yield body
            body, used = {}, 0
        target = body.setdefault(channel, {})
        if isinstance(parts[channel][key], list) and key != "tails":
            target.setdefault(key, []).append(item)
        else:
            target[key] = item
        used += size
    yield body


def _pieces(parts: Message) -> Iterator[tuple[str, str, Any]]:
    for channel, part in parts.items():
        for key, value in part.items():
            if key == "ops":
                for op in value:
                    for start in range(0, max(1, len(op["toks"])), 64):
                        yield channel, key, {**op, "start": op["start"] + start, "toks": op["toks"][start : start + 64]}
            elif isinstance(value, list) and key != "tails":
                for item in value:
                    yield channel, key, item
            else:
                yield channel, key, value


def _size(value: Any) -> int:
    """Bytes of JSON, or a little more: what is not ASCII counts as escaped."""
    return len(json.dumps(value, separators=(",", ":")))
