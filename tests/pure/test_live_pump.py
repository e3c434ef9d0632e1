"""The messages of the live view, and their times: rates, sizes, losses, the last flush."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipywidgets.widgets.widget import _instances

from sgl_lab.contracts.events import CellStarted, Entry, NodeEvicted, NodeSplit
from sgl_lab.contracts.ids import NodeId, RunId
from sgl_lab.contracts.tree import TreeNode, TreeSnapshot
from sgl_lab.trace import Ring
from sgl_lab.viz.live import KEPT, LiveHandle, Pump, open_live
from sgl_lab.viz.sender import (
    ENVELOPE,
    MAX_BYTES,
    REST_EVERY_NS,
    SNAPSHOT_EVERY_NS,
    TEXTS,
    TOKENS_EVERY_NS,
    Message,
    Packet,
    Sender,
    Views,
    split,
)
from sgl_lab.viz.views import LanesView, MetricsView, TokensView, TreeView
from sgl_lab.viz.views.tokens import WrittenTokens
from tests.pure.story import Stage, decoded, poll, story

MS = 1_000_000


def views_of(stage: Stage) -> Views:
    return Views(TokensView(stage.spell, stage.run), TreeView(stage.spell, stage.run), LanesView(stage.run), MetricsView(stage.run))


class PageState:
    """A page's state after some messages: a second implementation of the protocol, in Python."""

    def __init__(self) -> None:
        self.seq = 0
        self.forks: dict[int, dict[str, Any]] = {}
        self.tokens: dict[int, list[Any]] = {}
        self.nodes: dict[int, Any] = {}
        self.texts: dict[int, Any] = {}
        self.ends: dict[int, int] = {}
        self.lanes: dict[str, Any] = {}
        self.bars: dict[int, Any] = {}
        self.latest: dict[str, Any] = {}

    def take(self, message: Message) -> None:
        assert message["seq"] == self.seq
        self.seq += 1
        if message["kind"] == "full":
            seq = self.seq
            self.__init__()  # type: ignore[misc]
            self.seq = seq
        tokens, tree, lanes = (message.get(name, {}) for name in ("tokens", "tree", "lanes"))
        for fork in tokens.get("forks", []):
            self.forks[fork["fork"]] = fork
            self.tokens.setdefault(fork["fork"], [])
        for op in tokens.get("ops", []):
            start = op["start"] - self.forks[op["fork"]]["base"]
            assert 0 <= start <= len(self.tokens[op["fork"]])
            self.tokens[op["fork"]][start:] = op["toks"]
        for node in tree.get("nodes", []):
            self.nodes[node["id"]] = self.nodes.get(node["id"], {}) | node  # a recording tells what changed
        for node in tree.get("gone", []):
            self.nodes.pop(node, None)
            self.texts.pop(node, None)
        self.texts |= {text["id"]: text for text in tree.get("texts", [])}
        self.ends |= dict(tree.get("ends", []))
        self.lanes |= {lane["lane"]: lane for lane in lanes.get("lanes", [])}
        self.bars |= {bar["id"]: self.bars.get(bar["id"], {}) | bar for bar in lanes.get("bars", [])}
        for name, part in (
            ("tails", tree.get("tails")),
            ("others", tree.get("others")),
            ("metrics", message.get("metrics")),
            ("status", message.get("status")),
        ):
            if part is not None:
                self.latest[name] = part

    def known(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "seq"}


def play(stage: Stage, sender: Sender) -> list[tuple[int, Message]]:
    """Every entry as it comes, and a poll after each."""
    sent = []
    for entry in stage.entries:
        sender.fold([entry])
        sent += [(entry.t_ns, message) for message in poll(sender, entry.t_ns)]
    return sent + [(stage.entries[-1].t_ns, message) for message in poll(sender, stage.entries[-1].t_ns, flush=True)]


