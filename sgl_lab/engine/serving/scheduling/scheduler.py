"""Decides what runs next: which requests are admitted, how much of each prompt is computed, which
requests are preempted.

Decides with numbers alone: no tensors, no text, no thread. The engine calls `schedule`, runs the
plan, then reports the outcome of each row with `advance`, `finish` or `fail`.
"""

from __future__ import annotations

import random
from array import array
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ....contracts.errors import InvariantBroken
from ....contracts.events import DraftVerified, Emit, PrefixMatched, RequestPreempted, silent
from ...plan import Plan, Row, Sampling
from ..cache.audit import audit
from ..cache.node import Tokens
from ..cache.pool import PagePool
from ..cache.reuse import REUSES
from ..cache.tree import Lease, RadixTree
from ..config import EngineConfig
from .drafts import Drafts
from .order import ORDERS, n_hit
from .request import Phase, Request

WINDOW = 128
"""Waiting requests that one pass looks at: bounds its cost whatever waits behind."""

DECODE_AHEAD = 16
"""Tokens of room left for each running gen when another is admitted, so that it is not preempted at
once.
"""


def _arrival(request: Request) -> int:
    return request.arrival


@dataclass(frozen=True, slots=True)
class ScheduledStep:
    """`requests[i]` is that of `plan.rows[i]`; `complete` were found whole in the tree and need no row."""

    plan: Plan
    requests: tuple[Request, ...]
    complete: tuple[Request, ...]


