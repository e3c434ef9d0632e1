"""Why a prefix missed: for each request of a run, the earlier request that shares the longest
prefix, and what happened in between.

Token ids alone decide, as they do in the cache. Texts only determine the kind of change. Draws
nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest

from ...contracts.events import Entry
from ...contracts.ids import Namespace, RunId
from ...contracts.spans import distinguishing
from ...contracts.tree import CacheRules
from ...trace import Record
from ..views.hits import n_shared
from ..views.metrics import MetricsView
from .change import MAX_STRETCH, Change, kind_of, stretch
from .edit import Edit, Line, find_edit, line_with, options_edit
from .history import TEXT, History, Path, Served, Tokens, grams, history_of, shared

GRAM = 12
"""Tokens count as the same text only in runs of this length that both texts contain. Shorter runs
are words that any two texts share.
"""
CONTEXT = 12
MAX_REQUESTS = 40
"""requests that are explained, those with the largest misses; all are counted"""
MAX_ALIKE = 12
"""earlier sequences that are compared if several share the same prefix"""
MAX_STRANGERS = 8
"""runs of other models that are examined, the latest ones"""
MIN_STRANGER = 24
"""characters that a prompt to another model must share to be mentioned"""
ABOVE_ALL = 1 << 62
ELSEWHERE = RunId(-1)
"""replaces the run's name for a run of another ring: from a file or from another lab"""

Spell = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class Miss:
    """One request and the origin of its prompt's tokens. For several requests with the same cause,
    all counts are totals.
    """

    name: str
    line: int
    """line of the gen or select; 0 if it is not known"""
    n_prompt: int
    n_hit: int
    """tokens that were reused"""
    n_lost: int
    """tokens computed again although an earlier request had computed them, or the same text"""
    ms: float | None
    """milliseconds spent on computing the prompt, as its share of the steps by tokens; None if no
    step was recorded
    """
    cause: str
    """whole, first, ended, changed, inside, evicted, flushed, gone, together, namespace, model or
    unkept; of a cache elsewhere also short (below its minimum), expired or unmarked
    """
    at: int
    """leading tokens that are equal to those of `earlier`"""
    token: int | None = None
    """the prompt's token at position `at`"""
    going_on: Tokens = ()
    """for `ended`, and for `inside` without a difference: the first tokens of the new text"""
    run: str = ""
    earlier: str = ""
    """run and name of the request that it is compared with"""
    earlier_run: str = ""
    change: Change | None = None
    edit: Edit | None = None
    """the line that the token comes from; for `whole` the line of options, if it was edited"""
    by: str = ""
    """the request that needed the room of the evicted tokens, or the name of another model"""
    gone_ms: float | None = None
    """milliseconds between the eviction and the miss, if known"""
    is_exact: bool = False
    """for `namespace`: whether this run was the one with --deterministic"""
    n_alike: int = 0
    """further requests of the run with the same cause"""

    @property
    def n_computed(self) -> int:
        return self.n_prompt - self.n_hit


@dataclass(frozen=True, slots=True)
class Why:
    run: str
    against: str
    """the run that it was compared with; empty for all earlier runs"""
    n_prompt: int
    """tokens, as the engine counts them: tokens that choices share count once"""
    n_cached: int
    n_inside: int
    """cached tokens that the run itself had computed, as its cell counts them"""
    n_requests: int
    misses: tuple[Miss, ...]
    """misses that lost many tokens first, then the others in order"""

    rules: CacheRules | None = None
    """of a cache that is elsewhere; None for the one of this process"""

    @property
    def n_lost(self) -> int:
        return sum(miss.n_lost for miss in self.misses)


def why(
    record: Record,
    earlier: Sequence[Record] = (),
    *,
    against: Record | None = None,
    others: Iterable[Entry] = (),
    strangers: Sequence[tuple[str, Record]] = (),
) -> Why:
    """Explain the misses of `record`.

    earlier    records of the same ring that ended before
    against    if given, the only record to compare with
    others     further entries of the ring
    strangers  runs of other models, each with its model's name; examined if nothing of this ring
               explains a miss
    """
    known = {kept.run: kept for kept in (*earlier, record)}
    judge = _Judge(record, known, history_of(list(known.values()), others), strangers)
    if against is not None:
        judge.compare(against)
    return judge.why()


