"""The recording in a saved cell: its moments, in order, complete at the end, and small."""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.contracts.events import CellStarted, Entry, RequestFinished
from sgl_lab.contracts.ids import NodeId, RunId
from sgl_lab.contracts.tree import TreeNode, TreeSnapshot
from sgl_lab.magics.folded import Folded
from sgl_lab.trace import Record, read_jsonl, write_jsonl
from sgl_lab.viz.freeze import LIMIT, TOO_LONG
from sgl_lab.viz.replay import IN_PAGE, Abridged, Replay, frames, thinned
from sgl_lab.viz.views import TokensView
from tests.pure.story import Stage, record_of, story
from tests.pure.test_live_pump import PageState
from tests.pure.test_live_pump import views_of as live_views


def moments_of(stage: Stage, level: int = 0, n_moments: int | None = None) -> list[tuple[float, dict[str, Any]]]:
    found = frames(record_of(stage), stage.spell)
    found = found if n_moments is None else thinned(found, n_moments)
    return [(ms, json.loads(json.dumps(message))) for ms, message in Abridged(level).frames(found)]


def page_after(messages: list[dict[str, Any]]) -> dict[str, Any]:
    page = PageState()
    for seq, message in enumerate(messages):
        page.take({"seq": seq, "kind": "delta"} | message)
    return page.known()


def live_full(stage: Stage) -> dict[str, Any]:
    views = live_views(stage)
    views.fold(stage.entries)
    return {name: view.full() for name, view in views.named().items()}


def plain(known: dict[str, Any]) -> dict[str, Any]:
    """Without data that a recording rounds or leaves out."""
    tokens = {fork: [tok[:2] + tok[5:6] for tok in toks] for fork, toks in known["tokens"].items()}
    return {name: known[name] for name in ("forks", "nodes", "texts", "lanes", "bars")} | {
        "tokens": tokens,
        "tails": known["latest"]["tails"],
    }


def recording(html: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(re.findall(r'await unpack\("([\w+/=]+)"\)', html)[0])))
    return found


@pytest.mark.parametrize("n_moments", [None, 40, 12, 2])
@pytest.mark.parametrize("level", [0, 2])
def test_the_last_moment_is_the_whole_run_however_few_moments_there_are(n_moments: int | None, level: int) -> None:
    stage = story()
    whole = live_full(stage)
    kept = moments_of(stage, level, n_moments)
    assert n_moments is None or len(kept) <= n_moments
    assert plain(page_after([message for _, message in kept])) == plain(page_after([json.loads(json.dumps(whole))]))


def test_thinned_moments_are_spread_evenly_and_each_is_one_that_was() -> None:
    stage = story()
    every, few = moments_of(stage), moments_of(stage, 0, 12)
    places = [[ms for ms, _ in every].index(ms) for ms, _ in few]
    assert (few[0][0], few[-1][0]) == (every[0][0], every[-1][0])
    gaps = [after - before for before, after in pairwise(places[1:])]
    assert max(gaps) - min(gaps) <= 2
    for place, number in zip(places[2:], range(3, len(few) + 1), strict=False):
        now = [message for _, message in every[: place + 1]]
        assert plain(page_after([message for _, message in few[:number]]))["tokens"] == plain(page_after(now))["tokens"]


def test_without_other_nodes_the_run_has_its_own_and_the_count_of_the_others() -> None:
    stage = story()
    page = page_after([message for _, message in moments_of(stage, 3)])
    whole = page_after([message for _, message in moments_of(stage)])
    rows = {node: row for node, row in whole["nodes"].items() if row["parent"] is not None}
    mine = {node for node, row in rows.items() if row["mine"]}
    assert {node for node, row in page["nodes"].items() if row["parent"] is not None} == mine
    assert page["latest"]["others"] == [len(rows) - len(mine), sum(row["n"] for node, row in rows.items() if node not in mine)]
    assert set(page["texts"]) >= mine


