"""Two runs side by side: pairs, the first differing token, and the costs."""

from __future__ import annotations

import math

import pytest

from sgl_lab.contracts.ids import RunId
from sgl_lab.trace import Record
from sgl_lab.viz.draw import diff as draw
from sgl_lab.viz.explain.diff import diff

from .recording import Session
from .story import Stage, story
from .test_viz_draw import ATTRIBUTES, HOSTILE, TAGS, Reader, hostile_stage


def record_of(stage: Stage, run: int = 1) -> Record:
    record = Record(RunId(run), entries=list(stage.entries))
    record.end(stage.spell)
    return record


def test_costs_are_what_the_engine_counted() -> None:
    session = Session(n_pages=300)
    counted = []
    for n in range(3):
        before = session.engine.stats()
        session.run(f"In[{n}]", ("a", "one two three four " * (n + 2), 6), ("b", "one two three five", 4))
        after = session.engine.stats()
        counted.append({name: after[name] - before[name] for name in ("cached_tokens", "generated_tokens", "evicted_tokens", "steps")})
    for a, b in ((0, 1), (1, 2)):
        costs = diff(session.records[a], session.records[b]).costs
        for cost, engine in zip(costs, (counted[a], counted[b]), strict=True):
            assert {"cached_tokens": cost.cached, "generated_tokens": cost.generated} == {
                name: engine[name] for name in ("cached_tokens", "generated_tokens")
            }
            assert (cost.evicted, cost.steps) == (engine["evicted_tokens"], engine["steps"])


def test_the_same_run_twice_is_the_same_and_shows_what_the_cache_saved() -> None:
    session = Session()
    a, b = (session.run(f"In[{n}]", ("a", "Tell me about Porto.", 8), ("b", "And Lisbon?", 8)) for n in (1, 2))
    found = diff(a, b)
    alike = [(pair.name, pair.has_equal_prompts, pair.has_equal_answers) for pair in found.pairs]
    assert alike == [("a", True, True), ("program 2 › b", True, True)]
    assert found.costs[1].cached > found.costs[0].cached
    assert draw.heading(found) == "In[1] and In[2]: 2 of 2 prompts equal, 2 of 2 answers equal"


def test_where_two_answers_differ_both_tokens_and_their_logprobs_are_shown() -> None:
    session = Session()
    a, b = (session.run(f"In[{seed}]", ("a", "Tell me about Porto.", 12), seed=seed) for seed in (1, 2))
    (pair,) = diff(a, b).pairs
    assert pair.a is not None
    assert pair.b is not None
    one, other = pair.parting()
    assert one is not None
    assert other is not None
    assert one.token != other.token
    sampled = [[sample.token for sample in side.samples] for side in (pair.a, pair.b)]
    assert sampled[0][: pair.n_answer_same] == sampled[1][: pair.n_answer_same]
    text = draw.text(diff(a, b), a.spell, b.spell)
    assert f"id {one.token}, logprob {one.logprob:.3f}" in text
    assert f"p = {draw.percent(math.exp(other.logprob or 0))}" in text
    assert "; runner-up" in text


def test_names_and_forks_are_matched_by_name_and_missing_ones_are_reported() -> None:
    found = diff(record_of(story(250)), record_of(story(420)))
    names = [pair.name for pair in found.pairs]
    assert {"program 3 › food › tip", "program 3 › rain › tip", "program 3 › views › tip"} <= set(names)
    assert all(pair.has_equal_prompts and pair.has_equal_answers for pair in found.pairs)
    session = Session()
    a = session.run("In[1]", ("a", "x" * 20, 3), ("a", "y" * 20, 3))
    b = session.run("In[2]", ("a", "x" * 20, 3), ("b", "z" * 20, 3))
    both = diff(a, b)
    verdicts = {pair.name: draw.verdict(both, pair) for pair in both.pairs}
    assert verdicts == {"a": "the same answer of 3 tokens", "program 2 › b": "only in In[2]", "program 2 › a": "only in In[1]"}


def test_differing_prompts_are_described_as_by_the_command_why() -> None:
    session = Session()
    a = session.run("In[1]", ("a", "xxx and so", 3), ("b", "x", 3), ("c", "one", 3))
    b = session.run("In[2]", ("a", "xxxy and so", 3), ("b", "y", 3), ("c", "off", 3))
    found = diff(a, b)
    verdicts = [draw.verdict(found, pair).split("; ")[0].split(" differ ")[1] for pair in found.pairs if not pair.has_equal_prompts]
    assert verdicts == ["after 3 equal tokens", "from their first token on", "after 1 equal token"]


def test_edited_lines_are_shown_and_options_are_among_them() -> None:
    session = Session()
    a = session.run("In[1]", ("a", "x", 2), source="%%sgl --temperature 0\nuser('x')\ngen('a')")
    b = session.run("In[2]", ("a", "x", 2), source="%%sgl --temperature 1\nuser('x')\ngen('a')")
    assert diff(a, b).edits == ("-%%sgl --temperature 0", "+%%sgl --temperature 1")


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_text_stays_text(payload: str) -> None:
    records = []
    for extra in ("", " or else"):
        stage, spell = hostile_stage(payload + extra)
        record = Record(RunId(1), entries=list(stage.entries))
        record.end(spell)
        records.append(record)
    a, b = records
    page = Reader(draw.html(diff(a, b), a.spell, b.spell).source)
    assert page.stack == []
    assert page.tags <= TAGS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES
    draw.html(diff(a, b), a.spell, b.spell).source.encode()
