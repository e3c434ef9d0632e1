"""Files: written completely or not at all, never over foreign files, and validated when they are
read.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import random
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.contracts.errors import BadArgument, SglError
from sgl_lab.contracts.events import CellFinished, CellStarted, Entry, RequestFinished, StepRan
from sgl_lab.contracts.ids import RunId
from sgl_lab.contracts.tree import TreeSnapshot
from sgl_lab.magics.commands.keep import exported
from sgl_lab.magics.session import Session as ShellSession
from sgl_lab.trace import Record, read_jsonl, write_jsonl
from sgl_lab.trace.files import check_ours, write_whole
from sgl_lab.trace.record import MARK, RecordUnreadable
from sgl_lab.viz import bundle
from sgl_lab.viz.draw import page, perfetto
from sgl_lab.viz.draw.escape import data, module, tag
from sgl_lab.viz.explain.diff import diff
from sgl_lab.viz.explain.why import why
from sgl_lab.viz.freeze import drawn
from sgl_lab.viz.replay import Replay
from sgl_lab.viz.views import views_of

from .recording import Session
from .story import story
from .test_viz_draw import ATTRIBUTES, HOSTILE, TAGS, Reader, hostile_stage


def saved(path: Path) -> Record:
    session = Session(n_pages=120)
    session.run("In[1]", ("a", "Tell me about Porto. " * 3, 9))
    with session.recording("In[2]", "%%sgl\nuser('x')") as record:
        session.ask(record.run, [("a", "Tell me about Porto. " * 2, 5), ("b", "Tell me about Lisbon. " * 3, 6)])
        session.select(record.run, "when", "Tell me when: ", ("day", "night"))
    write_jsonl(record, path)
    return record


def everything(record: Record) -> None:
    """All that can be made of a record."""
    views: list[Any] = [*views_of(record.run, record.spell)]
    views[1].load(record.snapshot)
    for entry in record.entries:
        for view in views:
            view.fold(entry)
    drawn(*views, None, record.title, "ok", "", 1.0, Replay(record, record.spell, {}))
    why(record)
    diff(record, record)
    json.dumps(perfetto.trace(record), allow_nan=False)


# ---------------------------------------------------------------- files


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "run one.txt"
    path.parent.mkdir()
    write_whole(path, lambda file: file.write("first"))

    def full(file: Any) -> None:
        file.write("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(SglError, match=r"cannot write .*run one\.txt: No space left on device"):
        write_whole(path, full)
    assert path.read_text() == "first"
    assert [found.name for found in path.parent.iterdir()] == ["run one.txt"]
    with pytest.raises(SglError, match="cannot write"):
        write_whole(tmp_path / "no" / "such" / "folder.txt", lambda file: file.write(""))


def test_a_file_that_is_not_ours_is_not_written_over(tmp_path: Path) -> None:
    mine, other, empty = tmp_path / "mine", tmp_path / "other", tmp_path / "empty"
    saved(mine)
    other.write_text("my thesis")
    empty.touch()
    for path in (mine, empty, tmp_path / "new"):
        check_ours(path, MARK)
    for path in (other, tmp_path):
        with pytest.raises(BadArgument, match="--force" if path is other else "folder"):
            check_ours(path, MARK)


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for name, leads_to in (("one", there / "file"), ("two", Path("one")), ("dangling", there / "new"), ("folder", there)):
        (tmp_path / name).symlink_to(leads_to)
    (there / "file").write_text("old")
    for name, file in (("two", "file"), ("dangling", "new"), ("folder/inside", "inside")):
        write_whole(tmp_path / name, lambda out, name=name: out.write(name))  # type: ignore[misc]
        assert (there / file).read_text() == name
    assert all((tmp_path / name).is_symlink() for name in ("one", "two", "dangling", "folder"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SglError, match="cannot write"):
        write_whole(tmp_path / "loop", lambda out: out.write("x"))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o4755])
def test_a_file_keeps_its_mode_and_is_never_seen_with_another(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "mine"
    path.write_text("old")
    path.chmod(mode)

    def write(out: Any) -> None:
        out.write("new")
        assert all(other.stat().st_mode & 0o777 & ~mode == 0 for other in tmp_path.iterdir())

    write_whole(path, write)
    assert (path.read_text(), path.stat().st_mode & 0o7777) == ("new", mode)


def test_a_file_of_several_names_keeps_them_and_a_new_one_has_the_usual_mode(tmp_path: Path) -> None:
    path, other, usual = tmp_path / "one", tmp_path / "other", tmp_path / "usual"
    path.write_text("a long text that was here before")
    other.hardlink_to(path)
    write_whole(other, lambda out: out.write("new"))
    assert (path.read_text(), path.samefile(other)) == ("new", True)
    usual.touch()
    write_whole(tmp_path / "fresh", lambda out: out.write("new"))
    assert (tmp_path / "fresh").stat().st_mode == usual.stat().st_mode
    assert len([*tmp_path.iterdir()]) == 4


def test_a_device_and_a_pipe_get_the_text_and_stay_what_they_are(tmp_path: Path) -> None:
    null, pipe = tmp_path / "null", tmp_path / "pipe"
    null.symlink_to("/dev/null")
    os.mkfifo(pipe)
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    for path in (pipe, null, Path("/dev/null")):
        write_whole(path, lambda out: out.write("text"))
    reader.join()
    assert got == ["text"]
    assert Path("/dev/null").is_char_device()
    assert (pipe.is_fifo(), null.is_symlink()) == (True, True)
    for path in (pipe, null):
        check_ours(path, MARK)  # a pipe that has no writer is not waited for


def test_a_record_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    record = saved(path)
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert read_jsonl(path) == record


def test_every_kind_of_file_carries_its_mark_where_it_is_looked_for(tmp_path: Path) -> None:
    record = saved(tmp_path / "run.jsonl")
    (tmp_path / "run.html").write_text(page.page("t" * 500, [tag("div", {}, "x")]))
    (tmp_path / "run.json").write_text(json.dumps(perfetto.trace(record), separators=(",", ":")))
    for name, mark in (("run.jsonl", MARK), ("run.html", page.MARK), ("run.json", perfetto.MARK)):
        check_ours(tmp_path / name, mark)


# ---------------------------------------------------------------- records


def test_a_saved_run_tells_the_same_as_the_live_one(tmp_path: Path) -> None:
    record = saved(tmp_path / "run.jsonl")
    again = read_jsonl(tmp_path / "run.jsonl")
    assert again == record
    assert (again.title, again.source, again.namespace) == ("In[2]", "%%sgl\nuser('x')", ("test",))
    assert (again.ended.status, record.ended) == ("ok", again.ended)
    assert why(again) == why(record)
    everything(again)


@pytest.mark.parametrize(
    ("line", "damage", "message"),
    [
        (1, {"format": "sgl_lab.record/9"}, "not a sgl_lab.record/1 or sgl_lab.record/2 file"),
        (1, {"n_entries": 10_000}, "the file ends after"),
        (1, {"vocab": {"x": "y"}}, "invalid literal"),
        (1, {"vocab": {"7": 7}}, "a spelling is not text"),
        (3, {"seq": 1}, "comes after"),
        (3, {"seq": "<b>"}, "comes after"),
        (3, {"t_ns": -(2**70)}, "is before the previous one"),
    ],
)
def test_a_damaged_field_is_refused_with_its_line(tmp_path: Path, line: int, damage: dict[str, Any], message: str) -> None:
    path = tmp_path / "run.jsonl"
    saved(path)
    lines = path.read_text().splitlines()
    lines[line - 1] = json.dumps(json.loads(lines[line - 1]) | damage)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RecordUnreadable, match=rf"line \d+: .*{message}"):
        read_jsonl(path)


@pytest.mark.parametrize(
    "event",
    [
        {"event": "NodeEvicted", "node": 999, "n_tokens": 3},
        {"event": "Touched", "nodes": [999], "clock": 3},
        {"event": "LocksChanged", "refs": [[999, 3]]},
        {"event": "NodeSplit", "node": 999, "upper": 1000, "n_upper": 3},
        {"event": "NodeInserted", "node": 1000, "parent": 999, "tokens": [1], "namespace": ["x"]},
        {"event": "ForkOpened", "run": 1, "fork": 77, "parent": 77, "index": 0, "label": ""},
        {"event": "StreamExtended", "fork": 1, "start": 10**12, "tokens": [1], "kind": "text", "role": ""},
        {"event": "StreamExtended", "fork": 1, "start": -1, "tokens": [1], "kind": "text", "role": ""},
        {"event": "CellFinished", "run": 1, "status": 5, "message": ""},
        {"event": "StepRan", "step": 1, "prefill": [[1]], "decode": [], "n_waiting": 0, "free_pages": 0, "ms": 1.0},
        {"event": "StepRan", "step": 2**80, "prefill": [], "decode": [], "n_waiting": 0, "free_pages": 0, "ms": 1.0},
        {"event": "TokensSampled", "step": 1, "samples": [[1, 2, "high", [], None, False, False]]},
        {"event": "TokensSampled", "step": 1, "samples": 5},
    ],
)
def test_an_event_that_cannot_have_happened_is_refused(tmp_path: Path, event: dict[str, Any]) -> None:
    path = tmp_path / "run.jsonl"
    saved(path)
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    at = {"seq": last["seq"] + 1, "t_ns": last["t_ns"] + 1}
    header = json.loads(lines[0])
    lines[0] = json.dumps(header | {"n_entries": header["n_entries"] + 2})
    opened = {"event": "ForkOpened", "run": 1, "fork": 1_000_001, "parent": None, "index": 0, "label": ""}
    changed = event | ({"fork": 1_000_001} if event["event"] == "StreamExtended" else {})
    rows = [at | opened, {"seq": at["seq"] + 1, "t_ns": at["t_ns"]} | changed]
    path.write_text("\n".join([*lines, *map(json.dumps, rows)]) + "\n")
    with pytest.raises(RecordUnreadable, match=f"line {len(lines) + 2}:"):
        read_jsonl(path)


def test_what_a_file_says_cannot_break_the_line_that_refuses_it(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    saved(path)
    lines = path.read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"\x1b[31m\nred": 1})
    path.write_text("\n".join(lines))
    with pytest.raises(RecordUnreadable, match="line 2:") as caught:
        read_jsonl(path)
    assert str(caught.value).isprintable()


def test_a_file_with_random_damage_is_refused_or_can_be_drawn(tmp_path: Path) -> None:
    path, broken = tmp_path / "run.jsonl", tmp_path / "broken.jsonl"
    saved(path)
    whole = path.read_bytes()
    draw_ = random.Random(9)
    n_refused = n_read = 0
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(draw_.randrange(1, 3)):
            at = draw_.randrange(len(data))
            data[at : at + draw_.choice((0, 1, 1, 6))] = draw_.choice((b"0", b"9", b"-", b"null", b"[", b"<b>", b"\xff", b"[" * 90_000))
        broken.write_bytes(data)
        try:
            record = read_jsonl(broken)
        except RecordUnreadable:
            n_refused += 1
        else:
            everything(record)
            n_read += 1
    assert n_refused > 100
    assert n_read > 1


# ---------------------------------------------------------------- the trace for Perfetto


def test_a_trace_has_the_form_that_perfetto_reads_and_the_engines_numbers(tmp_path: Path) -> None:
    for record in (saved(tmp_path / "run.jsonl"), Record(RunId(2), TreeSnapshot((), 420, 420, 0), entries=story().entries)):
        trace = perfetto.trace(record)
        assert json.loads(json.dumps(trace, allow_nan=False)) == trace
        rows = trace["traceEvents"]
        assert all({"ph", "pid"} <= row.keys() and row["ph"] in "XMCisf" for row in rows)
        assert all(row["ts"] >= 0 and row.get("dur", 0) >= 0 for row in rows if row["ph"] != "M")
        named = {row["tid"]: row["args"]["name"] for row in rows if row["name"] == "thread_name"}
        assert {row["tid"] for row in rows if row["ph"] in "Xsf"} <= named.keys()
        steps = [entry.event for entry in record.entries if isinstance(entry.event, StepRan)]
        drawn_steps = [row for row in rows if row["ph"] == "X" and row["tid"] == perfetto.STEPS]
        assert [row["name"] for row in drawn_steps] == [f"step {step.step}" for step in steps]
        assert [row["args"]["prefill tokens"] for row in drawn_steps] == [sum(n for _, n in step.prefill) for step in steps]
        ended = {e.event.request: e.event for e in record.entries if isinstance(e.event, RequestFinished)}
        gens = {row["args"]["request"]: row["args"] for row in rows if row["ph"] == "X" and "request" in row["args"]}
        assert {number: (row["cached tokens"], row["generated tokens"]) for number, row in gens.items()} == {
            number: (one.n_cached, one.n_completion) for number, one in ended.items()
        }
        for thread in named:
            nested([(row["ts"], row["ts"] + row["dur"]) for row in rows if row["ph"] == "X" and row["tid"] == thread])
        starts, ends = ([row for row in rows if row["ph"] == kind] for kind in "sf")
        assert [row["id"] for row in starts] == [row["id"] for row in ends] != []
        assert {"pages", "requests", "hit rate"} <= {row["name"] for row in rows if row["ph"] == "C"}


def nested(spans: list[tuple[float, float]]) -> None:
    """Slices of one thread are disjoint or nested; Perfetto would drop others."""
    open_ends: list[float] = []
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1] + 1e-6
        open_ends.append(end)


# ---------------------------------------------------------------- the page


@pytest.mark.parametrize("payload", HOSTILE)
def test_a_page_lets_no_script_run_but_ours_asks_for_nothing_and_keeps_hostile_text_as_text(payload: str) -> None:
    stage, spell = hostile_stage(payload)
    finished = Entry(len(stage.entries), 10**9, CellFinished(RunId(1), "error", payload))
    record = Record(RunId(1), entries=[*stage.entries, finished])
    record.end(spell)
    parts = exported(ShellSession(), record)
    source = page.page(payload, parts, bundle.players())
    assert source.startswith("<!doctype html>")
    found = Reader(source.replace("<meta ", "<br "))
    assert found.stack == []
    assert found.tags <= TAGS | {"html", "head", "title", "style", "body", "main", "script"}
    known = ATTRIBUTES | {"charset", "name", "content", "http-equiv", "lang", "type", "data-sgl-recording"}
    assert {name for name, _ in found.attributes} <= known
    policy = [value for name, value in found.attributes if name == "content"][1]
    scripts = re.findall(r"<script([^>]*)>(.*?)</script", source, re.DOTALL)
    assert [head.split('"')[1] for head, _ in scripts] == ["application/gzip", "module"]
    assert re.fullmatch(r"[\w+/=]+", scripts[0][1])
    ours = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert policy.endswith(f" script-src 'sha256-{ours}'")
    assert scripts[1][1] == bundle.players()
    source.encode()
    json.dumps(perfetto.trace(record)).encode()


def test_a_page_without_code_lets_no_script_run() -> None:
    source = page.page("t", [tag("div", {}, "x")])
    assert "script-src 'none'" in source.replace("&#39;", "'")
    assert "<script" not in source


def test_what_could_end_a_script_is_refused() -> None:
    for code in ("'</script>'", "'<!--'", "'<SCRIPT'"):
        with pytest.raises(ValueError, match="end it"):
            module(code)
    with pytest.raises(ValueError, match="packed"):
        data("name", "{}", "</script>")


def test_a_run_without_entries_is_a_run() -> None:
    everything(Record(RunId(1)))
    everything(Record(RunId(1), entries=[Entry(0, 0, CellStarted(RunId(1), "t", "s"))]))