@dataclass(frozen=True, slots=True)
class _Candidate:
    tokens: Tokens
    served: Served | None
    """None for a sequence that was in the cache before anything was recorded"""
    seq: int


class _Shelf:
    """Sequences of one namespace, sorted. The sequences that share most with a prompt are next to
    the prompt's own position.
    """

    def __init__(self) -> None:
        self._keys: list[Tokens] = []
        self._candidates: list[_Candidate] = []

    def add(self, candidate: _Candidate) -> None:
        """Of equal sequences the latest counts. One that was found in the cache never replaces a
        request.
        """
        at = bisect_left(self._keys, candidate.tokens)
        if at == len(self._keys) or self._keys[at] != candidate.tokens:
            self._keys.insert(at, candidate.tokens)
            self._candidates.insert(at, candidate)
        elif candidate.served is not None:
            self._candidates[at] = candidate

    def closest(self, prompt: Tokens, wanted: Callable[[_Candidate], bool] | None = None) -> tuple[int, list[_Candidate]]:
        """Number of leading tokens that the closest `wanted` sequences share with `prompt`, and the
        latest of these sequences.
        """
        keys, candidates = self._keys, self._candidates
        if wanted is not None:
            candidates = [one for one in candidates if wanted(one)]
            keys = [one.tokens for one in candidates]
        at = bisect_left(keys, prompt)
        n = max((shared(prompt, key) for key in keys[max(at - 1, 0) : at + 1]), default=0)
        first, end = bisect_left(keys, prompt[:n]), bisect_left(keys, (*prompt[:n], ABOVE_ALL))
        return n, nlargest(MAX_ALIKE, candidates[first:end], key=lambda candidate: candidate.seq)


_NONE = _Shelf()


