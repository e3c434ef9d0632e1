"""Branches from a recorded gen: what they compute, what a copied cell gives, and their trie."""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sgl_lab import assistant, gen, select, system, token_ids, user
from sgl_lab.contracts.errors import BadArgument, EngineStopped, ProgramError
from sgl_lab.contracts.events import BranchChanged, ExplorationOpened, Sample, StepRan, TokensSampled
from sgl_lab.contracts.events import from_json as event_from
from sgl_lab.contracts.events import to_json as event_to
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.explore.exploration import Exploration
from sgl_lab.lang import surface
from sgl_lab.lang.serial import from_json, to_json
from sgl_lab.lang.state import start
from sgl_lab.magics import body as bodies
from sgl_lab.magics.cell import LANGUAGE
from sgl_lab.magics.prepared import append
from sgl_lab.trace import read_jsonl, write_jsonl
from sgl_lab.viz.views.explore import ExploreView
from sgl_lab.viz.views.inspection import inspections
from sgl_lab.viz.views.trie import Cell, trie

from .exploring import HashLab, ran

PROMPT = (system("Be terse."), user("Name one sight: "), assistant(gen("sight", max_tokens=24, temperature=0)))


@pytest.fixture
def lab() -> Iterator[HashLab]:
    with HashLab() as made:
        yield made


def rerun(lab: HashLab, cell: str, name: str) -> tuple[int, ...]:
    """The tokens of the gen after those that the cell forces, as `%%sgl` runs it; and those."""
    head, _, source = cell.partition("\n")
    assert head.startswith("%%sgl -o ")
    code = bodies.compile_cell(source, "<copied>", LANGUAGE)
    state = start(lab.backend_for(), lab.emit)
    code.run({}, {**surface.bound(state), bodies.APPEND: append, bodies.STATE: state, bodies.HERE: lambda: state})
    state.finish()
    return tuple(state.token_ids())


def test_a_branch_computes_one_token_of_its_prompt(lab: HashLab) -> None:
    exploration = Exploration(lab, *ran(lab, *PROMPT))
    first = exploration.cells(0)[3].top[1][0]
    branch = exploration.branch(0, 3, first)
    assert [cell.token for cell in exploration.cells(branch.number)[:4]] == [cell.token for cell in exploration.cells(0)[:3]] + [first]
    row = exploration.picture()["branches"][1]
    assert row["computed"] == 1
    assert row["cached"] == row["prompt"] + 3
    assert (row["n_forced"], row["n_kept"], row["state"]) == (4, 3, "length")
    deeper = exploration.branch(1, 9, exploration.cells(1)[9].top[2][0])
    assert exploration.picture()["branches"][deeper.number]["computed"] == 1
    exploration.close()


def test_further_continuations_share_their_beginning(lab: HashLab) -> None:
    exploration = Exploration(lab, *ran(lab, *PROMPT), max_tokens=6)
    made = exploration.more(0, 4, 5, 1.0)
    rows = exploration.picture()["branches"][1:]
    assert len(made) == len(rows) == 5
    assert sum(row["computed"] for row in rows) == 5  # of each the last token, for what comes next
    assert len({exploration.text(branch.number) for branch in made}) == 5
    assert [row["seed"] for row in rows] == [1, 2, 3, 4, 5]
    exploration.close()


@pytest.mark.parametrize("how", ["token", "more", "edit", "of an edit"])
def test_a_copied_cell_says_the_same_tokens_in_another_engine(lab: HashLab, how: str) -> None:
    record, found = ran(lab, *PROMPT, user('And\n"why"?'), assistant("Because " + gen("why", max_tokens=9, temperature=0)))
    exploration = Exploration(lab, record, found)
    if how == "token":
        branch = exploration.branch(0, 2, exploration.cells(0)[2].top[1][0])
    elif how == "more":
        branch = exploration.more(0, 2, 3, 0.8)[2]
    else:
        branch = exploration.edit(3, "Name two sights: ")
        if how == "of an edit":
            branch = exploration.branch(branch.number, 1, 120)
    cell = exploration.as_cell(branch.number)
    wanted = tuple(branch.state.token_ids())
    assert tuple(each.token for each in exploration.cells(branch.number)) == wanted[-len(exploration.cells(branch.number)) :]
    with HashLab() as another:
        assert rerun(another, cell, "why") == wanted
    exploration.close()


