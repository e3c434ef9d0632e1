"""A recording served again must count what was counted; no policy may beat the one that knows the future."""

from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import pytest

from sgl_lab.contracts.errors import BadArgument
from sgl_lab.contracts.events import RequestQueued, from_json, to_json
from sgl_lab.contracts.ids import RequestId
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.policies import EVICTIONS, SCHEDULES
from sgl_lab.contracts.port import GenJob, ScoreJob, WarmJob
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.tools.simulate import Job, Outcome, Recording, optimum, simulate, what_if

from .driving import SOAK, Bench, Listener, bench

FORMS = [Constraint("regex", pattern) for pattern in ("(one|two) [a-z]{2} for me", "it is [0-9]!", "just this")]
COUNTS = ("prompt_tokens", "cached_prompt_tokens", "cached_tokens", "computed_tokens", "recomputed_tokens", "evicted_tokens", "preemptions")


def ask(b: Bench, draw: random.Random, together: int, kinds: list[str]) -> None:
    """Queue some random jobs as the backend does and let them run to their end; `said` tells what each asked for."""
    for _ in range(together):
        shared = draw.choices((3, 4), k=4 * draw.randrange(1, 7))
        prompt = (*shared, *draw.choices(range(256), k=draw.randrange(4)))
        kind = draw.choices(("gen", "score", "warm"), (6, 2, 1))[0]
        group: Any
        if kind == "gen":
            form, n = draw.choice((None, None, *FORMS)), draw.choice((1, 1, 3))
            params = SamplingParams(max_tokens=draw.randrange(1, 20), n=n, temperature=0.0, ignore_eos=True, constraint=form)
            group = b.engine.gen(GenJob(prompt, params), Listener())
        elif kind == "score":
            choices = tuple(tuple(draw.choices((3, 4, 5), k=draw.randrange(1, 4))) for _ in range(3))
            group = b.engine.score(ScoreJob(prompt, choices), Listener())
        else:
            group = b.engine.warm(WarmJob(prompt), Listener())
        for request in group.requests:
            b.fold(RequestQueued(request.id, None, None, request.kind, request.prompt, request.limit, group.id, request.first_needed))
        b.engine.add(group)
        kinds.append(kind)
    while b.engine.step():
        pass


def counts(outcome: Outcome) -> tuple[int, ...]:
    return tuple(getattr(outcome, name) for name in COUNTS)


