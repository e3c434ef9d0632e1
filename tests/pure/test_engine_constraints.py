"""Gens with a constraint: what is forced takes no step, drafts change nothing, failures are of one request, and all is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest

from sgl_lab.contracts.errors import BadArgument, ConstraintFailed
from sgl_lab.contracts.events import EngineFault, RequestFinished, StepRan, TokensSampled
from sgl_lab.contracts.params import Constraint, SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput
from sgl_lab.engine.tools.fake import HashModel

from .driving import Bench, Late, Listener, bench, expect_idle, expect_lawful

PROMPT = tuple(b"Fill in the form: ")
FORM = Constraint(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}, "is_member": {"type": "boolean"}},
            "required": ["name", "age", "is_member"],
            "additionalProperties": False,
        }
    ),
)
SAMPLED: dict[str, Any] = {"constraint": FORM, "max_tokens": 100, "temperature": 1.0, "seed": 1}


def regex(pattern: str) -> dict[str, Any]:
    return {"constraint": Constraint("regex", pattern), "max_tokens": 40}


def reply(b: Bench, prompt: tuple[int, ...] = PROMPT, **params: Any) -> GenOutput:
    listener = b.gen(prompt, **params)
    b.drain()
    expect_lawful(b.fold.events)
    return listener.output


def content(output: GenOutput) -> tuple[Any, ...]:
    """All but what it cost."""
    return output.text, output.ids, output.finish_reason, output.matched_stop, output.logprobs, output.is_complete, output.prompt_logprobs


# ------------------------------------------------------------ forced tokens


def test_forced_tokens_take_no_step_of_their_own_and_change_no_text() -> None:
    jumping = reply(bench(draft_tokens=0), **SAMPLED)
    drawing = reply(bench(draft_tokens=0, jump_forward=False), **SAMPLED)
    assert json.loads(jumping.text).keys() == {"name", "age", "is_member"}
    assert (jumping.text, jumping.ids) == (drawing.text, drawing.ids)
    n = len(jumping.ids)
    assert jumping.usage.completion_tokens == drawing.usage.completion_tokens == n
    assert drawing.usage.model_steps in (n, n + 1)
    assert jumping.usage.model_steps == n - jumping.usage.forced_tokens
    assert jumping.usage.forced_tokens > n / 2
    assert drawing.usage.forced_tokens == 0


def test_a_text_that_is_forced_as_a_whole_takes_no_step() -> None:
    b = bench()
    output = reply(b, **regex("abc"), logprobs=True)
    assert (output.text, output.finish_reason, output.is_complete) == ("abc", "stop", True)
    assert (output.usage.model_steps, output.usage.computed_tokens, output.usage.forced_tokens) == (0, 0, 3)
    assert [entry.logprob for entry in output.logprobs] == [None] * 3
    assert not b.fold.of(StepRan)
    assert b.engine.stats()["forced_tokens"] == b.engine.stats()["generated_tokens"] == 3


def test_events_say_how_many_tokens_were_allowed_and_which_were_forced() -> None:
    b = bench()
    reply(b, **regex("a[0-9]bc(x|y)"))
    samples = [sample for event in b.fold.of(TokensSampled) for sample in event.samples]
    assert [(sample.n_allowed, sample.forced) for sample in samples] == [(1, True), (10, False), (1, True), (1, True), (2, False)]
    assert [sample.logprob is None for sample in samples] == [sample.forced for sample in samples]
    reply(b)
    assert {(sample.n_allowed, sample.forced) for sample in b.fold.of(TokensSampled)[-1].samples} == {(None, False)}


def test_a_forced_run_ends_where_the_text_must() -> None:
    b = bench()
    output = reply(b, **regex("a[0-9]bcdefgh") | {"max_tokens": 4})
    assert re.fullmatch("a[0-9]bc", output.text)
    assert (output.finish_reason, output.is_complete, output.usage.completion_tokens) == ("length", False, 4)
    assert reply(b, **regex("abcdef") | {"max_tokens": 4}).text == "abcd"


def test_logprobs_of_forced_tokens_are_the_models_own_but_for_the_last_run() -> None:
    model = HashModel()
    for config in ({}, {"draft_tokens": 0}, {"page_size": 4, "step_tokens": 65}):
        b = bench(**config)
        first = reply(b, **SAMPLED, logprobs=True, top_logprobs=2)
        again = reply(b, **SAMPLED, logprobs=True, top_logprobs=2)
        assert content(again) == content(first)
        tokens = (*PROMPT, *first.ids)
        n_unread = len(first.logprobs) - 1 - max(i for i, entry in enumerate(first.logprobs) if entry.logprob is not None)
        assert n_unread == 1 + len("}") or first.text.endswith("e}")
        for i, entry in enumerate(first.logprobs[: len(first.logprobs) - n_unread], len(PROMPT)):
            assert entry.logprob == model.logprob(model.context(tokens[:i]), entry.token)
            assert len(entry.top) == 2


def test_a_constrained_text_that_comes_again_takes_few_steps_and_is_the_same_to_the_bit() -> None:
    for runner in (None, Late(1024, 1)):
        b = bench(runner)
        params = SAMPLED | {"logprobs": True, "top_logprobs": 1}
        first, again = reply(b, **params), reply(b, **params)
        assert content(again) == content(first)
        assert again.usage.model_steps < first.usage.model_steps / 2
        assert again.usage.forced_tokens == first.usage.forced_tokens
        other = reply(b, **params | {"seed": 5})
        assert content(other) == content(reply(bench(draft_tokens=0), **params | {"seed": 5}))


def test_drafts_that_the_constraint_forbids_are_not_computed() -> None:
    b = bench()
    free = reply(b, max_tokens=30, ignore_eos=True)
    assert reply(b, max_tokens=30, ignore_eos=True).usage.accepted_tokens > 20
    output = reply(b, **regex("[ab]{20}"))
    assert output.usage.drafted_tokens - output.usage.accepted_tokens == output.usage.rejected_tokens == 0
    assert re.fullmatch("[ab]{20}", output.text)
    assert free.ids[0] not in tuple(b"ab")


# ------------------------------------------------------------ ends


def test_the_end_of_a_text_ends_it_though_eos_is_ignored() -> None:
    output = reply(bench(), **regex("[a-f]*"), ignore_eos=True, logit_bias=((256, 1.0),))
    assert output.is_complete
    assert re.fullmatch("[a-f]*", output.text)


@pytest.mark.parametrize(("pattern", "stop", "is_complete"), [("ab|abc{9}", "c", True), ("([a-c]{2};){3}", ";", False)])
def test_a_text_that_a_stop_ended_is_complete_if_what_is_left_is(pattern: str, stop: str, is_complete: bool) -> None:
    outputs = [reply(bench(), **regex(pattern), stop=(stop,), temperature=1.0, seed=seed) for seed in range(10)]
    stopped = [output for output in outputs if output.matched_stop == stop]
    assert stopped
    assert {(output.is_complete, bool(re.fullmatch(pattern, output.text))) for output in stopped} == {(is_complete, is_complete)}


def test_no_end_is_drawn_before_min_tokens() -> None:
    for seed in range(5):
        output = reply(bench(), **regex("[a-f]*"), min_tokens=12, temperature=1.0, seed=seed)
        assert len(output.ids) >= 12
    assert reply(bench(), **regex("ab"), min_tokens=12).text == "ab"


def test_samples_of_one_prompt_each_follow_the_constraint() -> None:
    b = bench()
    listener = b.gen(PROMPT, **SAMPLED | {"n": 4})
    b.drain()
    texts = [output.text for output in listener.answer]
    assert len(set(texts)) > 1
    assert all(json.loads(text).keys() == {"name", "age", "is_member"} for text in texts)
    expect_lawful(b.fold.events)


def test_a_cancelled_text_is_kept_and_says_that_it_is_not_whole() -> None:
    b = bench(draft_tokens=0)
    listener = b.gen(PROMPT, **SAMPLED)
    for _ in range(4):
        b.step()
    b.engine.abort_all()
    assert listener.output.finish_reason == "abort"
    assert listener.output.text.startswith('{"name": "')
    assert listener.output.is_complete is False
    expect_idle(b)


# ------------------------------------------------------------ out of tokens

ENDLESS: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "hobbies": {"type": "array", "items": {"type": "string"}}, "age": {"type": "integer"}},
    "required": ["name", "hobbies", "age"],
    "additionalProperties": False,
}
BABBLING: dict[str, Any] = {"constraint": Constraint("json_schema", json.dumps(ENDLESS)), "temperature": 1.0, "logprobs": True}


def test_a_text_is_whole_before_its_tokens_run_out() -> None:
    b = bench()
    for budget in range(37, 80, 4):
        for seed in range(4):
            output = reply(b, **BABBLING, max_tokens=budget, seed=seed)
            assert output.is_complete
            assert output.finish_reason == "length"
            assert len(output.ids) <= budget
            jsonschema.validate(json.loads(output.text), ENDLESS)
    expect_idle(b)


def test_tokens_of_the_forced_ending_are_marked_as_forced() -> None:
    b = bench()
    output = reply(b, **regex("[a-z]+[{]!!") | {"max_tokens": 20, "seed": 3, "temperature": 1.0}, logprobs=True)
    assert re.fullmatch("[a-z]{17}[{]!!", output.text)
    samples = [sample for event in b.fold.of(TokensSampled) for sample in event.samples]
    found = [(sample.n_allowed, sample.forced) for sample in samples]
    assert found == [(26, False)] + [(27, False)] * 16 + [(1, False), (1, True), (1, True)]
    assert [entry.logprob is None for entry in output.logprobs] == [False] * 17 + [True] * 3
    assert [entry.token for entry in output.logprobs] == list(output.ids)
    assert output.usage.forced_tokens == 2
    assert (output.finish_reason, output.matched_stop, output.is_complete) == ("length", None, True)


def test_a_text_that_is_whole_ends_before_a_token_that_leads_too_far() -> None:
    for seed in range(20):
        output = reply(bench(), **regex("[0-9]{1,3}(x{9})?") | {"max_tokens": 6, "seed": seed, "temperature": 1.0})
        assert output.is_complete
        assert re.fullmatch("[0-9]{1,3}", output.text)


def test_where_no_whole_text_fits_the_partial_one_is_kept() -> None:
    for budget in range(1, 37):
        output = reply(bench(), **BABBLING, max_tokens=budget, seed=budget)
        assert (output.finish_reason, output.is_complete, len(output.ids)) == ("length", False, budget)


def test_the_way_out_changes_by_nothing_that_runs_beside_or_ran_before() -> None:
    wanted = {}
    for seed in range(6):
        wanted[seed] = content(reply(bench(draft_tokens=0), **BABBLING, max_tokens=60, seed=seed, top_logprobs=2))
    for config in ({}, {"page_size": 8}, {"n_pages": 90}, {"n_pages": 12, "page_size": 8}, {"step_tokens": 5, "max_rows": 4}):
        b = bench(**config)
        for _ in range(2):
            listener = {seed: b.gen(PROMPT, **BABBLING, max_tokens=60, seed=seed, top_logprobs=2) for seed in wanted}
            b.drain()
            assert {seed: content(one.output) for seed, one in listener.items()} == wanted
        expect_lawful(b.fold.events)
        assert b.engine.stats()["accepted_tokens"] or config
        assert b.engine.stats()["preemptions"] or "n_pages" not in config
        expect_idle(b)
    assert content(reply(bench(jump_forward=False), **BABBLING, max_tokens=60, seed=1))[:3] == wanted[1][:3]


def test_each_sample_finds_its_own_way_out() -> None:
    b = bench()
    listener = b.gen(PROMPT, **BABBLING, max_tokens=50, seed=1, n=3)
    b.drain()
    assert len({output.text for output in listener.answer}) == 3
    assert all(output.is_complete for output in listener.answer)
    expect_lawful(b.fold.events)


def test_a_stop_on_the_way_out_ends_the_text_there() -> None:
    for stop in ({"stop": ("-",)}, {"stop_token_ids": (ord("-"),)}):
        output = reply(bench(), **regex("[a-z]+[{]-[+]") | {"max_tokens": 12}, **stop)
        assert re.fullmatch("[a-z]{9}[{]", output.text)
        assert (output.finish_reason, output.is_complete) == ("stop", False)
        assert output.matched_stop in ("-", ord("-"))


def test_no_way_out_ends_a_text_before_min_tokens() -> None:
    output = reply(bench(), **regex("a(b{30}c|d)") | {"max_tokens": 8, "min_tokens": 7, "logit_bias": ()}, stop=("zz",))
    assert output.text in ("ad", "abbbbbbb")
    for seed in range(20):
        output = reply(bench(), **regex("a+(b{30})?") | {"max_tokens": 8, "min_tokens": 7, "temperature": 1.0, "seed": seed})
        assert len(output.ids) >= 7
        assert output.is_complete == bool(re.fullmatch("a+", output.text))


def test_streamed_text_is_sent_unchanged() -> None:
    b = bench()
    listener = b.gen(PROMPT, **BABBLING, max_tokens=50, seed=2)
    b.drain()
    assert "".join(text for _, text, _ in listener.progress) == listener.output.text
    assert tuple(token for _, _, ids in listener.progress for token in ids) == listener.output.ids


# ------------------------------------------------------------ failures


def test_a_bad_constraint_is_refused_before_anything_waits() -> None:
    b = bench()
    with pytest.raises(BadArgument, match="position 0"):
        b.gen(PROMPT, **regex("(a"))
    with pytest.raises(BadArgument, match="position 0"):
        b.engine.prepare(Constraint("regex", "(a"))
    b.engine.prepare(FORM)
    assert b.engine.stats()["requests_waiting"] == 0


def test_a_constraint_without_a_way_on_fails_its_request_alone() -> None:
    b = bench()
    bad = b.gen(PROMPT, **regex("[0-9]x"), logit_bias=())
    good = b.gen(PROMPT, **SAMPLED)
    matcher = b.engine._scheduler.waiting[0].matcher
    assert matcher is not None
    matcher.fill = lambda draft: raising()  # type: ignore[method-assign]
    b.drain()
    assert [type(answer) for answer in bad.answers] == [ConstraintFailed]
    assert len(b.fold.of(EngineFault)) == 1
    assert content(good.output) == content(reply(bench(), **SAMPLED))
    expect_idle(b)


def raising() -> None:
    raise ConstraintFailed("too many states")


def test_a_grammar_that_grows_too_complex_fails_typed_while_others_go_on() -> None:
    b = bench()
    hostile = Constraint("grammar", "start: a\na: " + " | ".join(f"a{'a' * 0} a /x{{1,{n}}}/" for n in range(2, 40)) + ' | "x"')
    bad = b.gen(PROMPT, constraint=hostile, max_tokens=400)
    good = b.gen(PROMPT, **SAMPLED)
    b.drain()
    answer = bad.answers[0]
    assert isinstance(answer, ConstraintFailed) or set(answer[0].text) == {"x"}
    assert content(good.output) == content(reply(bench(), **SAMPLED))


# ------------------------------------------------------------ logprobs of the prompt


def scored(first: int) -> list[float | None]:
    model = HashModel()
    return [model.logprob(model.context(PROMPT[:i]), PROMPT[i]) if i else None for i in range(first, len(PROMPT))]


@pytest.mark.parametrize("config", [{}, {"step_tokens": 65, "page_size": 4}])
@pytest.mark.parametrize("first", [0, 1, 7, len(PROMPT) - 1, len(PROMPT), 99])
def test_logprobs_of_the_prompt_are_computed_from_the_position_asked_for(first: int, config: dict[str, int]) -> None:
    b = bench(**config)
    reply(b, max_tokens=3)
    for params in ({"max_tokens": 4}, {"max_tokens": 0}, {"max_tokens": 4, "n": 3}, regex("abc"), regex("ab[cd]")):
        listener = b.gen(PROMPT, **params, prompt_logprobs_from=first, top_logprobs=1)
        b.drain()
        for output in listener.answer:
            assert logprobs(output.prompt_logprobs) == scored(first)
            assert [entry.token for entry in output.prompt_logprobs] == list(PROMPT[first:])
            assert all(len(entry.top) == (entry.logprob is not None) for entry in output.prompt_logprobs)
        usages = [output.usage for output in listener.answer]
        assert usages[0].cached_tokens <= max(first - 1, 0) or first >= len(PROMPT)
    assert reply(b, max_tokens=1).prompt_logprobs == ()


def logprobs(entries: Sequence[Any]) -> list[float | None]:
    return [entry.logprob for entry in entries]


def test_a_cancel_before_the_prompt_was_scored_leaves_what_is_known() -> None:
    b = bench(step_tokens=65, max_rows=64)
    listener = Listener()
    group = b.engine.gen(GenJob(PROMPT * 20, SamplingParams(prompt_logprobs_from=0)), listener)
    b.engine.add(group)
    b.step()
    b.engine.cancel(group.id)
    assert len(listener.output.prompt_logprobs) == len(PROMPT) * 20
    assert b.fold.of(RequestFinished)[0].reason == "abort"
    expect_idle(b)