def test_without_repeatable_sampling_a_copied_cell_forces_all_tokens(lab: HashLab) -> None:
    exploration = Exploration(lab, *ran(lab, *PROMPT))
    branch = exploration.branch(0, 2, 113)
    object.__setattr__(lab.card.capabilities, "deterministic", False)
    cell = exploration.as_cell(branch.number)
    object.__setattr__(lab.card.capabilities, "deterministic", True)
    assert "gen(" not in cell
    assert rerun(lab, cell, "sight") == tuple(branch.state.token_ids())
    exploration.close()


@pytest.mark.parametrize("form", [{"regex": "[a-c]{3}-[d-f]{9}"}, {"json_schema": {"enum": ["abcabc", "abdabd"]}}, {"stop": "qz"}])
def test_a_branch_goes_on_under_the_constraint_of_its_gen(lab: HashLab, form: dict[str, Any]) -> None:
    asked = gen("sight", max_tokens=20, temperature=0, **form)
    exploration = Exploration(lab, *ran(lab, user("Name one sight: "), assistant("It is " + asked)))
    if "stop" not in form:
        first = "a" if "regex" in form else '"'
        assert exploration.refused(0, 0, (120, ord(first))) == (120,)
        with pytest.raises(BadArgument, match=f"'x' is not allowed there by the {next(iter(form))} of sight"):
            exploration.branch(0, 1, 120)
        assert not exploration.branches
    at, token = {"regex": (1, ord("c")), "json_schema": (3, ord("d")), "stop": (4, 98)}[next(iter(form))]
    branch = exploration.branch(0, at, token)
    found = exploration.text(branch.number)
    assert found[at] == chr(token)
    assert branch.state["sight"] == found
    if "regex" in form:
        assert re.fullmatch(form["regex"], found)
    elif "json_schema" in form:
        assert json.loads(found) == "abdabd"
    assert dict(branch.gen.given)["max_tokens"] == (16 if "stop" in form else 20 - at - 1)
    row = exploration.picture()["branches"][1]
    n_computed = 0 if "json_schema" in form else 1  # its other tokens have no alternative
    assert (row["n_forced"], row["computed"], row["toks"][at][1]) == (at + 1, n_computed, token)
    with HashLab() as another:
        assert rerun(another, exploration.as_cell(branch.number), "sight") == tuple(branch.state.token_ids())
    exploration.close()


def test_a_prompt_is_said_in_roles_or_else_by_its_tokens(lab: HashLab) -> None:
    in_roles = Exploration(lab, *ran(lab, *PROMPT))
    assert [(row["role"], row["kind"], row["text"]) for row in in_roles.picture()["pieces"]] == [
        ("", "template", "<|system|>"),
        ("system", "text", "Be terse."),
        ("", "template", "<|end|><|user|>"),
        ("user", "text", "Name one sight: "),
        ("", "template", "<|end|><|assistant|>"),
    ]
    plain = Exploration(lab, *ran(lab, "Q: " + gen("sight", max_tokens=3, temperature=0)))
    assert [(row["kind"], row["text"]) for row in plain.picture()["pieces"]] == [("text", "Q: ")]
    mixed = Exploration(lab, *ran(lab, "Loose. ", *PROMPT))
    assert [row["kind"] for row in mixed.picture()["pieces"]] == ["ids"]
    assert mixed.branch(0, 1, 98).state.token_ids()[:8] == (*b"Loose. ", 257)
    for each in (in_roles, plain, mixed):
        each.close()


def test_an_edit_is_planned_before_it_runs(lab: HashLab) -> None:
    exploration = Exploration(lab, *ran(lab, *PROMPT))
    planned = exploration.edited(3, "Name one sound: ")
    exploration.edit(3, "Name one sound: ")
    row = exploration.picture()["branches"][1]
    assert (planned.n_cached, planned.n_computed) == (row["cached"], row["computed"]) == (1 + 9 + 2 + 10, 6 + 2)
    assert planned.n_same == planned.n_cached
    again = exploration.edited(3, "Name one sound: ")
    assert again.n_computed == 1  # it is cached now
    for wrong in (0, 2, 99):
        with pytest.raises(BadArgument, match="no text of the program"):
            exploration.edited(wrong, "x")
    exploration.close()