def test_deltas_and_one_full_tell_the_same() -> None:
    stage = story()
    by_deltas, by_full = PageState(), PageState()
    sender = Sender(views_of(stage))
    sender.status("running", "", None)
    for _, message in play(stage, sender):
        by_deltas.take(message)
    late = Sender(views_of(stage))
    late.status("running", "", None)
    late.fold(stage.entries)
    late.hello()
    for message in poll(late, 0, flush=True):
        by_full.take(message)
    assert by_deltas.nodes
    assert by_deltas.bars
    assert any(by_deltas.tokens.values())
    assert by_deltas.known() == by_full.known()


def test_a_page_that_says_hello_in_mid_run_ends_up_with_the_same() -> None:
    stage = story()
    patient, late = PageState(), PageState()
    sender = Sender(views_of(stage))
    for number, entry in enumerate(stage.entries):
        sender.fold([entry])
        if number == len(stage.entries) // 2:
            sender.hello()
            messages = poll(sender, entry.t_ns, flush=True)
            assert messages[0]["kind"] == "full"
            late.seq = messages[0]["seq"]
        else:
            messages = poll(sender, entry.t_ns)
        for message in messages:
            patient.take(message)
            if number >= len(stage.entries) // 2:
                late.take(message)
    for message in poll(sender, 0, flush=True):
        patient.take(message)
        late.take(message)
    assert patient.known() == late.known()


def test_tokens_go_at_most_thirty_times_a_second_and_the_rest_ten_times() -> None:
    sent = play(story(), Sender(views_of(story())))[:-1]
    token_times = [t for t, message in sent if "tokens" in message]
    rest_times = [t for t, message in sent if set(message) & {"tree", "lanes", "metrics"}]
    assert len(token_times) > len(rest_times) > 3
    assert min(b - a for a, b in pairwise(token_times)) >= TOKENS_EVERY_NS
    assert min(b - a for a, b in pairwise(rest_times)) >= REST_EVERY_NS


def test_what_does_not_fit_into_one_message_uses_up_the_turns_after_it() -> None:
    class Loud:
        """A view that always has more to tell than fits into two messages."""

        def __init__(self, **lists: list[Any]) -> None:
            self._lists = lists

        def fold(self, entry: Entry) -> None:
            pass

        def load(self, snapshot: TreeSnapshot) -> None:
            pass

        def delta(self, n_texts: int | None = None) -> Mapping[str, Any]:
            return self._lists

        full = outline = delta
        is_behind = False

        def written(self, *, whole: bool) -> Mapping[str, Any]:
            return self._lists

        def least_bytes(self) -> int:
            return 0

    words = "x" * 1000
    tree = Loud(nodes=[{"id": n, "label": words} for n in range(150)])
    sender = Sender(Views(Loud(ops=[{"fork": 1, "start": 0, "toks": [json.dumps([words])] * 150}]), tree, Loud(), Loud()))
    sent: dict[str, int] = {"tokens": 0, "tree": 0}
    for ms in range(0, 2000, 5):
        sender.fold([])
        for message in poll(sender, ms * MS):
            assert len(json.dumps(message)) <= MAX_BYTES
            for channel in sent:
                sent[channel] += channel in message
    assert 40 < sent["tokens"] <= 2 * 30 + 3
    assert 10 < sent["tree"] <= 2 * 10 + 3


def test_nothing_is_sent_and_no_thread_wakes_without_changes() -> None:
    stage = story()
    sender = Sender(views_of(stage))
    play(stage, sender)
    now = stage.entries[-1].t_ns + SNAPSHOT_EVERY_NS
    assert sender.snapshot(now) is not None
    assert sender.pause_ns(now) is None
    assert poll(sender, now + SNAPSHOT_EVERY_NS) == []
    assert sender.snapshot(now + SNAPSHOT_EVERY_NS) is None


