"""Why a prefix missed: from records alone, with the engine's own numbers."""

from __future__ import annotations

import random
import re

import pytest

from sgl_lab.trace import Record
from sgl_lab.viz.draw import why as draw
from sgl_lab.viz.draw.numbers import duration
from sgl_lab.viz.explain.edit import Line, find_edit
from sgl_lab.viz.explain.history import shared
from sgl_lab.viz.explain.why import Miss, why
from sgl_lab.viz.views import MetricsView

from .recording import Session
from .test_viz_draw import ATTRIBUTES, HOSTILE, TAGS, Reader

RULES = "You are a careful guide who knows every town on the coast and speaks plainly, without a word too many."


def only(record: Record, session: Session, **options: object) -> Miss:
    """The one story that there is to tell."""
    (miss,) = why(record, session.records, **options).misses  # type: ignore[arg-type]
    return miss


def cell(text: str) -> str:
    return f'%%sgl\nuser("{text}")\nassistant(gen("a"))'


def lines_of(record: Record, session: Session, **options: object) -> dict[str, str]:
    """The lines of the one story."""
    return dict(draw.rows(only(record, session, **options), record.spell))


def rerun(first: str, second: str) -> tuple[Miss, dict[str, str]]:
    session = Session()
    session.run("In[1]", ("a", first, 4), source=cell(first))
    record = session.run("In[2]", ("a", second, 4), source=cell(second))
    return only(record, session), lines_of(record, session)


EDITS = [
    ("It is 12:01. ", "It is 12:59. ", "time"),
    ("It is 2024-05-01. ", "It is 2025-05-01. ", "time"),
    ("Attempt 7 of 9. ", "Attempt 8 of 9. ", "number"),
    ("Be Brief. ", "Be brief. ", "case"),
    ("Be brief, please. ", "Be brief,\nplease. ", "space"),
    ("Be brief. ", "Be very, very brief. ", "inserted"),
    ("Be very, very brief. ", "Be brief. ", "removed"),
    ("Be kind. ", "Be rude. ", "text"),
    ("Where is it known for? ", "Where is it famous for? ", "text"),
    ("Porto. ", "Lisbon. ", "text"),
    ("<|im_start|>system\n", "<|im_start|>user\n", "markup"),
]


@pytest.mark.parametrize(("old", "new", "what"), EDITS)
@pytest.mark.parametrize("rest", [RULES, "Be so."], ids=["much-after-it", "little-after-it"])
def test_an_edit_always_has_three_lines_first_token_line_of_the_cell_and_cost(old: str, new: str, what: str, rest: str) -> None:
    miss, lines = rerun(old + rest, new + rest)
    at = shared(old + rest, new + rest)
    assert (miss.cause, miss.n_hit, miss.at) == ("changed", at, at)
    assert miss.change is not None
    assert miss.change.what == what
    old_letter, new_letter = (draw.clipped((text + rest)[at], 1) for text in (old, new))
    where = f"after {at} equal tokens" if at > 1 else "after 1 equal token" if at else "at the very beginning"
    assert lines[draw.FIRST] == f'{where}: "{new_letter}", where "a" of In[1] has "{old_letter}"'
    assert "line 2 of In[2]: " in lines[draw.EDIT] or "\n" in new + old
    assert "(in In[1]: " in lines[draw.EDIT]
    n_computed = len(new + rest) - at
    assert lines[draw.COST].startswith(f"{n_computed} of {len(new + rest)} tokens computed in ")
    assert " ms" in lines[draw.COST]
    if rest == RULES:
        assert abs(len(RULES) - 1 - miss.n_lost) <= 12  # the last token is computed in any case, words next to the change are lost too
    assert (draw.AVOID in lines) == (rest == RULES and what != "markup")  # else it would be a platitude


def test_both_readings_of_the_edited_line_are_shown_from_near_where_they_part() -> None:
    _, lines = rerun("Be kind. " + RULES, "Be rude. " + RULES)
    new, old = lines[draw.EDIT].split("  (in In[1]: ")
    assert new.startswith('line 2 of In[2]: user("Be rude. ')
    assert old.startswith('user("Be kind. ')
    _, lines = rerun(RULES + " Be kind.", RULES + " Be rude.")
    new, old = lines[draw.EDIT].split("  (in In[1]: ")
    assert new.endswith('Be rude.")')
    assert old.endswith('Be kind."))')


