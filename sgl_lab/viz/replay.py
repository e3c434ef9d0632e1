"""A run as a page can play it again: the messages that its live view would have got, each with its time.

What is kept has to fit: a long run has fewer moments, and where that is not enough its beginning is told in one piece,
without the alternatives and times of its tokens. Knows no HTML but the scripts that hold it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..contracts.events import Entry
from ..contracts.ids import RunId
from ..trace import Record
from .bundle import packed, player
from .draw.escape import Markup, data, script
from .draw.streams import fair_share
from .sender import REST_EVERY_NS, TOKENS_EVERY_NS, Message, Sender, Views
from .views import LanesView, MetricsView, TokensView, TreeView
from .views.clock import RunClock


class Detail(NamedTuple):
    n_moments: int
    """about as many messages with tokens are kept, and a third as many with the rest"""
    least_pace: float
    """of a short run; 1 is that of the live view"""


IN_CELL = Detail(300, 1.0)
IN_PAGE = Detail(2_000, 0.1)
ABOUT = 300
"""bytes of what stands around a recording"""
CUTS = ((1.0, None), (0.4, None), (0.1, None), (0.0, None), (0.0, 4_000), (0.0, 1_000))
"""what is tried: the newest share of the moments; then only the end, with so many of the newest tokens and bars and no texts of nodes"""

Frame = tuple[float, Message]
"""milliseconds since the run began, and what the page is told then"""


@dataclass(frozen=True, slots=True)
class Replay:
    """The recording of one run. `options` are those of the live view: title, views, vocab, evict."""

    record: Record
    spell: Callable[[int], str]
    options: Mapping[str, Any]

    @property
    def is_empty(self) -> bool:
        return not self.record.entries

    def script(self, budget: int) -> Markup | None:
        """The player with as much of the run as fits into `budget` bytes; None if hardly its end does."""
        found = self._packed(budget - len(player("", {})) - ABOUT, IN_CELL)
        return script(player(found[0], found[1] | {"cell": True})) if found else None

    def data(self, budget: int) -> Markup | None:
        """The same for a page that has the code (`bundle.players`)."""
        found = self._packed(budget - ABOUT, IN_PAGE)
        return data("sgl-recording", json.dumps(found[1]), found[0]) if found else None

    def _packed(self, budget: int, detail: Detail) -> tuple[str, dict[str, float]] | None:
        """The recording, and what is told of it without unpacking it."""
        last = max((ms for ms, _ in _of_run(self.record.entries, self.record.scope)), default=None)
        if last is None:
            return None
        moments: list[float] = []
        room = 1.0
        for share, newest in CUTS:
            if share > room:
                continue  # hopeless
            since = moments[-1 - int(share * (len(moments) - 1))] if moments else 0.0
            told = frames(self.record, self.spell, since, newest, detail)
            body = json.dumps({"options": dict(self.options), "frames": told}, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
            made = packed(body)
            if len(made) <= budget:
                return made, {"ms": last, "since": since, "newest": newest or 0}
            moments = moments or [ms for ms, _ in told]
            room = min(room, budget / len(made)) if share == 1 else room
        return None


def frames(
    record: Record, spell: Callable[[int], str], since: float = 0.0, newest: int | None = None, detail: Detail = IN_CELL
) -> list[Frame]:
    """The first tells everything up to `since`, only the `newest` tokens if need be; the others tell what came then."""
    run = record.scope
    views = Views(TokensView(spell, run), TreeView(spell), LanesView(run), MetricsView(run))
    entries = _of_run(record.entries, run)
    length = entries[-1][0] - since if entries else 0.0
    sender = Sender(views, pace=max(detail.least_pace, length * 1e6 / (detail.n_moments * TOKENS_EVERY_NS)), limit=1 << 40, n_texts=None)
    sender.load(record.snapshot)
    told: list[Frame] = []
    now = since
    for ms, entry in entries:
        if ms > since:
            if not told:
                told += [(since, _bare(_brief(message), newest) if since else _brief(message)) for message in sender.poll(0)]
            for due in (TOKENS_EVERY_NS, REST_EVERY_NS):  # what was said before a pause is shown before it
                if (then := now + sender.pace * due / 1e6) < ms:
                    told += [(round(then, 1), _brief(message)) for message in sender.poll(_ns(then))]
        sender.fold([entry])
        if ms > since:
            told += [(round(ms, 1), _brief(message)) for message in sender.poll(_ns(ms))]
        now = max(since, ms)
    is_first = since > 0 and not told
    return told + [(now, _bare(_brief(message), newest) if is_first else _brief(message)) for message in sender.poll(_ns(now), flush=True)]


def _of_run(entries: list[Entry], run: RunId | None) -> list[tuple[float, Entry]]:
    """Each with its time; what was said before the run began has that of its beginning."""
    clock = RunClock(run)
    return [(clock.read(entry) or 0.0, entry) for entry in entries]


def _ns(ms: float) -> int:
    return int(ms * 1e6) + 1


def _brief(message: Message) -> Message:
    """Without what a recording does not need."""
    kept = {name: part for name, part in message.items() if name not in ("seq", "kind")}
    if tokens := kept.get("tokens"):
        kept["tokens"] = {**tokens, "ops": [{**op, "toks": [_rounded(*tok) for tok in op["toks"]]} for op in tokens["ops"]]}
    return kept


def _rounded(text: str, cls: str, logprob: float | None, role: str, top: Any, number: int, how: Any) -> tuple[Any, ...]:
    return (text, cls, _round(logprob), role, [(other, _round(value)) for other, value in top] if top else None, number, how)


def _round(logprob: float | None) -> float | None:
    return None if logprob is None else round(logprob, 3)


def _bare(message: Message, newest: int | None) -> Message:
    """Of every token only what it is and how likely it was; of many the `newest`: then streams begin with them."""
    if newest is not None and "tree" in message:
        message = {**message, "tree": {**message["tree"], "texts": []}}
    if newest is not None and "lanes" in message:
        message = {**message, "lanes": {**message["lanes"], "bars": message["lanes"]["bars"][-newest:]}}
    if "tokens" not in message:
        return message
    told = message["tokens"]["ops"]
    share = fair_share([len(op["toks"]) for op in told], newest) if newest else None
    bases: dict[int, int] = {}
    ops = []
    for op in told:
        n_left_out = max(0, len(op["toks"]) - share) if share is not None else 0
        if n_left_out:
            bases[op["fork"]] = op["start"] + n_left_out
        toks = [(*tok[:4], None, tok[5], None) for tok in op["toks"][n_left_out:]]
        ops.append({"fork": op["fork"], "start": op["start"] + n_left_out, "toks": toks})
    forks = [{**row, "base": bases.get(row["fork"], row["base"])} for row in message["tokens"]["forks"]]
    return {**message, "tokens": {"forks": forks, "ops": ops}}
