"""Experts in the token view and in the load: folds of events that a model with experts emits."""

from __future__ import annotations

import json

import pytest

from sgl_lab.contracts.events import Entry, Event, ExpertsChosen, ForkOpened, RequestQueued, Sample, StepRan, StreamExtended, TokensSampled
from sgl_lab.contracts.ids import ExprId, ForkId, RequestId, RunId
from sgl_lab.viz.draw import experts as draw
from sgl_lab.viz.draw import inspection
from sgl_lab.viz.draw.inspection import Line
from sgl_lab.viz.views.experts import ExpertsView, Routes, load_of, most_often
from sgl_lab.viz.views.tokens import TokensView

REQUEST, ROOT, CHILD = RequestId(7), ForkId(1), ForkId(2)


def entries(*events: Event) -> list[Entry]:
    return [Entry(seq, seq, event) for seq, event in enumerate(events)]


def routed(start: int, *tokens: str) -> ExpertsChosen:
    """Of two layers with four experts each, two a token."""
    return ExpertsChosen(0, 4, 2, (0, 3), ((REQUEST, start, "".join(tokens)),))


RUN = entries(
    ForkOpened(RunId(1), ROOT, None, 0, "s"),
    StreamExtended(ROOT, 0, (10, 11), "text", ""),
    ForkOpened(RunId(1), CHILD, ROOT, 0, "s[0]"),
    StreamExtended(CHILD, 2, (12,), "text", ""),
    RequestQueued(REQUEST, CHILD, ExprId(1), "gen", (10, 11, 12), 4, REQUEST),
    TokensSampled(0, (Sample(REQUEST, 13, -0.5, (), None, False),)),
    routed(0, "0120", "1213", "3031"),
    StepRan(0, ((REQUEST, 3),), (), 0, 9, 1.0),
    TokensSampled(1, (Sample(REQUEST, 14, -0.5, (), None, False),)),
    routed(3, "2121"),
    StepRan(1, (), (REQUEST,), 0, 9, 1.0),
)


def test_every_token_has_the_expert_of_most_layers_wherever_it_is_shown() -> None:
    view, later = TokensView(str), TokensView(str)
    shown: dict[int, dict[int, object]] = {ROOT: {}, CHILD: {}}
    for entry in RUN:
        view.fold(entry)
        later.fold(entry)
        for op in (view.delta() or {"ops": []})["ops"]:
            shown[op["fork"]] |= {op["start"] + n: (tok[6] or {}).get("expert") for n, tok in enumerate(op["toks"])}
    assert shown == {ROOT: {0: 0, 1: 1}, CHILD: {2: 3, 3: 2, 4: None}}
    whole, written = later.full(), later.written(whole=True)
    assert written is not None
    assert [[json.loads(tok) for tok in op["toks"]] for op in written["ops"]] == json.loads(json.dumps([op["toks"] for op in whole["ops"]]))
    assert whole["ops"][0]["toks"][0][6] == {"expert": 0, "routed": "1 of 2"}


def test_the_load_counts_every_choice_and_adds_up() -> None:
    load = load_of(RUN)
    assert load is not None
    assert load.n_tokens == 4
    assert [dict(counts) for counts in load.by_layer] == [{0: 2, 1: 3, 2: 2, 3: 1}, {2: 2, 0: 1, 1: 3, 3: 2}]
    assert [load.share(expert) for expert in range(4)] == [3 / 16, 6 / 16, 4 / 16, 3 / 16]
    assert load.share(1, 0) == 3 / 8
    assert draw.text(load).splitlines()[2:] == [
        "all layers    18.8 %  37.5 %    25 %  18.8 %",
        "layer 0         25 %  37.5 %    25 %  12.5 %",
        "layer 3       12.5 %  37.5 %    25 %    25 %",
    ]


def test_what_an_earlier_request_of_the_run_computed_is_known_of_a_later_one() -> None:
    view, other = ExpertsView(), RequestId(8)
    for entry in (*RUN, *entries(RequestQueued(other, CHILD, None, "gen", (10, 11, 99), 4, other))):
        view.fold(entry)
    assert view.routes(other) == Routes((0, 3), 2, {0: "0120", 1: "1213"})


def test_a_token_that_no_expert_computed_has_none_of_their_colours() -> None:
    one, none = (str(inspection._chip(Line(3, 14, "x", "generated", expert=expert, is_routed=True))) for expert in (2, None))
    assert ">E2<" in one
    assert one.count(draw.INKS[2]) + one.count("31,162,135") >= 1
    assert ">–<" in none
    assert "transparent" in none
    assert ">14<" in str(inspection._chip(Line(3, 14, "x", "generated")))


@pytest.mark.parametrize(("chosen", "first"), [("0123", (0, 1)), ("3130", (3, 2)), ("2011", (1, 1))])
def test_ties_go_to_the_lowest_number(chosen: str, first: tuple[int, int]) -> None:
    assert most_often(chosen, 2) == first


@pytest.mark.parametrize(
    "event",
    [
        ExpertsChosen(0, 4, 0, (0,), ((REQUEST, 0, "01"),)),
        ExpertsChosen(0, 1 << 40, 1 << 39, (0,), ((REQUEST, 0, "01"),)),
        ExpertsChosen(0, 4, 2, (), ((REQUEST, 0, "01"),)),
        ExpertsChosen(0, 4, 2, (0,), ((RequestId(99), 0, "01"), (REQUEST, -5, "0"))),
    ],
)
def test_what_no_engine_writes_is_not_counted(event: ExpertsChosen) -> None:
    assert load_of([*RUN[:5], *entries(event)]) is None
