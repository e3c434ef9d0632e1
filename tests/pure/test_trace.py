"""Events, the ring and the record."""

from __future__ import annotations

import dataclasses
import sys
import threading
import typing
from pathlib import Path

import pytest

from sgl_lab.contracts import events
from sgl_lab.contracts.ids import NodeId, RequestId, RunId
from sgl_lab.contracts.tree import TreeNode, TreeSnapshot
from sgl_lab.trace import Follower, Record, Ring, read_jsonl, write_jsonl
from sgl_lab.trace.record import RecordUnreadable


def sample_of(hint: object) -> object:
    """A value of an event field's type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is events.Sample:
        return events.Sample(RequestId(3), 17, -0.25, ((17, -0.25), (4, -1.5)), None, False)
    if hint is events.PromptPiece:
        return events.PromptPiece(2, 5, "user", "text")
    if hint is events.Foreseen:
        return events.Foreseen(RunId(2), 1, 4, 3, events.InBatch(5, 2, (events.Again(64, 3, 9),)))
    if hint is events.GraphNode:
        return events.GraphNode("gen", 0, "a\u202e", "<b>", (), ())
    if origin is tuple:
        kinds = [arguments[0]] * 2 if arguments[-1] is Ellipsis else arguments
        return tuple(sample_of(kind) for kind in kinds)
    if origin in (typing.Union, type(int | None)):
        return sample_of(arguments[0])
    plain = getattr(hint, "__supertype__", hint)
    return sample_of(plain) if plain is not hint else {int: 7, float: 0.5, str: "a\u202e<b>\n", bool: True}[plain]  # type: ignore[index]


@pytest.mark.parametrize("kind", events.KINDS.values(), ids=lambda kind: kind.__name__)
def test_every_event_survives_json_unchanged(kind: type) -> None:
    hints = typing.get_type_hints(kind)
    event = kind(**{field.name: sample_of(hints[field.name]) for field in dataclasses.fields(kind)})
    assert events.from_json(events.to_json(event)) == event


def test_a_non_finite_float_travels_as_null() -> None:
    sample = events.Sample(RequestId(1), 5, float("nan"), (), None, False)
    back = events.from_json(events.to_json(events.TokensSampled(1, (sample,))))
    assert isinstance(back, events.TokensSampled)
    assert back.samples[0].logprob is None


@pytest.mark.parametrize(
    "text", ['{"event":"Nope"}', '{"event":"NodeEvicted","node":1}', '{"event":"NodeEvicted","node":1,"n_tokens":2,"x":3}']
)
def test_a_malformed_event_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown event|malformed"):
        events.from_json(text)


def evicted(n: int) -> events.NodeEvicted:
    return events.NodeEvicted(NodeId(n), n)


def test_a_slow_reader_learns_how_many_events_it_missed() -> None:
    ticks = iter(range(1000))
    ring = Ring(capacity=8, clock=lambda: next(ticks))
    for n in range(5):
        ring.emit(evicted(n))
    first = ring.read(0)
    assert ([entry.seq for entry in first.entries], first.cursor, first.n_missed) == ([0, 1, 2, 3, 4], 5, 0)
    for n in range(5, 25):
        ring.emit(evicted(n))
    second = ring.read(first.cursor)
    assert [entry.seq for entry in second.entries] == list(range(17, 25))
    assert (second.cursor, second.n_missed) == (25, 12)
    assert [entry.event for entry in second.entries] == [evicted(n) for n in range(17, 25)]
    assert ring.read(25) == ((), 25, 0)
    limited = ring.read(17, limit=3)
    assert [entry.seq for entry in limited.entries] == [17, 18, 19]
    assert limited.cursor == 20


def test_a_listener_receives_every_event_until_it_stops() -> None:
    ring, received = Ring(), list[events.Entry]()
    stop = ring.listen(received.append)
    ring.emit(evicted(1))
    stop()
    ring.emit(evicted(2))
    assert [entry.event for entry in received] == [evicted(1)]


def record() -> Record:
    root = TreeNode(NodeId(9), None, (), ("model#1",), 0, 3, 2)
    leaves = (TreeNode(NodeId(n), NodeId(9), tuple(range(n)), ("model#1",), 0, 3, 2) for n in range(3))
    made = Record(
        RunId(4),
        TreeSnapshot((root, *leaves), 100, 99, 10),
        {5: " caf\u00e9", 6: "\U0001f600"},
    )
    for n in range(3):
        made.append(events.Entry(10 + n, 1000 * n, evicted(n)))
    return made


def test_a_record_that_is_older_than_the_birth_of_nodes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    write_jsonl(record(), file)
    header, rest = file.read_text().split("\n", 1)
    file.write_text(header.replace(',"born":0', "") + "\n" + rest)
    assert "born" not in file.read_text()
    assert read_jsonl(file) == record()


def test_a_records_size_is_no_less_than_what_its_tree_spellings_and_events_take() -> None:
    tokens = tuple(range(1000, 3000))
    made = Record(RunId(1))
    made.begin(TreeSnapshot((TreeNode(NodeId(1), None, tokens, (), 0, 0, 0),), 9, 9, 0))
    tree = sys.getsizeof(tokens) + sum(map(sys.getsizeof, tokens))
    assert made.n_bytes >= tree
    made.end(lambda token: f"token {token}")
    spelled = sys.getsizeof(made.vocab) + sum(map(sys.getsizeof, made.vocab.values()))
    assert made.n_bytes >= tree + spelled
    sample = events.Sample(RequestId(1), 7000, -0.5, tuple((token, token / 7) for token in tokens), None, False)
    before = made.n_bytes
    made.append(events.Entry(1, 1, events.TokensSampled(1, (sample,))))
    assert made.n_bytes - before >= sum(sys.getsizeof(pair) + sys.getsizeof(pair[1]) for pair in sample.top)


def test_an_emit_that_is_interrupted_does_not_harm_the_ring() -> None:
    ticks = iter(range(1000))
    for n_before in (2, 4, 5):
        ring = Ring(capacity=4, clock=lambda: next(ticks))
        for n in range(n_before):
            ring.emit(evicted(n))
        ring._slots[n_before % 4 : n_before % 4 + 1] = [events.Entry(n_before, 0, evicted(99))]  # stored, then interrupted
        seen = ring.read(0)
        assert [entry.seq for entry in seen.entries] == list(range(max(0, n_before - 3), n_before))
        assert (seen.cursor, seen.n_missed) == (n_before, max(0, n_before - 3))
        ring.emit(evicted(50))
        assert [entry.event for entry in ring.read(n_before).entries] == [evicted(50)]
        assert [entry.seq for entry in ring.read(0).entries] == list(range(max(0, n_before - 3), n_before + 1))


def test_a_listener_that_raises_is_removed(caplog: pytest.LogCaptureFixture) -> None:
    ring, received = Ring(), list[events.Entry]()

    def bad(entry: events.Entry) -> None:
        raise ZeroDivisionError("mine")

    ring.listen(bad)
    ring.listen(received.append)
    ring.emit(evicted(1))
    ring.emit(evicted(2))
    assert [entry.event for entry in received] == [evicted(1), evicted(2)]
    assert len(caplog.records) == 1


def test_a_record_read_back_equals_what_was_written(tmp_path: Path) -> None:
    write_jsonl(record(), tmp_path / "run.jsonl")
    assert read_jsonl(tmp_path / "run.jsonl") == record()
    assert [path.name for path in tmp_path.iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize(
    ("damage", "line"),
    [(lambda t: "", 1), (lambda t: t[:-10], 4), (lambda t: t.replace("NodeEvicted", "Nope", 1), 2), (lambda t: "[]\n" + t, 1)],
)
def test_a_damaged_record_is_refused_with_its_line(tmp_path: Path, damage: typing.Callable[[str], str], line: int) -> None:
    path = tmp_path / "run.jsonl"
    write_jsonl(record(), path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(RecordUnreadable, match=f"line {line}:"):
        read_jsonl(path)


@pytest.mark.parametrize(
    "event",
    [
        events.PrefixMatched(RequestId(1), 1, 4, NodeId(77)),
        events.PrefixMatched(RequestId(1), 5, 4, NodeId(9)),
        events.PrefixMatched(RequestId(1), -1, 4, NodeId(9)),
        events.Touched((NodeId(77),), 4),
        events.LocksChanged(((NodeId(77), 1),)),
        events.NodeEvicted(NodeId(77), 3),
        events.NodeSplit(NodeId(77), NodeId(78), 1),
        events.NodeInserted(NodeId(78), NodeId(77), (1,), ()),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_record_that_names_a_node_that_is_not_there_is_refused(tmp_path: Path, event: events.Event) -> None:
    made = record()
    made.append(events.Entry(13, 4000, event))
    write_jsonl(made, tmp_path / "run.jsonl")
    with pytest.raises(RecordUnreadable, match="line 5:"):
        read_jsonl(tmp_path / "run.jsonl")


def test_a_record_in_which_a_prefix_is_found_is_read(tmp_path: Path) -> None:
    made = record()
    made.append(events.Entry(13, 4000, events.PrefixMatched(RequestId(1), 0, 4, NodeId(9))))
    write_jsonl(made, tmp_path / "run.jsonl")
    assert read_jsonl(tmp_path / "run.jsonl") == made


def test_a_follower_that_cannot_keep_up_logs_how_much_it_missed(caplog: pytest.LogCaptureFixture) -> None:
    ring, received, let_go = Ring(capacity=8), list[events.Event](), threading.Event()

    def slow(event: events.Event) -> None:
        assert let_go.wait(20)
        received.append(event)

    follower = Follower(ring, slow)
    for n in range(40):
        ring.emit(evicted(n))
    let_go.set()
    follower.close(20)
    assert received[-8:] == [evicted(n) for n in range(32, 40)]
    assert sum(record.args[0] for record in caplog.records if isinstance(record.args, tuple)) == 40 - len(received)  # type: ignore[misc]
    ring.emit(evicted(99))
    assert evicted(99) not in received