class _Judge:
    """Processes all requests in the order of admission and keeps everything that was computed
    before.
    """

    def __init__(self, record: Record, known: dict[RunId, Record], history: History, strangers: Sequence[tuple[str, Record]]) -> None:
        self._record, self._known, self._history = record, known, history
        self._against: RunId | None = None
        self._before: dict[Namespace, _Shelf] = {}
        """sequences that other runs computed, or that were found in the cache"""
        self._own: dict[Namespace, _Shelf] = {}
        """sequences that this run computed"""
        self._strangers = strangers
        self._strange: list[tuple[str, str, Served, str]] | None = None
        """model, title, request and text of its prompt"""

    def compare(self, against: Record) -> None:
        """Compare with this run alone. If it is not one of the known runs, its requests are added
        now.
        """
        self._against = next((run for run, record in self._known.items() if record is against), ELSEWHERE)
        if self._against == ELSEWHERE:
            self._known[ELSEWHERE] = against
            for served in history_of([against]).requests:
                served.run = ELSEWHERE
                self._add(served.namespace, _Candidate(served.computed, served, -1))

    def why(self) -> Why:
        mine = [one for one in self._history.requests if one.run == self._record.run and one.n_hit is not None]
        # A request group has one prompt: only its first request is explained, all are counted.
        heads = [one for one in mine if one.queued.request == one.queued.group]
        shown = [one for one in heads if one.queued.kind != "warm"] or heads
        explained = {id(one) for one in nlargest(MAX_REQUESTS, shown, key=lambda one: one.n_reusable - (one.n_hit or 0))}
        events: list[tuple[int, Path | Served]] = [*self._history.found]
        events += [(one.matched, one) for one in self._history.requests if one.matched is not None]
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
        counts = MetricsView(self._record.run)
        for entry in self._record.entries:
            counts.fold(entry)
        return Why(
            self._record.title,
            self._title(self._against) if self._against is not None else "",
            sum(len(one.queued.prompt) - skipped[one.queued.request] for one in mine),
            sum(max(0, min(one.n_hit or 0, len(one.queued.prompt)) - skipped[one.queued.request]) for one in mine),
            counts.full()["reused"],
            len(heads),
            _grouped(misses),
            self._record.snapshot.rules,
        )

    # ------------------------------------------------------------ who shares most

    def _add(self, namespace: Namespace, candidate: _Candidate) -> None:
        """A sequence that was found in the cache after the run began belongs to this run or to an
        unrecorded program.
        """
        is_own = candidate.served is not None and candidate.served.run == self._record.run
        (self._own if is_own else self._before).setdefault(namespace, _Shelf()).add(candidate)

    def _closest(self, served: Served, shelf: _Shelf) -> tuple[int, _Candidate | None]:
        """Number of leading tokens that the closest earlier sequence shares, and that sequence.
        Ties go to the one whose remainder is most similar.
        """
        prompt = served.prompt
        wanted = None
        if self._against is not None and shelf is not self._own.get(served.namespace):
            wanted = lambda one: one.served is not None and one.served.run == self._against  # noqa: E731
        n, alike = shelf.closest(prompt, wanted)

        def likeness(other: _Candidate) -> tuple[int, bool, int]:
            has_name = other.served is not None and other.served.name == served.name
            return _n_common(prompt[n:], other.tokens[n:]), has_name, other.seq

        return n, max(alike, key=likeness, default=None)

    # ------------------------------------------------------------ the verdict

    def _miss(self, served: Served) -> Miss:
        prompt, n_hit, n_most = served.prompt, served.n_hit or 0, served.n_reusable
        n_before, before = self._closest(served, self._before.get(served.namespace, _NONE))
        n_own, own = self._closest(served, self._own.get(served.namespace, _NONE))
        miss = Miss(
            served.name,
            served.expr.line if served.expr else 0,
            len(prompt),
            min(n_hit, len(prompt)),
            0,
            served.ms if served.n_prefilled else None,
            "first",
            0,
            prompt[0] if prompt else None,
            run=self._record.title,
        )
        if n_hit >= n_most and max(n_before, n_own) >= len(prompt):
            return self._whole(replace(miss, cause="whole", at=len(prompt)), own if n_own > n_before else before)
        if (elsewhere := self._elsewhere(served, max(n_before, n_own, n_hit))) is not None:
            n_there, other = elsewhere
            known = self._compared(miss, other, n_there, served)
            there = other.served.namespace if other.served else ()
            return replace(known, n_lost=n_there - n_hit, cause="namespace", is_exact=len(served.namespace) > len(there))
        for n, candidate in ((n_before, before), (n_own, own)):
            # for example forks that begin with the same word
            is_a_word = candidate is own and n < len(prompt) and min(n, n_most) - n_hit < GRAM
            if candidate is not None and not is_a_word and min(n, n_most) > n_hit and n >= max(n_before, n_own):
                return self._unkept(replace(self._compared(miss, candidate, n, served), n_lost=min(n, n_most) - n_hit), served, candidate)
        n_lost_before, n_lost_own = self._n_lost(served, before, n_before), self._n_lost(served, own, n_own)
        if own is not None and n_own >= n_before and (n_own > n_before or before is None) and n_lost_own >= n_lost_before:
            return self._inside(replace(self._compared(miss, own, n_own, served), n_lost=n_lost_own), served, own)
        if (stranger := self._stranger(served, n_before)) is not None:
            model, title, n_lost = stranger
            return replace(miss, cause="model", by=model, n_lost=n_lost, earlier_run=title, earlier=title)
        if before is None or (n_before == 0 and not self._is_counterpart(served, before)):
            return miss
        miss = self._compared(miss, before, n_before, served)
        if n_before == len(before.tokens):
            return replace(self._going_on(miss, served), cause="ended")
        change = self._change(served, before, n_before)
        return replace(miss, n_lost=n_lost_before, cause="changed", change=change, edit=change.edit)

    def _is_counterpart(self, served: Served, other: _Candidate) -> bool:
        """Whether a sequence with a different beginning is still the same question."""
        return other.served is not None and other.served.expr is not None and other.served.name == served.name

    def _compared(self, miss: Miss, candidate: _Candidate, at: int, served: Served) -> Miss:
        run = candidate.served.run if candidate.served else None
        token = served.prompt[at] if at < len(served.prompt) else None
        title = self._title(run) if candidate.served else ""
        return replace(miss, at=at, token=token, earlier=self._called(candidate), earlier_run=title)

    def _n_lost(self, served: Served, candidate: _Candidate | None, n_same: int) -> int:
        """Tokens that were computed although `candidate` contains the same text after the position
        where both differ.
        """
        if candidate is None:
            return 0
        return _n_common(served.prompt[max(n_same, served.n_hit or 0) : served.n_reusable], candidate.tokens[n_same:])

    def _whole(self, miss: Miss, whose: _Candidate | None) -> Miss:
        if whose is None:
            return miss
        run = whose.served.run if whose.served else None
        record = self._known.get(run) if run is not None else None
        edit = options_edit(record.source, self._record.source) if record is not None and record is not self._record else None
        return replace(miss, earlier=self._called(whose), earlier_run=self._title(run) if whose.served else "", edit=edit)

    def _inside(self, miss: Miss, served: Served, own: _Candidate) -> Miss:
        """The prompt continues a sequence that this run computed, or branches off from it."""
        at = miss.at
        if at == len(own.tokens):
            return replace(self._going_on(miss, served), cause="inside")
        change = self._change(served, own, at)
        was = own.served.origin(at) if own.served else TEXT
        if change.what != "same text" and was.kind != "text" and own.served is not None and own.served.queued.fork == served.queued.fork:
            change = replace(change, what="template")
        return replace(miss, cause="changed" if change.what in ("template", "same text") else "inside", change=change, edit=change.edit)

    def _going_on(self, miss: Miss, served: Served) -> Miss:
        """The compared sequence ended. Records the text after it, without the end of an answer that
        the model generated.
        """
        at, prompt = miss.at, served.prompt
        while at < len(prompt) and served.origin(at).kind in ("generated", "choice"):
            at += 1
        line = line_with(self._record.source, self._text(prompt[at : at + 40]))
        return replace(miss, at=at, token=None, going_on=prompt[at : at + CONTEXT], edit=Edit(line, None) if line else None)

    def _elsewhere(self, served: Served, n_here: int) -> tuple[int, _Candidate] | None:
        """The closest sequence of another namespace, whose keys and values differ. None if it
        shares little more than `n_here` tokens.
        """
        others = [shelf for shelves in (self._before, self._own) for name, shelf in shelves.items() if name != served.namespace]
        found = [self._closest(served, shelf) for shelf in others]
        n, best = max(((n, one) for n, one in found if one is not None), key=lambda pair: pair[0], default=(0, None))
        return (n, best) if best is not None and n > n_here and n >= min(n_here + GRAM, served.n_reusable) else None

    def _stranger(self, served: Served, n_same: int) -> tuple[str, str, int] | None:
        """A run of another model with the same text: (model, title, number of tokens of this prompt
        that its text covers).
        """
        if self._strange is None:
            self._strange = [
                (model, record.title, one, "".join(map(distinguishing(record.spell), one.prompt)))
                for model, record in self._strangers[-MAX_STRANGERS:]
                for one in history_of([record]).requests
            ]
        text = self._text(served.prompt)
        n_known = len(self._text(served.prompt[:n_same]))
        tail = len(text) - len(text.rstrip())
        best = max(((shared(text, there), -n, model, title) for n, (model, title, _, there) in enumerate(self._strange)), default=None)
        if best is None or best[0] < max(MIN_STRANGER, 2 * n_known, 0.8 * (len(text) - tail)):
            return None
        return best[2], best[3], max(0, len(served.prompt) - (served.n_hit or 0) - 1)

    def _unkept(self, miss: Miss, served: Served, candidate: _Candidate) -> Miss:
        """Finds out what happened to the token after the hit, when, and which request needed the
        room.
        """
        if (rules := self._record.snapshot.rules) is not None and (known := _by_rules(rules, miss, served, candidate)) is not None:
            return known
        for eviction in reversed(self._history.evictions):
            if eviction.seq <= (served.matched or 0) and eviction.path.holds(served.prompt, served.n_hit or 0):
                cause = {"room": "evicted", "flush": "flushed", "gone": "gone"}[eviction.how]
                where = self._title(eviction.run) if eviction.run is not None else ""
                by = f'"{eviction.by.name}" of {self._title(eviction.by.run)}' if eviction.by else where
                ms = None if cause == "gone" else (served.t_ns - eviction.t_ns) / 1e6
                return replace(miss, cause=cause, by=by, gone_ms=ms)
        running = candidate.served is not None and (not candidate.served.reason or candidate.served.run == self._record.run)
        return replace(miss, cause="together" if running else "unkept")

    def _change(self, served: Served, candidate: _Candidate, at: int) -> Change:
        prompt, other, spell = served.prompt, candidate.tokens, distinguishing(self._record.spell)
        n_new, n_old = stretch(prompt[at:], other[at:])
        new, old = prompt[at : at + n_new], other[at : at + n_old]
        after = prompt[at + n_new : at + n_new + CONTEXT] if n_new < len(prompt) - at and n_old < len(other) - at else ()
        before = prompt[max(0, at - CONTEXT) : at]
        record = self._known.get(candidate.served.run) if candidate.served and candidate.served.run is not None else None
        spell_old = distinguishing(record.spell) if record else spell
        was = candidate.served.origin(at) if candidate.served else TEXT
        texts = ["".join(map(spell, before)), "".join(map(spell_old, old)), "".join(map(spell, new)), "".join(map(spell, after))]
        what = kind_of(served.origin(at), was, *texts)
        shown = Change(at, before, prompt[at], other[at], old[:MAX_STRETCH], new[:MAX_STRETCH], after, what)
        said_by = served.origin(at).expr
        if what in ("model", "choice"):
            line = Line(said_by.line, self._line(said_by.line)) if said_by is not None and said_by.line else None
            return replace(shown, edit=Edit(line, line) if line else None)
        return replace(shown, edit=find_edit(record.source if record else None, self._record.source, *texts))

    def _text(self, tokens: Tokens) -> str:
        return "".join(map(distinguishing(self._record.spell), tokens))

    def _line(self, number: int) -> str:
        lines = self._record.source.split("\n")
        return lines[number - 1] if number <= len(lines) else ""

    def _called(self, candidate: _Candidate) -> str:
        if candidate.served is None:
            return "what was in the cache before"
        return f'"{candidate.served.name}" of {self._title(candidate.served.run)}'

    def _title(self, run: RunId | None) -> str:
        if run is None or run not in self._known:
            return "a run that was not recorded"
        return "this run" if run == self._record.run else self._known[run].title


