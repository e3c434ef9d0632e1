"""A run that a page can replay: the messages that its live view received, each with its time.

A recording has a size limit. Details are dropped first: the alternatives of tokens, then their
times, then the tree nodes of other runs. Then moments are thinned evenly; the slider shows the
remaining ones. Text is never cut: if not even twelve moments of it fit, there is no recording.
Knows no HTML except the scripts that hold the recording.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from ..contracts.events import Entry
from ..contracts.ids import RunId
from ..contracts.spans import is_inside
from ..trace import Record
from .bundle import packed, player
from .draw.escape import Markup, data, script
from .sender import REST_EVERY_NS, TOKENS_EVERY_NS, Message, Part, Sender, Views
from .views import views_of
from .views.clock import RunClock
from .views.explore import ExploreView


class Detail(NamedTuple):
    n_moments: int
    """about this many messages with tokens are kept, and a third as many of the others"""
    least_pace: float
    """pace of a short run; 1 is the pace of the live view"""


IN_CELL = Detail(300, 1.0)
IN_PAGE = Detail(2_000, 0.1)
ABOUT = 300
"""bytes of the markup around a recording"""
LEAST_MOMENTS = 12
DETAILS = (
    "",
    "alternatives",
    "alternatives, times and pictures",
    "alternatives, times, pictures and other nodes",
    "alternatives, times, pictures, other nodes and whole texts of nodes",
)
"""the details that each level drops, cumulatively"""

Top = Sequence[tuple[str, float]] | None
How = Mapping[str, object] | None
Frame = tuple[float, Message]
"""milliseconds since the run began, and the message of that time"""


class Packed(NamedTuple):
    packed: str
    meta: dict[str, float | str]
    """data that is read without unpacking"""
    is_whole: bool
    """whether no moment is left out"""

    @property
    def size(self) -> int:
        return len(self.packed)


class Recorded(NamedTuple):
    markup: Markup
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Replay:
    """The recording of one run.

    options  the options of the live view and the outcome of the run: title, views, vocab, evict,
             phase, message
    """

    record: Record
    spell: Callable[[int], str]
    options: Mapping[str, object]
    _frames: dict[Detail, list[Frame]] = field(default_factory=dict, repr=False, compare=False)
    _made: dict[tuple[Detail, int], Packed] = field(default_factory=dict, repr=False, compare=False)
    _fewest: dict[Detail, int] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_empty(self) -> bool:
        return not self.record.entries

    def script(self, budget: int) -> Recorded | None:
        """The player with as much of the run as fits into `budget` bytes. None if the text alone
        does not fit.
        """
        found = self._packed(budget - len(player("", {})) - ABOUT, IN_CELL)
        return Recorded(script(player(found.packed, found.meta)), found.is_whole) if found else None

    def data(self, budget: int) -> Markup | None:
        """The recording for a page that already contains the code (`bundle.players`)."""
        found = self._packed(budget - ABOUT, IN_PAGE)
        return data("sgl-recording", json.dumps(found.meta), found.packed) if found else None

    def _packed(self, budget: int, detail: Detail) -> Packed | None:
        if not self.record.entries or budget <= self._least(detail):
            return None
        level = 0
        while True:
            found = self._with(detail, level)
            if found.size <= budget:
                return found
            if level == len(DETAILS) - 1:
                break
            level += 1
        moments = self._frames[detail]
        while len(moments) > LEAST_MOMENTS:
            moments = thinned(moments, max(LEAST_MOMENTS, int(min(0.8, 0.9 * budget / found.size) * len(moments))))
            found = self._pack(moments, level, len(self._frames[detail]), is_whole=False)
            if found.size <= budget:
                return found
        return None

    def _least(self, detail: Detail) -> int:
        """Size in bytes of the fewest moments with the fewest details."""
        if detail not in self._fewest:
            moments, level = self._all(detail), len(DETAILS) - 1
            self._fewest[detail] = self._pack(thinned(moments, LEAST_MOMENTS), level, len(moments), is_whole=False).size
        return self._fewest[detail]

    def _all(self, detail: Detail) -> list[Frame]:
        """Every moment, with all details."""
        if detail not in self._frames:
            self._frames[detail] = frames(self.record, self.spell, detail)
        return self._frames[detail]

    def _with(self, detail: Detail, level: int) -> Packed:
        """All moments without the details of `level`. Computed once."""
        if (detail, level) not in self._made:
            moments = self._all(detail)
            self._made[detail, level] = self._pack(moments, level, len(moments), is_whole=True)
        return self._made[detail, level]

    def _pack(self, moments: list[Frame], level: int, n_moments: int, *, is_whole: bool) -> Packed:
        body = {"options": dict(self.options), "frames": list(Abridged(level).frames(moments))}
        made = packed(json.dumps(body, separators=(",", ":"), ensure_ascii=False, allow_nan=False))
        return Packed(made, {"ms": moments[-1][0], "n_moments": n_moments, "dropped": DETAILS[level]}, is_whole)


def frames(record: Record, spell: Callable[[int], str], detail: Detail = IN_CELL) -> list[Frame]:
    """The messages that a live view of the run receives, with their times."""
    run = record.scope
    entries = _of_run(record.entries, run)
    length = entries[-1][0] if entries else 0.0
    pace = max(detail.least_pace, length * 1e6 / (detail.n_moments * TOKENS_EVERY_NS))
    sender = Sender(Views(*views_of(run, spell), ExploreView(spell, run)), pace=pace, n_texts=None)
    sender.load(record.snapshot)
    moments: list[Frame] = []
    now = 0.0
    for ms, entry in entries:
        if ms > 0:
            if not moments:
                moments += _moment(0.0, sender.due(0))
            for due in (TOKENS_EVERY_NS, REST_EVERY_NS):  # events before a pause are shown before it
                if (then := now + sender.pace * due / 1e6) < ms:
                    moments += _moment(then, sender.due(_ns(then)))
        sender.fold([entry])
        if ms > 0:
            moments += _moment(ms, sender.due(_ns(ms)))
        now = max(0.0, ms)
    return moments + _moment(now, sender.due(_ns(now), flush=True))


def _moment(ms: float, message: Message) -> list[Frame]:
    return [(round(ms, 1), message)] if message else []


def _of_run(entries: list[Entry], run: RunId | None) -> list[tuple[float, Entry]]:
    """The entries of the run with their times. Entries before its beginning get the time of its
    beginning.
    """
    clock = RunClock(run)
    return [(clock.read(entry) or 0.0, entry) for entry in entries]


def _ns(ms: float) -> int:
    return int(ms * 1e6) + 1


# ---------------------------------------------------------------- fewer moments


def thinned(moments: list[Frame], n: int) -> list[Frame]:
    """About `n` of the moments, evenly distributed. Each includes the changes of the omitted
    moments before it. The first and the last remain.
    """
    groups = max(1, min(n, len(moments)) - 1)
    edges = [1 + round((len(moments) - 1) * number / groups) for number in range(groups + 1)]
    rest = [moments[first:end] for first, end in pairwise(edges) if first < end]
    return moments[:1] + [(group[-1][0], merged([message for _, message in group])) for group in rest]


def merged(messages: list[Message]) -> Message:
    """One message with the same effect as these, in order."""
    found: Message = {}
    for channel in dict.fromkeys(channel for message in messages for channel in message):
        parts = [part for message in messages if (part := message.get(channel))]
        found[channel] = parts[-1] if len(parts) == 1 or (parts and channel not in _KEYS) else _merged(channel, parts) if parts else None
    return found


_KEYS = {
    "tokens": {"forks": "fork"},
    "tree": {"nodes": "id", "texts": "id"},
    "lanes": {"lanes": "lane", "bars": "id"},
    "explore": {"branches": "id"},
    "graph": {"graphs": "graph", "steps": "id"},
}
"""lists whose rows replace those with the same key"""


def _merged(channel: str, parts: list[Part]) -> Message:
    found: Message = {}
    for part in parts:
        found |= part
    for name, key in _KEYS[channel].items():
        found[name] = list({row[key]: row for part in parts for row in part.get(name, ())}.values())
    if channel == "tokens":
        ops: list[Message] = []
        bases: dict[int, int] = {}
        for part in parts:
            moved = {row["fork"] for row in part.get("forks", ()) if bases.get(row["fork"], row["base"]) != row["base"]}
            bases |= {row["fork"]: row["base"] for row in part.get("forks", ())}
            ops = [*(op for op in ops if op["fork"] not in moved), *part.get("ops", ())] if moved else ops + list(part.get("ops", ()))
        found["ops"] = _joined(ops)
    if channel == "tree":
        gone = {number for part in parts for number in part.get("gone", ())}
        found["gone"] = sorted(gone)
        found["ends"] = list(dict([end for part in parts for end in part.get("ends", ())]).items())
        for name in ("nodes", "texts"):
            found[name] = [row for row in found[name] if row["id"] not in gone]
    return found


def _joined(ops: list[Message]) -> list[Message]:
    """Joins ops of the same fork. Each op replaces the tokens from `start` on; ops that continue
    one another become one.
    """
    last: dict[int, Message] = {}
    found: list[Message] = []
    for op in ops:
        before = last.get(op["fork"])
        offset = op["start"] - before["start"] if before else -1
        if before is not None and 0 <= offset <= len(before["toks"]):
            before["toks"] = [*before["toks"][:offset], *op["toks"]]
        else:
            found.append(dict(op))
            last[op["fork"]] = found[-1]
    return found


# ---------------------------------------------------------------- fewer details


class Abridged:
    """Messages without what a recording does not need, and without the details of its `level`.

    A row that was sent before contains only its changes.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._rows: dict[tuple[str, object], Mapping[str, object]] = {}
        self._texts: dict[int, Mapping[str, object]] = {}
        """texts of nodes that are left out"""
        self._others: dict[int, int] = {}
        """nodes that are left out, with their numbers of tokens"""

    def frames(self, moments: list[Frame]) -> Iterator[Frame]:
        for ms, message in moments:
            if kept := self.message(message):
                yield ms, kept

    def message(self, message: Message) -> Message:
        kept = dict(message)
        if tokens := kept.get("tokens"):
            kept["tokens"] = {**tokens, "ops": [{**op, "toks": [self._tok(*tok) for tok in op["toks"]]} for op in tokens["ops"]]}
        if lanes := kept.get("lanes"):
            kept["lanes"] = {**lanes, "bars": [self._changed("bar", row) for row in lanes["bars"]]}
        if graph := kept.get("graph"):
            kept["graph"] = {**graph, "steps": [self._changed("step", row) for row in graph["steps"]]}
        if tree := kept.get("tree"):
            tree = self._of_run(tree) if self._level >= 3 else tree
            if self._level >= 2:
                tree = {**tree, "texts": [{name: value for name, value in row.items() if name != "picture"} for row in tree["texts"]]}
            tree = tree if self._level < 4 else {**tree, "texts": []}
            kept["tree"] = {**tree, "nodes": [self._changed("node", row) for row in tree["nodes"]]}
        return kept

    def _tok(self, text: str, cls: str, logprob: float | None, role: str, top: Top, number: int, how: How) -> tuple[object, ...]:
        if how and self._level >= 2:
            how = {name: value for name, value in how.items() if name not in ("t", "ms", "picture")} or None
        others = [(other, _round(value)) for other, value in top] if top and not self._level else None
        return (text, cls, _round(logprob), role, others, -1 if is_inside(number) else number, how)

    def _changed(self, kind: str, row: Mapping[str, object]) -> Mapping[str, object]:
        before = self._rows.get((kind, row["id"]))
        self._rows[kind, row["id"]] = row
        return row if before is None else {name: value for name, value in row.items() if name == "id" or before.get(name) != value}

    def _of_run(self, tree: Part) -> Part:
        """The tree without the nodes of other runs, which are only counted. A node is included when
        the run begins to use it.
        """
        nodes, texts = [], {row["id"]: row for row in tree["texts"]}
        for row in tree["nodes"]:
            if row["mine"]:
                nodes.append(row)
                if self._others.pop(row["id"], None) is not None and row["id"] in self._texts:
                    texts.setdefault(row["id"], self._texts[row["id"]])
            elif row["parent"] is not None:
                self._others[row["id"]] = row["n"]
        for number in tree["gone"]:
            self._others.pop(number, None)
        self._texts |= {number: row for number, row in texts.items() if number in self._others}
        kept = [row for number, row in texts.items() if number not in self._others]
        return {**tree, "nodes": nodes, "texts": kept, "others": [len(self._others), sum(self._others.values())]}


def _round(logprob: float | None) -> float | None:
    return None if logprob is None else round(logprob, 3)
