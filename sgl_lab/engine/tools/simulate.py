"""What if: serves a recording again with the real tree, pool and scheduler, under other policies
and sizes.

The recorded tokens replace the model, so a simulation needs no arithmetic. `belady` is the optimum,
computed with knowledge of the future. Knows no model, no text and no time.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from ...contracts.errors import BadArgument
from ...contracts.events import Event, ForksEnded, RequestFinished, RequestQueued, TokensSampled
from ...contracts.ids import Namespace, NodeId, RequestId
from ...contracts.near import did_you_mean
from ...contracts.params import SamplingParams
from ...contracts.policies import BELADY, EVICTIONS
from ...contracts.tree import TreeNode, TreeSnapshot
from ..serving.cache.policies import policy
from ..serving.cache.policy import Policy
from ..serving.cache.pool import PagePool
from ..serving.cache.tree import RadixTree
from ..serving.config import EngineConfig
from ..serving.scheduling.request import Request
from ..serving.scheduling.scheduler import DECODE_AHEAD, Scheduler

NEVER = 1 << 60
"""the next use of a token that is not used again"""


class Job(NamedTuple):
    """A request as it was recorded."""

    queued: RequestQueued
    generated: tuple[int, ...]
    forced: tuple[bool, ...]
    """which of them were not sampled"""
    n_ends: int
    """how many requests of the recording were over when this one was queued: it waits for the same"""
    n_shared: int = 0
    """leading tokens that the first request of its group counts as its own"""

    @property
    def sequence(self) -> tuple[int, ...]:
        """All tokens that get KV. The last sampled token and the forced ones after it do not; empty
        if all were forced.
        """
        return () if self.is_said else self.queued.prompt + self.generated[: self.n_drawn - 1]

    @property
    def is_said(self) -> bool:
        """It was forced as a whole and took no step."""
        return bool(self.generated) and all(self.forced)

    @property
    def n_drawn(self) -> int:
        """Generated tokens up to the last sampled one; 1 if nothing was generated."""
        return max((i for i, is_forced in enumerate(self.forced, 1) if not is_forced), default=1)

    def run_from(self, n: int) -> int:
        """How many of the generated tokens exist after `n`, including those forced after them."""
        while n < len(self.forced) and self.forced[n]:
            n += 1
        return n

    @property
    def n_reusable(self) -> int:
        """Leading tokens that may come from the cache."""
        n_prompt = len(self.queued.prompt)
        reusable = self.queued.reusable
        if reusable is None:
            reusable = n_prompt - 1 if self.queued.kind == "gen" else n_prompt
        return reusable + self.run_from(0)

    def request(self, config: EngineConfig, namespace: Namespace) -> Request:
        """A request to serve again. A gen that was cancelled before its first token counts as a
        prompt to compute, like a score.
        """
        queued, n_generated = self.queued, len(self.generated)
        room = config.cache_tokens + 1 - len(queued.prompt)
        kind = "score" if queued.kind == "gen" and not n_generated else queued.kind
        return Request(
            queued.request,
            queued.group,
            kind,
            namespace,
            queued.prompt,
            limit=max(n_generated, min(queued.max_tokens, room)) if n_generated else 0,
            params=SamplingParams(max_tokens=None) if n_generated else None,
            generated=list(self.generated[: self.run_from(0)]),
            n_shared=self.n_shared,
            targets={self.n_reusable: ()} if kind == "score" else {},
            fork=queued.fork if queued.goes_on else None,
            foreseen=queued.foreseen,
        )


class Ended(NamedTuple):
    """Streams of the recording that ended when so many requests were queued, and so many over."""

    n_queued: int
    n_ends: int
    event: ForksEnded

    def is_due(self, n_queued: int, n_ends: int) -> bool:
        return self.n_queued <= n_queued and self.n_ends <= n_ends


@dataclass(frozen=True)
class Recording:
    """The requests of a sequence of events, for one model. Pins, flushes and gens of no tokens are
    left out.
    """

    jobs: tuple[Job, ...]
    """in order of arrival"""
    ends: tuple[RequestId, ...]
    """in the order in which they came to their end"""
    nodes: tuple[TreeNode, ...] = ()
    """the cache as it was before, parents first"""
    namespace: Namespace = ()
    ended: tuple[Ended, ...] = ()

    @classmethod
    def of(cls, events: Iterable[Event], before: TreeSnapshot | None = None, namespace: Namespace = ()) -> Recording:
        queued: list[tuple[RequestQueued, int, int]] = []
        prompts: dict[RequestId, int] = {}
        """of groups that score: tokens before the choices"""
        generated: dict[RequestId, list[tuple[int, bool]]] = {}
        ends: list[RequestId] = []
        ended: list[Ended] = []
        for event in events:
            match event:
                case ForksEnded():
                    ended.append(Ended(len(queued), len(ends), event))
                case RequestQueued(request=request, kind=kind, max_tokens=max_tokens) if max_tokens or kind != "gen":
                    if kind == "score" and request == event.group and event.reusable is not None:
                        prompts[request] = event.reusable + 1
                    queued.append((event, len(ends), 0 if request == event.group else prompts.get(event.group, 0)))
                    generated[request] = []
                case TokensSampled(samples=samples):
                    for sample in samples:
                        generated.get(sample.request, []).append((sample.token, sample.forced))
                case RequestFinished(request=request) if request in generated:
                    ends.append(request)
                case _:
                    pass
        jobs = []
        for event, n_ends, n_shared in queued:
            known = generated[event.request]
            tokens, forced = tuple(token for token, _ in known), tuple(is_forced for _, is_forced in known)
            jobs.append(Job(event, tokens, forced, n_ends, n_shared))
        return cls(tuple(jobs), tuple(ends), before.nodes if before else (), namespace, tuple(ended))


@dataclass(frozen=True, slots=True)
class Outcome:
    """Counts in tokens, as in `Engine.stats` except for rejected drafts, which do not occur here.

    `n_refused` requests were too large for the cache and are in no other count.
    """

    evict: str
    n_pages: int
    prompt_tokens: int
    cached_prompt_tokens: int
    cached_tokens: int
    computed_tokens: int
    recomputed_tokens: int
    evicted_tokens: int
    preemptions: int
    n_refused: int

    @property
    def hit_rate(self) -> float:
        return self.cached_prompt_tokens / max(1, self.prompt_tokens)


def what_if(
    recording: Recording, config: EngineConfig, *, evict: Sequence[str] = (*EVICTIONS, BELADY), n_pages: Sequence[int] = ()
) -> tuple[Outcome, ...]:
    """One outcome for each policy and size. `config` provides the rest (and the size, if `n_pages`
    is empty).

    The simulated size is at most what the recording could fill: beyond that, all sizes are equal.
    """
    for name in evict:
        if name != BELADY and name not in EVICTIONS:
            raise BadArgument(f"there is no eviction policy {name!r}", hint=did_you_mean(name, (*EVICTIONS, BELADY)))
    outcomes = []
    n_most = _most_pages(recording, config)
    for size in n_pages or (config.n_pages,):
        for name in evict:
            serve = optimum if name == BELADY else simulate
            chosen = replace(config, n_pages=min(size, n_most), evict=config.evict if name == BELADY else name)
            outcome = serve(recording, chosen)
            outcomes.append(replace(outcome, n_pages=size))
    return tuple(outcomes)


def _most_pages(recording: Recording, config: EngineConfig) -> int:
    """Pages with which nothing is ever evicted, refused or kept waiting for want of room."""
    before = sum(config.pages_for(len(node.tokens)) for node in recording.nodes)
    jobs = sum(config.pages_for(len(job.queued.prompt) + len(job.generated) + DECODE_AHEAD) + 1 for job in recording.jobs)
    return before + jobs + config.max_rows * (config.pages_for(DECODE_AHEAD) + 1)


def simulate(recording: Recording, config: EngineConfig, eviction: Policy | None = None) -> Outcome:
    """Serve the recording as an engine of `config` would; with `eviction`, under a policy that it
    has not.

    A request is queued when all requests that were finished before it in the recording are
    finished. The counts of a program that waits for its answers are therefore exact; for parallel
    requests, steps may differ.
    """
    pool = PagePool(config.n_pages, config.page_size)
    tree = RadixTree(pool, eviction or policy(config.evict, config.schedule))
    tree.restore(_latest(recording.nodes, config.cache_tokens))
    scheduler = Scheduler(config, pool, tree, lambda source, target: None)
    scripts = {job.queued.request: job for job in recording.jobs}
    done: set[RequestId] = set()
    served: list[Request] = []
    n_next = n_ends = n_refused = n_told = 0
    while True:
        while n_ends < len(recording.ends) and recording.ends[n_ends] in done:
            n_ends += 1
        while n_told < len(recording.ended) and recording.ended[n_told].is_due(n_next, n_ends):
            event = recording.ended[n_told].event
            tree.ended(event.forks, is_all=event.is_all, batch=event.batch)
            n_told += 1
        if n_next < len(recording.jobs) and recording.jobs[n_next].n_ends <= n_ends:
            job = recording.jobs[n_next]
            request = job.request(config, recording.namespace)
            n_next += 1
            if config.pages_for(len(job.sequence)) > config.n_pages:
                n_refused += 1
                done.add(request.id)
            elif job.is_said:
                served.append(request)
                done.add(request.id)
            else:
                scheduler.add(request)
                served.append(request)
            continue
        batch = scheduler.schedule()
        if batch is None and n_next == len(recording.jobs):
            break
        if batch is None:  # nothing runs, so all that the next one waits for is over, or was refused
            continue
        over = list(batch.complete)
        for request, row in zip(batch.requests, batch.plan.rows, strict=True):
            scheduler.advance(request, row)
            job = scripts[request.id]
            if row.sample is not None:
                n_said = len(request.generated)
                request.generated += job.generated[n_said : job.run_from(n_said + 1)]
            if request.n_kv >= len(request.prompt) and len(request.generated) == len(job.generated):
                over.append(request)
        for request in over:
            scheduler.finish(request)
            done.add(request.id)
    return Outcome(
        config.evict,
        config.n_pages,
        sum(len(request.prompt) - request.n_shared for request in served),
        sum(request.n_found for request in served),
        sum(request.n_cached for request in served),
        sum(request.n_computed for request in served),
        sum(request.n_recomputed for request in served),
        tree.n_evicted_tokens,
        scheduler.n_preempted,
        n_refused,
    )


def _latest(nodes: tuple[TreeNode, ...], capacity: int) -> list[TreeNode]:
    """As many of `nodes`, each with those above it, as have room: those used last."""
    by_id = {node.node: node for node in nodes}
    chosen: set[NodeId] = set()
    for node in sorted(nodes, key=lambda node: -node.last_used):
        above = []
        at: TreeNode | None = node
        while at is not None and at.node not in chosen:
            above.append(at)
            at = by_id[at.parent] if at.parent is not None else None
        n_tokens = sum(len(new.tokens) for new in above)
        if n_tokens <= capacity:
            capacity -= n_tokens
            chosen.update(new.node for new in above)
    return [node for node in nodes if node.node in chosen]


def optimum(recording: Recording, config: EngineConfig) -> Outcome:
    """The most cached tokens that any eviction policy could reach if requests were served one at a
    time in order of arrival.

    Belady's rule on single tokens: the token whose next use is farthest is evicted first. It is
    optimal because tokens have one size, a request must hold all of its own while it runs (so only
    others can be evicted), and a prefix is used whenever its continuation is. A token that a
    request computes in any case costs the same whether it was kept or not: that use does not count,
    and the token is inserted again. Real policies evict whole nodes, keep whole pages and no token
    without its prefix, so they do not exceed it; a schedule that lets requests overtake each other
    may. L. A. Belady, IBM Systems Journal 5(2), 1966.
    """
    capacity = config.cache_tokens
    jobs = [job for job in recording.jobs if config.pages_for(len(job.sequence)) <= config.n_pages]
    numbers: dict[tuple[int, int], int] = {}
    """(prefix, next token) -> longer prefix; 0 is the empty one, so a deeper prefix has a greater number"""

    def path(at: int, tokens: Sequence[int]) -> list[int]:
        found = []
        for token in tokens:
            at = numbers.setdefault((at, token), len(numbers) + 1)
            found.append(at)
        return found

    before: list[int] = []
    ends: dict[NodeId, int] = {}
    for node in recording.nodes:
        if node.parent is None:
            ends[node.node] = 0 if node.namespace == recording.namespace else -node.node
        else:
            before += path(ends[node.parent], node.tokens)
            ends[node.node] = before[-1]
    paths = [path(0, job.sequence) for job in jobs]
    next_uses: list[dict[int, int]] = []
    next_use = dict.fromkeys(range(1, len(numbers) + 1), NEVER)
    for i in range(len(jobs) - 1, -1, -1):
        next_uses.append({prefix: next_use[prefix] for prefix in paths[i]})
        next_use.update((prefix, i if k < jobs[i].n_reusable else NEVER) for k, prefix in enumerate(paths[i]))

    cache = {prefix: next_use[prefix] for prefix in before}
    heap = [(-use, -prefix) for prefix, use in cache.items()]
    heapq.heapify(heap)
    n_evicted = n_found = n_cached = 0

    def shrink(n_wanted: int) -> int:
        n_before = len(cache)
        while len(cache) > n_wanted:
            use, prefix = heapq.heappop(heap)
            if cache.get(-prefix) == -use:
                del cache[-prefix]
        return n_before - len(cache)

    shrink(capacity)
    for i, job in enumerate(jobs):
        uses = next_uses[len(jobs) - 1 - i]
        n_hit = sum(prefix in cache for prefix in paths[i][job.n_shared : job.n_reusable])
        n_cached += n_hit
        n_found += min(n_hit, len(job.queued.prompt) - job.n_shared)
        for prefix in paths[i]:
            cache.pop(prefix, None)  # its own are out of reach while it runs
        n_evicted += shrink(capacity - len(uses))
        cache |= uses
        for prefix, use in uses.items():
            heapq.heappush(heap, (-use, -prefix))
    n_prompt = sum(len(job.queued.prompt) - job.n_shared for job in jobs)
    n_computed = sum(len(job.sequence) - job.n_shared for job in jobs) - n_cached
    return Outcome(BELADY, config.n_pages, n_prompt, n_found, n_cached, n_computed, 0, n_evicted, 0, len(recording.jobs) - len(jobs))