def test_where_no_line_was_edited_the_value_in_the_line_is_to_blame() -> None:
    source = '%%sgl\nuser(f"It is {now}. {rules}")'
    edit = find_edit(source, source, "It is ", "12:01", "12:59", ". You are")
    assert edit is not None
    assert edit.is_value
    assert edit.new == Line(2, 'user(f"It is {now}. {rules}")')
    assert find_edit("", "", "abc", "d", "e", "f") is None


def test_a_run_again_has_all_that_can_come_from_a_cache() -> None:
    session = Session()
    for n in (1, 2):
        record = session.run(f"In[{n}]", ("a", RULES, 4))
    miss = only(record, session)
    assert (miss.cause, miss.n_hit, miss.n_lost) == ("whole", len(RULES) - 1, 0)
    lines = lines_of(record, session)
    assert lines[draw.FIRST] == f'none: "a" of In[1] had the same {len(RULES)} tokens'
    assert lines[draw.EDIT] == "none in the prompt"
    assert lines[draw.COST].startswith(f"1 of {len(RULES)} tokens computed in ")


def test_other_sampling_of_the_same_prompt_is_no_miss_and_the_edited_options_are_named() -> None:
    session = Session()
    session.run("In[1]", ("a", RULES, 4), source="%%sgl --temperature 0\nuser(rules)")
    record = session.run("In[2]", ("a", RULES, 4), source="%%sgl --temperature 1 --seed 7\nuser(rules)", seed=7)
    lines = lines_of(record, session)
    assert lines[draw.FIRST].startswith("none: ")
    assert lines[draw.EDIT] == (
        "line 1 of In[2], which changes no prompt: %%sgl --temperature 1 --seed 7  (in In[1]: %%sgl --temperature 0)"
    )


def test_a_last_token_that_differs_is_a_difference_though_it_costs_nothing() -> None:
    miss, lines = rerun("the letter a", "the letter b")
    assert (miss.n_hit, miss.n_computed) == (11, 1)
    assert lines[draw.FIRST] == 'after 11 equal tokens: "b", where "a" of In[1] has "a"'


def test_a_first_request_lost_nothing() -> None:
    session = Session()
    record = session.run("In[1]", ("a", RULES, 4))
    assert (only(record, session).cause, only(record, session).n_lost) == ("first", 0)
    assert lines_of(record, session)[draw.FIRST] == 'at the very beginning: "Y". No earlier prompt begins with it'
    assert lines_of(record, session)[draw.EDIT] == "none: there is no earlier prompt to compare it with"
    more = " And now for something else entirely."
    longer = session.run("In[2]", ("a", RULES + more, 4), source=cell(RULES + more))
    miss = only(longer, session)
    assert (miss.change and miss.change.what, miss.n_hit, miss.n_lost) == ("answer", len(RULES), 0)
    assert f'after {len(RULES)} equal tokens: " ", where the model\'s answer in "a" of In[1] has ' in lines_of(longer, session)[draw.FIRST]
    assert lines_of(longer, session)[draw.EDIT].startswith("line 2 of In[2]")


def test_what_one_run_computed_for_one_fork_and_another_reuses_is_no_edit() -> None:
    session = Session()
    source = "%%sgl\nfor n in names:\n    tip += user('A tip about ' + n)"
    with session.recording("In[1]", source) as record:
        session.ask(record.run, [("a", RULES + " A tip about food", 2)])
        session.ask(record.run, [("b", RULES + " A tip about rain", 2)])
    found = why(record, session.records)
    second = dict(draw.rows(found.misses[1], record.spell))
    at = len(RULES + " A tip about ")
    assert (found.misses[1].cause, found.n_inside) == ("inside", at)
    assert second[draw.FIRST] == f'after {at} equal tokens: "r", where "a" of this run has "f"'
    assert second[draw.EDIT] == "none: line 3 of In[1] gives a different text each time: tip += user('A tip about ' + n)"
    assert f"0 from earlier runs, {at} reused within this run" in draw.headline(found)