def test_a_recording_around_programs_shows_them_all() -> None:
    stage = story()
    around = replace(record_of(stage), run=RunId(99))
    assert (record_of(stage).scope, around.scope) == (stage.run, None)
    whole = Folded(around, stage.spell)
    of_all = TokensView(stage.spell)
    for entry in around.entries:
        of_all.fold(entry)
    assert whole.tokens.full() == of_all.full()
    assert whole.metrics.full()["generated"] == sum(e.event.n_completion for e in stage.entries if isinstance(e.event, RequestFinished))
    assert whole.lanes.full()["bars"]
    assert page_after([message for _, message in frames(around, stage.spell)])["bars"]


def test_moments_are_in_order_and_begin_with_the_run() -> None:
    times = [ms for ms, _ in moments_of(story())]
    assert times == sorted(times)
    assert times[0] == 0.0
    assert len(set(times)) > 10


def test_a_long_run_has_as_many_moments_as_a_short_one() -> None:
    stage = Stage(40_000)
    fork = stage.open()
    stage.say(fork, "Once upon a time")
    stage.gen((fork, "tale", "and on it went " * 1500))
    moments = moments_of(stage)
    assert moments[-1][0] > 30_000
    assert 100 < len(moments) < 700


def test_a_standalone_page_has_more_moments_of_a_short_run_than_a_cell() -> None:
    stage = story()
    assert len(frames(record_of(stage), stage.spell, detail=IN_PAGE)) > 1.5 * len(moments_of(stage))


