"""Why a prefix missed: for each request of a run, the earlier one that it could have shared most with, and what came between.

Judged on token ids alone, as the cache does; texts are only used to say what kind of change it was. Knows no picture.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest

from ...contracts.events import Entry
from ...contracts.ids import Namespace, RunId
from ...trace import Record
from ..views.hits import n_shared
from .change import MAX_STRETCH, Change, kind_of, stretch
from .edit import Edit, find_edit
from .past import TEXT, Past, Path, Served, Tokens, grams, past, shared

GRAM = 12
"""Only tokens that stand in runs of this many in both texts count as lost: shorter ones are words that any two texts share."""
CONTEXT = 12
MAX_REQUESTS = 40
"""explained, those that missed most; all are counted"""
MAX_ALIKE = 12
"""earlier sequences compared, where several share equally much"""
ABOVE_ALL = 1 << 62
ELSEWHERE = RunId(-1)
"""stands for a run of another ring: of a file, or of another lab"""

Spell = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Miss:
    """One request, and where its prompt's tokens were from."""

    name: str
    line: int
    n_prompt: int
    n_hit: int
    n_shareable: int
    """leading tokens that may come from a cache at all"""
    n_known: int
    """of those, how many some earlier request had computed"""
    n_lost: int
    """tokens computed again though an earlier request had them"""
    cause: str
    """whole, new, changed, evicted, flushed, gone, together, namespace or unkept"""
    earlier: str = ""
    """run and name of the request that had most of it"""
    change: Change | None = None
    by: str = ""
    """who needed the room of what was evicted"""
    gone_ms: float | None = None
    """how long before it was missed that was, as far as that is known"""
    n_alike: int = 0
    """further requests of the run with the same story"""


@dataclass(frozen=True, slots=True)
class Why:
    run: str
    against: str
    """the run that it was compared with; empty for all before it"""
    n_prompt: int
    """tokens, as the engine counts them: what choices share counts once"""
    n_cached: int
    n_requests: int
    misses: tuple[Miss, ...]
    """those that lost most first"""

    @property
    def n_lost(self) -> int:
        return sum(miss.n_lost * (1 + miss.n_alike) for miss in self.misses)


def why(record: Record, earlier: Sequence[Record] = (), *, against: Record | None = None, others: Iterable[Entry] = ()) -> Why:
    """Explain `record` by itself and those recorded `earlier` on the same ring, or by the one it is to be compared with."""
    known = {kept.run: kept for kept in (*earlier, record)}
    judge = _Judge(record, known, past(list(known.values()), others))
    if against is not None:
        judge.compare(against)
    return judge.why()


@dataclass(frozen=True, slots=True)
class _Candidate:
    tokens: Tokens
    served: Served | None
    """None for what lay in the cache before anything was recorded"""
    seq: int


class _Shelf:
    """Sequences of one namespace, sorted: who shares most with a prompt stands beside where the prompt would."""

    def __init__(self) -> None:
        self._keys: list[Tokens] = []
        self._candidates: list[_Candidate] = []

    def add(self, candidate: _Candidate) -> None:
        """The latest of equal ones counts, but what was only found lying there never stands for a request."""
        at = bisect_left(self._keys, candidate.tokens)
        if at == len(self._keys) or self._keys[at] != candidate.tokens:
            self._keys.insert(at, candidate.tokens)
            self._candidates.insert(at, candidate)
        elif candidate.served is not None:
            self._candidates[at] = candidate

    def closest(self, prompt: Tokens, run: RunId | None) -> tuple[int, list[_Candidate]]:
        """How many leading tokens the closest ones share with `prompt`, and the latest of those; with a `run` its own only."""
        keys, candidates = self._keys, self._candidates
        if run is not None:
            candidates = [one for one in candidates if one.served is not None and one.served.run == run]
            keys = [one.tokens for one in candidates]
        at = bisect_left(keys, prompt)
        n = max((shared(prompt, key) for key in keys[max(at - 1, 0) : at + 1]), default=0)
        first, end = bisect_left(keys, prompt[:n]), bisect_left(keys, (*prompt[:n], ABOVE_ALL))
        return n, nlargest(MAX_ALIKE, candidates[first:end], key=lambda candidate: candidate.seq)