def test_what_is_done_to_branches_is_undone_and_is_a_fold_of_events(lab: HashLab, tmp_path: Path) -> None:
    exploration = Exploration(lab, *ran(lab, *PROMPT), max_tokens=4)
    exploration.branch(0, 1, 98)
    exploration.more(0, 2, 3)
    exploration.rename(1, "  louder ")
    exploration.pin(2)
    exploration.delete(3)

    def rows() -> list[tuple[str, bool, bool]]:
        return [(row["label"], row["pinned"], row["deleted"]) for row in exploration.picture()["branches"][1:]]

    changed = rows()
    assert changed == [("louder", False, False), ("branch 2", True, False), ("branch 3", False, True), ("branch 4", False, False)]
    assert exploration.n_branches == 3
    exploration.record.end(lab.spell)
    write_jsonl(exploration.record, tmp_path / "explored.jsonl")
    read = read_jsonl(tmp_path / "explored.jsonl")
    view = ExploreView(read.spell)
    for entry in read.entries:
        view.fold(entry)
    assert view.full() == exploration.picture()
    assert [exploration.undo() for _ in range(3)] == [True] * 3
    assert rows() == [(f"branch {n}", False, False) for n in (1, 2, 3, 4)]
    assert exploration.undo()
    assert exploration.n_branches == 1
    assert exploration.undo()
    assert (exploration.n_branches, exploration.undo()) == (0, False)
    exploration.close()
    with pytest.raises(ProgramError, match="closed"):
        exploration.pin(1)


def test_a_gen_that_still_runs_is_explored_while_it_goes_on(lab: HashLab) -> None:
    with lab.record("In[1]") as record:
        state = start(lab.backend_for(), lab.emit, record.run, SamplingParams(logprobs=True, top_logprobs=4))
        state += user("Count: ") + assistant(gen("long", max_tokens=600, temperature=0))
        while not any(isinstance(entry.event, TokensSampled) for entry in tuple(record.entries)):
            time.sleep(0.001)
        found = inspections(tuple(record.entries))[-1]
        exploration = Exploration(lab, record, found, max_tokens=5)
        first = exploration.picture()["branches"][0]
        branch = exploration.branch(0, 0, exploration.cells(0)[0].top[1][0])
        assert len(branch.state.token_ids()) > 5
        state.finish()
    sampled = next(one.samples for one in inspections(record.entries) if one.request == found.request)
    assert (first["state"], len(sampled)) == ("running", 600)
    assert [cell.token for cell in exploration.cells(0)] == [sample.token for sample in sampled]
    row = exploration.picture()["branches"][0]
    assert (row["state"], row["ms"]) == ("length", None)
    exploration.close()


def test_deltas_of_an_exploration_add_up(lab: HashLab) -> None:
    exploration = Exploration(lab, *ran(lab, *PROMPT), max_tokens=4)
    exploration.branch(0, 1, 98)
    exploration.more(0, 2, 3)
    exploration.rename(2, "two")
    view, rows = ExploreView(lab.spell), {}
    for number, entry in enumerate(exploration.record.entries):
        view.fold(entry)
        if number % 7 == 0 and (delta := view.delta()):
            rows |= {row["id"]: row for row in delta["branches"]}
    if delta := view.delta():
        rows |= {row["id"]: row for row in delta["branches"]}
    assert list(rows.values()) == view.full()["branches"] == exploration.picture()["branches"]
    assert view.delta() is None
    exploration.close()


def test_alternatives_that_were_not_recorded_are_asked_anew(lab: HashLab) -> None:
    exploration = Exploration(lab, *ran(lab, *PROMPT))
    without = Exploration(lab, *ran(lab, *PROMPT, top=0))
    assert (exploration.n_asked, without.n_asked) == (0, 24)
    asked, recorded = without.cells(0), exploration.cells(0)
    assert [cell.token for cell in asked] == [cell.token for cell in recorded]
    assert [cell.top[:4] for cell in asked] == [cell.top for cell in recorded]
    assert [cell.logprob for cell in asked] == pytest.approx([cell.logprob for cell in recorded])
    for each in (exploration, without):
        each.close()


def test_what_cannot_be_explored_is_one_error(lab: HashLab) -> None:
    with pytest.raises(BadArgument, match="is a select"):
        Exploration(lab, *ran(lab, user("Day?"), assistant(select("when", choices=["day", "night"]))))
    exploration = Exploration(lab, *ran(lab, *PROMPT))
    for call in (lambda: exploration.branch(0, 99, 97), lambda: exploration.branch(7, 0, 97), lambda: exploration.more(0, 0, 0)):
        with pytest.raises(BadArgument):
            call()
    with pytest.raises(BadArgument, match="no token 260"):
        exploration.branch(0, 0, 260)
    lab.close()
    with pytest.raises(EngineStopped, match="gone"):
        exploration.branch(0, 0, 97)
    assert exploration.picture()["branches"][0]["toks"]