def long_story(n_words: int) -> Stage:
    """Words that nothing can pack well, and answers with alternatives."""
    stage = Stage(60_000)
    fork = stage.open()
    for turn in range(4):
        stage.say(fork, " ".join(f"w{turn}x{n * 7919 % 10_007}" for n in range(n_words)))
        stage.gen((fork, "answer", " ".join(f"a{turn}y{n * 7907 % 10_009}" for n in range(n_words // 4))), alternatives=5)
    return stage


def saved(stage: Stage) -> tuple[dict[str, Any], list[Any]]:
    """(the player's metadata, the frames) of a cell within its size limit."""
    bundle = Folded(record_of(stage), stage.spell).bundle(("tokens", "tree", "timeline"), "long")
    assert sum(len(part.encode()) for part in bundle.values()) <= LIMIT
    return json.loads(re.findall(r"replay\(home, css, (\{.*?\})", bundle["text/html"])[0]), recording(bundle["text/html"])["frames"]


def n_alternatives(frames: list[Any]) -> int:
    return sum(tok[4] is not None for _, message in frames for op in message.get("tokens", {}).get("ops", []) for tok in op["toks"])


def n_tokens(frames: list[Any]) -> int:
    """At the end."""
    return sum(len(toks) for toks in page_after([message for _, message in frames])["tokens"].values())


def test_a_short_run_is_saved_with_every_moment_and_every_detail() -> None:
    meta, kept = saved(long_story(40))
    assert (meta["dropped"], meta["n_moments"], kept[0][0]) == ("", len(kept), 0)
    assert n_alternatives(kept) == 40


def test_eight_forks_of_a_hundred_and_sixty_tokens_are_saved_as_they_ran() -> None:
    stage = Stage(20_000)
    main = stage.open()
    stage.say(main, "Eight ways to go on")
    forks = [stage.open(main, n) for n in range(8)]
    stage.gen(*[(fork, "tip", " ".join(f"t{fork}w{n * 7907 % 997}" for n in range(160))) for fork in forks], alternatives=5)
    meta, kept = saved(stage)
    assert meta["n_moments"] == len(kept)
    halves = [n_tokens(kept[: len(kept) * n // 4]) for n in (1, 2, 3, 4)]
    assert halves == sorted(set(halves))
    assert halves[-1] == sum(len(op["toks"]) for op in live_full(stage)["tokens"]["ops"]) > 1_200


def test_a_longer_run_loses_details_before_it_loses_moments() -> None:
    meta, kept = saved(long_story(850))
    assert meta["dropped"].startswith("alternatives")
    assert meta["n_moments"] == len(kept) > 100
    assert n_alternatives(kept) == 0
    assert n_tokens(kept) == 4 * (850 + 212)


def test_of_a_run_too_long_even_for_that_moments_are_left_out_and_no_text() -> None:
    meta, kept = saved(long_story(1_200))
    assert 12 <= len(kept) < meta["n_moments"]
    assert n_tokens(kept) == 4 * (1_200 + 300)


def test_what_fits_nowhere_is_left_out_whole() -> None:
    stage = story()
    assert Replay(record_of(stage), stage.spell, {}).script(10_000) is None


def test_a_run_that_no_saved_cell_can_replay_says_what_can() -> None:
    stage = story()
    nodes = [
        TreeNode(NodeId(n), NodeId(0) if n else None, (*range(8 * n, 8 * n + 8),), ("m",), 0, n * 7919 % 10_007, 0) for n in range(4_000)
    ]
    record = Record(stage.run, TreeSnapshot(tuple(nodes), 50_000, 18_000, 0), entries=[Entry(0, 0, CellStarted(stage.run, "t", ""))])
    folded = Folded(record, lambda token: f"{token * 7907 % 1_000_003:x} ")
    html = folded.bundle(("tokens", "tree", "timeline"), "large")["text/html"]
    assert "<script" not in html
    assert html.count(TOO_LONG) == 1
    assert len(html.encode()) <= LIMIT
    assert "%sgl export" in TOO_LONG
    assert TOO_LONG not in Folded(Record(stage.run)).bundle(("tokens",), "empty")["text/html"]
    assert TOO_LONG not in Folded(record_of(stage), stage.spell).bundle(("tokens",), "short")["text/html"]
    about, recording = re.findall(r'data-sgl-recording="([^"]*)">([^<]*)<', folded.page("large", "ok", "").source)[0]
    assert json.loads(unescape(about))["dropped"] == ""
    kept = json.loads(gzip.decompress(base64.b64decode(recording)))
    assert sum(len(message["tree"]["nodes"]) for _, message in kept["frames"] if "tree" in message) == 4_000


def test_hostile_words_reach_the_page_packed() -> None:
    stage = Stage(4_000)
    fork = stage.open(label="</script><b>")
    stage.extend(fork, stage.encode("x"), "text", "</script><img src=x onerror=alert(1)>")
    script = Replay(record_of(stage), lambda token: "</script><i>", {"title": "</script>"}).script(LIMIT)
    assert script is not None
    assert re.findall("<[^a-zA-Z/]|</?[a-zA-Z]+", script.markup.source) == ["<script", "</script"]


def many(n: int) -> Stage:
    """One parent and `n` forks that are asked together."""
    stage = Stage(100_000)
    parent = stage.open()
    stage.say(parent, "One of many questions that are asked here : ")
    forks = [stage.open(parent, number, f"s[{number}]") for number in range(n)]
    for number, fork in enumerate(forks):
        stage.say(fork, f"Question {number} : what is it ? ")
    stage.gen(*[(fork, "a", f"it is {number} , I think") for number, fork in enumerate(forks)])
    return stage


def n_calls(work: Callable[[], object]) -> int:
    """Functions that are called, those of C included."""
    n = 0

    def count(frame: object, event: str, arg: object) -> None:
        nonlocal n
        n += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return n


def seen_again(path: Path) -> None:
    record = read_jsonl(path)
    Folded(record)
    thinned(frames(record, record.spell), 12)


def test_a_run_of_many_gens_is_read_and_shown_in_linear_work(tmp_path: Path) -> None:
    calls = []
    for n in (30, 120):
        stage, path = many(n), tmp_path / f"{n}.jsonl"
        record = record_of(stage)
        record.end(stage.spell)
        write_jsonl(record, path)
        calls.append(n_calls(partial(seen_again, path)))
    assert calls[1] < 4.4 * calls[0], calls


def test_the_whole_text_of_many_forks_is_in_the_picture() -> None:
    bundle = Folded(record_of(stage := many(120)), stage.spell).bundle(("tokens", "tree", "timeline"), "many")
    assert sum(len(part.encode()) for part in bundle.values()) <= LIMIT
    plain = re.sub(r"<[^>]*>", "", bundle["text/html"])
    assert [number for number in range(120) if f"Question {number} : what is it ?  assistant it is {number} , I think" not in plain] == []
