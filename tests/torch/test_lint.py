"""The lint of runs on the built-in model: planted faults are found, each alone, and clean programs stay quiet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import sgl_lab as sgl
from sgl_lab.contracts.events import RequestQueued
from sgl_lab.trace import read_jsonl, write_jsonl
from sgl_lab.viz.lint import RULES, lint
from sgl_lab.viz.lint.finding import Finding
from tests.planted import CLEAN, PLANTED, Planted, recorded, run


@pytest.fixture(scope="module")
def lab() -> Iterator[sgl.Lab]:
    with sgl.Lab(seed=1, cache_tokens=4096) as made:
        yield made


def one(found: tuple[Finding, ...]) -> Finding:
    (finding,) = found
    return finding


def test_there_are_enough_programs() -> None:
    assert len(PLANTED) >= 40
    assert len(CLEAN) >= 40
    assert len({each.body for each in (*PLANTED.values(), *CLEAN.values())}) > 80


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_alone_on_its_line(lab: sgl.Lab, name: str) -> None:
    planted = PLANTED[name]
    found, record = run(lab, planted, is_measured=False)
    assert [finding.code for finding in found] == [planted.code]
    assert planted.line in (None, found[0].line)
    assert found[0].fault
    assert found[0].cost
    assert found[0].mend
    measured = lint(record, lab.records[:-1], spell=lab.spell, measures=lab.measures())
    assert [(finding.code, finding.line) for finding in measured] == [(finding.code, finding.line) for finding in found]


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_program_stays_quiet(lab: sgl.Lab, name: str) -> None:
    found, _ = run(lab, CLEAN[name])
    assert found == ()


# ---------------------------------------------------------------- costs are those of the engine


def n_requests(lab: sgl.Lab) -> int:
    return sum(isinstance(entry.event, RequestQueued) for entry in lab.events())


def test_a_space_is_measured_by_one_request_where_alternatives_are_recorded(lab: sgl.Lab) -> None:
    body = 's += "The capital of France is "\ngen("a", heal=False, max_tokens=2, return_logprob=True, top_logprobs_num=3)'
    record = recorded(lab, body, {}, {})
    before = n_requests(lab)
    quiet = one(lint(record, (), spell=lab.spell))
    assert n_requests(lab) == before
    measured = one(lint(record, (), spell=lab.spell, measures=lab.measures()))
    assert n_requests(lab) == before + 1
    healed = sgl.start(lab.backend, defaults=sgl.GenDefaults(max_tokens=1, temperature=0.0))
    healed += "The capital of France is" + sgl.gen("a")
    assert f'without it "{healed["a"]}"' in measured.cost
    assert replace(measured, cost=quiet.cost) == quiet


def test_the_shortest_text_of_a_constraint_is_counted_and_fits_from_there_on(lab: sgl.Lab) -> None:
    finding = one(run(lab, PLANTED["a pattern that does not fit"])[0])
    n = int(finding.mend.split()[-3])
    body = 's += "Serial:"\ngen("a", regex="([A-Z][0-9]){{12}}", max_tokens={})'
    assert run(lab, Planted(body.format(n)))[0] == ()
    assert one(run(lab, Planted(body.format(n - 1)))[0]).code == "unfit-constraint"


def test_text_that_changes_costs_what_moving_it_saves(lab: sgl.Lab) -> None:
    """The tokens named are about those that the second run then finds cached."""
    planted = PLANTED["a value that changes"]
    finding = one(run(lab, planted)[0])
    computed = {}
    for name, body in (("first", planted.body), ("last", 'system(RULES)\nuser(f"It is {x}. Breakfast?")\nassistant(gen("a"))')):
        lab.flush()
        for names in planted.runs:
            before = lab.stats()["cached_tokens"]
            recorded(lab, body, names, planted.defaults)
        computed[name] = lab.stats()["cached_tokens"] - before
    assert abs(computed["last"] - computed["first"] - finding.n_tokens) <= 12


def test_equal_samples_cost_all_but_one(lab: sgl.Lab) -> None:
    found, _ = run(lab, PLANTED["equal samples"])
    assert one(found).n_tokens == 6


def test_a_run_from_a_file_has_the_same_findings(lab: sgl.Lab, tmp_path: Path) -> None:
    planted = PLANTED["a stop inside a pattern"]
    found, record = run(lab, planted)
    write_jsonl(record, tmp_path / "run.jsonl")
    assert lint(read_jsonl(tmp_path / "run.jsonl")) == found


def test_every_rule_has_planted_programs(lab: sgl.Lab) -> None:
    """`double_bos` has its own: the built-in model's text begins with no such token."""
    assert len(RULES) == len({planted.code for planted in PLANTED.values()} | {"double-bos"}) - 1, "stops has two codes"
