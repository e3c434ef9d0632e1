"""What a saved cell keeps of a run: its moments, in order, whole at the end, and small."""

from __future__ import annotations

import base64
import gzip
import json
import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from sgl_lab.contracts.events import CellStarted, Entry, RequestFinished
from sgl_lab.contracts.ids import NodeId, RunId
from sgl_lab.contracts.tree import TreeNode, TreeSnapshot
from sgl_lab.magics.show import Folded
from sgl_lab.trace import Record
from sgl_lab.viz.freeze import LIMIT, TOO_LONG
from sgl_lab.viz.replay import IN_PAGE, Replay, frames
from sgl_lab.viz.views import TokensView
from tests.pure.story import Stage, record_of, story
from tests.pure.test_live_pump import PageState, views_of


def told(stage: Stage, since: float = 0.0) -> list[tuple[float, dict[str, Any]]]:
    return [(ms, json.loads(json.dumps(message))) for ms, message in frames(record_of(stage), stage.spell, since)]


def page_after(messages: list[dict[str, Any]]) -> dict[str, Any]:
    page = PageState()
    for seq, message in enumerate(messages):
        page.take({"seq": seq, "kind": "delta"} | message)
    return page.known()


def plain(known: dict[str, Any]) -> dict[str, Any]:
    """Without what a recording rounds or leaves out."""
    tokens = {fork: [tok[:2] + tok[5:6] for tok in toks] for fork, toks in known["tokens"].items()}
    return {name: known[name] for name in ("forks", "nodes", "texts", "lanes", "bars")} | {
        "tokens": tokens,
        "tails": known["latest"]["tails"],
    }


def recording(html: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(re.findall(r'await unpack\("([\w+/=]+)"\)', html)[0])))
    return found


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_the_last_moment_is_the_whole_run_wherever_the_recording_begins(share: float) -> None:
    stage = story()
    length = told(stage)[-1][0]
    views = views_of(stage)
    views.fold(stage.entries)
    whole = {name: view.full() for name, view in views.named().items()}
    assert plain(page_after([message for _, message in told(stage, share * length)])) == plain(page_after([json.loads(json.dumps(whole))]))


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
    times = [ms for ms, _ in told(story())]
    assert times == sorted(times)
    assert times[0] == 0.0
    assert len(set(times)) > 10


def test_a_long_run_is_told_in_as_many_moments_as_a_short_one() -> None:
    stage = Stage(40_000)
    fork = stage.open()
    stage.say(fork, "Once upon a time")
    stage.gen((fork, "tale", "and on it went " * 1500))
    moments = told(stage)
    assert moments[-1][0] > 30_000
    assert 100 < len(moments) < 700


def test_a_page_of_its_own_tells_a_short_run_in_more_moments_than_a_cell() -> None:
    stage = story()
    assert len(frames(record_of(stage), stage.spell, detail=IN_PAGE)) > 1.5 * len(told(stage))


def long_story(n_words: int) -> Stage:
    """Words that nothing can pack well, and answers with alternatives."""
    stage = Stage(60_000)
    fork = stage.open()
    for turn in range(4):
        stage.say(fork, " ".join(f"w{turn}x{n * 7919 % 10_007}" for n in range(n_words)))
        stage.gen((fork, "answer", " ".join(f"a{turn}y{n * 7907 % 10_009}" for n in range(n_words // 4))), alternatives=5)
    return stage


def saved(stage: Stage) -> tuple[dict[str, float], list[Any]]:
    """(what the player is told without unpacking, the frames) of a cell that is no larger than it may be."""
    bundle = Folded(record_of(stage), stage.spell).bundle(("tokens", "tree", "timeline"), "long")
    assert sum(len(part.encode()) for part in bundle.values()) <= LIMIT
    return json.loads(re.findall(r"replay\(home, css, (\{.*?\})", bundle["text/html"])[0]), recording(bundle["text/html"])["frames"]


def n_alternatives(frames: list[Any]) -> int:
    return sum(tok[4] is not None for _, message in frames for op in message.get("tokens", {}).get("ops", []) for tok in op["toks"])


def test_a_short_run_is_saved_from_its_beginning() -> None:
    meta, kept = saved(long_story(40))
    assert (meta["since"], meta["newest"], kept[0][0]) == (0, 0, 0)
    assert n_alternatives(kept) == 40


def test_of_a_long_run_the_beginning_is_told_in_one_piece_and_the_end_in_full() -> None:
    stage = long_story(1_000)
    meta, kept = saved(stage)
    assert 0 < meta["since"] == kept[0][0] < meta["ms"]
    assert n_alternatives(kept[:1]) == 0 < n_alternatives(kept[1:]) < 1_000
    assert sum(len(op["toks"]) for op in kept[0][1]["tokens"]["ops"]) > 3_000


def test_of_a_run_too_long_even_for_that_the_newest_tokens_are_kept() -> None:
    meta, kept = saved(long_story(6_000))
    assert meta["newest"] > 0
    (op,) = [op for _, message in kept for op in message.get("tokens", {}).get("ops", [])]
    assert len(op["toks"]) == meta["newest"]
    assert op["start"] + len(op["toks"]) == 4 * (6_000 + 1_500)


def test_what_fits_nowhere_is_left_out_whole() -> None:
    stage = story()
    assert Replay(record_of(stage), stage.spell, {}).script(10_000) is None


def test_a_run_that_no_saved_cell_can_play_says_what_does() -> None:
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
    assert json.loads(unescape(about))["since"] == 0
    kept = json.loads(gzip.decompress(base64.b64decode(recording)))
    assert sum(len(message["tree"]["nodes"]) for _, message in kept["frames"] if "tree" in message) == 4_000


def test_hostile_words_reach_the_page_packed() -> None:
    stage = Stage(4_000)
    fork = stage.open(label="</script><b>")
    stage.extend(fork, stage.encode("x"), "text", "</script><img src=x onerror=alert(1)>")
    script = Replay(record_of(stage), lambda token: "</script><i>", {"title": "</script>"}).script(LIMIT)
    assert script is not None
    assert re.findall("<[^a-zA-Z/]|</?[a-zA-Z]+", script.source) == ["<script", "</script"]