def test_the_next_turn_of_a_chat_is_new_text_after_what_the_run_had() -> None:
    session = Session()
    with session.recording("In[1]", '%%sgl\nassistant(gen("a"))\nuser("And what of Faro?")') as record:
        session.ask(record.run, [("a", RULES, 4)])
        answer = session.last_answer
        session.ask(record.run, [("b", (RULES.encode() + bytes(answer)).decode("latin-1") + " And what of Faro?", 4)], encoding="latin-1")
    found = why(record, session.records)
    assert found.n_inside == len(RULES) + 3
    lines = dict(draw.rows(found.misses[1], record.spell))
    assert 'And what o" is new' in lines[draw.FIRST]
    assert lines[draw.EDIT] == 'line 3 of In[1] contains it: user("And what of Faro?")'


def test_a_template_that_rewrites_an_earlier_turn_is_not_an_edit() -> None:
    session = Session()
    with session.recording("In[1]", '%%sgl\nassistant(gen("a"))\nuser("More.")') as record:
        fork = session.ask(record.run, [("a", RULES, 30)])
        shorter = bytes(token % 256 for token in session.last_answer[6:]).decode("latin-1")
        session.ask(record.run, [("b", RULES + shorter + " More.", 4)], encoding="latin-1", fork=fork)
    miss = next(one for one in why(record, session.records).misses if one.name == "b")
    lines = dict(draw.rows(miss, record.spell))
    assert (miss.cause, miss.change and miss.change.what) == ("changed", "template")
    assert lines[draw.FIRST].startswith(f"after {len(RULES)} equal tokens: ")
    assert lines[draw.EDIT] == "none in the cell: the chat template renders an earlier turn differently once another turn follows"
    assert draw.AVOID not in lines


def test_the_same_text_in_other_tokens_is_recognised() -> None:
    session = Session()
    for n, seam in ((1, "\xc8"), (2, "\xc9\xca")):
        with session.recording(f"In[{n}]", cell("Now")) as record:
            session.ask(record.run, [("a", RULES + seam + " and on it goes", 4)], encoding="latin-1")
        record.vocab |= {0xC8: "\n\n", 0xC9: "\n", 0xCA: "\n"}
    miss, lines = only(record, session), lines_of(record, session)
    assert miss.change is not None
    assert miss.change.what == "same text"
    assert lines[draw.FIRST] == f'after {len(RULES)} equal tokens: "↵", where "a" of In[1] has "↵↵"'
    assert lines[draw.EDIT].startswith("none: both texts are equal, but their tokens differ")


def test_what_was_evicted_names_who_needed_the_room() -> None:
    session = Session(n_pages=220)
    session.run("In[1]", ("a", RULES, 4))
    session.run("In[2]", ("greedy", "x" * 200, 4))
    record = session.run("In[3]", ("a", RULES, 4))
    miss = only(record, session)
    assert (miss.cause, miss.by, miss.earlier) == ("evicted", '"greedy" of In[2]', '"a" of In[1]')
    assert miss.n_lost == len(RULES) - 1 - miss.n_hit
    assert miss.gone_ms is not None
    assert miss.gone_ms > 0
    lines = dict(draw.rows(miss, record.spell))
    assert lines[draw.FIRST] == f'none: "a" of In[1] had computed the same {len(RULES)} tokens'
    assert lines[draw.EDIT] == f'none: the full cache evicted them to make room for "greedy" of In[2], {duration(miss.gone_ms)} before'
    assert lines[draw.COST].endswith(f"{miss.n_lost} of them for the second time")
    assert "%sgl cache pin" in lines[draw.AVOID]


def test_flush_eviction_and_unrecorded_loss_are_distinguished() -> None:
    session = Session()
    session.run("In[1]", ("a", RULES, 4))
    session.engine.flush()
    record = session.run("In[2]", ("a", RULES, 4))
    assert only(record, session, others=session.ring.read(0).entries).cause == "flushed"
    assert lines_of(record, session, others=session.ring.read(0).entries)[draw.EDIT].startswith("none: the cache was flushed")
    assert only(record, session).cause == "gone"
    with session.recording("In[3]"):
        session.engine.flush()
    miss = only(session.run("In[4]", ("a", RULES, 4)), session)
    assert (miss.cause, miss.by, miss.n_lost) == ("flushed", "In[3]", len(RULES) - 1)