class _Judge:
    """Walks through all requests in the order in which they were let in, and knows at each what had been computed by then."""

    def __init__(self, record: Record, known: dict[RunId, Record], told: Past) -> None:
        self._record, self._known, self._past = record, known, told
        self._against: RunId | None = None
        self._shelves: dict[Namespace, _Shelf] = {}

    def compare(self, against: Record) -> None:
        """Judge by this run alone; if it is not one of those known, its requests are taken from it now."""
        self._against = next((run for run, record in self._known.items() if record is against), ELSEWHERE)
        if self._against == ELSEWHERE:
            self._known[ELSEWHERE] = against
            for served in past([against]).requests:
                served.run = ELSEWHERE
                self._add(served.namespace, _Candidate(served.computed, served, -1))

    def why(self) -> Why:
        mine = [one for one in self._past.requests if one.run == self._record.run and one.n_hit is not None]
        # A family is one prompt: only its first request is explained, all are counted.
        heads = [one for one in mine if one.queued.request == one.queued.group]
        explained = {id(one) for one in nlargest(MAX_REQUESTS, heads, key=lambda one: one.n_reusable - (one.n_hit or 0))}
        events: list[tuple[int, Path | Served]] = [*self._past.found]
        events += [(one.matched, one) for one in self._past.requests if one.matched is not None]
        misses = []
        for seq, event in sorted(events, key=lambda pair: pair[0]):
            if isinstance(event, Path):
                self._add(event.namespace, _Candidate(event.sequence, None, seq))
                continue
            if id(event) in explained:
                misses.append(self._miss(event))
            self._add(event.namespace, _Candidate(event.computed, event, seq))
        queued = {one.queued.request: one.queued for one in mine}
        skipped = {number: n_shared(one, queued) for number, one in queued.items()}
        return Why(
            self._record.title,
            self._title(self._against) if self._against is not None else "",
            sum(len(one.queued.prompt) - skipped[one.queued.request] for one in mine),
            sum(max(0, min(one.n_hit or 0, len(one.queued.prompt)) - skipped[one.queued.request]) for one in mine),
            len(heads),
            _grouped(misses),
        )

    # ------------------------------------------------------------ who shares most

    def _add(self, namespace: Namespace, candidate: _Candidate) -> None:
        self._shelves.setdefault(namespace, _Shelf()).add(candidate)

    def _closest(self, served: Served, namespace: Namespace) -> tuple[int, _Candidate | None]:
        """How many leading tokens the closest earlier sequence shares, and which that is; of equals the one most like the rest."""
        prompt = served.prompt[: served.n_reusable]
        n, alike = self._shelves.get(namespace, _Shelf()).closest(prompt, self._against)

        def likeness(other: _Candidate) -> tuple[int, bool, int]:
            has_name = other.served is not None and other.served.name == served.name
            return _n_common(prompt[n:], other.tokens[n:]), has_name, other.seq

        return n, max(alike, key=likeness, default=None)

    # ------------------------------------------------------------ the verdict

    def _miss(self, served: Served) -> Miss:
        prompt, n_hit, n_most = served.prompt, served.n_hit or 0, served.n_reusable
        n_same, candidate = self._closest(served, served.namespace)
        line = served.expr.line if served.expr else 0
        miss = Miss(served.name, line, len(prompt), min(n_hit, len(prompt)), n_most, max(n_same, n_hit), 0, "new")
        if n_hit >= n_most:
            return replace(miss, cause="whole")
        elsewhere = self._elsewhere(served)
        if elsewhere is not None and elsewhere[0] >= max(n_same, n_hit) + GRAM:
            n_there, other = elsewhere
            return replace(miss, n_known=n_there, n_lost=n_there - n_hit, cause="namespace", earlier=self._called(other))
        if candidate is None:
            return miss
        miss = replace(miss, earlier=self._called(candidate))
        if n_same > n_hit:
            return self._unkept(replace(miss, n_lost=n_same - n_hit), served, candidate)
        if n_same == len(candidate.tokens):
            return miss  # the earlier one ended here: what follows is new
        n_lost = _n_common(prompt[max(n_same, n_hit) : n_most], candidate.tokens[n_same:])
        change = self._change(served, candidate, n_same)
        return replace(miss, n_lost=n_lost, cause="changed" if n_lost or change.what not in ("text", "model") else "new", change=change)

    def _elsewhere(self, served: Served) -> tuple[int, _Candidate] | None:
        """The closest sequence of another namespace, whose keys and values are not the same."""
        found = [self._closest(served, other) for other in self._shelves if other != served.namespace]
        return max(((n, one) for n, one in found if one is not None), key=lambda pair: pair[0], default=None)

    def _unkept(self, miss: Miss, served: Served, candidate: _Candidate) -> Miss:
        """What had become of the token after the hit, when, and who needed the room."""
        for eviction in reversed(self._past.evictions):
            if eviction.seq <= (served.matched or 0) and eviction.path.holds(served.prompt, served.n_hit or 0):
                cause = {"room": "evicted", "flush": "flushed", "gone": "gone"}[eviction.how]
                where = self._title(eviction.run) if eviction.run is not None else ""
                by = f"{eviction.by.name} of {self._title(eviction.by.run)}" if eviction.by else where
                ms = None if cause == "gone" else (served.t_ns - eviction.t_ns) / 1e6
                return replace(miss, cause=cause, by=by, gone_ms=ms)
        running = candidate.served is not None and (not candidate.served.reason or candidate.served.run == self._record.run)
        return replace(miss, cause="together" if running else "unkept")

    def _change(self, served: Served, candidate: _Candidate, at: int) -> Change:
        prompt, other, spell = served.prompt, candidate.tokens, self._record.spell
        n_new, n_old = stretch(prompt[at:], other[at:])
        new, old = prompt[at : at + n_new], other[at : at + n_old]
        after = prompt[at + n_new : at + n_new + CONTEXT] if n_new < len(prompt) - at and n_old < len(other) - at else ()
        before = prompt[max(0, at - CONTEXT) : at]
        record = self._known.get(candidate.served.run) if candidate.served and candidate.served.run is not None else None
        spell_old = record.spell if record else spell
        was = candidate.served.origin(at) if candidate.served else TEXT
        texts = ["".join(map(spell, before)), "".join(map(spell_old, old)), "".join(map(spell, new)), "".join(map(spell, after))]
        what = kind_of(served.origin(at), was, *texts)
        shown = Change(at, before, old[:MAX_STRETCH], new[:MAX_STRETCH], after, what)
        said_by = served.origin(at).expr
        if what in ("model", "choice"):
            return replace(shown, edit=Edit(said_by.line, self._line(said_by.line)) if said_by is not None and said_by.line else None)
        return replace(shown, edit=find_edit(record.source if record else None, self._record.source, *texts))

    def _line(self, number: int) -> str:
        lines = self._record.source.split("\n")
        return lines[number - 1] if number <= len(lines) else ""

    def _called(self, candidate: _Candidate) -> str:
        if candidate.served is None:
            return "what lay in the cache before"
        return f"{candidate.served.name} of {self._title(candidate.served.run)}"

    def _title(self, run: RunId | None) -> str:
        if run is None or run not in self._known:
            return "something that was not recorded"
        return "this run" if run == self._record.run else self._known[run].title


def _n_common(mine: Tokens, others: Tokens) -> int:
    """How many of `mine` stand in runs of at least `GRAM` tokens that are among `others` too, wherever."""
    known = set(grams(others, GRAM))
    n_common = covered = 0
    for start, gram in enumerate(grams(mine, GRAM)):
        if gram in known:
            n_common += start + GRAM - max(start, covered)
            covered = start + GRAM
    return n_common


def _grouped(misses: Iterable[Miss]) -> tuple[Miss, ...]:
    """Those with the same story as one, those that lost most first."""
    groups: dict[object, list[Miss]] = {}
    for miss in misses:
        story = (miss.cause, miss.n_hit, miss.n_lost, miss.by, miss.change and replace(miss.change, after=()), miss.name)
        groups.setdefault((miss.cause, miss.name) if miss.cause in ("new", "whole") else story, []).append(miss)
    return tuple(sorted((replace(group[0], n_alike=len(group) - 1) for group in groups.values()), key=lambda miss: -miss.n_lost))