def test_the_snapshot_comes_once_a_second_and_holds_what_was_sent() -> None:
    stage = story()
    sender = Sender(views_of(stage))
    sender.fold(stage.entries[:-1])
    n_messages = len(poll(sender, 0, flush=True))
    first = json.loads(sender.snapshot(0) or "")
    assert first["seq"] == n_messages
    assert not first["partial"]
    sender.fold(stage.entries[-1:])
    assert sender.snapshot(SNAPSHOT_EVERY_NS - 1) is None
    assert sender.pause_ns(500 * MS) == 0
    assert sender.snapshot(SNAPSHOT_EVERY_NS) is not None


@given(
    lengths=st.lists(st.integers(0, 400), max_size=6),
    n_nodes=st.integers(0, 200),
    text=st.text(max_size=12),
    limit=st.integers(4_000, 9_000),
)
def test_what_is_split_fits_and_says_the_same(lengths: list[int], n_nodes: int, text: str, limit: int) -> None:
    forks = [{"fork": n, "parent": None, "index": 0, "label": text, "run": 1, "base": 10 * n} for n in range(len(lengths))]
    ops = [{"fork": n, "start": 10 * n, "toks": [json.dumps([text, "text", None, "", None])] * length} for n, length in enumerate(lengths)]
    nodes = [{"id": n, "parent": None, "label": text, "n": n} for n in range(n_nodes)]
    tree = {"nodes": nodes, "gone": [7, 8], "clock": 3, "tails": [{"request": 1}]}
    parts = {"tokens": {"forks": forks, "ops": ops}, "tree": tree, "metrics": {"running": 1, "forks": 2}}
    whole, pieces = PageState(), PageState()
    (body,) = (body for _, body in split(parts, 1 << 40))
    whole.take({"seq": 0, "kind": "delta"} | json.loads(body))
    for seq, (channels, body) in enumerate(split(parts, limit)):
        assert len(body) <= limit - ENVELOPE
        assert json.loads(body).keys() == set(channels)
        pieces.take({"seq": seq, "kind": "delta"} | json.loads(body))
    assert [whole.tokens[n] for n in range(len(lengths))] == [[[text, "text", None, "", None]] * length for length in lengths]
    assert pieces.known() == whole.known()


def test_a_long_prompt_goes_in_messages_of_at_most_64_kib() -> None:
    stage = Stage(40_000)
    stage.emit(CellStarted(stage.run, "long", ""))
    stage.say(stage.open(), "a sentence that is said again and again. " * 900)
    messages = [message for _, message in play(stage, Sender(views_of(stage)))]
    sizes = [len(json.dumps(message, separators=(",", ":")).encode()) for message in messages]
    assert max(sizes) <= MAX_BYTES
    assert sum(sizes) > 3 * MAX_BYTES
    page = PageState()
    for message in messages:
        page.take(message)
    assert [len(tokens) for tokens in page.tokens.values()] == [8101]


def test_a_late_page_receives_a_long_run_in_messages_of_at_most_64_kib() -> None:
    stage = story()
    stage.say(stage.open(), "a sentence that is said again and again. " * 900)
    patient, late = PageState(), PageState()
    sender = Sender(views_of(stage))
    sender.status("running", "", None)
    for _, message in play(stage, sender):
        patient.take(message)
    snapshot = json.loads(sender.snapshot(0) or "")
    assert snapshot["partial"]
    sender.hello()
    late.seq = snapshot["seq"]
    messages = poll(sender, 0, flush=True)
    for message in messages:
        assert len(json.dumps(message, separators=(",", ":")).encode()) <= MAX_BYTES
        late.take(message)
    assert [message["kind"] for message in messages] == ["full", *["delta"] * (len(messages) - 1)]
    assert len(messages) > 3
    assert late.known() == patient.known()


