"""Drawings: safe for any text, of bounded size, readable in colour, without colour and as plain
text.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import random
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from sgl_lab.contracts.events import CellStarted, Entry, ExprFinished, StreamExtended, TokensSampled
from sgl_lab.contracts.ids import ExprId, RunId
from sgl_lab.contracts.legible import clipped, legible
from sgl_lab.contracts.tree import TreeSnapshot
from sgl_lab.viz.draw import dot, palette, still, text
from sgl_lab.viz.draw import inspection as draw_inspection
from sgl_lab.viz.draw.escape import escaped, joined, style_sheet, tag
from sgl_lab.viz.draw.outline import lane_order, outline
from sgl_lab.viz.draw.streams import fair_share, runs, streams, whole_characters
from sgl_lab.viz.freeze import LIMIT, freeze
from sgl_lab.viz.views import LanesView, MetricsView, TokensView, TreeView
from sgl_lab.viz.views.inspection import inspections
from sgl_lab.viz.views.lanes import BarRow, LaneRow

from .story import Stage, story

HOSTILE = [
    "<script>alert(1)</script>",
    "</span><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "` onfocus=`alert(1)",
    "</title><script>alert(1)</script>",
    "]]><script>alert(1)</script>",
    "<!--<script>alert(1)//-->",
    "<a href='javascript:alert(1)'>x</a>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "&#x3c;script&#x3e;",
    "<style>*{display:none}</style>",
    "<button data-commandlinker-command='x'>x</button>",
    "</pre></details><iframe src='//evil'></iframe>",
    "expression(alert(1));background:url(//evil)",
    "\u202egnp.exe\u2066\u2069",
    "nul\x00 bell\x07 esc\x1b[31m",
    "\ud800\udfff lone \udc00",
    "\ufeff\u2028\u2029\u200f\ufffe\uffff",
    "<<|im_start|>><|im_start|>",
    "\\xf0\\x9f\\",
    'n"; evil [label="x',
]
TAGS = {"div", "span", "details", "summary", "img", "pre", "table", "tr", "td", "br"}
ATTRIBUTES = {"style", "title", "src", "alt", "open", "tabindex", "role", "aria-label"}
SVG_TAGS = {"svg", "title", "style", "rect", "text", "line", "circle", "path", "g"}


class Reader(HTMLParser):
    """Everything that is in a page: element names, attributes, text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.stack: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("img", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def images(self) -> list[str]:
        prefix = "data:image/svg+xml;base64,"
        sources = [value for name, value in self.attributes if name == "src"]
        assert all(source.startswith(prefix) for source in sources)
        return [base64.b64decode(source[len(prefix) :]).decode() for source in sources]


def views(stage: Stage, run: int = 2, spell: Any = None) -> dict[str, Any]:
    """The four views of one run of a stage, with the tree as seen by a reader who joins at the
    beginning.
    """
    spell = spell or stage.spell
    before = TreeView(spell)
    found = {
        "tokens": TokensView(spell, RunId(run)),
        "tree": TreeView(spell, RunId(run)),
        "lanes": LanesView(RunId(run)),
        "metrics": MetricsView(RunId(run)),
    }
    for entry in stage.entries:
        if isinstance(entry.event, CellStarted):
            snapshot = TreeSnapshot(tuple(before.nodes.values()), stage.n_pages, 0, entry.seq)
            found["tree"].load(snapshot)
            found["metrics"].load(snapshot)
        before.fold(entry)
        for name, view in found.items():
            if name != "tree" or view.nodes:
                view.fold(entry)
    return found


def hostile_stage(payload: str) -> tuple[Stage, Any]:
    """A run in which every text that comes from outside is `payload`."""
    stage = Stage()
    stage.emit(CellStarted(RunId(1), payload, payload))
    main = stage.open(label=payload)
    stage.say(main, "one two three", payload)
    stage.gen((main, payload, "four five"))
    fork = stage.open(main, 0, payload)
    stage.say(fork, "six", payload)
    stage.gen((fork, payload, "seven eight nine"))
    return stage, lambda token: payload


# ---------------------------------------------------------------- safety


@pytest.mark.parametrize("payload", HOSTILE)
def test_hostile_text_stays_text_on_every_surface(payload: str) -> None:
    stage, spell = hostile_stage(payload)
    found = views(stage, 1, spell)
    bundle = freeze(**found, title=payload, status="error", message=payload)
    page = Reader(bundle["text/html"])
    assert page.stack == []
    assert page.tags <= TAGS
    assert {name for name, _ in page.attributes} <= ATTRIBUTES
    assert page.images == []
    for shown_text in (bundle["text/html"], bundle["text/plain"], dot.source(found["tree"].full())):
        shown_text.encode()
        assert not re.search(r"[\x00\x07\x1b\u200f\u2028\u202e\u2066\ufeff\ufffe]", shown_text)
    styles = " ".join(value for name, value in page.attributes if name == "style")
    assert "url(" not in styles
    assert "expression" not in styles


def test_the_picture_shows_the_generated_text() -> None:
    stage = story()
    page = Reader(freeze(**views(stage))["text/html"])
    assert "Senhora do Monte at dusk, when the bridge lights up & the city hums." in page.text


def test_markup_takes_text_only_as_text() -> None:
    assert tag("span", {"title": 'a"b'}, "<b>").source == '<span title="a&quot;b">&lt;b&gt;</span>'
    assert tag("details", {"open": True, "style": False}, "x").source == "<details open>x</details>"
    assert tag("img", {"src": "x"}).source == '<img src="x">'
    assert joined([tag("br"), "&"]).source == "<br>&amp;"
    for name, attributes in (("a b", {}), ("b", {"onclick": "x"}), ("b", {"OnClick": "x"}), ("b", {'x="': "y"})):
        with pytest.raises(ValueError, match=r"code|name"):
            tag(name, attributes)
    with pytest.raises(ValueError, match="markup"):
        style_sheet("</style><script>")


def test_legible_text_stays_as_it_is_and_hidden_controls_are_seen() -> None:
    good = "naïve 中文 עברית 👩‍👩‍👧 \n\t ¯\\_(ツ)_/¯"
    assert legible(good) == good
    assert legible("a\x00\u202eb\ud800\x7f") == "a␀⟨U+202E⟩b\ufffd␡"
    for payload in HOSTILE:
        assert legible(legible(payload)) == legible(payload)
    assert escaped("<&>\"'`") == "&lt;&amp;&gt;&quot;&#39;&#96;"
    assert [clipped("abc", 3), clipped("abcd", 3), clipped("a\nb", 5)] == ["abc", "ab…", "a↵b"]


# ---------------------------------------------------------------- size


def flood(n_tokens: int, n_forks: int, text: str = "word ") -> dict[str, Any]:
    stage = Stage(n_pages=10**7)
    stage.emit(CellStarted(RunId(1), "flood", ""))
    main = stage.open()
    stage.say(main, "a " * 50, "user")
    forks = [stage.open(main, n) for n in range(n_forks)]
    stage.gen(*[(fork, "x", "b " * (n_tokens // n_forks)) for fork in forks])
    return views(stage, 1, lambda token: text)


@pytest.mark.parametrize(("n_tokens", "n_forks", "word"), [(20_000, 1, "word "), (4_000, 200, "word "), (600, 3, "&" * 5_000)])
def test_a_frozen_cell_stays_small_and_says_what_it_left_out(n_tokens: int, n_forks: int, word: str) -> None:
    found = flood(n_tokens, n_forks, word)
    bundle = freeze(**found)
    assert sum(len(part.encode()) for part in bundle.values()) <= LIMIT
    assert len(json.dumps(bundle)) <= 2 * LIMIT
    assert len(word) > 100 or "more token" not in bundle["text/html"], "text is what a saved cell never cuts"
    shown = Reader(bundle["text/html"]).text
    assert len(word) > 100 or shown.count("word ") >= n_tokens


def test_the_text_of_hundreds_of_forks_is_readable_without_colours_where_these_do_not_fit() -> None:
    forks = range(2, 422)
    same = {"label": "", "run": 1, "base": 0, "state": ""}
    rows = [{"fork": fork, "parent": None if fork == 1 else 1, "index": fork, **same} for fork in (1, *forks)]
    toks = [
        (text, cls, None, role, None, 1, None)
        for number in range(6)
        for text, cls, role in ((f" question {number}", "computed", "user"), (f" answer {number}", "generated", "assistant"))
    ]
    picture: Any = {"forks": rows, "ops": [{"fork": fork, "start": 0, "toks": toks} for fork in forks]}

    class Fixed:
        def full(self) -> Any:
            return picture

    bundle = freeze(tokens=Fixed(), title="forks")
    assert sum(len(part.encode()) for part in bundle.values()) <= LIMIT
    shown = Reader(bundle["text/html"]).text
    assert (shown.count("⟦answer 5⟧") + shown.count("⟦ answer 5⟧"), shown.count("question 3")) == (420, 420)
    assert "text has brackets" in shown
    assert "more token" not in shown


def test_a_cell_of_many_short_answers_stays_small_too_and_says_which_bars_it_shows() -> None:
    stage = Stage(60_000)
    main = stage.open()
    forks = [stage.open(main, n) for n in range(48)]
    for _ in range(12):
        for fork in forks:
            stage.say(fork, f" and {fork}")
        stage.gen(*[(fork, "x", " so") for fork in forks])
    found = views(stage, 1, stage.spell)
    bundle = freeze(**found)
    assert sum(len(part.encode()) for part in bundle.values()) <= LIMIT
    assert re.search(r"the longest \d+ of \d,\d+ bars", bundle["text/html"])


def test_a_cut_stream_keeps_its_beginning_and_its_end() -> None:
    toks: Any = [(str(n), "text", None, "", None) for n in range(100)]
    parts = list(runs(toks, 9))
    assert [[tok[0] for tok in run.toks] for run in parts] == [["0", "1", "2", "3", "4", "5"], [], ["97", "98", "99"]]
    assert sum(run.n_left_out for run in parts) == 91


def test_a_fair_share_feeds_the_small_first() -> None:
    assert fair_share([1, 5, 100], 30) == 24
    assert fair_share([3, 3], 100) == 3
    assert fair_share([], 5) == 0


def test_a_large_tree_keeps_what_matters_and_counts_the_rest() -> None:
    stage = Stage(n_pages=10**6)
    for n in range(300):
        fork = stage.open()
        stage.say(fork, f"prompt{n} with words")
        stage.gen((fork, "x", f"answer{n} b"))
    view = TreeView(stage.spell)
    for entry in stage.entries:
        view.fold(entry)
    picture = view.full()
    lines = outline(picture, 40, straight_chains=True)
    assert sum(line.node is not None for line in lines) <= 40
    shown = sum(line.node is not None for line in lines) + sum(line.n_nodes for line in lines)
    assert shown == len(picture["nodes"])
    assert sum((line.node or {"n": line.n_tokens})["n"] for line in lines) == sum(row["n"] for row in picture["nodes"])
    assert f"+ {len(picture['nodes']) - 40} other nodes" in still.tree(picture, 40).source
    assert "more nodes" in text.tree(picture, max_nodes=40)


# ---------------------------------------------------------------- plain text


def small() -> dict[str, Any]:
    stage = Stage(n_pages=100)
    stage.emit(CellStarted(RunId(1), "small", ""))
    main = stage.open(label="main")
    stage.role(main, "user", "Say yes or no.")
    stage.begin(main, "assistant")
    stage.gen((main, "answer", "Yes, of course"))
    for index in range(2):
        fork = stage.open(main, index)
        stage.say(fork, "! Why?" if index else "? Sure?", "user")
        stage.select(fork, "why", ["because", "since"], index)
    return views(stage, 1)


def test_the_plain_text_of_a_small_run() -> None:
    found = small()
    assert text.transcript(found["tokens"].full()) == (
        "[user] Say yes or no.\n"
        "[assistant] ⟦Yes, of course⟧\n"
        "├ fork 1\n"
        "│ [user] ? Sure?\n"
        "│ [assistant] ⟪because⟫\n"
        "└ fork 2\n"
        "  [user] ! Why?\n"
        "  [assistant] ⟪since⟫"
    )
    assert text.metrics(found["metrics"].full()) == (
        "0 from earlier runs · 66 reused · 31 computed · 4 generated · 100 tokens/s · 2 forks · 22 of 100 pages"
    )
    assert text.tree(found["tree"].full()) == (
        "radix tree: 10 nodes, 27 tokens\n"
        "smollm2\n"
        "└ user↵Say yes or no.↵assistant↵  (13 tokens, 4 hits, from this run)\n"
        "  └ Yes, of  (3 tokens, 4 hits, from this run)\n"
        "    └  course  (1 token, 2 hits, from this run)\n"
        "      ├ ? Sure?  (3 tokens, 0 hits, from this run)\n"
        "      │ ├ because  (1 token, 0 hits, from this run)\n"
        "      │ └ since  (1 token, 0 hits, from this run)\n"
        "      └ ! Why?  (3 tokens, 0 hits, from this run)\n"
        "        ├ because  (1 token, 0 hits, from this run)\n"
        "        └ since  (1 token, 0 hits, from this run)"
    )
    lines = text.lanes(found["lanes"].full()).split("\n")
    assert lines[0].startswith("timeline: 3 lanes, ")
    *shown, key = lines[1:]
    assert [line[:20].rstrip() for line in shown] == ["main", "  fork 1", "  fork 2"]
    assert set("".join(line[22:54] for line in shown)) - {" "} <= {part[0] for part in key.strip().split(", ")}
    assert "prefill 13 in" in lines[1]
    assert "score" in lines[2]


def test_the_exact_prompt_is_shown_token_by_token_with_its_ids() -> None:
    stage = Stage()
    stage.emit(CellStarted(RunId(1), "", ""))
    main = stage.open()
    stage.say(main, "Say yes or no: ")
    stage.gen((main, "answer", "yes of course"))
    stage.say(main, " and ")
    stage.gen((main, "", "no doubt"))
    stage.select(main, "why", ["because", "since"], 0)
    first, second, third = inspections(stage.entries)
    assert (first.name, second.name, third.name, third.value) == ("answer", "#0", "why", "because")
    assert first.prompt == tuple(stage.streams[main][: len(first.prompt)])
    assert second.n_hit > first.n_hit == 0
    assert second.prompt[: len(first.prompt)] == first.prompt
    page = Reader(draw_inspection.html(second, stage.spell).source)
    assert page.stack == []
    for one in (first, second):
        plain, shown = draw_inspection.text(one, stage.spell), draw_inspection.html(one, stage.spell).source
        for token in (*one.prompt, *(sample.token for sample in one.samples)):
            assert f" {token} " in plain
            assert f">{token}<" in shown


def test_a_forced_token_looks_forced() -> None:
    stage = Stage()
    stage.emit(CellStarted(RunId(1), "", ""))
    main = stage.open()
    stage.say(main, "A record: ")
    stage.gen((main, "record", "name x"))
    entries = [
        Entry(e.seq, e.t_ns, replace(e.event, samples=tuple(s._replace(forced=True, n_allowed=1, logprob=None) for s in e.event.samples)))
        if isinstance(e.event, TokensSampled)
        else e
        for e in stage.entries
    ]
    tokens, metrics = TokensView(stage.spell, RunId(1)), MetricsView(RunId(1))
    for entry in entries:
        tokens.fold(entry)
        metrics.fold(entry)
    n_forced = sum(tok[1] == "forced" for op in tokens.full()["ops"] for tok in op["toks"])
    assert n_forced == metrics.full()["forced"] == metrics.full()["generated"] > 0
    assert "⟨name" in text.transcript(tokens.full())
    assert "forced by the constraint" in still.tokens(tokens.full()).source
    (one,) = inspections(entries)
    assert f"{n_forced} of them forced" in draw_inspection.text(one, stage.spell)


def test_ascii_drawing_uses_ascii_only() -> None:
    found = small()
    drawn = text.tree(found["tree"].full(), ascii=True).replace("↵", "") + text.transcript(found["tokens"].full(), ascii=True)
    assert drawn.isascii()
    assert "[Yes, of course]" in drawn
    assert "{since}" in drawn


def test_characters_made_of_several_tokens_are_shown_whole() -> None:
    toks: Any = [
        ("a ", "generated", None, "", None, 7, None),
        (" \\xf0\\x9f", "generated", -1.0, "", None, 7, None),
        ("\\x97\\xbc", "generated", -2.0, "", None, 7, None),
    ]
    assert [tok[0] for tok in whole_characters(toks)] == ["a ", " 🗼"]
    broken: Any = [("\\xf0\\x9f", "generated", None, "", None, 7, None), ("x", "generated", None, "", None, 7, None)]
    assert [tok[0] for tok in whole_characters(broken)] == ["\\xf0\\x9f", "x"]


# ---------------------------------------------------------------- pictures


def test_forks_are_side_by_side_after_their_common_text() -> None:
    (root,) = streams(views(story())["tokens"].full())
    (own, forked), (rest, none) = root.sections()
    assert [child.name for child in forked] == ["food", "rain", "views"]
    assert (rest, none) == ([], [])
    assert len(own) == len(root.toks)


def test_every_node_and_lane_is_in_its_picture() -> None:
    found = views(story())
    picture = found["tree"].full()
    drawn = Reader(still.tree(picture).source).text
    assert all(row["label"][:14].replace("\n", "↵") in drawn for row in picture["nodes"] if row["mine"])
    lanes = Reader(still.lanes(found["lanes"].full()).source)
    assert all(name in lanes.text for name in ("main", "food", "rain", "views"))
    titles = [value for name, value in lanes.attributes if name == "title"]
    assert all(any(title.startswith(shown_text) for title in titles) for shown_text in ("plan · generated", "when · scored"))


def test_forced_tokens_are_counted_beside_decoded_ones() -> None:
    counts = {"prefill": 9, "decode": 7, "forced": 12, "drafted": 1}
    bars: list[BarRow] = [
        {"id": n, "lane": "s", "kind": kind, "t0": n, "t1": n + 1.0, "n": counts[kind], "name": "", "request": 1, "at": None, "wrong": 0}
        for n, kind in enumerate(counts)
    ]
    lane: LaneRow = {"lane": "s", "parent": None, "label": "s", "kind": "run"}
    shown_text = text.lanes({"lanes": [lane], "bars": bars, "now": 5.0})
    assert "| prefill 9 in 1 ms, decode 7 in 1 ms, drafted and accepted 1, forced 12\n" in shown_text.replace("1.00 ms", "1 ms")


def test_a_run_that_generates_nothing_has_no_speed() -> None:
    stage = Stage(40_000)
    stage.emit(CellStarted(stage.run, "choose", ""))
    picture = views(stage, stage.run)["metrics"].full()
    assert picture["generated"] == 0
    assert "–</div>" in still.counts(picture).source
    assert "0.0</div>" not in still.counts(picture).source
    assert "12.0</div>" in still.counts({**picture, "generated": 3, "tok_s": 12.0}).source


@pytest.mark.parametrize("kind", ["wait", "host", "forks"])
def test_the_words_of_a_gap_end_where_it_ends(kind: str) -> None:
    lane: LaneRow = {"lane": "f1", "parent": None, "label": "main", "kind": "fork", "state": ""}
    bar: BarRow = {"id": 0, "lane": "f1", "kind": kind, "t0": 0.0, "t1": 20.0, "n": 4, "name": "", "request": 1, "at": None, "wrong": 0}
    after: BarRow = {**bar, "id": 1, "kind": "decode", "t0": 20.0, "t1": 100.0}
    drawn = still.lanes({"lanes": [lane], "bars": [bar, after], "now": 100.0, "since": 0.0}).source
    (words,) = re.findall(rf'<div style="([^"]*)">{re.escape(escaped(palette.BARS[kind][1]))}</div>', drawn)
    assert f"width:{20 / 1.02:.2f}%" in words
    assert "overflow:hidden" in words
    assert "text-overflow:ellipsis" in words


def test_lanes_are_below_their_parents_in_any_order_of_forks() -> None:
    opened = [("a", None), ("b", "a"), ("c", "a"), ("c1", "c"), ("b1", "b"), ("lost", "gone")]
    rows: list[LaneRow] = [{"lane": lane, "parent": parent, "label": lane, "kind": "fork"} for lane, parent in opened]
    ordered = [("a", 0), ("b", 1), ("b1", 2), ("c", 1), ("c1", 2), ("lost", 0)]
    assert [(row["lane"], depth) for row, depth in lane_order(rows)] == ordered
    lines = text.lanes({"lanes": rows, "bars": [], "now": 1.0}).split("\n")[1:]
    assert [line.split("|")[0].rstrip() for line in lines] == [f"{'  ' * depth}{lane}" for lane, depth in ordered]


def test_pictures_of_nothing_are_pictures() -> None:
    for drawn in (still.tree(TreeView(str).full()), still.lanes(LanesView().full()), still.tokens(TokensView(str).full())):
        assert Reader(drawn.source).stack == []
    bundle = freeze(tokens=TokensView(str), tree=TreeView(str), lanes=LanesView(), metrics=MetricsView())
    assert Reader(bundle["text/html"]).stack == []
    assert freeze()["text/plain"] == ""


def test_a_stopped_cell_says_so_and_keeps_what_it_has() -> None:
    bundle = freeze(**views(story()), title="lisbon", status="stopped")
    page = Reader(bundle["text/html"])
    assert "stopped" in page.text
    assert "Begin at the Gulbenkian" in page.text
    assert "\n\nstopped\n\n" in bundle["text/plain"]
    assert "stopped" not in Reader(freeze(**views(story()))["text/html"]).text


def test_a_long_prompt_is_folded_and_all_there() -> None:
    stage = Stage(n_pages=10**5)
    main = stage.open()
    stage.say(main, "very " * 9_000, "user")
    page = Reader(freeze(**views(stage, 1))["text/html"])
    assert page.text.count("very ") >= 9_000
    assert re.search(r"very very .*… \(9,00\d tokens\)", page.text)
    assert page.tags >= {"details", "summary"}


def test_forks_stand_in_equal_columns_two_or_four_a_row() -> None:
    def rows(n: int) -> list[int]:
        """Cards and empty places in each row."""
        stage = Stage(n_pages=10**5)
        main = stage.open()
        stage.say(main, "words")
        for number in range(n):
            stage.say(stage.open(main, number), f"fork {number}")
        source = still.tokens(views(stage, 1)["tokens"].full()).source
        assert source.count("border-radius:8px") == n
        return [row.count("flex:1 1 0;min-width:0") - row.count("overflow-wrap:anywhere") for row in source.split("padding:6px 0 0")[1:]]

    assert [rows(n) for n in (2, 3, 4, 5, 8)] == [[2], [3], [4], [4, 4], [4, 4]]


def test_a_failed_fork_is_marked_and_the_message_is_on_top() -> None:
    stage = story()
    fork = max(stage.streams)
    stage.emit(ExprFinished(fork, ExprId(1), "error", "no room"))
    page = Reader(freeze(**views(stage), title="t", status="error", message="CacheFull: no room")["text/html"])
    assert page.text.index("CacheFull: no room") < page.text.index("from earlier runs")
    assert page.text.count("✕ failed here") == 1


def test_untrusted_notebooks_keep_every_style() -> None:
    """JupyterLab drops a declaration with a variable, a function other than rgba, or a keyword it does not know."""
    page = Reader(freeze(**views(story()), title="t", status="stopped")["text/html"])
    declarations = {part for name, value in page.attributes if name == "style" for part in value.split(";")}
    assert len(declarations) > 20
    color = r"(#\w+|rgba\(\d+,\d+,\d+,[\d.]+\))"
    value = rf"[\w#.%, -]+|{color}|[\d.]+px (solid|dashed|dotted|double) {color}"
    assert [declaration for declaration in declarations if "text-decoration" in declaration or "transform" in declaration] == []
    assert all(re.fullmatch(rf"[a-z-]+:({value})", declaration) for declaration in declarations)


def test_graphviz_source_quotes_every_label() -> None:
    stage, spell = hostile_stage('"]; evil [label="\\')
    source = dot.source(views(stage, 1, spell)["tree"].full())
    body = re.sub(r'"(\\.|[^"\\])*"', "", source)
    assert "evil" not in body
    assert re.findall(r"[^\w\s\[\]=,;{}>-]", body) == []


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_draws_the_tree() -> None:
    drawn = dot.svg(views(story())["tree"].full())
    assert drawn is not None
    assert "Gulbenkian" in drawn


# ---------------------------------------------------------------- colours


def linear(ink: str) -> tuple[float, ...]:
    parts = (int(ink[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return tuple(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)


def contrast(one: str, other: str) -> float:
    light, dark = sorted(
        (sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(ink), strict=True)) for ink in (one, other)), reverse=True
    )
    return (light + 0.05) / (dark + 0.05)


SEEN = {
    "by most": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    # Machado, Oliveira and Fernandes 2009, severity 1.0
    "with protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "with deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "with tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def oklab(ink: str, seen: Any) -> tuple[float, ...]:
    """Ottosson 2020: distances are roughly perceived differences."""
    r, g, b = (max(0.0, sum(w * c for w, c in zip(row, linear(ink), strict=True))) for row in seen)
    cone = [
        (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3),
        (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3),
        (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3),
    ]
    weights = (
        (0.2104542553, 0.7936177850, -0.0040720468),
        (1.9779984951, -2.4285922050, 0.4505937099),
        (0.0259040371, 0.7827717662, -0.8086757660),
    )
    return tuple(sum(w * c for w, c in zip(row, cone, strict=True)) for row in weights)


def test_colours_are_legible_on_light_and_dark() -> None:
    for ink in palette.INKS.values():
        assert contrast(ink.light, "#ffffff") >= 4.5
        assert contrast(ink.dark, "#111111") >= 4.5
        assert min(contrast(ink.both, "#ffffff"), contrast(ink.both, "#111111")) >= 3


@pytest.mark.parametrize("who", SEEN)
@pytest.mark.parametrize("theme", ["light", "dark", "both"])
def test_token_states_can_be_distinguished(theme: str, who: str) -> None:
    inks = [getattr(palette.INKS[state], theme) for state in palette.TOKENS]
    nearest = min(math.dist(oklab(one, SEEN[who]), oklab(other, SEEN[who])) for one, other in itertools.combinations(inks, 2))
    assert nearest >= 0.06


def test_no_two_states_share_both_line_and_glyph() -> None:
    marks = {(ink.line, ink.glyph) for ink in palette.INKS.values()}
    assert len(marks) == len(palette.INKS)


def test_random_bytes_never_break_the_page() -> None:
    chance = random.Random(3)
    for _ in range(200):
        words = "".join(
            chr(chance.choice([chance.randrange(0x80), chance.randrange(0x3000), chance.randrange(0x110000)])) for _ in range(20)
        )
        source = tag("svg", {"class": words}, words).source
        source.encode()
        assert "".join(ET.fromstring(source).itertext()) == legible(words)


def test_entries_without_a_story_draw_nothing_wrong() -> None:
    view = TokensView(str)
    view.fold(Entry(0, 0, CellStarted(RunId(1), "", "")))
    assert view.delta() is None


def test_healed_tokens_have_a_mark_and_the_legend_names_it_where_there_are_any() -> None:
    stage = Stage()
    fork = stage.open()
    stage.say(fork, "The capital of Fra")
    ids = stage.encode(" France is")
    before = stage.encode(" Fra")
    for healed in ((), before):
        stage.emit(StreamExtended(fork, 3 if healed else 4, ids, "generated", "", *((1, healed) if healed else ())))
        view = TokensView(stage.spell, stage.run)
        for entry in stage.entries:
            view.fold(entry)
        drawn = still.tokens(view.full()).source
        found = ("⌇ healed" in drawn, drawn.count("was re-encoded together"), drawn.count(still.SEAM))
        assert found == ((True, 1, 2) if healed else (False, 0, 0))
