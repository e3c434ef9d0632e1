"""Why a prefix missed: told from records alone, with the engine's own numbers."""

from __future__ import annotations

import random

import pytest

from sgl_lab.trace import Record
from sgl_lab.viz.draw import why as draw
from sgl_lab.viz.draw.numbers import duration
from sgl_lab.viz.explain.edit import find_edit
from sgl_lab.viz.explain.past import shared
from sgl_lab.viz.explain.why import Miss, why

from .recording import Session
from .test_viz_draw import ATTRIBUTES, HOSTILE, TAGS, Reader

RULES = "You are a careful guide who knows every town on the coast and speaks plainly, without a word too many."


def only(record: Record, session: Session, **options: object) -> Miss:
    """The one story that there is to tell."""
    (miss,) = why(record, session.records, **options).misses  # type: ignore[arg-type]
    return miss


def cell(text: str) -> str:
    return f'%%sgl\nuser("{text}")\nassistant(gen("a"))'


def rerun(first: str, second: str) -> tuple[Miss, str]:
    session = Session()
    session.run("In[1]", ("a", first, 4), source=cell(first))
    record = session.run("In[2]", ("a", second, 4), source=cell(second))
    found = why(record, session.records)
    (miss,) = found.misses
    return miss, draw.text(found, record.spell)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("It is 12:01. ", "It is 12:59. ", "time"),
        ("Attempt 7 of 9. ", "Attempt 8 of 9. ", "number"),
        ("Be Brief. ", "Be brief. ", "case"),
        ("Be brief, please. ", "Be brief,\nplease. ", "space"),
        ("Be brief. ", "Be very, very brief. ", "inserted"),
        ("Be very, very brief. ", "Be brief. ", "removed"),
        ("Be kind. ", "Be rude. ", "text"),
        ("<|im_start|>system\n", "<|im_start|>user\n", "markup"),
    ],
)
def test_a_change_in_front_is_found_told_by_its_kind_and_costs_what_stands_behind_it(old: str, new: str, what: str) -> None:
    miss, text = rerun(old + RULES, new + RULES)
    at = shared(old + RULES, new + RULES)
    assert (miss.cause, miss.n_hit, miss.n_known) == ("changed", at, at)
    assert miss.change is not None
    assert (miss.change.what, miss.change.at) == (what, at)
    assert abs(len(RULES) - 1 - miss.n_lost) <= 12  # the last token is computed in any case, the words next to the change are lost too
    assert f"{miss.n_lost} tokens more would come from the cache" in text


def test_the_edited_line_of_the_cell_is_named_with_both_readings() -> None:
    miss, text = rerun("Be kind. " + RULES, "Be rude. " + RULES)
    assert miss.change is not None
    assert miss.change.edit is not None
    assert (miss.change.edit.line, miss.change.edit.new[:15]) == (2, 'user("Be rude. ')
    assert '- line 2: user("Be kind' in text
    assert '+ line 2: user("Be rude' in text


def test_where_no_line_was_edited_the_value_in_the_line_is_to_blame() -> None:
    source = '%%sgl\nuser(f"It is {now}. {rules}")'
    edit = find_edit(source, source, "It is ", "12:01", "12:59", ". You are")
    assert edit is not None
    assert (edit.line, edit.old) == (2, None)
    assert find_edit("", "", "abc", "d", "e", "f") is None


def test_a_run_again_has_all_that_can_come_from_a_cache() -> None:
    session = Session()
    for n in (1, 2):
        record = session.run(f"In[{n}]", ("a", RULES, 4))
    miss = only(record, session)
    assert (miss.cause, miss.n_hit, miss.n_lost) == ("whole", len(RULES) - 1, 0)


def test_what_was_never_asked_before_lost_nothing() -> None:
    session = Session()
    record = session.run("In[1]", ("a", RULES, 4))
    assert (only(record, session).cause, only(record, session).n_lost) == ("new", 0)
    longer = session.run("In[2]", ("a", RULES + " And now for something else entirely.", 4))
    miss = only(longer, session)
    assert (miss.cause, miss.n_hit, miss.n_lost) == ("new", len(RULES), 0)


def test_what_was_evicted_names_who_needed_the_room() -> None:
    session = Session(n_pages=220)
    session.run("In[1]", ("a", RULES, 4))
    session.run("In[2]", ("greedy", "x" * 200, 4))
    record = session.run("In[3]", ("a", RULES, 4))
    miss = only(record, session)
    assert (miss.cause, miss.by, miss.earlier) == ("evicted", "greedy of In[2]", "a of In[1]")
    assert miss.n_lost == len(RULES) - 1 - miss.n_hit
    assert miss.gone_ms is not None
    assert miss.gone_ms > 0
    assert f"evicted {duration(miss.gone_ms)} before: the room was needed by greedy of In[2]" in draw.story(miss)