def test_an_exploration_is_a_run_with_events_of_its_own(lab: HashLab) -> None:
    record, found = ran(lab, *PROMPT)
    exploration = Exploration(lab, record, found)
    exploration.branch(0, 5, 98)
    exploration.close()
    events = [entry.event for entry in exploration.record.entries]
    assert [type(event) for event in events if isinstance(event, ExplorationOpened | BranchChanged)] == [ExplorationOpened, BranchChanged]
    assert exploration.record.ended.status == "ok"
    assert any(isinstance(event, StepRan) for event in events)
    assert not any(isinstance(entry.event, ExplorationOpened) for entry in record.entries)
    assert exploration.record in lab.guests


# ---------------------------------------------------------------- the trie


def chance(before: tuple[int, ...], token: int) -> float:
    """The slow model's probability of `token`, one of four."""
    weights = [1 + hash((before, each)) % 7 for each in range(4)]
    return weights[token] / sum(weights)


@pytest.mark.parametrize("seed", range(20))
def test_masses_of_a_trie_are_those_of_a_slow_reference(seed: int) -> None:
    dice = random.Random(seed)
    lines: dict[int, list[Cell]] = {}
    for number in range(dice.randint(1, 12)):
        text = tuple(dice.randrange(4) for _ in range(dice.randint(2, 6)))
        text = (0, 0, *text)  # all have the same beginning
        lines[number] = [Cell(token, math.log(chance(text[:at], token)), ()) for at, token in enumerate(text)]
    found = trie(lines, 2, str)
    texts = {tuple(cell.token for cell in cells) for cells in lines.values()}
    expected = {text[:n]: math.prod(chance(text[:at], text[at]) for at in range(2, n)) for text in texts for n in range(3, len(text) + 1)}
    seen: dict[tuple[int, ...], float] = {}
    path: list[int] = [0, 0]
    for row in found["rows"]:
        path = [*path[: row["at"]], *row["ids"]]
        assert row["reach"] == pytest.approx(expected[tuple(path[: row["at"] + 1])])
        assert row["mass"] == pytest.approx(expected[tuple(path)])
        assert row["n"] == sum(tuple(cell.token for cell in cells)[: len(path)] == tuple(path) for cells in lines.values())
        seen[tuple(path)] = row["mass"] or 0.0
    assert texts <= seen.keys()
    leaves = [text for text in texts if not any(other[: len(text)] == text for other in texts - {text})]
    assert found["whole"] == pytest.approx(sum(expected[text] for text in leaves))
    assert found["first"] == pytest.approx(sum(expected[text] for text in {text[:3] for text in texts}))


def test_a_trie_without_probabilities_has_no_masses() -> None:
    found = trie({1: [Cell(7, None, ()), Cell(8, -1.0, ())], 2: [Cell(9, -2.0, ())]}, 0, str)
    assert (found["first"], found["whole"]) == (None, None)
    assert [row["mass"] for row in found["rows"]] == [pytest.approx(math.exp(-2)), None]


# ---------------------------------------------------------------- token ids in a program


def test_token_ids_stay_as_they_are(lab: HashLab) -> None:
    state = start(lab.backend_for(), lab.emit)
    state += user("Hi") + assistant(token_ids([72, 105]) + "!" + gen("a", max_tokens=3, temperature=0))
    assert list(state.token_ids()[-6:]) == [72, 105, 33, *map(ord, state["a"])]
    plain = start(lab.backend_for(), lab.emit)
    plain += token_ids(list("né".encode()[:2])) + gen("b", max_tokens=2, temperature=0)
    assert plain.token_ids()[:2] == (110, 195)  # the character that they begin is the gen's to complete
    assert from_json(to_json(token_ids([1, 2]))) == token_ids([1, 2])


@pytest.mark.parametrize("wrong", [[], "text", [-1], [1.5], [True], 7, None])
def test_token_ids_are_whole_numbers(wrong: object) -> None:
    with pytest.raises(BadArgument, match="token_ids takes a list"):
        token_ids(wrong)  # type: ignore[arg-type]


def test_a_sample_of_an_event_is_a_sample_again(lab: HashLab) -> None:
    exploration = Exploration(lab, *ran(lab, *PROMPT))
    exploration.close()
    (opened,) = [entry.event for entry in exploration.record.entries if isinstance(entry.event, ExplorationOpened)]
    read = event_from(event_to(opened))
    assert read == opened
    assert isinstance(read, ExplorationOpened)
    assert isinstance(read.answer[0], Sample)