def _by_rules(rules: CacheRules, miss: Miss, served: Served, candidate: _Candidate) -> Miss | None:
    """What the rules of a cache elsewhere say of the miss. None if they would have kept the tokens."""
    n_same = min(miss.at, served.n_reusable)
    if rules.cacheable(n_same) <= (served.n_hit or 0):
        return replace(miss, cause="short" if n_same < rules.minimum else "unkept", by=rules.engine)
    if candidate.served is None:
        return None
    idle_ms = (served.t_ns - candidate.served.t_ns) / 1e6
    if rules.ttl_s is not None and idle_ms > rules.ttl_s * 1000:
        return replace(miss, cause="expired", by=rules.engine, gone_ms=idle_ms)
    return replace(miss, cause="unmarked", by=rules.engine) if rules.marked and not served.n_hit else None


def _n_common(mine: Tokens, others: Tokens) -> int:
    """How many of `mine` are in runs of at least `GRAM` tokens that occur anywhere in `others`."""
    known = set(grams(others, GRAM))
    n_common = covered = 0
    for start, gram in enumerate(grams(mine, GRAM)):
        if gram in known:
            n_common += start + GRAM - max(start, covered)
            covered = start + GRAM
    return n_common


def _grouped(misses: Iterable[Miss]) -> tuple[Miss, ...]:
    """One miss for each group with the same cause: first those that lost many tokens, then the
    others in order.
    """
    groups: dict[object, list[Miss]] = {}
    for miss in misses:
        change = miss.change and (miss.change.at, miss.change.old_token, miss.change.new_token, miss.change.what)
        own = (miss.name, miss.at, miss.going_on) if miss.cause in ("ended", "inside", "first") else None
        groups.setdefault((miss.cause, miss.earlier_run, miss.by, change, own), []).append(miss)
    grouped = [_together(group) for group in groups.values()]
    return tuple(sorted(grouped, key=lambda miss: -miss.n_lost if miss.n_lost >= GRAM else 0))


def _together(group: Sequence[Miss]) -> Miss:
    first = group[0]
    known = [miss.ms for miss in group if miss.ms is not None]
    n_prompt, n_hit, n_lost = (sum(getattr(miss, name) for miss in group) for name in ("n_prompt", "n_hit", "n_lost"))
    ms = sum(known) if known else None
    return replace(first, n_prompt=n_prompt, n_hit=n_hit, n_lost=n_lost, ms=ms, n_alike=len(group) - 1)