def test_a_flush_is_told_from_an_eviction_and_what_nobody_recorded_from_both() -> None:
    session = Session()
    session.run("In[1]", ("a", RULES, 4))
    session.engine.flush()
    record = session.run("In[2]", ("a", RULES, 4))
    assert only(record, session, others=session.ring.read(0).entries).cause == "flushed"
    assert only(record, session).cause == "gone"
    with session.recording("In[3]"):
        session.engine.flush()
    miss = only(session.run("In[4]", ("a", RULES, 4)), session)
    assert (miss.cause, miss.by, miss.n_lost) == ("flushed", "In[3]", len(RULES) - 1)


def test_many_with_one_story_are_told_once_and_counted() -> None:
    session = Session()
    session.run("In[1]", *((f"tip {n}", f"It is 12:01. {RULES} {n}", 2) for n in range(5)))
    record = session.run("In[2]", *(("tip", f"It is 12:59. {RULES} {n}", 2) for n in range(5)))
    found = why(record, session.records)
    assert found.n_requests == 5
    assert sum(1 + miss.n_alike for miss in found.misses) == 5
    assert len(found.misses) < 5


def test_a_chosen_run_alone_is_compared_also_one_from_a_file() -> None:
    session, other = Session(), Session()
    session.run("In[1]", ("a", "It is 12:01. " + RULES, 4))
    session.run("In[2]", ("a", "Something else, of which nothing stays the same.", 4))
    record = session.run("In[3]", ("a", "It is 12:59. " + RULES, 4))
    strange = other.run("In[9]", ("a", "It is 12:33. " + RULES, 4))
    assert only(record, session, against=session.records[1]).n_lost == 0
    for against in (session.records[0], strange):
        found = why(record, session.records, against=against)
        assert found.against == against.title
        (miss,) = found.misses
        assert (miss.cause, miss.earlier) == ("changed", f"a of {against.title}")


def test_what_came_from_the_cache_in_spite_of_a_change_is_not_lost() -> None:
    session = Session()
    for n, text in enumerate(("It is 12:01. ", "It is 12:59. ", "It is 12:01. "), 1):
        record = session.run(f"In[{n}]", ("a", text + RULES + f" Number {n}.", 4))
    (miss,) = why(record, session.records, against=session.records[1]).misses
    assert miss.n_hit > len(RULES)
    assert miss.n_lost == 0


def test_of_those_that_share_as_much_the_one_of_the_same_name_is_told() -> None:
    session = Session()
    session.run("In[1]", ("a", "It is 12:01. " + RULES, 4), ("b", "It is 12:01. " + RULES, 4), ("c", "It is 12:01. " + RULES, 9))
    assert only(session.run("In[2]", ("b", "It is 12:59. " + RULES, 4)), session).earlier == "b of In[1]"


def test_the_sums_are_those_of_the_engine_whatever_was_asked() -> None:
    draw_ = random.Random(4)
    session = Session(n_pages=400)
    n_lost = 0
    for n in range(12):
        before = session.engine.stats()
        with session.recording(f"In[{n}]") as record:
            for _ in range(4):
                prompt = "".join(draw_.choices(["abcdefghijklmnop", "qrstuvwxyz012345", "Lisbon. "], k=draw_.randrange(1, 6)))
                session.ask(record.run, [("a", prompt + str(i), draw_.randrange(1, 9)) for i in range(draw_.randrange(1, 4))])
            session.select(record.run, "when", prompt, ("day", "night", "never"))
        after, found = session.engine.stats(), why(record, session.records)
        assert found.n_prompt == after["prompt_tokens"] - before["prompt_tokens"]
        assert found.n_cached == after["cached_prompt_tokens"] - before["cached_prompt_tokens"]
        assert all(miss.n_hit + miss.n_lost <= miss.n_prompt for miss in found.misses)
        assert draw.headline(found) in draw.text(found, record.spell)
        n_lost += found.n_lost
    assert n_lost > 0


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_text_stays_text(payload: str) -> None:
    session = Session()
    for n in (1, 2):
        record = session.run(payload, (payload, f"{n}" + RULES, 2), source=f"{payload}{n}")
    record.vocab = dict.fromkeys(record.vocab, payload)
    found = why(record, session.records)
    page = Reader(draw.html(found, record.spell).source)
    assert page.stack == []
    assert page.tags <= TAGS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES
    draw.html(found, record.spell).source.encode()
    assert draw.text(found, record.spell)


def test_shared_counts_the_leading_equal_ones() -> None:
    draw_ = random.Random(1)
    for _ in range(300):
        a, b = (draw_.choices((1, 2), k=draw_.randrange(9)) for _ in range(2))
        expected = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert shared(tuple(a), tuple(b)) == expected