class Scheduler:
    """Requests wait and run in order of arrival; the oldest running one always gets its pages."""

    def __init__(
        self,
        config: EngineConfig,
        pool: PagePool,
        tree: RadixTree,
        copy_page: Callable[[int, int], None],
        emit: Emit = silent,
        drafts: Drafts | None = None,
    ) -> None:
        self._config = config
        self._pool = pool
        self._tree = tree
        self._reuse = REUSES[config.reuse]()
        self._copy_page = copy_page
        self._emit = emit
        self._drafts = drafts
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.n_preempted = 0
        self._n_arrived = 0
        self._step = 0
        self._draw = random.Random(config.seed)

    def turn(self, config: EngineConfig, drafts: Drafts | None) -> None:
        """Work by these settings from now on. No request runs or waits."""
        self._config, self._drafts = config, drafts

    # ------------------------------------------------------------ in and out

    def add(self, request: Request) -> None:
        self._n_arrived += 1
        request.arrival = self._n_arrived
        self.waiting.append(request)
        self._ask(request)

    def _ask(self, request: Request) -> None:
        self._tree.asked(request.id, request.arrival, request.namespace, request.span(0, request.n_tokens), request.foreseen)

    def schedule(self) -> ScheduledStep | None:
        """The next step, or None when nothing can be done."""
        if not self.waiting and not self.running:
            return None
        n_preempted = self.n_preempted
        for request in self._going():
            if request.phase is Phase.RUNNING:
                self._make_room_to_decode(request)
        budget = self._config.step_tokens
        work: list[tuple[Request, int]] = []
        for request in sorted(self._going(), key=lambda request: request.n_pending > 1):  # those that decode first
            if n := min(request.n_pending, budget):
                work.append((request, n))
                budget -= n
        admitted = self._admit(budget) if self.n_preempted == n_preempted else []
        work += [(request, n) for request, n in admitted if n]
        complete = [request for request, n in admitted if not n]
        if not work and not complete:
            return None
        self._step += 1
        rows = self._rows(work)
        return ScheduledStep(Plan(self._step, rows), tuple(request for request, _ in work), tuple(complete))

    def _going(self) -> list[Request]:
        """Those of the running ones that take part in the next step."""
        return [request for request in self.running if not request.is_processed]

    def admit_ahead(self, plan: Plan) -> None:
        """While `plan` computes, admit the gens that would be admitted after it.

        No request is preempted for them, and a gen that may find more in the tree by then waits.
        """
        if not self.waiting:
            return
        n_computed = {row.request: len(row.tokens) - row.n_drafts for row in plan.rows}
        n_next = sum(max(1, request.n_pending - n_computed.get(request.id, 0)) for request in self._going())
        self._admit(max(0, self._config.step_tokens - n_next), is_ahead=True)

    def overlap(self, step: ScheduledStep) -> ScheduledStep | None:
        """The step after `step`, which is still in flight: each running request continues from the
        token that `step` samples for it.

        None if the next step must know that token, or may admit a waiting request. A request that
        certainly ends with `step` is left out. A request that ends there unexpectedly has computed
        one extra token, into a page that is free again by then.
        """
        rows = dict(zip(step.requests, step.plan.rows, strict=True))
        going = self._going()
        if not all(request in rows and self._may_overlap(request, rows[request]) for request in going):
            return None
        going = [request for request in going if len(request.generated) + 1 < request.limit]
        if not going or (self.waiting and len(going) < self._config.max_rows):
            return None
        n_missing = {request: self._config.pages_for(rows[request].end + 1) - len(request.pages) for request in going}
        n_wanted = sum(n for n in n_missing.values() if n > 0)
        self._tree.evict(n_wanted - self._pool.n_free)
        if n_wanted > self._pool.n_free:
            return None
        for request, n in n_missing.items():
            if n > 0:
                request.pages.extend(self._pool.take(n, request.id))
        self._step += 1
        return ScheduledStep(Plan(self._step, tuple(self._next_row(request, rows[request]) for request in going)), tuple(going), ())

    def _may_overlap(self, request: Request, row: Row) -> bool:
        """Whether `row` draws exactly one token for `request`, and the next draw needs nothing else
        from it.
        """
        if row.sample is None or row.n_drafts or request.targets or request.matcher is not None or row.sample.params.is_penalised:
            return False
        return self._drafts is None or self._drafts.is_quiet(request)

    def _next_row(self, request: Request, row: Row) -> Row:
        sample = row.sample
        if sample is None:
            raise InvariantBroken(f"request {request.id} draws nothing that a next step could go on from")
        pages = request.pages[: self._config.pages_for(row.end + 1)]
        after = replace(sample, position=sample.position + 1)
        return Row(request.id, (0,), row.end, pages, after, is_exact=request.is_exact, adapter=row.adapter, is_overlapped=True)

    def advance(self, request: Request, row: Row, n_accepted: int = 0, *, is_over: bool = False) -> None:
        """Record that the KV of `row` is computed. The first `n_accepted` of its drafts are
        accepted, the others rejected.
        """
        was_prefilling = request.is_prefilling
        n_rejected = row.n_drafts - n_accepted
        n = len(row.tokens) - n_rejected
        if row.n_drafts and self._drafts is not None:
            request.n_drafted += row.n_drafts
            source = self._drafts.learn(request, row.n_drafts, n_accepted, is_over=is_over)
            self._emit(DraftVerified(request.id, source, row.n_drafts, n_accepted))
        request.count_computed(request.n_kv, request.n_kv + n, n_rejected)
        request.n_kv += n
        if was_prefilling:
            self._share(request)
        n_wanted = self._config.pages_for(request.n_tokens)
        if row.n_drafts and len(request.pages) > n_wanted:
            self._pool.release(request.pages[n_wanted:], request.id)
            request.pages = request.pages[:n_wanted]

    def finish(self, request: Request) -> None:
        """The request has ended, in whatever phase. Its KV stays in the tree."""
        self._leave(request, Phase.FINISHED, keep=True)

    def fail(self, request: Request) -> None:
        """Like `finish`, for a request whose last row may have written wrong values."""
        self._leave(request, Phase.FINISHED, keep=False)

    def restart(self) -> None:
        """Start over with an empty tree and pool: running requests wait, and keep their generated
        tokens.
        """
        for request in tuple(self.running):
            request.lease = None
            self._leave(request, Phase.WAITING, keep=False)
        self._tree.reset()

    def check(self, others: Iterable[Lease] = ()) -> None:
        """Recount all pages and leases, those of `others` too; InvariantBroken if they do not add up."""
        leases = [*others, *(request.lease for request in self.running if request.lease)]
        held = {request.id: self._own_pages(request) for request in self.running}
        audit(self._tree, leases, held)

    # ------------------------------------------------------------ room

    def _make_room_to_decode(self, request: Request) -> None:
        n_missing = self._config.pages_for(request.n_tokens) - len(request.pages)
        while n_missing > self._pool.n_free:
            if self._tree.evict(n_missing - self._pool.n_free):
                continue
            youngest = self._going()[-1]
            self._preempt(youngest)
            if youngest is request:
                return
        if n_missing > 0:
            request.pages.extend(self._pool.take(n_missing, request.id))

    def _preempt(self, request: Request) -> None:
        self.n_preempted += 1
        request.n_preemptions += 1
        self._emit(RequestPreempted(request.id, request.n_kv))
        self._leave(request, Phase.WAITING, keep=True)

    def _leave(self, request: Request, phase: Phase, *, keep: bool) -> None:
        """Out of `waiting` or `running`, without pages or lease."""
        (self.running if request.phase is Phase.RUNNING else self.waiting).remove(request)
        self._tree.served(request.id)
        request.move(phase)
        if keep and request.n_kv:
            kept = request.span(0, request.n_kv)
            self._tree.insert(request.namespace, kept, request.pages, request.id, request.lease)
            del request.pages[: request.n_kv // self._config.page_size]
            self._reuse.ended(request.namespace, kept)
            if request.fork is not None and phase is Phase.FINISHED:
                self._tree.left(request.fork, request.namespace, kept, request.foreseen)
        if request.lease is not None:
            self._tree.release(request.lease)
            request.lease = None
        self._pool.release(request.pages, request.id)
        request.pages = array("i")
        request.n_kv = 0
        if phase is Phase.WAITING:
            insort(self.waiting, request, key=_arrival)
            self._ask(request)
        elif self._drafts is not None:
            self._drafts.close(request)

    def _share(self, request: Request) -> None:
        """Move the computed part of the prompt into the tree, and lease it there instead of holding
        it.
        """
        n = min(request.n_kv, request.n_prefill) // self._config.page_size * self._config.page_size
        lease = request.lease
        if lease is None or n < lease.n_tokens:
            return
        tokens = request.span(0, n)
        self._tree.insert(request.namespace, tokens, request.pages, request.id, lease)
        self._tree.extend(lease, tokens)
        request.pages[: len(lease.pages)] = lease.pages

    def _own_pages(self, request: Request) -> list[int]:
        """The pages that are not the tree's, determined by their position and not by the pool's
        owners.
        """
        leased = set(request.lease.pages) if request.lease else set()
        return [page for page in request.pages if page not in leased]

    # ------------------------------------------------------------ admission

    def _admit(self, budget: int, *, is_ahead: bool = False) -> list[tuple[Request, int]]:
        """Move waiting requests to running while rows, tokens and pages are available. Returns how
        many tokens of each are computed now; 0 if all are cached.
        """
        admitted: list[tuple[Request, int]] = []
        held: set[Request] = set()
        order = self._order() if budget and len(self.running) < self._config.max_rows else []
        for request in order:
            if not budget or len(self.running) == self._config.max_rows:
                break
            if request.is_processed:
                held.add(request)
                continue
            tokens = request.span(0, request.n_tokens)
            if is_ahead and (request.kind != "gen" or self._is_held(request, tokens, 1)):
                break  # a request that has to wait is not overtaken for that
            if self._is_held(request, tokens, self._config.min_share):
                held.add(request)
                continue
            if not self._start(request, tokens):
                break  # a request that only waits for pages is not overtaken
            n = min(request.n_pending, budget)
            admitted.append((request, n))
            budget -= n
        if admitted:
            latest = max(request.arrival for request, _ in admitted)
            for request in order:
                if request.phase is Phase.WAITING and request.arrival < latest and request not in held:
                    request.n_passed += 1
        return admitted

    def _order(self) -> list[Request]:
        """Requests that were overtaken too often, in order of arrival, then the others as the
        policy ranks them.
        """
        window = self.waiting[:WINDOW]
        most = self._config.max_passes
        overdue = [request for request in window if request.n_passed >= most]
        others = [request for request in window if request.n_passed < most]
        ranks = ORDERS[self._config.schedule](self._tree, others, self._draw)
        ranked = sorted(zip(ranks, others, strict=True), key=lambda pair: pair[0])  # stable: ties stay in order of arrival
        return overdue + [request for _, request in ranked]

    def _is_held(self, request: Request, tokens: tuple[int, ...], min_share: int) -> bool:
        """Whether a running request computes `min_share` more tokens of `request`, which will soon
        be in the tree.
        """
        if not self._reuse.waits:
            return False
        prefilling = [other for other in self.running if other.is_prefilling and other.namespace == request.namespace]
        if not prefilling:
            return False
        n_here = n_hit(self._tree, request)
        size = self._config.page_size
        for other in prefilling:
            is_sample = other.group == request.group and request.kind == "gen"
            n_share = size if is_sample else self._config.pages_for(min_share) * size
            end = n_here + n_share
            is_long = end <= min(len(tokens), other.n_prefill)
            if is_long and tokens[n_here:end] == other.span(n_here, end) and tokens[:n_here] == other.span(0, n_here):
                return True
        return False

    def _start(self, request: Request, tokens: tuple[int, ...]) -> bool:
        """Admit `request` if its pages can be had, now."""
        size = self._config.page_size
        match = self._tree.peek(request.namespace, tokens[: self._reuse.most(request.namespace, tokens)])
        start = min(match.n_tokens, request.first_needed)
        n_own = self._config.pages_for(len(tokens)) - start // size
        n_lease = match.n_tokens
        if n_own + match.n_idle_pages + self._reserve() > self._pool.n_free + self._tree.n_idle_pages:
            if self.running:
                return False
            # There is no other request and still no space: lease no page that is recomputed anyway.
            # Submission ensured that this fits.
            n_lease = start = start // size * size
        self._retire(request)
        lease = request.lease = self._tree.acquire(request.namespace, tokens[:n_lease], match=match)
        if n_own > self._pool.n_free:
            self._tree.evict(n_own - self._pool.n_free)
        request.pages = lease.pages[: start // size] + self._pool.take(n_own, request.id)
        if start % size:
            self._copy_page(lease.pages[start // size], request.pages[start // size])
        request.n_kv = start
        request.n_prefill = len(tokens)
        request.count_cached(start)
        self._emit(PrefixMatched(request.id, start, len(tokens), lease.node.id))
        return True

    def _retire(self, request: Request) -> None:
        self.waiting.remove(request)
        self._tree.served(request.id)
        request.move(Phase.RUNNING)
        insort(self.running, request, key=_arrival)

    def _reserve(self) -> int:
        """Pages that running requests will need soon."""
        size = self._config.page_size
        return sum(-(-min(DECODE_AHEAD, request.limit - len(request.generated)) // size) for request in self.running if request.limit)

    # ------------------------------------------------------------ rows

    def _rows(self, work: list[tuple[Request, int]]) -> tuple[Row, ...]:
        """Rows that draw also carry drafts, as far as the step has room."""
        budget = self._config.step_tokens - sum(n for _, n in work)
        rows = []
        for request, n in work:
            drafts = self._drafts_for(request, budget, len(work)) if n == request.n_pending else ()
            budget -= len(drafts)
            rows.append(self._row(request, n, drafts))
        return tuple(rows)

    def _drafts_for(self, request: Request, n_most: int, n_rows: int) -> Tokens:
        """Drafts of the next tokens, with pages for them. They preempt no request, and evict only
        if none waits.
        """
        n_most = min(n_most, request.limit - len(request.generated) - 1)
        if self._drafts is None or n_most <= 0:
            return ()
        drafts = self._drafts.draft(self._tree, request, n_most, n_rows)
        if request.matcher is not None:
            drafts = request.matcher.within(drafts)
        n_missing = self._config.pages_for(request.n_tokens + len(drafts)) - len(request.pages)
        if drafts and n_missing > 0:
            if n_missing > self._pool.n_free and not self.waiting:
                self._tree.evict(n_missing - self._pool.n_free)
            request.pages.extend(self._pool.take(min(n_missing, self._pool.n_free), request.id))
        return drafts[: len(request.pages) * self._config.page_size - request.n_tokens]

    def _row(self, request: Request, n: int, drafts: Tokens) -> Row:
        start, end = request.n_kv, request.n_kv + n
        pages = request.pages[: self._config.pages_for(end + len(drafts))]
        sample = None
        position = len(request.generated)
        if request.params is not None and end == request.n_tokens and position < request.limit:
            masks = request.matcher.masks(len(drafts) + 1) if request.matcher is not None else ()
            n_healed = request.n_healed
            prompt: Sequence[int] = request.prompt
            generated: Sequence[int] = request.generated
            if request.blocks and request.params.is_penalised:
                prompt = tuple(token for token in prompt if token >= 0)
            if n_healed and request.params.is_penalised:
                prompt, generated = (*prompt, *generated[:n_healed]), generated[n_healed:]
            healing = 0 if request.seam is None else request.seam.n_inside(drafts)
            early = request.banned_early
            sample = Sampling(request.params, request.seed, position, prompt, generated, early, (), masks, n_healed, healing)
        first = min((position for position in request.targets if start <= position < end), default=end)
        targets = tuple(request.targets.get(position, ()) for position in range(first, end))
        if targets:
            targets += ((),) * len(drafts)
        n_top = 0 if request.params is None else request.params.top_logprobs
        tokens = request.span(start, end) + drafts
        is_exact, adapter = request.is_exact, request.adapter
        return Row(request.id, tokens, start, pages, sample, targets, len(drafts), n_top, is_exact, request.blocks, adapter)
