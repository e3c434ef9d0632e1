"""S1 without a browser: hostile text on every surface is text, the markup around it is that around harmless words."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from contextlib import suppress
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.error import UsageError

from sgl_lab.contracts.errors import SglError, UnfinishedValue
from sgl_lab.contracts.events import (
    BranchChanged,
    Entry,
    Event,
    ExplorationOpened,
    PromptPiece,
    RequestQueued,
    TokensSampled,
)
from sgl_lab.contracts.ids import ForkId, RequestId, RunId
from sgl_lab.contracts.legible import clipped, legible
from sgl_lab.engine.files.store import resolve
from sgl_lab.magics.commands.keep import exported
from sgl_lab.magics.errors import readable, render_with
from sgl_lab.magics.folded import Folded
from sgl_lab.magics.line import run_line
from sgl_lab.magics.options import Control, OptionError, nearest, parse_cell
from sgl_lab.magics.session import Session
from sgl_lab.trace import Record, read_jsonl, write_jsonl
from sgl_lab.trace.files import check_ours, write_whole
from sgl_lab.trace.record import MARK
from sgl_lab.viz import bundle
from sgl_lab.viz.draw import attention as draw_attention
from sgl_lab.viz.draw import (
    bars,
    canvas,
    chart,
    dataflow,
    dot,
    experts,
    graph,
    grid,
    html,
    page,
    perfetto,
    stats,
    still,
    text,
    whatif,
    workers,
)
from sgl_lab.viz.draw import blame as draw_blame
from sgl_lab.viz.draw import diff as draw_diff
from sgl_lab.viz.draw import explore as draw_explore
from sgl_lab.viz.draw import inspection as draw_inspection
from sgl_lab.viz.draw import lint as draw_lint
from sgl_lab.viz.draw import why as draw_why
from sgl_lab.viz.explain.attention import attention
from sgl_lab.viz.explain.attribution.blame import Blame, Reading
from sgl_lab.viz.explain.attribution.pieces import Piece
from sgl_lab.viz.explain.diff import diff
from sgl_lab.viz.explain.table import CellPicture, GridPicture, RowPicture
from sgl_lab.viz.explain.why import why
from sgl_lab.viz.freeze import freeze
from sgl_lab.viz.lint.finding import Finding
from sgl_lab.viz.replay import frames
from sgl_lab.viz.views.experts import Load
from sgl_lab.viz.views.explore import ExploreView
from sgl_lab.viz.views.inspection import inspections
from sgl_lab.viz.views.recent import RecentView
from sgl_lab.viz.views.tok import MAX_TEXT
from sgl_lab.viz.views.tokens import TokensView
from tests.hostile_text import FAMILIES, PAYLOADS

from .poisoned import poisoned

DRAW = "sgl_lab.viz.draw"
NO_DRAWINGS = {"escape", "numbers", "outline", "palette", "plan", "state", "streams"}
"""modules of `draw` that others draw with"""
TAGS = {"div", "span", "details", "summary", "img", "pre", "table", "tr", "td", "th"}
SVG_TAGS = {"svg", "title", "style", "rect", "text", "line", "circle", "path", "g"}
ATTRIBUTES = {"style", "title", "colspan", "src", "alt", "open", "tabindex", "role", "aria-label"}
BY_FAMILY = {family.__name__: [one.text for one in PAYLOADS if one.family == family.__name__] for family in FAMILIES}
OTHER_SHAPES = ("spellings", "large")
"""Special tokens have their own style, bytes become characters, and long texts are cut."""


PLACED = re.compile(r"\b(left|top|width|height|zoom):-?[\d.]+(?:px|%)?")
"""The position and width of a node depend on the length of its words."""


class Shape(HTMLParser):
    """The elements of a page with their attributes, the text inside, and the values of attributes."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...], str]] = []
        self.content: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.elements.append((tag, tuple(values), PLACED.sub(r"\1:N", values.get("style", ""))))
        self.content += [value for name, value in values.items() if name not in ("style", "src")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.elements.append((f"/{tag}", (), ""))

    def handle_data(self, data: str) -> None:
        self.content.append(data)


def drawn_shape(source: str) -> list[tuple[str, tuple[str, ...], str]]:
    """The same of an SVG, which has to be XML."""
    return [
        (element.tag.rpartition("}")[2], tuple(sorted(element.attrib)), element.get("class", ""))
        for element in ET.fromstring(source).iter()
    ]


def harmless(payload: str) -> str:
    """A few letters per line: lines have elements around them, whatever their length."""
    return re.sub(r"[^\n]+", lambda line: "x" * min(len(line[0]), 9), legible(payload))


def exploration(record: Record, payload: str) -> list[Entry]:
    """The events of an exploration of the record's last gen, with a branch of each kind. All words are the payload's."""
    one = next(one for one in reversed(inspections(record.entries)) if one.samples)
    token = one.samples[0].token
    answer = tuple(sample._replace(top=((token + 1, -0.5), (sample.token, -1.0))) for sample in one.samples[:9])
    pieces = (PromptPiece(0, 1, "", "template"), PromptPiece(1, len(one.prompt) - 1, payload, "text"))
    events: list[Event] = [ExplorationOpened(RunId(1), payload, payload, one.prompt, pieces, answer)]
    for number, how in enumerate(("token", "more", "more", "edit"), 1):
        fork, request = ForkId(900 + number), RequestId(900 + number)
        forced = () if how == "edit" else (token,)
        events.append(BranchChanged(RunId(1), number, fork, 0, how, forced, payload, how == "edit", False, 0.5, 3, None, payload))
        events.append(RequestQueued(request, fork, None, "gen", (*one.prompt, *forced), 4, request))
        events.append(TokensSampled(1, tuple(sample._replace(request=request) for sample in answer[:number])))
    return [Entry(number, number, event) for number, event in enumerate(events)]


class Drawn:
    """Everything that is made of two runs, the second of which is shown."""

    def __init__(self, first: Record, last: Record, payload: str) -> None:
        folded, recent = Folded(last), RecentView()
        for entry in last.entries:
            recent.fold(entry)
        views = {"tokens": folded.tokens, "tree": folded.tree, "lanes": folded.lanes, "metrics": folded.metrics, "graph": folded.graph}
        frozen = freeze(**views, title=payload, status="error", message=payload, notes=[("Value", payload)])
        story, parted, served = why(last, [first]), diff(first, last), whatif.WhatIf(payload, (), 1, 4)
        load = Load((0, 1), 2, 1, 3, [Counter({0: 1, 1: 2}), Counter({0: 3})])
        counts = {"cached_tokens": 1, "pages_free": 2, "step_ms": 0.5}
        every = inspections(last.entries)
        two = (Piece(1, 2, payload, payload, "text"), Piece(2, 3, payload, payload, "generated"))
        scored = ((0, 1), 0, False, Reading(-1.0, 0), -9.0, ((1, 4.0),), 0.7, 8, 9, 40, 90, 0, ((4,), (5,)), (1, None))
        blamed = Blame(payload, "select", "word", (1, 2, 3, 4), two, (4.0, -0.5), (4, 5), *scored)
        looked = attention(payload, (1, 2, 3), (4, 5), 1, [[[0.4, 0.3, 0.2, 0.1]] * 2] * 2)
        either = [(looked, lambda token: payload), (looked, lambda token: payload, blamed)]
        marks = tuple(dataflow.Row(n, n % 2, kind, payload, (0,) * (n > 0), (1,) * (n == 0)) for n, kind in enumerate(dataflow.MARKS))
        faults = [Finding(payload, 1, payload, payload, payload, 3), Finding("x", 0, payload, payload, payload)]
        sides = [dataflow.Side(payload, marks), dataflow.Side(payload, marks[:2])]
        explored = ExploreView(last.spell)
        for event in exploration(last, payload):
            explored.fold(event)
        picture = explored.full()
        behind = [workers.WorkerRow(payload, False, 1, 2, 40, 30, ((payload, 2),))]
        cells = [
            self.cell(payload, status, passed) for status, passed in (("ok", False), ("error", False), ("ok", True), ("stopped", None))
        ]
        sheet = self.sheet(payload, cells)
        self.pages = {
            "sheet": grid.still(sheet, notes=[payload]).source,
            "frozen": frozen["text/html"],
            "tokens": "".join(draw_inspection.html(one, last.spell).source for one in every),
            "why": draw_why.html(story, last.spell).source,
            "diff": draw_diff.html(parted, first.spell, last.spell).source,
            "lint": draw_lint.html(payload, faults, [payload]).source,
            "lint line": draw_lint.line(faults).source,
            "whatif": whatif.html(served).source,
            "dataflow": dataflow.html(payload, sides, [("pass", ""), (payload, payload)]).source,
            "experts": experts.html(load).source,
            "blame": draw_blame.html(blamed, lambda token: payload).source,
            "attention": "".join(draw_attention.html(*given).source for given in either),
            "graph": graph.still(folded.graph.full(), 60).source,
            "stats": stats.html(payload, counts).source,
            "workers": workers.html(behind).source,
            "explore": draw_explore.html(picture).source,
            "table": html.table([("model", payload), (payload, "x")]).source,
            "bars": bars.still(bars.Bars(payload, (payload,), (bars.Series(payload, (0.5,), (payload,)),))).source,
            "grid": html.grid([(payload, "y"), ("x", payload)]).source,
            "loading": html.progress(payload, 0.5).source,
            "running": html.panel(payload, "running", payload, []).source,
            "picture": html.picture(canvas.heading(payload, payload), payload).source,
            "plain": html.details(payload, html.plain(payload)).source,
            "tree": still.tree(folded.tree.full()).source,
            "requests": still.lanes(recent.full()).source,
        }
        self.drawings = {
            "chart": chart.shares(payload, payload, [chart.Series(payload, ((1.0, 0.5), (2.0, 0.7)))], lambda x: payload).source,
            "dataflow": dataflow.picture(payload, sides).source,
            "whatif": whatif.picture(served).source,
        }
        self.texts = {
            "sheet": grid.text(sheet, notes=[payload]),
            "dataflow": dataflow.text(payload, sides, [("pass", ""), (payload, payload)]),
            "frozen": frozen["text/plain"],
            "tokens": "\n".join(draw_inspection.text(one, last.spell) for one in every),
            "why": draw_why.text(story, last.spell),
            "diff": draw_diff.text(parted, first.spell, last.spell),
            "lint": draw_lint.text(payload, faults, [payload]),
            "lint line": draw_lint.quiet(faults),
            "whatif": whatif.text(served),
            "experts": experts.text(load),
            "blame": draw_blame.text(blamed, lambda token: payload),
            "attention": "\n".join(draw_attention.text(*given) for given in either),
            "graph": graph.text(folded.graph.full()),
            "stats": stats.text(payload, counts),
            "workers": "\n".join(map(" ".join, workers.table(behind))),
            "explore": draw_explore.text(picture),
            "lanes": text.lanes(folded.lanes.full()),
            "tree": text.tree(folded.tree.full(), ascii=True),
            "transcript": text.transcript(folded.tokens.full(), ascii=True),
            "graphviz": dot.source(folded.tree.full()),
            "trace": json.dumps(perfetto.trace(last), ensure_ascii=False),
            "messages": json.dumps(frames(last, last.spell), ensure_ascii=False),
        }

    @staticmethod
    def cell(payload: str, status: str, passed: bool | None) -> CellPicture:
        """A row of one version, every text of it hostile."""
        return {
            "status": status,
            "passed": passed,
            "change": "broken" if passed is False else "",
            "value": payload,
            "message": payload,
            "line": 2,
            "values": [[payload, payload]],
            "checks": [[payload, passed, payload, payload]],
            "parting": (3, payload, payload),
            "cached": 1,
            "computed": 2,
            "generated": 3,
            "judged": 4,
            "ms": 5.0,
            "cost": 0.5,
            "open": payload,
        }

    @staticmethod
    def sheet(payload: str, cells: list[CellPicture | None]) -> GridPicture:
        share = (1, 2, 0.1, 0.9)
        names = ("done", "errors", "stopped", "missing", "cached", "computed", "generated", "judged", "unpriced", "fixed", "broken", "ms")
        column: Any = dict.fromkeys(names, 1) | dict.fromkeys(("label", "model", "currency", "base", "p"), payload)
        column |= {"passes": share, "checks": [(payload, share, 1)] * 2, "cost": 0.5}
        rows: list[RowPicture] = [
            {"row": 1, "given": [payload, None], "cells": cells},
            {"row": 2, "given": [None, None], "cells": [None] * 4},
        ]
        return {"name": payload, "fields": [payload, "x"], "columns": [column] * 4, "sentences": [payload], "rows": rows}


@cache
def usual(words: str) -> dict[str, Any]:
    """The structure for harmless words."""
    drawn = Drawn(*poisoned(words), words)
    return {"pages": {name: Shape(source).elements for name, source in drawn.pages.items()}} | {
        "drawings": {name: drawn_shape(source) for name, source in drawn.drawings.items()}
    }


def test_every_drawing_is_here() -> None:
    drawings = {path.stem for path in Path(stats.__file__).parent.glob("*.py")} - {"__init__", *NO_DRAWINGS}
    assert drawings == {each.__name__.rpartition(".")[2] for each in globals().values() if getattr(each, "__package__", "") == DRAW}


def test_the_corpus_is_large_and_no_payload_is_there_twice() -> None:
    assert len(PAYLOADS) >= 500
    assert len({payload.text for payload in PAYLOADS}) == len(PAYLOADS)


@pytest.mark.parametrize("family", BY_FAMILY)
def test_hostile_text_is_text_on_every_surface(family: str) -> None:
    """Pages and drawings have the elements, attributes and styles of harmless words; nothing
    controls a terminal.
    """
    for payload in BY_FAMILY[family]:
        drawn = Drawn(*poisoned(payload), payload)
        expected = {} if family in OTHER_SHAPES else usual(harmless(payload))
        for name, source in drawn.pages.items():
            found = Shape(source)
            assert {tag.removeprefix("/") for tag, _, _ in found.elements} <= TAGS, (name, payload)
            assert {attribute for _, attributes, _ in found.elements for attribute in attributes} <= ATTRIBUTES, (name, payload)
            assert not expected or found.elements == expected["pages"][name], (name, payload)
            assert (content := "".join(found.content)) == legible(content), (name, payload)
        for name, source in drawn.drawings.items():
            shape = drawn_shape(source)
            assert {tag for tag, _, _ in shape} <= SVG_TAGS, (name, payload)
            assert not expected or shape == expected["drawings"][name], (name, payload)
        for name, words in drawn.texts.items():
            assert words == legible(words), (name, payload)
        for source in (*drawn.pages.values(), *drawn.drawings.values(), *drawn.texts.values()):
            source.encode()


def test_what_was_said_can_be_read_whole() -> None:
    for family in set(BY_FAMILY) - set(OTHER_SHAPES):
        for payload in BY_FAMILY[family]:
            for made in (html.plain(payload), html.table([("x", payload)]), html.progress(payload, None)):
                assert legible(payload) in "".join(Shape(made.source).content), payload
            tokens = TokensView(lambda token, text=payload: text)
            for entry in poisoned(payload)[1].entries:
                tokens.fold(entry)
            shown = "".join(Shape(still.tokens(tokens.full()).source).content)
            assert legible(payload[:MAX_TEXT]) in shown, payload


# ---------------------------------------------------------------- commands, errors, files


class Shown:
    """The outputs that a notebook would receive."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []
        self.shell = SimpleNamespace(kernel=self, display_pub=self, user_ns={}, configurables=[])

    def publish(self, data: dict[str, Any], metadata: dict[str, Any], *, transient: dict[str, str], update: bool) -> None:
        self.data.append(data)


def message_of(shell: object, session: Session, line: str) -> str:
    """The error that a command ends with, as it is shown; empty if it does not fail."""
    try:
        with readable(shell, "%sgl"):
            run_line(shell, session, line)
    except UsageError as error:
        return str(error)
    except SglError as error:
        return "".join(error._render_traceback_()) if hasattr(error, "_render_traceback_") else str(error)
    return ""


FEW = [payload for family in BY_FAMILY for payload in BY_FAMILY[family][:: 1 + len(BY_FAMILY[family]) // 4]]
"""some payloads of each family, for slow surfaces"""
COMMANDS = (
    *("tokens", "timeline", "why", "diff run run", "why run run", "lint"),
    *("jobs", "config", "help", "snippet list", "replay run.jsonl"),
)


@pytest.mark.parametrize(("in_notebook", "throughout"), [(True, False), (True, True), (False, False)])
def test_a_hostile_file_is_refused_in_a_line_or_every_command_shows_it_as_text(
    in_notebook: bool, throughout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    n_read = 0
    for payload in FEW:
        shown, session = Shown(), Session()
        shell = shown.shell if in_notebook else SimpleNamespace(user_ns={})
        write_jsonl(poisoned(payload, throughout=throughout)[1], Path("run.jsonl"))
        if message := message_of(shell, session, "replay run.jsonl"):
            assert throughout
            assert "run.jsonl line" in message
            assert message == legible(message)
            assert "\n" not in message
            continue
        n_read += 1
        for line in COMMANDS:
            assert message_of(shell, session, line) == "", (line, payload)
        for data in shown.data:
            found = Shape(data["text/html"]).elements
            assert found[0] == ("div", ("class",), ""), "the whole output is kept from being taken for formulas"
            assert {tag.removeprefix("/") for tag, _, _ in found} <= TAGS | {"script"}
            assert sum(tag == "script" for tag, _, _ in found) <= 1
            assert data["text/plain"] == legible(data["text/plain"])
            json.dumps(data, ensure_ascii=False).encode()
        assert len(shown.data) >= 7 * in_notebook
        assert (printed := capsys.readouterr().out) == legible(printed)
    assert n_read == len(FEW) or (throughout and n_read > 0)


def test_a_page_to_share_has_our_own_script_alone_and_a_policy_against_any_other() -> None:
    tags = TAGS | {"html", "head", "meta", "title", "style", "body", "main", "script"}
    attributes = ATTRIBUTES | {"charset", "name", "content", "http-equiv", "lang", "type", "data-sgl-recording"}
    for payload in FEW:
        record = poisoned(payload)[1]
        session = Session()
        session.last = record
        source = page.page(payload, exported(session, record), bundle.players())
        found = Shape(source.removeprefix("<!doctype html>"))
        assert {tag.removeprefix("/") for tag, _, _ in found.elements} <= tags
        assert {name for _, names, _ in found.elements for name in names} <= attributes
        assert sum(tag == "script" for tag, _, _ in found.elements) == 2, "the recording and its player"
        assert "default-src &#39;none&#39;" in source[:600]
        source.encode()


def test_no_error_of_ours_speaks_to_the_terminal() -> None:
    for payload in FEW:
        for error in (
            SglError(payload, hint=payload),
            OptionError(payload),
            UnfinishedValue(payload, text=payload),
            nearest(payload, [payload], "run"),
        ):
            assert str(error) == legible(str(error))
        for line in (
            payload,
            f"--{payload}",
            f"--view {payload}",
            f"--interact {payload}",
            f"--def {payload}",
            f"-m '{payload}' {payload}",
        ):
            with suppress(OptionError):
                parse_cell(line.replace("\n", " "))


def test_a_hostile_name_of_a_file_or_a_model_is_refused_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for payload in FEW:
        name = payload.replace("/", "|")  # a file beside this one, and no id of a hub
        with suppress(SglError):
            check_ours(Path(name), MARK)
        for attempt in (read_jsonl, lambda path: write_whole("no such folder" / path, len), lambda path: resolve(f"{path}")):
            with pytest.raises(SglError) as caught:
                attempt(Path(name))
            assert str(caught.value) == legible(str(caught.value))


def test_colours_are_all_that_a_traceback_tells_the_terminal() -> None:
    for payload in BY_FAMILY["for_terminals"] + BY_FAMILY["unseen_characters"]:
        error = ValueError(payload)
        render_with(error, [f"\x1b[31mValueError\x1b[0m: {payload}", payload])
        for line in error._render_traceback_():  # type: ignore[attr-defined]
            plain = re.sub(r"\x1b\[[\d;]*m", "", line)
            assert plain == legible(plain)
    error = ValueError()
    render_with(error, ["\x1b[1;31mred\x1b[0m"])
    assert error._render_traceback_() == ["\x1b[1;31mred\x1b[0m"]  # type: ignore[attr-defined]


def test_values_of_controls_reach_the_page_as_text() -> None:
    for payload in FEW:
        assert Control("x", (payload, 1)).described(0)["values"][0]["text"] == legible(payload)


def test_graphviz_takes_a_label_for_nothing_but_text() -> None:
    payloads = [payload for payload in FEW + BY_FAMILY["for_charts"] if len(payload) < 100]
    root = {"parent": None, "n": 1, "refs": 0, "hits": 0, "used": 0, "state": "root", "fresh": False, "by": []}
    nodes: Any = [root | {"id": n, "parent": n and 0, "label": payload} for n, payload in enumerate(payloads)]
    drawn = dot.svg({"nodes": nodes, "texts": [], "ends": [], "gone": [], "clock": 1, "tails": []})
    if drawn is None:
        pytest.skip("graphviz is not installed")
    shape = ET.fromstring(drawn)
    assert {element.tag.rpartition("}")[2] for element in shape.iter()} <= {"svg", "g", "title", "path", "text", "polygon"}
    assert not [name for element in shape.iter() for name in element.attrib if name.startswith("on") or "href" in name]
    content = ["".join(element.itertext()) for element in shape.iter() if element.tag.endswith("}text")]
    assert [words.replace("\xa0", " ") for words in content] == [clipped(payload, 48) for payload in payloads]