def test_a_run_of_another_model_that_was_asked_the_same_is_no_edit_but_another_model() -> None:
    session, other = Session(), Session()
    theirs = other.run("In[1]", ("a", RULES, 4))
    record = session.run("In[2]", ("a", RULES, 4))
    lines = lines_of(record, session, strangers=[("tiny", theirs)])
    assert lines[draw.FIRST] == "none: In[1] had the same text"
    assert lines[draw.EDIT] == "none in the prompt: In[1] ran on another model, tiny"
    assert lines[draw.COST].endswith(f"{len(RULES) - 1} of them for the second time")
    unlike = session.run("In[3]", ("a", "Something else altogether, my friend.", 4))
    assert "another model" not in lines_of(unlike, session, strangers=[("tiny", theirs)])[draw.EDIT]


def test_no_word_of_the_cache_s_own_trade_is_needed_to_read_it() -> None:
    """Every sentence there is, on a session that has nearly all kinds of misses."""
    session = Session(n_pages=220)
    words = []
    for n, text in enumerate((RULES, "It is 12:01. " + RULES, "It is 12:59. " + RULES, "x" * 200, RULES, RULES, RULES + " More.")):
        record = session.run(f"In[{n}]", ("a", text, 4), source=cell(text))
        words.append(draw.text(why(record, session.records), record.spell))
    assert len({line.split(":")[1].split()[0] for text in words for line in text.splitlines() if draw.FIRST in line}) > 2
    for jargon in ("radix", "prefix", "KV", "lost", "node", "miss", "beyond", "behind", "in vain", "nobody"):
        assert not [text for text in words if re.search(rf"\b{jargon}\b", text)]


def test_misses_with_one_cause_are_explained_once_and_counted() -> None:
    session = Session()
    session.run("In[1]", *((f"tip {n}", f"It is 12:01. {RULES} {n}", 2) for n in range(5)))
    record = session.run("In[2]", *(("tip", f"It is 12:59. {RULES} {n}", 2) for n in range(5)))
    found = why(record, session.records)
    assert found.n_requests == 5
    assert sum(1 + miss.n_alike for miss in found.misses) == 5
    assert [(miss.cause, miss.n_alike) for miss in found.misses] == [("changed", 0), *[("inside", 0)] * 4]
    (whole,) = why(session.run("In[3]", *(("tip", f"It is 12:59. {RULES} {n}", 2) for n in range(5))), session.records).misses
    assert (whole.cause, whole.n_alike, whole.n_computed) == ("whole", 4, 5)


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
        assert (miss.cause, miss.earlier) == ("changed", f'"a" of {against.title}')


def test_what_came_from_the_cache_in_spite_of_a_change_is_not_lost() -> None:
    session = Session()
    for n, text in enumerate(("It is 12:01. ", "It is 12:59. ", "It is 12:01. "), 1):
        record = session.run(f"In[{n}]", ("a", text + RULES + f" Number {n}.", 4))
    (miss,) = why(record, session.records, against=session.records[1]).misses
    assert miss.n_hit > len(RULES)
    assert miss.n_lost == 0
    assert not [one for one in draw.rows(miss, record.spell) if one[0] == draw.AVOID]


def test_of_equally_close_requests_the_one_of_the_same_name_is_shown() -> None:
    session = Session()
    session.run("In[1]", ("a", "It is 12:01. " + RULES, 4), ("b", "It is 12:01. " + RULES, 4), ("c", "It is 12:01. " + RULES, 9))
    assert only(session.run("In[2]", ("b", "It is 12:59. " + RULES, 4)), session).earlier == '"b" of In[1]'


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
        counts = MetricsView(record.run)
        for entry in record.entries:
            counts.fold(entry)
        strip = counts.full()
        assert (strip["cached"], strip["reused"]) == (found.n_cached, found.n_inside)
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
