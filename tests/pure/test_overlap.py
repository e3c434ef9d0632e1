"""A step that is started before its predecessor is collected: when it is, when it is not, and that the output does not depend on it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sgl_lab.contracts.events import EngineFault, StepRan
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob
from sgl_lab.engine.plan import Overlapping, Plan

from .driving import Bench, Listener, Stream, bench, expect_idle, expect_lawful

PROMPT = tuple(range(40))


def overlapping(**config: Any) -> tuple[Bench, Stream]:
    chosen = {"n_pages": 1024, "page_size": 1, "draft_tokens": 0} | config
    runner = Stream(chosen["n_pages"], chosen["page_size"])
    return bench(runner, **chosen), runner


def test_a_text_goes_on_without_waiting_for_what_was_drawn() -> None:
    """The prompt's step is scheduled, the nine after it follow; the last is known to end the text."""
    b, runner = overlapping()
    assert isinstance(runner, Overlapping)
    listener = b.gen(PROMPT, max_tokens=10, ignore_eos=True)
    b.drain()
    assert listener.output.ids == tuple(b.model.reply(PROMPT, SamplingParams(temperature=0), 0, 10))
    assert runner.n_overlapped == 9
    assert [len(step.decode) for step in b.fold.of(StepRan)] == [0] + [1] * 9
    assert b.engine.stats()["overrun_tokens"] == 0
    expect_lawful(b.fold.events)
    expect_idle(b)


def test_a_text_that_had_ended_costs_one_extra_token_and_is_reported_no_later() -> None:
    b, _ = overlapping()
    end = b.model.reply(PROMPT, SamplingParams(temperature=0), 0, 6)[-1]
    listener = b.gen(PROMPT, max_tokens=30, ignore_eos=True, stop_token_ids=(end,))
    b.drain()
    assert listener.output.finish_reason == "stop"
    n_steps = len(listener.output.ids) + 1
    assert b.engine.stats()["steps"] == n_steps + 1
    assert b.engine.stats()["overrun_tokens"] == 1
    assert b.fold.of(StepRan)[-1].decode == ()
    assert listener.output.usage.model_steps == n_steps
    expect_lawful(b.fold.events)
    expect_idle(b)


@pytest.mark.parametrize(
    "asked",
    [{"frequency_penalty": 0.5}, {"repetition_penalty": 1.2}, {"constraint": Constraint("regex", "[a-z]{9,}")}],
    ids=["frequency", "repetition", "constraint"],
)
def test_a_draw_that_must_know_the_token_before_it_waits_for_it(asked: dict[str, Any]) -> None:
    b, runner = overlapping()
    b.gen(PROMPT, max_tokens=9, ignore_eos=True, **asked)
    b.drain()
    assert runner.n_overlapped == 0
    expect_idle(b)


def test_a_new_request_is_admitted_with_the_step_after_the_started_one() -> None:
    b, runner = overlapping()
    b.gen(PROMPT, max_tokens=30, ignore_eos=True)
    for _ in range(5):
        b.step()
    n_overlapped = runner.n_overlapped
    assert n_overlapped >= 4
    late = b.gen((7, 8, 9), max_tokens=5, ignore_eos=True)
    b.step()
    assert runner.n_overlapped == n_overlapped
    assert b.engine.stats()["requests_waiting"] == 0
    b.drain()
    assert late.output.ids == tuple(b.model.reply((7, 8, 9), SamplingParams(temperature=0), 0, 5))
    assert runner.n_overlapped > n_overlapped


def test_requests_that_wait_for_a_row_are_admitted_when_one_is_free_and_block_none_before() -> None:
    b, runner = overlapping(max_rows=2)
    listener = [b.gen((i, *PROMPT), max_tokens=n, ignore_eos=True) for i, n in enumerate((12, 20, 6, 6))]
    for _ in range(8):
        b.step()
    assert b.engine.stats()["requests_waiting"] == 2
    assert runner.n_overlapped >= 6
    b.drain()
    for i, h in enumerate(listener):
        assert h.output.ids == tuple(b.model.reply((i, *PROMPT), SamplingParams(temperature=0), 0, len(h.output.ids)))
    expect_idle(b)


def test_a_search_for_drafts_is_waited_for_once_in_a_while_and_a_draft_always() -> None:
    b, runner = overlapping(draft_tokens=64)
    first = b.gen(PROMPT, max_tokens=32, ignore_eos=True)
    b.drain()
    n_first = runner.n_overlapped
    assert 20 <= n_first < 31
    again = b.gen(PROMPT, max_tokens=32, ignore_eos=True)
    b.drain()
    assert again.output.ids == first.output.ids
    assert again.output.usage.accepted_tokens >= 25
    assert runner.n_overlapped - n_first <= 1


def test_a_step_that_cannot_be_started_early_is_started_later() -> None:
    class Reluctant(Stream):
        def overlap(self, plan: Plan) -> Any:
            raise MemoryError("not now")

    b = bench(Reluctant(1024, 1), draft_tokens=0)
    listener = b.gen(PROMPT, max_tokens=6, ignore_eos=True)
    b.drain()
    assert listener.output.ids == tuple(b.model.reply(PROMPT, SamplingParams(temperature=0), 0, 6))
    assert {event.message.partition(": ")[2] for event in b.fold.of(EngineFault)} == {"MemoryError: not now"}
    expect_idle(b)


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("seed", range(3))
def test_random_jobs_say_the_same_on_a_pool_that_is_too_small(page_size: int, seed: int) -> None:
    """Texts end by length, by a token and by a cancel; rows give way, pages are evicted, and every reply is that of the slow twin."""
    draw = random.Random(seed)
    b, runner = overlapping(n_pages=200 // page_size, page_size=page_size, max_rows=5, step_tokens=32, draft_tokens=draw.choice((0, 16)))
    stems = [tuple(draw.choices(range(256), k=20)) for _ in range(3)]
    asked: list[tuple[tuple[int, ...], SamplingParams, Listener]] = []
    groups = []
    for _ in range(120):
        prompt = draw.choice(stems) + tuple(draw.choices(range(3), k=draw.randrange(4)))
        ends = tuple(draw.choices(range(256), k=draw.choice((0, 12))))
        params = SamplingParams(
            max_tokens=draw.randrange(1, 40),
            temperature=draw.randrange(2),
            seed=draw.randrange(2),
            ignore_eos=True,
            stop_token_ids=ends,
            min_tokens=draw.choice((0, 1)),
        )
        listener = Listener()
        group = b.engine.gen(GenJob(prompt, params), listener)
        b.engine.add(group)
        asked.append((prompt, params, listener))
        groups.append(group.id)
        for _ in range(draw.randrange(12)):
            b.step()
        if draw.random() < 0.1:
            b.engine.cancel(draw.choice(groups[-6:]))
    b.drain()
    for prompt, params, listener in asked:
        output = listener.output
        twin = b.model.reply(prompt, params, params.seed or 0, len(output.ids), banned=sorted(params.stop_token_ids))
        assert output.ids == tuple(twin)
        assert len(output.ids) == params.max_tokens or output.finish_reason in ("stop", "abort")
    stats = b.engine.stats()
    assert runner.n_overlapped > 50
    assert stats["overrun_tokens"] > 0
    assert stats["evictions"] > 5
    assert not b.fold.of(EngineFault)
    expect_lawful(b.fold.events)
    expect_idle(b)