def test_a_late_page_receives_five_thousand_nodes_at_once_and_their_texts_gradually() -> None:
    words = [f"«{n}» a longer sentence with some more words " for n in range(500)]
    nodes = [TreeNode(NodeId(n), NodeId(n // 3) if n else None, (*range(n % 400, n % 400 + 24),), ("m",), 0, 0, 0) for n in range(5_000)]
    sender = Sender(Views(TokensView(words.__getitem__), TreeView(words.__getitem__), LanesView(), MetricsView()))
    page = PageState()
    sender.load(TreeSnapshot(tuple(nodes), 200_000, 80_000, 0))
    sizes, now, turn = [], 0, 0
    while (pause := sender.pause_ns(now)) is not None:
        sender.snapshot(now := now + pause)
        messages = poll(sender, now)
        for message in messages:
            sizes.append(len(json.dumps(message, separators=(",", ":")).encode()))
            page.take(message)
        assert len(page.nodes) == 5_000
        assert len(page.texts) <= TEXTS * turn
        assert len(messages) <= 2 or turn == 0
        if turn == 3:
            sender.fold([Entry(0, 0, NodeSplit(NodeId(4_999), NodeId(5_001), 8)), Entry(1, 0, NodeEvicted(NodeId(4_998), 24))])
        turn += 1
    assert max(sizes) <= MAX_BYTES
    assert now >= (turn - 2) * REST_EVERY_NS
    assert page.texts.keys() == page.nodes.keys()
    assert [len(page.texts[node]["ids"]) for node in (4_999, 5_001)] == [16, 8]


class Counted(TokensView):
    """How often the complete state was requested."""

    n_full = 0

    def written(self, *, whole: bool) -> WrittenTokens | None:
        self.n_full += whole
        return super().written(whole=whole)


def test_tokens_that_are_too_many_for_a_snapshot_are_never_laid_out_for_one() -> None:
    stage = story()
    stage.say(stage.open(), "a sentence that is said again and again. " * 900)
    views = views_of(stage)
    views.tokens = tokens = Counted(stage.spell, stage.run)
    sender = Sender(views)
    sender.fold(stage.entries)
    found = []
    for second in range(3):
        sender.status("running", "", second / 3)
        found.append(json.loads(sender.snapshot(second * SNAPSHOT_EVERY_NS) or ""))
    assert [("tokens" in state, "lanes" in state, state["partial"]) for state in found] == [(False, True, True)] * 3
    assert tokens.n_full == 0


# ---------------------------------------------------------------- the thread


class Sent:
    """Receives a pump's messages; `waiting(n)` returns once there are n of them."""

    def __init__(self) -> None:
        self.page = PageState()
        self.messages: list[Message] = []
        self.snapshots: list[str] = []
        self._arrived = threading.Condition()

    def send(self, packet: Packet) -> None:
        message = decoded(packet)
        with self._arrived:
            self.page.take(message)
            self.messages.append(message)
            self._arrived.notify_all()

    def store(self, snapshot: str) -> None:
        self.snapshots.append(snapshot)

    def waiting(self, n_messages: int) -> bool:
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.messages) >= n_messages, timeout=20)


def pump_of(ring: Ring, stage: Stage, sent: Sent, snapshot: TreeSnapshot | None = None) -> Pump:
    return Pump(ring, views_of(stage), snapshot=lambda: snapshot, send=sent.send, store=sent.store)


def ended_pump(stage: Stage, sent: Sent) -> Pump:
    """A pump that was closed after it had received the whole story."""
    ring = Ring()
    pump = pump_of(ring, stage, sent)
    pump.start()
    for entry in stage.entries:
        ring.emit(entry.event)
    pump.status("done", "", None)
    pump.close()
    return pump


def test_what_was_said_before_close_is_sent_by_close() -> None:
    stage, sent = story(), Sent()
    pump = ended_pump(stage, sent)
    assert pump.error is None
    assert {leaf.node for leaf in stage.tree.values()} == set(sent.page.nodes)
    assert sent.page.latest["status"]["phase"] == "done"


def test_a_sleeping_pump_wakes_for_an_event_and_for_a_hello() -> None:
    stage, ring, sent = story(), Ring(), Sent()
    pump = pump_of(ring, stage, sent)
    pump.start()
    for entry in stage.entries[:40]:
        ring.emit(entry.event)
    assert sent.waiting(1)
    pump.status("running", "", None)
    assert sent.waiting(2)
    n_messages = len(sent.messages)
    pump.hello()
    assert sent.waiting(n_messages + 1)
    pump.close()
    assert "full" in [message["kind"] for message in sent.messages]


def test_after_a_loss_the_page_shows_the_tree_of_the_snapshot_and_what_came_since() -> None:
    stage, sent = story(), Sent()
    half = len(stage.entries) - 30
    ring = Ring(capacity=60)
    pump = pump_of(ring, stage, sent, stage.snapshot())
    for entry in stage.entries:  # no reader: the first events are lost
        ring.emit(entry.event)
    assert half > 60
    pump.start()
    pump.close()
    assert pump.error is None
    assert {leaf.node for leaf in stage.tree.values()} == set(sent.page.nodes)


def test_a_picture_that_fails_ends_quietly_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        def fold(self, entry: Entry) -> None:
            raise ValueError("a broken view")

        def delta(self) -> Mapping[str, Any] | None:
            return None

        def full(self) -> Mapping[str, Any]:
            return {}

        def written(self, *, whole: bool) -> Mapping[str, Any] | None:
            return None

        def least_bytes(self) -> int:
            return 0

    stage, ring, sent = story(), Ring(), Sent()
    views = views_of(stage)
    views.tokens = Broken()
    pump = Pump(ring, views, snapshot=lambda: None, send=sent.send, store=sent.store)
    pump.start()
    ring.emit(CellStarted(RunId(1), "", ""))
    pump.close()
    assert "a broken view" in str(pump.error)
    assert capsys.readouterr() == ("", "")


def test_a_page_that_opens_after_the_end_receives_everything() -> None:
    stage, sent = story(), Sent()
    pump = ended_pump(stage, sent)
    known, n_messages = sent.page.known(), len(sent.messages)
    pump.hello()
    assert sent.messages[n_messages]["kind"] == "full"
    pump.hello()
    assert sent.page.known() == known
    assert sent.page.latest["status"]["phase"] == "done"


def test_stop_reaches_the_run_that_lasts_and_never_the_next_one() -> None:
    stage, stops = story(), []
    live = open_live(Ring(), views_of(stage), snapshot=lambda: None, options={}, on_stop=lambda: stops.append("stop"))
    live.widget._handle_custom_msg({"kind": "stop"}, [])
    assert stops == ["stop"]
    live.close()
    live.widget._handle_custom_msg({"kind": "stop"}, [])
    assert stops == ["stop"]


def test_an_ended_view_holds_nothing_of_its_lab() -> None:
    class Lab:
        def snapshot(self) -> None:
            return None

        def spell(self, token: int) -> str:
            return str(token)

        def stop(self) -> None:
            pass

    lab, ring, run = Lab(), Ring(), RunId(1)
    views = Views(TokensView(lab.spell, run), TreeView(lab.spell), LanesView(run), MetricsView(run))
    live = open_live(ring, views, snapshot=lab.snapshot, options={}, on_stop=lab.stop)
    live.close()
    held: list[weakref.ref[Any]] = [weakref.ref(lab), weakref.ref(ring), weakref.ref(views)]
    del lab, ring, views
    gc.collect()
    assert live in LiveHandle._ended
    assert [ref() for ref in held] == [None] * 3


def test_old_views_leave_no_widget_behind() -> None:
    def run_one() -> None:
        open_live(Ring(), views_of(stage), snapshot=lambda: None, options={}, on_stop=lambda: None).close()

    stage = story()
    for _ in range(KEPT):
        run_one()
    n_widgets = len(_instances)
    for _ in range(KEPT):
        run_one()
    assert len(_instances) == n_widgets > 0