def counted(b: Bench) -> tuple[int, ...]:
    stats = b.engine.stats()
    return tuple(stats[name] for name in COUNTS)


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("evict", EVICTIONS)
@pytest.mark.parametrize(("schedule", "together"), [("lpm", 1), *((schedule, 5) for schedule in SCHEDULES)])
def test_the_same_policy_and_size_count_what_was_counted(page_size: int, evict: str, schedule: str, together: int) -> None:
    draw = random.Random(page_size)
    config: dict[str, Any] = {"n_pages": 96 // page_size, "page_size": page_size, "evict": evict, "schedule": schedule, "max_rows": 8}
    b = bench(step_tokens=24, draft_tokens=0, **config)
    kinds: list[str] = []
    for _ in range(40 * SOAK if together == 1 else 10 * SOAK):
        ask(b, draw, together, kinds)
    recording = Recording.of(from_json(to_json(event)) for event in b.fold.events)
    outcome = simulate(recording, EngineConfig(step_tokens=24, **config))
    assert counts(outcome) == counted(b)
    assert outcome.hit_rate == b.engine.stats()["hit_rate"]
    assert outcome.evicted_tokens > 100
    assert {"gen", "score", "warm"} == set(kinds)


@pytest.mark.parametrize("evict", ["lru", "lfu"])
def test_a_recording_that_began_with_a_full_cache_counts_the_same(evict: str) -> None:
    draw, kinds = random.Random(5), list[str]()
    b = bench(n_pages=96, evict=evict, draft_tokens=0)
    for _ in range(20):
        ask(b, draw, 1, kinds)
    before, snapshot, n_before = counted(b), b.engine.snapshot(0), len(b.fold.events)
    for _ in range(20):
        ask(b, draw, 1, kinds)
    recording = Recording.of(b.fold.events[n_before:], snapshot, ("test",))
    outcome = simulate(recording, EngineConfig(n_pages=96, evict=evict))
    assert counts(outcome) == tuple(after - then for after, then in zip(counted(b), before, strict=True))
    cold = simulate(Recording(recording.jobs, recording.ends), EngineConfig(n_pages=96, evict=evict))
    assert cold.evicted_tokens < outcome.evicted_tokens
    small = simulate(recording, EngineConfig(n_pages=48, evict=evict))
    assert small.n_refused == 0
    assert 0 < small.cached_tokens < outcome.cached_tokens


@pytest.mark.parametrize("page_size", [1, 4])
def test_no_policy_beats_the_one_that_knows_the_future(page_size: int) -> None:
    n_better = 0
    for seed in range(8 * SOAK):
        draw, kinds = random.Random(seed), list[str]()
        b = bench(n_pages=512 // page_size, page_size=page_size)
        for _ in range(30):
            ask(b, draw, 1, kinds)
        recording = Recording.of(b.fold.events, b.engine.snapshot(0), ("test",))
        sizes = tuple(n // page_size for n in (64, 96, 200))
        outcomes = what_if(recording, EngineConfig(page_size=page_size), n_pages=sizes)
        for size in sizes:
            of = {outcome.evict: outcome for outcome in outcomes if outcome.n_pages == size}
            best = max(of[evict].cached_tokens for evict in EVICTIONS)
            assert best <= of["belady"].cached_tokens
            assert len({outcome.cached_tokens + outcome.computed_tokens for outcome in of.values()}) == 1
            n_better += best < of["belady"].cached_tokens
    assert n_better > 8


def queued(number: int, prompt: tuple[int, ...], *generated: int) -> Job:
    request = RequestId(number)
    event = RequestQueued(request, None, None, "gen", prompt, len(generated), request, len(prompt) - 1)
    return Job(event, generated, (False,) * len(generated), number)


def best_by_trying(jobs: tuple[Job, ...], capacity: int) -> int:
    """The most cached tokens over every way to evict, prefixes kept before what follows them."""
    states: dict[frozenset[tuple[int, ...]], int] = {frozenset(): 0}
    for job in jobs:
        own = {job.sequence[: n + 1] for n in range(len(job.sequence))}
        after: dict[frozenset[tuple[int, ...]], int] = {}
        for state, n_cached in states.items():
            n_hit = next((n for n in range(job.n_reusable) if job.sequence[: n + 1] not in state), job.n_reusable)
            others = state - own
            n_keep = min(len(others), capacity - len(own))
            for kept in combinations(sorted(others), n_keep):
                new = own | set(kept)
                if all(len(prefix) == 1 or prefix[:-1] in new for prefix in new):
                    found = frozenset(new)
                    after[found] = max(after.get(found, 0), n_cached + n_hit)
        states = after
    return max(states.values())


def test_trying_every_eviction_never_finds_more_than_the_optimum_and_nearly_always_as_much() -> None:
    draw = random.Random(3)
    n_exact = n_hits = 0
    for _ in range(150 * SOAK):
        prompts = [tuple(draw.choices((1, 2), k=draw.randrange(1, 5))) for _ in range(7)]
        jobs = tuple(queued(i, prompt, *draw.choices((1, 2), k=draw.choice((1, 1, 2)))) for i, prompt in enumerate(prompts))
        best = best_by_trying(jobs, 6)
        found = optimum(Recording(jobs, ()), EngineConfig(n_pages=6)).cached_tokens
        assert best <= found
        n_exact += best == found
        n_hits += best
    assert n_hits > 500
    assert n_exact > 140 * SOAK


def test_a_request_too_large_for_a_size_counts_as_refused_and_blocks_no_other() -> None:
    jobs = (queued(0, (1,) * 4, 2), queued(1, (1,) * 9, 2), queued(2, (1,) * 4, 2))
    recording = Recording(jobs, tuple(job.queued.request for job in jobs))
    for outcome in what_if(recording, EngineConfig(), n_pages=(8,)):
        assert (outcome.n_refused, outcome.prompt_tokens, outcome.cached_tokens) == (1, 8, 3)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(BadArgument, match="'lrru'"):
        what_if(Recording((), ()), EngineConfig(), evict=("lrru",))
