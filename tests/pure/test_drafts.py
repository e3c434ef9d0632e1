"""Drafts at the next tokens change how many steps a text takes, never what it says; what they cost is counted."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sgl_lab.contracts.errors import EngineStopped, RequestFailed
from sgl_lab.contracts.events import DraftVerified, EngineFault, StepRan, TokensSampled
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, ScoreJob
from sgl_lab.engine.plan import Plan, RowOutput, Sampling
from sgl_lab.engine.serving.cache.pool import TREE, PagePool
from sgl_lab.engine.serving.cache.tree import RadixTree
from sgl_lab.engine.serving.scheduling.drafts import BORDER, Corpus
from sgl_lab.engine.tools.fake import HashModel, HashRunner

from .driving import Bench, Late, Listener, Stream, bench, expect_idle

PROMPT = tuple(b"Once upon a time there was a kernel that never slept.")
LAWFUL: dict[str, Any] = {"max_tokens": 64, "ignore_eos": True}


class Periodic(HashModel):
    """Repeats the token `period` positions before, so a draft from the history is right."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self._period = period

    def draw(self, context: tuple[int, ...], sampling: Sampling) -> int:
        sequence = [*sampling.prompt, *sampling.generated, *sampling.drafted]
        return int(sequence[-self._period])


def replies(b: Bench, prompt: tuple[int, ...], **params: Any) -> Listener:
    listener = b.gen(prompt, **params)
    b.drain()
    return listener


# ------------------------------------------------------------ the tree


@pytest.mark.parametrize("page_size", [1, 4])
def test_a_repeated_generation_is_verified_in_a_few_steps_and_says_the_same(page_size: int) -> None:
    b = bench(page_size=page_size)
    first = replies(b, PROMPT, **LAWFUL).output
    again = replies(b, PROMPT, **LAWFUL).output
    assert again.ids == first.ids == tuple(b.model.reply(PROMPT, SamplingParams(temperature=0, **LAWFUL), 0, 64))
    assert again.text == first.text
    usage = again.usage
    assert usage.accepted_tokens == usage.drafted_tokens >= 64 - 3 * page_size
    assert usage.model_steps <= 2 + page_size
    assert usage.cached_tokens + usage.computed_tokens == len(PROMPT) + 63


def test_the_draft_is_what_was_drawn_with_the_same_seed() -> None:
    b = bench()
    params = {"temperature": 1.0, "seed": 7, **LAWFUL}
    first = replies(b, PROMPT, **params).output
    again = replies(b, PROMPT, **params).output
    other = replies(b, PROMPT, **params | {"seed": 8}).output
    assert again.ids == first.ids != other.ids
    assert again.usage.model_steps <= 4
    assert other.ids == tuple(b.model.reply(PROMPT, SamplingParams(**params | {"seed": 8}), 8, 64))
    assert other.usage.rejected_tokens == other.usage.drafted_tokens - other.usage.accepted_tokens > 0


def test_a_stop_inside_a_draft_ends_the_text_where_it_ended_before() -> None:
    b = bench()
    long = replies(b, PROMPT, **LAWFUL).output
    stop = long.ids[20]
    params = LAWFUL | {"stop_token_ids": (stop,)}
    cold, warm = replies(bench(), PROMPT, **params).output, replies(b, PROMPT, **params).output
    assert (warm.ids, warm.text, warm.finish_reason, warm.matched_stop) == (cold.ids, cold.text, "stop", stop)
    assert warm.usage.model_steps < cold.usage.model_steps
    usage = warm.usage
    assert usage.cached_tokens + usage.computed_tokens == usage.prompt_tokens + usage.completion_tokens - 1 + usage.rejected_tokens


def test_rejected_draft_tokens_are_not_in_the_tree() -> None:
    b = bench()
    replies(b, PROMPT, **LAWFUL)
    other = replies(b, PROMPT, **LAWFUL | {"temperature": 1.0, "seed": 3}).output
    assert other.usage.rejected_tokens
    follow = replies(b, PROMPT + other.ids, **LAWFUL).output
    assert follow.usage.cached_tokens == len(PROMPT) + len(other.ids) - 1
    assert follow.ids == tuple(b.model.reply(PROMPT + other.ids, SamplingParams(temperature=0, **LAWFUL), 0, 64))


