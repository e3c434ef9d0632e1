"""The engine over a model whose next token is a hash of all the KV it reads: what is counted, said and survived."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sgl_lab.contracts.errors import BadArgument, CacheFull, PromptTooLong, RequestFailed, Stopped
from sgl_lab.contracts.events import (
    EngineFault,
    NodeEvicted,
    PrefixMatched,
    RequestFinished,
    RequestPreempted,
    StepRan,
    TokensSampled,
)
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, ScoreJob, WarmJob
from sgl_lab.engine.plan import Plan, RowOutput
from sgl_lab.engine.serving.gen_group import sample_seed
from sgl_lab.engine.text.stream import TextStream
from sgl_lab.engine.tools.fake import ByteTokenizer, HashModel, HashRunner

from .driving import SLOW, SOAK, Bench, Listener, bench, expect_idle, expect_lawful, mask_after

MODEL = HashModel()
EOS = 256
PROMPT = tuple(b"The quick brown fox jumps over the lazy dog, and then it does it again. ")


def expected(prompt: tuple[int, ...], params: SamplingParams, index: int = 0) -> tuple[str, tuple[int, ...], str]:
    """Text, ids and reason of a sample, worked out without pages, steps or batches."""
    assert params.max_tokens is not None
    assert params.seed is not None
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else (EOS,))}
    ends |= {EOS} if params.constraint else set()
    masks = mask_after(params.constraint)
    tokens = MODEL.reply(prompt, params, sample_seed(params.seed, index), params.max_tokens, sorted(ends), masks)
    tokens, is_led_out = led_out(tokens, params, ends)
    text, reason, n = TextStream(params.stop, params.stop_regex), "length", 0
    for n, token in enumerate(tokens, 1):
        if token in ends:
            n, reason = n - 1, "stop"
            break
        if text.push(ByteTokenizer().token_bytes(token), may_stop=n >= params.min_tokens):
            reason = "stop"
            break
    text.close()
    if text.matched or (n == len(tokens) and not is_led_out and masks(tokens) is None):
        reason = "stop"
    return text.text, (*tokens[: text.n_ids], *text.kept.encode()), reason


def led_out(tokens: list[int], params: SamplingParams, ends: set[int]) -> tuple[list[int], bool]:
    """`tokens`, with the completion path in place of the rest where an end comes too late; and whether it does."""
    assert params.max_tokens is not None
    matcher = SLOW.start(params.constraint, params.max_tokens) if params.constraint else None
    for n, token in enumerate(tokens if matcher else ()):
        if matcher is None or (token in ends and n >= params.min_tokens):
            break
        if not matcher.keeps_completion(token, params.max_tokens - n - 1):
            way = matcher.completion or ()
            return (tokens, False) if n + len(way) < params.min_tokens else ([*tokens[:n], *way], True)
        matcher.take(token)
    return tokens, False


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("page_size", [1, 4, 8])
def test_the_same_prompt_again_computes_one_token(page_size: int) -> None:
    b = bench(page_size=page_size)
    first = b.gen(PROMPT, max_tokens=1)
    b.drain()
    again = b.gen(PROMPT, max_tokens=1)
    b.drain()
    assert len(PROMPT) % 8 == 0
    assert (first.output.usage.cached_tokens, first.output.usage.computed_tokens) == (0, len(PROMPT))
    assert (again.output.usage.cached_tokens, again.output.usage.computed_tokens) == (len(PROMPT) - 1, 1)
    assert again.output.ids == first.output.ids


def test_a_fork_of_three_computes_the_parent_once() -> None:
    b = bench()
    parent = tuple(range(200)) + tuple(range(100))
    warm = b.warm(parent)
    b.drain()
    children = [b.gen(parent + tuple(f"child {i}".encode()), max_tokens=3, ignore_eos=True) for i in range(3)]
    b.drain()
    assert warm.answer.computed_tokens == 300
    assert [c.output.usage.cached_tokens for c in children] == [300] * 3
    assert [c.output.usage.computed_tokens for c in children] == [len("child 0") + 2] * 3


def test_a_warm_that_is_cached_computes_nothing_and_takes_no_step() -> None:
    b = bench()
    b.warm(PROMPT)
    b.drain()
    n_steps = len(b.fold.of(StepRan))
    again = b.warm(PROMPT)
    b.drain()
    assert (again.answer.cached_tokens, again.answer.computed_tokens) == (len(PROMPT), 0)
    assert len(b.fold.of(StepRan)) == n_steps
    assert b.fold.of(RequestFinished)[-1].n_steps == 0


def test_n_samples_come_from_one_prefill_and_differ() -> None:
    b = bench()
    listener = b.gen(PROMPT, n=5, max_tokens=6, ignore_eos=True, temperature=1.0, seed=3)
    b.drain()
    outputs = listener.answer
    assert [o.usage.computed_tokens for o in outputs] == [len(PROMPT) + 5, 6, 6, 6, 6]
    assert len({o.ids for o in outputs}) == 5
    params = SamplingParams(n=5, max_tokens=6, ignore_eos=True, temperature=1.0, seed=3)
    assert [o.ids for o in outputs] == [expected(PROMPT, params, i)[1] for i in range(5)]


def test_the_next_turn_finds_the_generated_tokens() -> None:
    b = bench()
    turn = b.gen(PROMPT, max_tokens=20, ignore_eos=True)
    b.drain()
    b.gen(PROMPT + turn.output.ids + tuple(b" and what then?"), max_tokens=2)
    b.drain()
    assert b.fold.of(PrefixMatched)[-1].n_hit == len(PROMPT) + 19


def test_what_was_computed_before_a_cancel_is_found_again() -> None:
    b = bench(step_tokens=24, max_rows=4)
    cut = b.gen(PROMPT, max_tokens=20)
    b.step()
    b.step()
    b.engine.cancel(b.fold.of(PrefixMatched)[0].request)
    assert (cut.output.finish_reason, cut.output.ids) == ("abort", ())
    b.gen(PROMPT, max_tokens=1)
    b.drain()
    assert b.fold.of(PrefixMatched)[-1].n_hit == 48


def test_stats_add_up() -> None:
    b = bench()
    b.gen(PROMPT, max_tokens=4, ignore_eos=True)
    b.gen(PROMPT, max_tokens=4, ignore_eos=True)
    b.drain()
    stats = b.engine.stats()
    n = len(PROMPT)
    assert (stats["prompt_tokens"], stats["cached_tokens"], stats["computed_tokens"]) == (2 * n, n - 1, n + 3 + 1 + 3)
    assert (stats["generated_tokens"], stats["pages_total"], stats["requests_running"]) == (8, 1024, 0)
    assert stats["hit_rate"] == (n - 1) / (2 * n)
    assert stats["pages_free"] == 1024 - (n + 3)


# ---------------------------------------------------------------- ends of a gen


def test_every_end_is_as_the_whole_text_says() -> None:
    reasons = set()
    b = bench(n_pages=4000)
    letters = tuple(chr(c) for c in range(97, 123))
    for seed in range(60):
        prompt = (*PROMPT[: seed % 40 + 1], seed % 256)
        params: dict[str, Any] = {"temperature": 1.0, "seed": seed, "max_tokens": 30}
        more: list[dict[str, Any]] = [
            {},
            {"stop": letters[:3]},
            {"stop_token_ids": tuple(range(10))},
            {"stop_regex": ("[0-9].",), "min_tokens": 5},
        ]
        params |= more[seed % 4]
        listener = b.gen(prompt, **params)
        b.drain()
        output = listener.output
        text, ids, reason = expected(prompt, SamplingParams(**params))
        assert (output.text, output.ids, output.finish_reason) == (text, ids, reason)
        assert output.usage.cached_tokens + output.usage.computed_tokens == len(prompt) + output.usage.completion_tokens - 1
        if not params.get("stop_regex"):
            assert "".join(new for _, new, _ in listener.progress) == text
            assert sum((ids for _, _, ids in listener.progress), ()) == ids
        reasons.add((reason, type(output.matched_stop).__name__))
    assert reasons == {("length", "NoneType"), ("stop", "int"), ("stop", "str")}


def test_logprobs_are_those_of_the_ids_with_the_best_first() -> None:
    b = bench()
    listener = b.gen(PROMPT, max_tokens=5, ignore_eos=True, logprobs=True, top_logprobs=3)
    b.drain()
    output = listener.output
    assert [entry.token for entry in output.logprobs] == list(output.ids)
    for i, entry in enumerate(output.logprobs):
        context = MODEL.context(PROMPT + output.ids[:i])
        assert entry.logprob == MODEL.logprob(context, entry.token)
        assert [logprob for _, logprob in entry.top] == sorted((MODEL.logprob(context, t) for t in range(260)), reverse=True)[:3]


def test_eos_is_not_drawn_before_min_tokens_nor_shown() -> None:
    b = bench()
    shown = [b.gen((i,), max_tokens=300, min_tokens=250, temperature=1.0, seed=i) for i in range(3)]
    ignoring = b.gen((9,), max_tokens=600, ignore_eos=True, temperature=1.0, seed=2)
    b.drain()
    assert all(len(h.output.ids) >= 250 and EOS not in h.output.ids for h in shown)
    assert EOS in ignoring.output.ids
    assert "<|end|>" not in ignoring.output.text


def test_max_tokens_is_clipped_at_the_context() -> None:
    b = bench(context=len(PROMPT) + 3)
    listener = [b.gen(PROMPT, max_tokens=n, ignore_eos=True) for n in (100, None)]
    b.drain()
    assert [(len(h.output.ids), h.output.finish_reason) for h in listener] == [(3, "length")] * 2


def test_max_tokens_none_is_clipped_at_the_pool() -> None:
    b = bench(n_pages=len(PROMPT) + 9)
    listener = b.gen(PROMPT, max_tokens=None, ignore_eos=True)
    b.drain()
    assert len(listener.output.ids) == 10


def test_no_tokens_asked_for_are_no_tokens_computed() -> None:
    b = bench()
    listener = b.gen(PROMPT, max_tokens=0)
    assert (listener.output.text, listener.output.finish_reason, listener.output.usage.computed_tokens) == ("", "length", 0)
    expect_idle(b)


# ---------------------------------------------------------------- score


@pytest.mark.parametrize("page_size", [1, 4])
@pytest.mark.parametrize("warm", [False, True])
def test_scores_are_those_of_each_choice_alone(page_size: int, warm: bool) -> None:
    b = bench(page_size=page_size)
    choices = tuple(tuple(text) for text in (b"yes", b"yet", b"y", b"no", b"none of them", b"none of these"))
    if warm:
        b.warm(PROMPT)
        b.drain()
    listener = b.score(PROMPT, *choices)
    b.drain()
    for choice, row in zip(choices, listener.answer.logprobs, strict=True):
        assert [entry.token for entry in row] == list(choice)
        alone = [MODEL.logprob(MODEL.context(PROMPT + choice[:i]), token) for i, token in enumerate(choice)]
        assert [entry.logprob for entry in row] == alone
    if page_size == 1:
        usage = listener.answer.usage
        n_inner = len("ye") + len("n") - 1 + len("none of the") + len("m")
        assert usage.prompt_tokens == usage.cached_tokens + usage.computed_tokens
        assert len(PROMPT) <= usage.cached_tokens + usage.computed_tokens <= len(PROMPT) + n_inner + 3
    expect_idle(b)


def test_single_token_choices_take_one_row_and_no_token_more_than_the_prompt() -> None:
    b = bench()
    listener = b.score(PROMPT, *((token,) for token in b"abcd"))
    b.drain()
    assert listener.answer.usage.computed_tokens == len(PROMPT)
    assert len(b.fold.of(PrefixMatched)) == 1
    again = b.score(PROMPT, *((token,) for token in b"wxyz"))
    b.drain()
    assert again.answer.usage.computed_tokens == 1


def test_the_choice_that_was_scored_is_found_by_the_next_gen() -> None:
    b = bench()
    b.score(PROMPT, tuple(b"apples"), tuple(b"pears"))
    b.drain()
    b.gen(PROMPT + tuple(b"pears are"), max_tokens=1)
    b.drain()
    assert b.fold.of(PrefixMatched)[-1].n_hit == len(PROMPT) + len("pear")


# ---------------------------------------------------------------- what can never run


def test_what_can_never_run_is_refused_at_once_with_need_and_capacity() -> None:
    b = bench(n_pages=50, context=100)
    engine = b.engine

    def gen(prompt: tuple[int, ...], **params: Any) -> Any:
        return engine.gen(GenJob(prompt, SamplingParams(**params)), Listener())

    with pytest.raises(CacheFull, match="needs 59 pages of 1 tokens, the pool has 50"):
        gen((1,) * 40, max_tokens=20)
    with pytest.raises(CacheFull, match="needs 60 pages"):
        gen((1,) * 60, max_tokens=None)
    with pytest.raises(PromptTooLong, match=r"100 tokens and 1 more .* \(shorten the prompt by 1 tokens\)"):
        gen((1,) * 100)
    with pytest.raises(PromptTooLong, match=r"90 tokens and 11 more .* \(shorten the prompt by 1 tokens, or lower min_tokens to 10\)"):
        gen((1,) * 90, max_tokens=None, min_tokens=11)
    with pytest.raises(BadArgument, match="prompt is empty"):
        gen(())
    with pytest.raises(BadArgument, match="vocabulary of 260"):
        gen((1, 260))
    with pytest.raises(BadArgument, match="logit_bias"):
        gen((1,), logit_bias=((260, 1.0),))
    for job in (ScoreJob((1,), ()), ScoreJob((1,), ((),)), ScoreJob((), ((1,),)), ScoreJob((1,), ((999,),))):
        with pytest.raises(BadArgument):
            engine.score(job, Listener())
    with pytest.raises(PromptTooLong):
        engine.score(ScoreJob((1,) * 99, ((1, 2),)), Listener())
    with pytest.raises(CacheFull):
        engine.score(ScoreJob((1,) * 49, ((1, 2, 3),)), Listener())
    with pytest.raises(CacheFull):
        engine.warm(WarmJob((1,) * 51), Listener())
    assert not b.engine.step()


# ---------------------------------------------------------------- faults


def test_a_token_whose_text_cannot_be_had_fails_its_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    b = bench()
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    mine, theirs = ((*PROMPT, i) for i in (1, 2))
    broken = next(token for token in MODEL.reply(mine, params, 0, 12) if token not in MODEL.reply(theirs, params, 0, 12))

    def token_bytes(self: ByteTokenizer, token: int) -> bytes:
        if token == broken:
            raise ValueError("no such token")
        return bytes((token % 256,))

    monkeypatch.setattr(ByteTokenizer, "token_bytes", token_bytes)
    culprit, other = b.gen(mine, max_tokens=12, ignore_eos=True), b.gen(theirs, max_tokens=12, ignore_eos=True)
    b.drain()
    assert isinstance(culprit.answers[0], RequestFailed)
    assert isinstance(culprit.answers[0].__cause__, ValueError)
    assert other.output.ids == tuple(MODEL.reply(theirs, params, 0, 12))
    assert other.output.usage.preemptions == 0
    assert [event.request is None for event in b.fold.of(EngineFault)] == [False]
    expect_idle(b)


class Faulty(HashRunner):
    """Raises, or marks the row, when it is to compute the token 13."""

    def __init__(self, n_pages: int, *, raises: bool) -> None:
        super().__init__(n_pages, 1)
        self._raises = raises

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        if self._raises and any(13 in row.tokens for row in plan.rows):
            raise MemoryError("out of memory in the forward pass")
        return tuple(RowOutput(error=ValueError("NaN logits")) if 13 in row.tokens else self._run(row) for row in plan.rows)


@pytest.mark.parametrize("raises", [False, True])
def test_a_failing_row_fails_alone_and_typed(raises: bool) -> None:
    b = bench(Faulty(1024, raises=raises))
    params: dict[str, Any] = {"max_tokens": 6, "stop_token_ids": (13,), "seed": 1}
    prompts = [tuple(b"healthy one"), (1, 13, 2), tuple(b"healthy two"), tuple(b"healthy three")]
    listener = [b.gen(prompt, **params) for prompt in prompts]
    b.drain()
    with pytest.raises(RequestFailed, match=r"NaN logits|out of memory"):
        _ = listener[1].answer
    for i in (0, 2, 3):
        assert listener[i].output.ids == expected(prompts[i], SamplingParams(temperature=0.0, **params))[1]
    assert b.fold.of(EngineFault)
    assert [event.reason for event in b.fold.of(RequestFinished)].count("error") == 1
    expect_idle(b)


def test_one_failing_branch_fails_its_whole_group_once() -> None:
    b = bench(Faulty(1024, raises=False))
    scored = b.score(PROMPT, tuple(b"good one"), (7, 13, 7), tuple(b"nice one"))
    b.drain()
    assert [type(answer) for answer in scored.answers] == [RequestFailed]
    assert len(b.fold.of(EngineFault)) == 1
    expect_idle(b)


def test_a_listener_that_raises_has_no_effect_on_requests() -> None:
    class Bad(Listener):
        def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
            raise ZeroDivisionError("in the listener")

    b = bench()
    bad = Bad()
    b.engine.add(b.engine.gen(GenJob(PROMPT, SamplingParams(max_tokens=3, ignore_eos=True)), bad))
    good = b.gen(PROMPT, max_tokens=3, ignore_eos=True)
    b.drain()
    assert len(good.output.ids) == len(bad.output.ids) == 3
    assert "ZeroDivisionError: in the listener" in b.fold.of(EngineFault)[0].message


def test_a_listener_may_submit_again() -> None:
    b = bench()
    second = Listener()

    class Chain(Listener):
        def on_done(self, answer: Any) -> None:
            b.engine.add(b.engine.gen(GenJob(PROMPT, SamplingParams(max_tokens=2)), second))

    b.engine.add(b.engine.warm(WarmJob(PROMPT), Chain()))
    b.drain()
    assert second.output.ids


def test_wrong_books_flush_the_cache_and_the_answers_stay_right() -> None:
    b = bench()
    params: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True, "seed": 1}
    listener = [b.gen((*PROMPT, i), **params) for i in range(3)]
    for _ in range(4):
        b.step()
    pool = b.engine._pool
    second = b.fold.of(PrefixMatched)[1].request
    pool.owners[pool.owners.index(second)] = None  # the damage: found when the second ends, in the same step as the third
    while b.engine.step():
        pass
    assert any("the cache was flushed" in fault.message for fault in b.fold.of(EngineFault))
    for i, h in enumerate(listener):
        assert h.output.ids == expected((*PROMPT, i), SamplingParams(temperature=0.0, **params))[1]
    expect_idle(b)


def test_closing_answers_everybody() -> None:
    b = bench()
    listener = [b.gen(PROMPT, n=3), b.score(PROMPT, (1,), (2,)), b.warm(PROMPT)]
    b.step()
    b.engine.close()
    assert [len(h.answers) for h in listener] == [1, 1, 1]


def test_cancelled_jobs_answer_once() -> None:
    b = bench()
    gen, score, warm = b.gen(PROMPT, n=3, max_tokens=50, ignore_eos=True), b.score(PROMPT, tuple(b"ab"), tuple(b"cd")), b.warm(PROMPT * 2)
    assert b.engine.abort_all() == 3
    assert [output.finish_reason for output in gen.answer] == ["abort"] * 3
    assert [type(h.answers[0]) for h in (score, warm)] == [Stopped, Stopped]
    assert [len(h.answers) for h in (gen, score, warm)] == [1, 1, 1]
    b.engine.cancel(b.fold.of(RequestFinished)[0].request)
    expect_idle(b)


# ---------------------------------------------------------------- everything at once


CONSTRAINTS = (
    Constraint("regex", "[a-f]{3}(-[a-f]{3}){2,}"),
    Constraint("regex", "(yes|no), because .{5,}"),
    Constraint("json_schema", '{"type": "array", "items": {"enum": ["one thing", "another thing", 3]}, "minItems": 2}'),
    Constraint("grammar", 'start: "(" start ")" | "x" | "(" start "," start ")"'),
)


def work(b: Bench, draw: random.Random, n_jobs: int) -> tuple[list[tuple[Listener, Any]], int]:
    """Random jobs over few prefixes, steps and cancels in between; returns what was listener and how many were cancelled."""
    jobs: list[tuple[Listener, Any]] = []
    names: list[Any] = []
    n_cancelled = 0
    while len(jobs) < n_jobs:
        for _ in range(draw.randrange(5)):
            shared = draw.choices((3, 4), k=5 * draw.randrange(1, 6))
            prompt = (*shared, *draw.choices(range(256), k=draw.randrange(4)))
            listener = Listener()
            kind = draw.random()
            job: Any
            group: Any
            if kind < 0.7:
                params = SamplingParams(
                    max_tokens=draw.randrange(1, 60),
                    n=draw.choice((1, 1, 1, 3)),
                    temperature=draw.choice((0.0, 1.0)),
                    seed=draw.randrange(9),
                    stop=draw.choice(((), ("a", "the"))),
                    ignore_eos=draw.random() < 0.5,
                    constraint=draw.choice((None, *CONSTRAINTS)),
                )
                job = GenJob(prompt, params)
                group = b.engine.gen(job, listener)
            elif kind < 0.85:
                job = ScoreJob(prompt, tuple(tuple(draw.choices((3, 4, 5), k=draw.randrange(1, 5))) for _ in range(draw.randrange(1, 5))))
                group = b.engine.score(job, listener)
            else:
                job = WarmJob(prompt)
                group = b.engine.warm(job, listener)
            b.engine.add(group)
            jobs.append((listener, job))
            names.append(group.id)
        for _ in range(draw.randrange(6)):
            b.step()
        if draw.random() < 0.3 and names:
            i = draw.randrange(len(names))
            n_cancelled += not jobs[i][0].answers
            b.engine.cancel(names[i])
            b.expect_books()
    b.drain()
    return jobs, n_cancelled


@pytest.mark.parametrize(("page_size", "schedule"), [(1, "lpm"), (4, "dfs-weight"), (16, "fcfs"), (1, "random")])
def test_a_random_workload_with_evictions_folds_to_the_tree_and_says_the_right_tokens(page_size: int, schedule: str) -> None:
    draw = random.Random(page_size)
    b = bench(n_pages=128 // page_size, page_size=page_size, max_rows=8, step_tokens=24, schedule=schedule)
    jobs, n_cancelled = work(b, draw, 250 * SOAK)
    n_checked = 0
    for listener, job in jobs:
        (answer,) = listener.answers
        if isinstance(job, GenJob) and not isinstance(answer, Exception):
            for index, output in enumerate(answer):
                text, ids, reason = expected(job.prompt, job.params, index)
                if output.finish_reason == "abort":
                    assert ids[: len(output.ids)] == output.ids
                else:
                    assert (output.text, output.ids, output.finish_reason) == (text, ids, reason)
                    n_checked += 1
        elif isinstance(job, ScoreJob) and not isinstance(answer, Exception):
            for choice, row in zip(job.choices, answer.logprobs, strict=True):
                alone = [MODEL.logprob(MODEL.context(job.prompt + choice[:i]), token) for i, token in enumerate(choice)]
                assert [entry.logprob for entry in row] == alone
        else:
            assert not isinstance(answer, Exception) or isinstance(answer, Stopped)
    assert n_checked > 100
    assert n_cancelled > 5
    assert len(b.fold.of(NodeEvicted)) > 100
    assert len(b.fold.of(RequestPreempted)) > 0
    assert not b.fold.of(EngineFault)
    expect_lawful(b.fold.events)
    finished = b.fold.of(RequestFinished)
    assert len({event.request for event in finished}) == len(finished)
    assert sum(len(event.samples) for event in b.fold.of(TokensSampled)) == sum(event.n_completion for event in finished)
    expect_idle(b)