def test_the_continuation_follows_the_branch_used_last() -> None:
    tree = RadixTree(PagePool(100, 2))

    def put(*tokens: int) -> None:
        tree.insert((), tokens, tree.pool.take(len(tokens) // 2, TREE), TREE)
        tree.release(tree.acquire((), tokens))

    put(1, 2, 3, 4, 5, 6)
    put(1, 2, 3, 4, 7, 8, 9, 10)
    assert tree.continuation((), (1, 2), 9) == (3, 4, 7, 8, 9, 10)
    assert tree.continuation((), (1, 2), 3) == (3, 4, 7)
    assert tree.continuation((), (1, 2, 3, 4, 5), 9) == (6,)
    assert tree.continuation((), (1, 2, 3), 3) == (4, 7, 8)
    tree.release(tree.acquire((), (1, 2, 3, 4, 5, 6)))
    assert tree.continuation((), (1,), 9) == (2, 3, 4, 5, 6)
    for missing in ((2,), (1, 2, 3, 9), (1, 2, 3, 4, 5, 7), (1, 2, 3, 4, 5, 6)):
        assert tree.continuation((), missing, 9) == ()
    assert tree.continuation(("elsewhere",), (1, 2), 9) == ()


# ------------------------------------------------------------ n-grams


def test_of_equal_keys_the_place_that_agrees_longest_is_followed() -> None:
    corpus = Corpus()
    corpus.extend([9, 8, 7, 6, 5, 1, 2, 3, 40, BORDER, 0, 0, 0, 0, 0, 1, 2, 3, 50])
    n_same, place = corpus.after([9, 8, 7, 6, 5, 1, 2, 3])
    assert (n_same, corpus.tokens[place]) == (8, 40)
    n_same, place = corpus.after([4, 4, 1, 2, 3])
    assert (n_same, corpus.tokens[place]) == (3, 50)
    assert corpus.after([1, 2, 4]) == (0, 0)


def test_a_text_that_repeats_itself_is_drawn_many_tokens_a_step() -> None:
    model = Periodic(16)
    runner = HashRunner(1024, 1, model)
    usage = replies(bench(runner), PROMPT, **LAWFUL | {"max_tokens": 200}).output.usage
    assert usage.model_steps < 20
    assert usage.accepted_tokens > 180


def test_an_edited_prompt_drafts_from_what_was_said_before() -> None:
    runner = HashRunner(4096, 1, Periodic(53))
    b = bench(runner, n_pages=4096)
    replies(b, PROMPT, **LAWFUL)
    usage = replies(b, (*b"X", *PROMPT[1:]), **LAWFUL).output.usage
    assert usage.cached_tokens == 0
    assert usage.accepted_tokens > 40


def test_a_flush_forgets_what_was_said() -> None:
    b = bench()
    replies(b, PROMPT, **LAWFUL)
    b.engine.flush()
    assert replies(b, PROMPT, **LAWFUL).output.usage.accepted_tokens == 0


def test_drafts_that_never_come_true_become_rare() -> None:
    b = bench()
    usage = replies(b, (1, 2, 3) * 30, max_tokens=400, ignore_eos=True).output.usage
    assert usage.rejected_tokens <= 0.1 * usage.completion_tokens


# ------------------------------------------------------------ the price, the room, the books


def test_no_drafts_where_none_are_wanted() -> None:
    b = bench(draft_tokens=0)
    replies(b, PROMPT, **LAWFUL)
    assert replies(b, PROMPT, **LAWFUL).output.usage.drafted_tokens == 0
    assert not b.fold.of(DraftVerified)


class Watched(HashRunner):
    """Remembers how many tokens each step had."""

    def __init__(self, n_pages: int) -> None:
        super().__init__(n_pages, 1)
        self.sizes: list[int] = []

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        self.sizes.append(sum(len(row.tokens) for row in plan.rows))
        return super().run(plan)


def test_drafts_stay_inside_the_step() -> None:
    runner = Watched(1024)
    b = bench(runner, step_tokens=24, max_rows=8)
    for _ in range(2):
        listener = [b.gen((*PROMPT, i), **LAWFUL) for i in range(4)]
        b.drain()
    assert max(runner.sizes) == 24
    assert b.engine.stats()["accepted_tokens"] > 100
    assert {len(h.output.ids) for h in listener} == {64}


def test_a_draft_ends_where_the_text_must() -> None:
    runner = Watched(1024)
    b = bench(runner)
    first = replies(b, PROMPT, **LAWFUL).output
    runner.sizes.clear()
    short = replies(b, PROMPT, **LAWFUL | {"max_tokens": 10}).output
    assert short.ids == first.ids[:10]
    assert runner.sizes == [10]


@pytest.mark.parametrize("period", [0, 7])
def test_drafts_leave_no_trace_in_the_tree(period: int) -> None:
    """Drafts from the tree, and drafts that a prompt's own text gives in the step that ends its prefill."""

    def shape(draft_tokens: int) -> list[tuple[int, ...]]:
        b = bench(HashRunner(1024, 1, Periodic(period)) if period else None, draft_tokens=draft_tokens)
        prompt = PROMPT[:period] * 8 if period else PROMPT
        for n in (40, 64, 20, 64):
            replies(b, prompt, max_tokens=n, ignore_eos=True)
            replies(b, (*prompt, n), max_tokens=n, ignore_eos=True)
        assert bool(b.engine.stats()["accepted_tokens"]) == bool(draft_tokens)
        return sorted(node.tokens for node in b.engine.snapshot(0).nodes)

    assert shape(64) == shape(0)


@pytest.mark.parametrize("most", [1, 8])
def test_no_more_is_drafted_at_a_time_than_the_config_says(most: int) -> None:
    b = bench(draft_tokens=most)
    first, again = (replies(b, PROMPT, **LAWFUL).output for _ in range(2))
    assert again.ids == first.ids
    assert max(event.n_drafted for event in b.fold.of(DraftVerified)) == most


def test_a_draft_evicts_no_request() -> None:
    b = bench(n_pages=200, max_rows=4)
    for _ in range(3):
        listener = [b.gen((*PROMPT, i), **LAWFUL) for i in range(2)]
        b.drain()
    assert b.engine.stats()["preemptions"] == 0
    assert all(len(h.output.ids) == 64 for h in listener)


def test_events_and_counts_tell_of_every_draft() -> None:
    b = bench()
    replies(b, PROMPT, **LAWFUL)
    listener = replies(b, PROMPT, **LAWFUL)
    verified = b.fold.of(DraftVerified)
    assert verified[-1].source == "tree"
    usage, stats = listener.output.usage, b.engine.stats()
    assert sum(event.n_drafted for event in verified) == stats["drafted_tokens"]
    assert sum(event.n_accepted for event in verified) == stats["accepted_tokens"] == stats["drafted_tokens"] - stats["rejected_tokens"]
    samples = [sample for event in b.fold.of(TokensSampled) for sample in event.samples]
    assert sum(sample.drafted for sample in samples) == stats["accepted_tokens"]
    assert [sample.drafted for sample in samples[-64:]].count(True) == usage.accepted_tokens
    steps = b.fold.of(StepRan)
    n_own = sum(n for step in steps for _, n in step.prefill) + sum(len(step.decode) for step in steps)
    assert n_own == stats["computed_tokens"] - stats["drafted_tokens"]
    expect_idle(b)


@pytest.mark.parametrize("kind", [HashRunner, Late, Stream])
@pytest.mark.parametrize("draft_tokens", [0, 64])
def test_random_jobs_say_the_same_with_and_without_drafts_however_a_runner_computes(kind: type[HashRunner], draft_tokens: int) -> None:
    """Every reply is compared with the slow twin that knows neither pages nor drafts; jobs repeat and are cancelled at random."""
    draw = random.Random(5)
    b = bench(kind(160, 1), n_pages=160, max_rows=6, step_tokens=40, draft_tokens=draft_tokens)
    stems = [tuple(draw.choices(range(256), k=20)) for _ in range(4)]
    asked, groups = [], []
    for _ in range(300):
        prompt = draw.choice(stems) + tuple(draw.choices(range(3), k=draw.randrange(3)))
        params = SamplingParams(max_tokens=draw.randrange(1, 30), temperature=draw.randrange(2), seed=draw.randrange(2), ignore_eos=True)
        listener = Listener()
        group = b.engine.gen(GenJob(prompt, params), listener)
        b.engine.add(group)
        asked.append((prompt, params, listener))
        groups.append(group.id)
        for _ in range(draw.randrange(4)):
            b.step()
        if draw.random() < 0.1:
            b.engine.cancel(draw.choice(groups[-12:]))
    b.drain()
    n_accepted = 0
    for prompt, params, listener in asked:
        twin = b.model.reply(prompt, params, params.seed or 0, params.max_tokens or 0)
        assert listener.output.ids == tuple(twin[: len(listener.output.ids)])
        assert listener.output.finish_reason in ("length", "abort")
        n_accepted += listener.output.usage.accepted_tokens
    assert (n_accepted > 100) == (draft_tokens > 0)
    assert b.engine.stats()["evictions"] > 20
    assert not b.fold.of(EngineFault)
    expect_idle(b)


# ------------------------------------------------------------ a step computes while the results of others are delivered


def test_a_step_that_computes_is_taken_in_by_the_next() -> None:
    b = bench(Late(1024, 1))
    listener = b.gen(PROMPT, max_tokens=3, ignore_eos=True)
    verified = []
    while b.step():
        verified.append(sum(len(ids) for _, _, ids in listener.progress))
    assert verified == [0, 1, 2, 3]
    assert listener.output.ids == tuple(b.model.reply(PROMPT, SamplingParams(temperature=0), 0, 3))


def test_a_step_under_way_ends_before_the_runner_does() -> None:
    b = bench(Late(1024, 1))
    listener = b.gen(PROMPT, **LAWFUL)
    b.step()
    b.engine.close()
    assert isinstance(listener.answers[0], EngineStopped)


def test_a_request_admitted_early_waits_for_the_prefix_in_computation() -> None:
    """Two prompts of which a step of this size can only begin the first: the second may not compute what they share."""
    b = bench(Late(1024, 1), step_tokens=16, max_rows=4)
    listener = [b.gen((*PROMPT[:14], *tail), max_tokens=2, ignore_eos=True) for tail in ((1,) * 9, (2,) * 9)]
    b.drain()
    assert [h.output.usage.computed_tokens - h.output.usage.rejected_tokens for h in listener] == [24, 10]


def test_who_is_found_whole_while_a_step_computes_is_answered() -> None:
    b = bench(Late(1024, 1), step_tokens=16, max_rows=4)
    b.warm(PROMPT)
    b.drain()
    long = b.gen(tuple(range(100, 160)), max_tokens=2)
    b.step()
    warm = b.warm(PROMPT)
    b.drain()
    assert warm.answer.cached_tokens == len(PROMPT)
    assert len(long.output.ids) == 2


def test_who_waits_for_pages_is_not_overtaken_while_a_step_computes() -> None:
    """A score that needs most of the pool comes before the gens that came after it, as it does where nothing is admitted early."""

    def answered(runner: HashRunner) -> list[str]:
        b = bench(runner, n_pages=100, max_rows=4, schedule="fcfs")
        order: list[str] = []

        class Named(Listener):
            def __init__(self, name: str) -> None:
                super().__init__()
                self.name = name

            def on_done(self, answer: Any) -> None:
                order.append(self.name)

        def gen(name: str, first: int) -> None:
            params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
            b.engine.add(b.engine.gen(GenJob(tuple(range(first, first + 20)), params), Named(name)))

        gen("one", 0)
        b.step()
        b.engine.add(b.engine.score(ScoreJob(tuple(range(100, 185)), ((1,), (2,))), Named("score")))
        for i in range(6):
            gen(f"after {i}", 20 * i + 30)
        b.drain()
        return order

    assert answered(HashRunner(100, 1))[:2] == answered(Late(100, 1))[:2] == ["one", "score"]


def test_an_error_of_ours_while_a_step_computes_is_given_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench(Late(1024, 1))
    listener = b.gen(PROMPT, **LAWFUL)

    def broken(plan: Plan) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(b.engine._scheduler, "admit_ahead", broken)
    b.drain(40)
    assert isinstance(listener.answers[0], RequestFailed)


# ------------------------------------------------------------ what does not come true is not dear


def test_an_unseeded_draw_is_not_taken_for_the_same_again() -> None:
    b = bench()
    params = LAWFUL | {"temperature": 1.0}
    for _ in range(2):
        listener = [b.gen(PROMPT, **params) for _ in range(8)]
        b.drain()
    assert sum(h.output.usage.rejected_tokens for h in listener) <= 16


def test_nothing_is_drafted_beyond_the_end_of_a_text() -> None:
    b = bench()
    first = replies(b, PROMPT, **LAWFUL).output
    stop = first.ids[9]
    usage = replies(b, PROMPT, **LAWFUL | {"stop_token_ids": (stop,)}).output.usage
    assert usage.rejected_tokens == 0


def test_pages_of_wrong_drafts_are_given_back_at_once() -> None:
    b = bench()
    replies(b, PROMPT, **LAWFUL)
    other = b.gen(PROMPT, **LAWFUL | {"logit_bias": ((1, 1.0),), "temperature": 1.0, "seed": 5})
    b.step()
    b.step()
    (request,) = b.engine._scheduler.running
    assert request.n_rejected
    assert len(request.pages) <= request.n_kv + 1
    b.drain()
    assert len(other.output.ids) == 64
